"""Uses GPU memory as the fake NVML counts it: writes down how much, and waits where it is told to."""

import json
import os
import subprocess
import threading
import time

from grange_worker.scope import CURRENT


class StoppedError(Exception):
    """The run was asked to stop."""


def began(pid):
    """When a process began, in clock ticks since the host booted."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(") ", 1)[1].split(" ")[19])


def visible():
    """The GPUs that this process was given."""
    return [uuid for uuid in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if uuid]


def allocate(mb, pid=None, gpus=None):
    """From now on the process (this one) uses `mb` MiB on each of the GPUs (those it was given)."""
    pid = os.getpid() if pid is None else pid
    gpus = visible() if gpus is None else gpus
    folder = os.path.join(os.path.dirname(os.environ["GRANGE_FAKE_NVML"]), "use")
    half = os.path.join(folder, f"{pid}.half")
    with open(half, "w") as file:
        json.dump({"began": began(pid), "gpus": dict.fromkeys(gpus, mb)}, file)
    os.replace(half, os.path.join(folder, f"{pid}.json"))


class Vram:
    def __init__(self):
        self._stop = threading.Event()
        self._mb = 0

    def initialize(self, config):
        """`mb` is used from here on; `load_ms` is how long that takes, `load_until` a file that is waited for.

        `release()` gives it up, unless `releases` is false.
        """
        self._mb = config.get("mb", 0)
        self._releases = config.get("releases", True)
        allocate(self._mb)
        time.sleep(config.get("load_ms", 0) / 1000)
        while config.get("load_until") and not os.path.exists(config["load_until"]):
            time.sleep(0.005)

    def execute(
        self, label="", log=None, mb=None, until=None, then_mb=None, then_until=None, child_mb=None, pulse=None
    ):
        """Uses `mb`, waits for the file `until`, uses `then_mb`, waits for `then_until`. A child may use some too.

        As long as it waits, the file `pulse` gets a line every few milliseconds that says so, and one at the end.
        """
        self._stop.clear()
        self._pulse = pulse
        if log is not None:
            with open(log, "a") as file:
                file.write(f"{label}\n")
        allocate(self._mb if mb is None else mb)
        child = None
        if child_mb is not None:
            child = subprocess.Popen(["sleep", "1000"])
            allocate(child_mb, pid=child.pid)
        try:
            self._wait(until)
            if then_mb is not None:
                allocate(then_mb)
            self._wait(then_until)
            self._say("ends")
        finally:
            if child is not None:
                child.kill()
                child.wait()
            allocate(self._mb)
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        return {"label": label, "pid": os.getpid(), "gpus": gpus, "attempt": CURRENT.get().attempt}

    def _wait(self, path):
        while path is not None and not os.path.exists(path):
            self._say("lives")
            if self._stop.wait(0.005):
                raise StoppedError("stopped while it waited")

    def _say(self, what):
        """Attempt, process, moment of the clock that all processes of the machine share, and what is said."""
        if self._pulse is None:
            return
        line = f"{CURRENT.get().attempt} {os.getpid()} {time.monotonic_ns()} {what}\n"
        handle = os.open(self._pulse, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def release(self):
        if self._releases:
            allocate(0)

    def cancel(self):
        self._stop.set()
        return True
