"""A job that is started within its longest wait, and one that nobody can start."""

from typing import Any

from handbook import end, play, wire


async def story(nc: Any) -> Any:
    started = await wire.submit_within(nc, "alice", "echo", 30)
    record, _ = await end(nc, "alice", started)
    assert wire.result(record) == "hello"
    waited = await wire.submit_within(nc, "alice", "nobody", 1)
    assert await wire.where_is(nc, "alice", waited) == "queued"
    states = []
    async for _, _, value in wire.follow(nc, "alice", waited):
        states.append(value["state"])
    return {"started": started, "waited": waited, "states": states}


play(story)
