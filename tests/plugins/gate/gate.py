"""Writes down that it began, then waits until a file is there. `cancel()` ends the wait."""

import os
import threading

from grange_worker.scope import CURRENT


class StoppedError(Exception):
    """The run was asked to stop."""


class Gate:
    def __init__(self):
        self._stop = threading.Event()

    def execute(self, label="", log=None, until=None):
        self._stop.clear()
        if log is not None:
            with open(log, "a") as file:
                file.write(f"{label}\n")
        while until is not None and not os.path.exists(until):
            if self._stop.wait(0.005):
                raise StoppedError("stopped at the gate")
        return {"label": label, "pid": os.getpid(), "attempt": CURRENT.get().attempt}

    def cancel(self):
        self._stop.set()
        return True
