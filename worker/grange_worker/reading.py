"""Who reads the link: the thread that executes, while it has nothing else to do, and a stand-in while it executes.

Owns: whose turn it is to read. Never: the meaning of a frame, or executing.

Handing a run from a reader thread to the main thread wakes a thread, and that is most of what a short run costs. So the
main thread reads for itself, and the stand-in takes over when a run lasts; then `cancel` and `ask` are answered while
it blocks. Where several threads execute, the stand-in always reads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any, Callable

PATIENCE_S = 0.002  # a run that lasts longer has the link read by the stand-in
ALERT_S = 0.1  # so long after a run the stand-in looks every `PATIENCE_S`; then it has to be woken


class Reading:
    """One link, read by one thread at a time."""

    def __init__(self, bodies: Iterator[bytes], handle: Callable[[bytes], None], items: SimpleQueue[Any]) -> None:
        self._bodies = bodies
        self._handle = handle
        self._items = items
        self._turn = threading.Lock()  # whoever holds it reads
        self._shares = False  # the executing thread reads too
        self._waits = False  # it does not: it waits for an item
        self._busy_since: float | None = 0.0  # the plugin is loading
        self._idle_since = 0.0
        self._asleep = False
        self._woken = threading.Event()

    # === the executing thread ===

    def share(self) -> None:
        """From now on the one executing thread reads too."""
        self._shares = True

    def next_item(self) -> Any:
        """Return what is next to do, reading the link while there is nothing."""
        if not self._shares:
            return self._items.get()
        self._idle_since = monotonic()
        self._busy_since = None
        while True:
            try:
                item = self._items.get_nowait()
                break
            except Empty:
                pass
            if self._turn.acquire(blocking=False):
                try:
                    self._handle(next(self._bodies))
                finally:
                    self._turn.release()
            else:
                self._waits = True
                item = self._items.get()
                self._waits = False
                break
        self._busy_since = monotonic()
        if self._asleep:
            self._woken.set()
        return item

    # === the stand-in ===

    def stand_in(self) -> None:
        """Read whenever the executing thread does not; never returns, the process ends with the link."""
        while True:
            if self._is_needed() and self._turn.acquire(blocking=False):
                try:
                    self._read_until_relieved()
                finally:
                    self._turn.release()
            self._rest()

    def _is_needed(self) -> bool:
        since = self._busy_since
        return not self._shares or (since is not None and monotonic() - since > PATIENCE_S)

    def _read_until_relieved(self) -> None:
        """Read until something was put in for an executing thread that waits for it: then it reads again itself."""
        for body in self._bodies:
            self._handle(body)
            if self._shares and self._waits and not self._items.empty():
                return

    def _rest(self) -> None:
        if self._busy_since is not None or monotonic() - self._idle_since < ALERT_S:
            sleep(PATIENCE_S)
            return
        self._woken.clear()
        self._asleep = True
        if self._busy_since is None:
            self._woken.wait()
        self._asleep = False
