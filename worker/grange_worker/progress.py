"""Progress of runs: pushed when it changes, at most 20 times a second, the last value always.

Owns: the last and the unsent value of each run, and the thread that sends what was held back or that watches a
plugin's attributes. Never: asking a plugin for anything but its attributes.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Callable

from .link import Link
from .scope import CURRENT, ENDED, Run

INTERVAL_S = 0.05
MESSAGE_CHARS = 2 * 1024
UNKNOWN = -1.0


class Board:
    """Where the progress of runs is reported."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.RLock()
        self._due: dict[Run, float] = {}  # runs that sent lately, and when they may again
        self._held: dict[Run, tuple[float, str]] = {}  # values that wait for their time
        self._watched: dict[Run, tuple[float, str]] = {}  # runs whose plugin is watched, and what was last seen
        self._sole: Run | None = None  # the run that executes, where only one can
        self._look: Callable[[], tuple[float, str] | None] | None = None
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, look: Callable[[], tuple[float, str] | None]) -> None:
        """From now on, look at a plugin's attributes while a run executes."""
        self._look = look

    def begin(self, run: Run, alone: bool) -> None:
        """A run starts; `alone` says that no other can execute at the same time."""
        if not alone:
            return
        self._sole = run
        if self._look is not None:
            with self._lock:
                self._watched[run] = self._look() or (UNKNOWN, "")
            self._start_thread()

    def report(self, progress: Any, message: Any = "") -> None:
        """Take progress from whatever thread a plugin reports it in; never fails the plugin."""
        run = CURRENT.get() or self._sole
        if run is not None and not self._link.forked:
            self._take(run, normal(progress, message))

    def end(self, run: Run) -> None:
        """A run ends: send what is held back; what comes later is dropped."""
        if self._sole is run:
            if self._watched:
                self._see(run)
            self._sole = None
        with self._lock:
            run.phase = ENDED
            held = self._held.pop(run, None)
            if held is not None:
                self._send(run, held)
            if run.progress is not None:
                del self._due[run]
            if self._watched:
                self._watched.pop(run, None)

    def _take(self, run: Run, value: tuple[float, str]) -> None:
        with self._lock:
            if run.phase is ENDED or value == self._held.get(run, run.progress):
                return
            if time.monotonic() >= self._due.get(run, 0.0):
                self._held.pop(run, None)
                self._send(run, value)
            else:
                self._held[run] = value
                self._start_thread()

    def _send(self, run: Run, value: tuple[float, str]) -> None:
        run.progress = value
        self._due[run] = time.monotonic() + INTERVAL_S
        self._link.send({"t": "progress", "run": run.id, "progress": value[0], "message": value[1]})

    def _see(self, run: Run) -> None:
        seen = self._look() if self._look is not None else None
        with self._lock:
            if seen is None or run not in self._watched or self._watched[run] == seen:
                return
            self._watched[run] = seen
        self._take(run, seen)

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._tick, name="grange-progress", daemon=True)
            self._thread.start()
        self._wake.set()

    def _tick(self) -> None:
        pause = threading.Event()
        while True:
            self._wake.wait()
            pause.wait(INTERVAL_S)
            for run in tuple(self._watched):
                self._see(run)
            with self._lock:
                now = time.monotonic()
                for run, value in tuple(self._held.items()):
                    if now >= self._due[run]:
                        del self._held[run]
                        self._send(run, value)
                if not self._held and not self._watched:
                    self._wake.clear()


def normal(progress: Any, message: Any) -> tuple[float, str]:
    """Read what a plugin reports as 0..1, or -1 for anything else."""
    try:
        number = float(progress)
    except (TypeError, ValueError):
        number = UNKNOWN
    if not math.isfinite(number) or number < 0:
        number = UNKNOWN
    return min(number, 1.0), "" if message is None else str(message)[:MESSAGE_CHARS]
