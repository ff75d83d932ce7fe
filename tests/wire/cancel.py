"""Cancels a job that runs, one that waits, and one that has ended."""

from typing import Any

from handbook import end, play, wire


async def story(nc: Any) -> Any:
    body = {"kwargs": {"delay_s": 50}, "stream": False}
    running = await wire.submit(nc, "alice", "echo", body)
    asked = None
    async for kind, _, value in wire.follow(nc, "alice", running):
        assert kind == "record", kind
        if value["state"] == "running" and asked is None:
            asked = await wire.cancel(nc, "alice", running, "enough")
        ended = value
    assert asked == "running", asked
    assert ended["cancel_requested"]["reason"] == "enough", ended

    waiting = await wire.submit(nc, "alice", "nobody")
    assert await wire.where_is(nc, "alice", waiting) == "queued"
    assert await wire.cancel(nc, "alice", waiting, "not needed") == "cancelled"
    record, _ = await end(nc, "alice", waiting)
    assert record["history"][-1]["note"] == "not needed", record

    assert await wire.cancel(nc, "alice", running) == "cancelled"
    try:
        await wire.cancel(nc, "alice", "nothing-of-the-kind")
    except LookupError:
        return {"running": running, "waiting": waiting, "state": ended["state"]}
    raise AssertionError("a job that nobody knows was cancelled")


play(story)
