"""A job that waits gets another priority, twice; one that has ended does not."""

from typing import Any

from handbook import end, play, wire


async def story(nc: Any) -> Any:
    job = await wire.submit(nc, "alice", "nobody", {"args": [1]})
    before = [await wire.move(nc, "alice", job, priority) for priority in ("high", "low")]
    assert before == ["normal", "high"], before
    ticket = await wire.newest(nc, "GRANGE_JOBS", f"grange.jobs.default.low.nobody.alice.{job}")
    assert ticket is not None and ticket[3] == b'{"args": [1]}', ticket

    ended = await wire.submit(nc, "alice", "echo")
    await end(nc, "alice", ended)
    try:
        await wire.move(nc, "alice", ended, "high")
    except LookupError:
        return {"job": job}
    raise AssertionError("a job that has ended was moved")


play(story)
