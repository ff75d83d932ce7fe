"""Reads all of a job that has ended: chunks in order, digest, record. Arguments: owner, job."""

from typing import Any

from handbook import play, wire


async def story(nc: Any, owner: str, job: str) -> Any:
    _, record = await wire.read_record(nc, owner, job)
    attempt, chunks, messages = wire.Attempt(), [], 0
    # Small batches, so that it takes several.
    async for subject, headers, body in wire.history(nc, owner, job, batch=3):
        messages += 1
        for kind, index, value in attempt.take(subject, headers, body):
            if kind == "chunk":
                assert index == len(chunks), (index, len(chunks))
                chunks.append(value)
    assert attempt.is_that_of(record)
    assert attempt.name == (record["attempt"]["number"], record["attempt"]["claim"])
    assert messages > 3, "not enough for two batches"
    # Somebody who follows now is told the same.
    followed = [value async for kind, _, value in wire.follow(nc, owner, job) if kind == "chunk"]
    assert followed == chunks
    attempt.digest.update(b"x")
    try:
        attempt.is_that_of(record)
    except ValueError:
        return {"chunks": chunks, "result": wire.result(record), "record": record}
    raise AssertionError("other chunks passed")


play(story)
