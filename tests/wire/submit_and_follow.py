"""Submits a job, hears its chunks while it runs, reads the result."""

from typing import Any

from handbook import play, wire


async def story(nc: Any) -> Any:
    body = {"kwargs": {"text": "hi", "repeat": 5, "delay_s": 0.2}, "stream": True}
    job = await wire.submit(nc, "alice", "echo", body, priority="high")
    kinds, chunks, while_it_ran = [], [], None
    async for kind, index, value in wire.follow(nc, "alice", job):
        kinds.append(kind)
        if kind == "chunk":
            assert value == {"n": index, "text": "hi"}, value
            chunks.append(index)
            while_it_ran = while_it_ran or await wire.where_is(nc, "alice", job)
        elif kind == "record":
            record = value
    assert chunks == [0, 1, 2, 3, 4], chunks
    assert while_it_ran == "running", while_it_ran
    assert kinds[0] == "record" and kinds[-1] == "record", kinds
    return {"job": job, "state": record["state"], "result": wire.result(record)}


play(story)
