"""Gives back what it is given: the plugin for a first look at Grange and for measuring it. Standard library only."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

BLOCK = 1 << 20  # files are read and written in pieces of this size


class EchoError(RuntimeError):
    """The failure that a run asked for."""


class CancelledError(Exception):
    """The run was asked to stop."""


class EchoPlugin:
    """Every argument is optional, for `execute` and for `execute_stream`:

    text         what is given back ("hello")
    bytes        above 0: a text of so many letters instead of `text`
    delay_s      how long the run takes (in a stream: how long before each chunk)
    read         the path of a file: gives back {"size", "name"} of it, after reading it to its end
    write_bytes  above 0: gives back a file of so many bytes, made in the scratch folder of the run
    fail         the run fails with this message, after everything else
    repeat       only for `execute_stream`: the number of its chunks (1)

    A chunk is {"n": i, "text": text}, with `n` from 0, or with `bytes` just the text. A stream returns at its end
    what `execute` returns.
    """

    name = "echo"
    version = "1.0.0"

    def __init__(self) -> None:
        self._cancel = threading.Event()

    def execute(
        self,
        text: str = "hello",
        repeat: int = 1,
        bytes: int = 0,
        delay_s: float = 0.0,
        read: str | None = None,
        write_bytes: int = 0,
        fail: str | None = None,
    ) -> Any:
        if delay_s or fail is not None:
            self._cancel.clear()
            self._pause(delay_s)
        return self._answer(text, bytes, read, write_bytes, fail)

    def execute_stream(
        self,
        text: str = "hello",
        repeat: int = 1,
        bytes: int = 0,
        delay_s: float = 0.0,
        read: str | None = None,
        write_bytes: int = 0,
        fail: str | None = None,
    ) -> Generator[Any, None, Any]:
        self._cancel.clear()
        filling = "x" * bytes
        for n in range(repeat):
            self._pause(delay_s)
            yield filling or {"n": n, "text": text}
        return self._answer(text, bytes, read, write_bytes, fail)

    def cancel(self) -> bool:
        """Ends a run that waits, and a stream before its next chunk."""
        self._cancel.set()
        return True

    def _pause(self, seconds: float) -> None:
        if self._cancel.wait(seconds) if seconds > 0 else self._cancel.is_set():
            raise CancelledError("cancelled")

    def _answer(self, text: str, length: int, read: str | None, write_bytes: int, fail: str | None) -> Any:
        if fail is not None:
            raise EchoError(fail)
        if read is not None:
            return measured(Path(read))
        if write_bytes:
            return written(scratch_folder() / f"echo-{write_bytes}.bin", write_bytes)
        return "x" * length if length else text


def scratch_folder() -> Path:
    """The folder of this run; outside of a worker, a new one."""
    try:
        from grange_worker import scratch
    except ImportError:
        folder = None
    else:
        folder = scratch()
    return folder or Path(tempfile.mkdtemp(prefix="grange-echo-"))


def measured(path: Path) -> dict[str, Any]:
    size = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            size += len(block)
    return {"size": size, "name": path.name}


def written(path: Path, size: int) -> Path:
    block = bytes(range(256)) * (BLOCK // 256)
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(block[: size - start])
    return path
