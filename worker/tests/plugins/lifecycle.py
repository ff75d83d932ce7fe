"""Plugins for start-up, configuration, cancel, progress and the like."""

import os
import threading
import time


class Configured:
    name = "configured"
    version = "2.3.4"

    def __init__(self):
        self.calls = []
        self.current = {"mode": "none"}

    def initialize(self, config=None):
        if config and config.get("mode") == "bad":
            raise ValueError("mode `bad` is not known")
        self.calls.append(config)
        self.current = {**self.current, **(config or {})}

    def get_config_schema(self):
        return {"type": "object", "properties": {"mode": {"default": "fast"}, "size": {"type": "integer"}}}

    def get_current_config(self):
        return self.current

    def execute(self):
        return self.calls

    def release(self):
        self.calls.append("released")

    def cleanup(self):
        print("cleaned up")


class NoDefaults(Configured):
    def get_config_schema(self):
        return {"type": "object", "properties": {"size": {"type": "integer"}}}


class FailsToConstruct:
    def __init__(self):
        raise RuntimeError("no GPU here")


class FailsToInitialize:
    def initialize(self, config):
        raise SystemExit(9)

    def execute(self):
        return None


class Cancellable:
    """Blocks until it is cancelled."""

    def __init__(self):
        self.stop = threading.Event()

    def execute(self, how="raise"):
        print("blocking", flush=True)
        self.stop.wait()
        self.stop.clear()
        if how == "raise":
            raise RuntimeError("stopped as asked")
        return "stopped"

    def cancel(self):
        self.stop.set()


class CancelFails(Cancellable):
    def cancel(self):
        self.stop.set()
        raise ValueError("cannot stop")


class CancelHangs(Cancellable):
    def cancel(self):
        threading.Event().wait()


class CancelNothing:
    """As a base class has it that makes cancel optional."""

    def cancel(self) -> None:
        """Cancel the current execution. Override for cooperative cancellation support."""

    def execute(self, path):
        print("blocking", flush=True)
        with open(path) as fifo:
            return fifo.read()


class Asynchronous:
    async def initialize(self, config):
        self.config = config

    async def execute(self, forever=False):
        import asyncio

        print("begun", flush=True)
        await asyncio.sleep(3600 if forever else 0)
        return self.config

    async def execute_stream(self, n=3):
        for i in range(n):
            yield i


class Parallel:
    """Two runs that can only end together."""

    def __init__(self):
        self.barrier = threading.Barrier(2)

    def execute(self, tag):
        self.barrier.wait(timeout=15)
        print(f"line of {tag}")
        return tag


class Progressing:
    """Knows nothing of progress but what the worker gives it."""

    def execute(self, values):
        for value in values:
            self.report_progress(*value)
        return


class CjmStyle:
    """As `PluginInterface` of cjm-plugin-system."""

    _progress = 0.0
    _status_message = ""

    def report_progress(self, progress, message=""):
        self._progress = progress
        self._status_message = message

    def execute(self, fifo=None):
        self.report_progress(0.25, "called")
        if fifo:
            self._progress, self._status_message = 0.5, "set"
            with open(fifo) as gate:
                gate.read()
        self._progress = 0.75
        return


class Slotted:
    """Refuses attributes."""

    __slots__ = ()

    def execute(self):
        return "slotted"


class Noisy:
    def __init__(self):
        os.write(1, b"garbage \xff\xfe not a frame\n")
        print("constructing")

    def execute(self):
        import subprocess
        import sys

        os.write(1, b"raw line\n")
        sys.stdout.buffer.write(b"bytes line\n")
        sys.stderr.write("error line\n")
        out = subprocess.run(["cat"], stdout=subprocess.PIPE).stdout
        return [sys.stdin.read(), out.decode(), os.fstat(0).st_rdev == os.stat("/dev/null").st_rdev]


class Busy:
    """Holds the interpreter, as a computation in Python does."""

    def execute(self, seconds):
        end = time.monotonic() + seconds
        print("spinning")
        while time.monotonic() < end:
            pass
        return "spun"


class Forks:
    def execute(self):
        child = os.fork()
        if child == 0:
            print("from the child")
            return "child"
        os.waitpid(child, 0)
        return "parent"


class NoOp:
    def execute(self):
        return None

    def execute_stream(self, n, size=64):
        text = "x" * size
        for _ in range(n):
            yield text
