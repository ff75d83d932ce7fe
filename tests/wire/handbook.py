"""The client that docs/wire.md spells out, taken from that page: what it says is what is tested."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wire.md"


def _load() -> ModuleType:
    module = ModuleType("wire")
    text = PAGE.read_text(encoding="utf-8")
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(1))
        # Lines keep their numbers, so that a traceback points into the page.
        exec(compile("\n" * line + block.group(1), str(PAGE), "exec"), module.__dict__)
    return module


wire: Any = _load()


def play(story: Callable[..., Awaitable[Any]]) -> None:
    """Connects, runs a story with the command line's arguments, and prints what it returns as JSON."""

    async def run() -> None:
        connection = await wire.connect()
        try:
            told = await asyncio.wait_for(story(connection, *sys.argv[1:]), 60)
        finally:
            await connection.close()
        print(json.dumps(told))

    asyncio.run(run())


async def end(nc: Any, owner: str, job: str) -> Any:
    """Follows a job to its end: the record and the chunks."""
    chunks = []
    record = None
    async for kind, index, value in wire.follow(nc, owner, job):
        if kind == "chunk":
            assert index == len(chunks), (index, len(chunks))
            chunks.append(value)
        elif kind == "record":
            record = value
    return record, chunks
