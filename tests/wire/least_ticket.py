"""The least that is a job, what is accepted once, and what is refused."""

import json
from typing import Any

import nats.errors
from handbook import end, play, wire


async def story(nc: Any) -> Any:
    job = await wire.submit(nc, "alice", "echo")
    record, _ = await end(nc, "alice", job)

    subject = f"grange.jobs.default.normal.echo.alice.{job}"
    again = await wire.write(nc, subject, b"", {"Nats-Msg-Id": f"alice/{job}"})
    assert again["duplicate"] is True, again

    # Without any header it is a job too; a second ticket for it changes nothing.
    bare = "bare-job_1"
    for _ in range(2):
        await wire.write(nc, f"grange.jobs.any.low.echo.alice.{bare}", b"{}", None)
        bare_record, _ = await end(nc, "alice", bare)
        assert wire.result(bare_record) == "hello"
    assert bare_record["attempt"]["number"] == 1, bare_record

    bad = await wire.submit(nc, "alice", "echo", {"args": "not a list"})
    bad_record, _ = await end(nc, "alice", bad)
    failure = bad_record["outcome"]["failure"]
    assert (bad_record["state"], failure["kind"]) == ("failed", "invalid_input"), bad_record
    dead = None
    while dead is None:
        dead = await wire.newest(nc, "GRANGE_DEAD", f"grange.dead.malformed.{bad}")
    dead = json.loads(dead[3])
    assert "not a list" in dead["evidence"]["excerpt"], dead

    for subject in ("grange.jobs.default.normal.echo.alice.too.many", "grange.jobs.default.soon.echo.alice.j1"):
        try:
            await wire.write(nc, subject, b"", {})
        except nats.errors.NoRespondersError:
            continue
        raise AssertionError(f"a ticket was taken at {subject}")
    try:
        await wire.submit(nc, "alice", "echo", {"kwargs": {"text": "x" * 1_000_000}})
    except wire.WriteRefused as refused:
        assert refused.args[0]["err_code"] == 10054, refused
    else:
        raise AssertionError("a ticket above the limit was accepted")
    return {"job": job, "result": wire.result(record), "why": failure["message"], "dead": dead}


play(story)
