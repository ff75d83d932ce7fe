"""One run and whose code is running now.

Owns: the state of a run, its window of chunks, and the context variable that says to which run the calling
code belongs. Never: IO, or calls into a plugin.

A run:  waiting ──► running ──► ended
           └──────► dropped (cancelled before it began)

Fields have one writer each (the reader thread or the thread that executes), except `phase`, which leaves `waiting`
under the lock of the schedule. `silent` is set last: after it nothing may be sent for the run but its end.
"""

from __future__ import annotations

import os
import threading
import time
from contextvars import ContextVar
from typing import Any, Callable

WAITING, RUNNING, ENDED, DROPPED = "waiting", "running", "ended", "dropped"


class Cancelled(BaseException):
    """The worker itself ended a run that was asked to stop (not an `Exception`: plugins must not swallow it)."""


class Run:
    """One `run` frame and what became of it."""

    __slots__ = (
        "allowed",
        "args",
        "attempt",
        "blocked_s",
        "cancelled",
        "id",
        "interrupt",
        "job",
        "kwargs",
        "marked",
        "phase",
        "progress",
        "room",
        "scratch",
        "sent",
        "sent_at",
        "silent",
        "stream",
        "waited",
    )

    def __init__(self, frame: dict[str, Any], window: int, marked: bool) -> None:
        self.id: int = frame["run"]
        self.args: list[Any] = frame.get("args") or []
        self.kwargs: dict[str, Any] = frame.get("kwargs") or {}
        self.stream: bool | None = frame.get("stream")
        self.scratch: str = frame.get("scratch") or ""
        self.job: Any = frame.get("job")
        self.attempt: Any = frame.get("attempt")
        self.marked = marked  # the arguments hold a marked object such as `$bytes`
        self.phase = WAITING
        self.waited = False
        self.cancelled = False
        self.silent = False
        self.allowed = window  # chunks that may be sent in all; raised by the reader
        self.sent = 0  # chunks sent; raised by the thread that executes
        self.sent_at = 0.0  # when the last chunk was sent
        self.blocked_s = 0.0  # time spent waiting for credit, which is not the plugin's
        self.room: threading.Condition | None = None
        self.progress: tuple[float, str] | None = None  # the last value sent
        self.interrupt: Callable[[], None] | None = None  # cancels the asyncio task, if there is one

    def folder(self) -> str:
        """Return the run's own folder; made now, since most runs never need one."""
        if self.scratch:
            os.makedirs(self.scratch, exist_ok=True)
        return self.scratch

    def make_room(self) -> None:
        """Prepare for `wait_for_room`."""
        self.room = threading.Condition()

    def has_room(self) -> bool:
        """Say whether a chunk may be sent now."""
        return self.sent < self.allowed

    def wait_for_room(self) -> None:
        """Block until a chunk may be sent, or raise `Cancelled`; after `make_room`."""
        room = self.room
        assert room is not None
        begun = time.perf_counter()
        with room:
            while self.sent >= self.allowed and not self.cancelled:
                room.wait()
        self.blocked_s += time.perf_counter() - begun
        if self.cancelled:
            raise Cancelled

    def grant(self, chunks: int) -> None:
        """Allow more chunks (reader thread)."""
        self.allowed += chunks
        self.wake()

    def wake(self) -> None:
        """Let a blocked sender look again (reader or control thread)."""
        room = self.room
        if room is not None:
            with room:
                room.notify_all()


CURRENT: ContextVar[Run | None] = ContextVar("grange_run", default=None)
