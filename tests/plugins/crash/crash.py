"""Ends its process in the middle of a run, in one of several ways, in its first `times` attempts."""

import ctypes
import os
import subprocess
import sys

from grange_worker.scope import CURRENT


def segv():
    ctypes.string_at(0)


def leave():
    sys.stderr.flush()
    os.write(2, b"the last words\n")
    os._exit(7)


def orphan():
    subprocess.Popen(["sleep", "600"])
    subprocess.run(["setsid", "-f", "sleep", "600"], check=True)
    os._exit(7)


class Crash:
    def execute(self, how="exit", times=1000):
        attempt = CURRENT.get().attempt
        if attempt <= times:
            {"exit": leave, "segv": segv, "orphan": orphan}[how]()
        return attempt
