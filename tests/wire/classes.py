"""Classes as the page makes them, against ours; a job that asks for more; one whose class is another's."""

import json
from pathlib import Path
from typing import Any

from handbook import end, play, wire

GOLDEN = Path(__file__).resolve().parents[2] / "crates" / "protocol" / "tests" / "golden" / "classes.json"


async def story(nc: Any) -> Any:
    for case in json.loads(GOLDEN.read_text(encoding="utf-8")):
        assert wire.class_of(case["asked"]) == case["class"], case
    try:
        wire.class_of({"vram_mb": 400_000})
    except ValueError:
        pass
    else:
        raise AssertionError("nobody has so much")
    asked = await wire.submit(nc, "alice", "echo", {"resources": {"cpus": 1, "on": {"host": "h1"}}})
    record, _ = await end(nc, "alice", asked)
    assert record["class"] == "c1+host=h1", record

    headers = {"Nats-Msg-Id": "alice/wrong", "Grange-State": "0"}
    body = json.dumps({"resources": {"cpus": 3}}).encode()
    await wire.write(nc, "grange.jobs.c2.normal.echo.alice.wrong", body, headers)
    wrong, _ = await end(nc, "alice", "wrong")
    return {"result": wire.result(record), "kind": wrong["outcome"]["failure"]["kind"]}


play(story)
