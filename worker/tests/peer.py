"""The agent's side of the worker link, for tests: starts a real worker and talks frames with it.

Owns: the process, the socket pair, deadlines. Never: expectations about what a plugin does.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

WORKER = Path(__file__).resolve().parent.parent / "grange_worker"
PLUGINS = Path(__file__).resolve().parent / "plugins"
DEADLINE_S = 20.0


class LinkEndedError(Exception):
    """The worker closed the link."""


class Worker:
    """A worker process and its link."""

    def __init__(self, as_module=False, command=None):
        ours, theirs = socket.socketpair()
        if command is None:
            command = [sys.executable, "-m", "grange_worker"] if as_module else [sys.executable, str(WORKER)]
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=str(WORKER.parent) if as_module else None,
        )
        theirs.close()
        self.link = ours
        self.link.settimeout(DEADLINE_S)
        self.buffer = bytearray()
        self.ready = None
        self._number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.link.close()
        self.process.kill()
        self.process.communicate()

    def send_bytes(self, data):
        self.link.sendall(data)

    def send(self, t, **fields):
        body = json.dumps({"t": t, **{name.rstrip("_"): value for name, value in fields.items()}}).encode()
        self.send_bytes(len(body).to_bytes(4, "big") + body)

    def load(self, module, class_, **fields):
        """Send `load` and return the answer."""
        load = {
            "protocol": 1,
            "plugin": "under-test",
            "module": module,
            "class_": class_,
            "paths": [str(PLUGINS)],
            "config": None,
            "concurrency": 1,
            "frame_bytes": 8 * 1024 * 1024,
            "window": 64,
            "inline_bytes": 1024,
        }
        self.send("load", **{**load, **fields})
        self.ready = self.frame("ready", "failed")
        return self.ready

    def run(self, *args, stream=False, scratch="", **kwargs):
        """Send `run` and return its number."""
        self._number += 1
        self.send(
            "run",
            run=self._number,
            args=list(args),
            kwargs=kwargs,
            stream=stream,
            scratch=str(scratch),
            job=f"job-{self._number}",
            attempt=1,
        )
        return self._number

    def ask(self, what, id_=7):
        self.send("ask", id=id_, what=what)
        return self.frame("answer")

    def next(self, deadline_s=DEADLINE_S):
        """Return the next frame, whatever it is."""
        until = time.monotonic() + deadline_s
        while True:
            if len(self.buffer) >= 4:
                end = 4 + int.from_bytes(self.buffer[:4], "big")
                if len(self.buffer) >= end:
                    body = bytes(self.buffer[4:end])
                    del self.buffer[:end]
                    return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
            self.link.settimeout(max(until - time.monotonic(), 0.001))
            try:
                received = self.link.recv(1 << 16)
            except ConnectionResetError:
                received = b""
            if not received:
                raise LinkEndedError(self.stderr())
            self.buffer += received

    def frame(self, *kinds, deadline_s=DEADLINE_S, logs=None):
        """Return the next frame that is no log line; it has to be of one of these kinds."""
        while True:
            frame = self.next(deadline_s)
            if frame["t"] == "log" and "log" not in kinds:
                if logs is not None:
                    logs.append(frame)
                continue
            assert frame["t"] in kinds, f"wanted {kinds}, got {frame}"
            return frame

    def result(self, *args, **kwargs):
        """Run and return the end of it."""
        number = self.run(*args, **kwargs)
        end = self.frame("done", "error")
        assert end["run"] == number
        return end

    def until_end(self, number):
        """Return every frame of a run, to its end."""
        frames = []
        while not frames or frames[-1]["t"] not in ("done", "error"):
            frame = self.next()
            assert frame.get("run") in (number, None), frame
            frames.append(frame)
        return frames

    def ended(self, deadline_s=DEADLINE_S):
        """Wait for the process to end and return its status."""
        return self.process.wait(deadline_s)

    def stderr(self):
        self.process.wait(DEADLINE_S)
        return self.process.stderr.read().decode()


def _no_constant(name):
    raise AssertionError(f"{name} is no JSON")
