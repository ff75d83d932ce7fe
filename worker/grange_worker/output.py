"""sys.stdout and sys.stderr of the plugin: every line becomes a `log` frame of the run that printed it.

Owns: both streams, the unfinished lines, and the limit of a line. Never: fd 1 and fd 2 (what is written to them
directly, by C code or by child processes, is read by the agent as it is).

A line that a progress bar overwrites with carriage returns is logged once, as it finally looks.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterable
from typing import Any

from .link import Link, TooLargeError, to_json
from .scope import CURRENT, Run

LINE_CHARS = 8 * 1024  # a longer line is logged in pieces


class Log:
    """What both streams share: the unfinished lines of every run."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.RLock()  # a finaliser may print while its thread prints
        self._unfinished: dict[tuple[int | None, str], str] = {}
        os.register_at_fork(after_in_child=self._in_child)

    def _in_child(self) -> None:
        self._lock = threading.RLock()
        self._unfinished.clear()

    def write(self, stream: str, descriptor: int, text: str) -> None:
        """Take printed text of whoever calls."""
        if self._link.forked:  # a child of the plugin has no link: its output is plain
            os.write(descriptor, text.encode(errors="replace"))
            return
        with self._lock:
            run = CURRENT.get()
            number = run.id if run is not None and not run.silent else None
            whole = self._unfinished.pop((number, stream), "") + text
            *lines, rest = whole.split("\n")
            if "\r" in rest[:-1]:
                rest = _as_seen(rest[:-1]) + rest[-1]
            while len(rest) > LINE_CHARS:
                lines.append(rest[:LINE_CHARS])
                rest = rest[LINE_CHARS:]
            if rest:
                self._unfinished[(number, stream)] = rest
            if lines:
                self._send(number, stream, lines)

    def end(self, run: Run) -> None:
        """Send what a run left unfinished; from here on its late output belongs to no run."""
        with self._lock:
            if self._unfinished:
                self._finish(run.id)
            run.silent = True

    def finish(self) -> None:
        """Send what belongs to no run and is unfinished (before the process ends)."""
        with self._lock:
            self._finish(None)

    def _finish(self, number: int | None) -> None:
        for stream in ("stdout", "stderr"):
            rest = self._unfinished.pop((number, stream), "")
            if rest:
                self._send(number, stream, [rest])

    def _send(self, number: int | None, stream: str, lines: Iterable[str]) -> None:
        pieces = (
            seen[start : start + LINE_CHARS]
            for seen in map(_as_seen, lines)
            for start in range(0, max(len(seen), 1), LINE_CHARS)
        )
        frames = [self._frame(number, stream, piece) for piece in pieces]
        self._link.write(b"".join(frames))

    def _frame(self, number: int | None, stream: str, line: str) -> bytes:
        try:
            return self._link.pack(to_json({"t": "log", "run": number, "stream": stream, "line": line}))
        except TooLargeError as error:  # an agent may set a limit below our longest line
            return self._frame(number, stream, f"(line left out: {error})")


def _as_seen(line: str) -> str:
    """Return what a terminal would show of a line with carriage returns."""
    line = line.rstrip("\r")
    return line[line.rfind("\r") + 1 :]


class LogStream(io.TextIOBase):
    """Stands in for sys.stdout or sys.stderr."""

    def __init__(self, log: Log, name: str, descriptor: int) -> None:
        self._log = log
        self._descriptor = descriptor
        self.name = f"<{name}>"
        self.mode = "w"
        self._stream = name
        self.buffer = _LogBytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    @property
    def line_buffering(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._log.write(self._stream, self._descriptor, text)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Give processes that inherit the stream the plain pipe below it."""
        return self._descriptor

    def reconfigure(self, **_: Any) -> None:
        """Accept what scripts ask of a real stream; there is nothing to change."""

    def close(self) -> None:
        """Stay open: a plugin that closes its stdout must not lose its stderr."""


class _LogBytes(io.RawIOBase):
    """`sys.stdout.buffer`: bytes are read as UTF-8 text."""

    def __init__(self, text: LogStream) -> None:
        self._text = text

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._text.write(content.decode(errors="replace"))
        return len(content)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def close(self) -> None:
        """Stay open, as the text stream does."""


def install(link: Link) -> Log:
    """Replace sys.stdout and sys.stderr, before anything of the plugin is imported."""
    log = Log(link)
    sys.stdout = LogStream(log, "stdout", 1)
    sys.stderr = LogStream(log, "stderr", 2)
    return log
