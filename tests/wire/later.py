"""A job that is submitted at its time, once, and the id that a key stands for."""

from datetime import datetime, timedelta, timezone
from typing import Any

from handbook import end, play, wire


async def story(nc: Any) -> Any:
    when = (datetime.now(timezone.utc) + timedelta(seconds=1)).isoformat()
    job = await wire.submit_at(nc, "alice", "echo", when, wait=60)
    try:
        await wire.submit_at(nc, "alice", "echo", when, job=job)
    except wire.WriteRefused as refused:
        assert refused.args[0]["err_code"] == 10071
    record, _ = await end(nc, "alice", job)
    return {"result": wire.result(record), "of_key": wire.job_of_key("alice", "order 17")}


play(story)
