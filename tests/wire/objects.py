"""A file in, a file out, and values too large for a message. Argument: the folder of the store."""

import hashlib
import os
from typing import Any

from handbook import end, play, wire


async def run(nc: Any, **body: Any) -> Any:
    job = await wire.submit(nc, "alice", "echo", body)
    return await end(nc, "alice", job)


async def story(nc: Any, folder: str) -> Any:
    data = os.urandom(300_000)
    reference = wire.put_object(folder, data, "page-1.png")
    record, _ = await run(nc, kwargs={"read": reference}, stream=False)
    assert wire.result(record) == {"size": 300_000, "name": "page-1.png"}, record

    record, _ = await run(nc, kwargs={"write_bytes": 70_000}, stream=False)
    written = wire.get_object(folder, wire.result(record)["$object"])
    assert written == (bytes(range(256)) * 300)[:70_000]

    record, chunks = await run(nc, kwargs={"bytes": 200_000, "repeat": 2}, stream=True)
    assert "result" not in record["outcome"], "it is above the inline limit"
    assert wire.result(record, folder) == "x" * 200_000
    assert [chunk["$object"]["name"] for chunk in chunks] == ["chunk.json"] * 2, chunks
    assert wire.get_object(folder, chunks[1]["$object"]) == b'"' + b"x" * 200_000 + b'"'

    absent = dict(reference["$object"], sha256=hashlib.sha256(b"absent").hexdigest())
    record, _ = await run(nc, kwargs={"read": {"$object": absent}})
    return record["outcome"]["failure"]


play(story)
