"""The link to the agent: frames on what was file descriptor 0.

Owns: the socket, framing in both directions, the size limit, and the end of the process when the link ends.
Never: the meaning of a frame, or a plugin's value.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
from collections.abc import Iterator
from typing import Any, Callable, NoReturn

PROTOCOL = 1
DEFAULT_FRAME_BYTES = 8 * 1024 * 1024
READ_BYTES = 64 * 1024  # below malloc's mmap threshold, so that a read costs no page faults

HIGH_FD = 200  # below every usual limit of open files

EXIT_USAGE = 2
EXIT_NOT_LOADED = 3
EXIT_BROKEN_FRAME = 4
EXIT_BUG = 70
EXIT_ORPHANED = 5  # the link ended while runs were active; 0 when idle

to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_raw_decode = json.JSONDecoder().raw_decode


class BrokenFrameError(Exception):
    """The agent sent something that is no frame."""


class TooLargeError(Exception):
    """A frame to be sent exceeds the limit."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"frame of {size} bytes exceeds the limit of {limit} bytes")


def die(status: int, message: str = "") -> NoReturn:
    """End the process now, whatever its threads do; the message goes to fd 2 past everything that is replaced."""
    if message:
        os.write(2, f"grange_worker: {message}\n".encode(errors="replace"))
    os._exit(status)


def take_descriptor() -> int:
    """Move the link away from fd 0 and leave /dev/null there, for plugins and for the processes they start."""
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        die(EXIT_USAGE, "file descriptor 0 is not a socket: this program is started by grange-agent")
    # Not inheritable, unlike 0; far from the numbers that careless code writes to or closes.
    link = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.set_blocking(link, True)
    return link


class Link:
    """Sends and receives frames; sending is safe from every thread, a signal handler and a finaliser."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.RLock()
        self._writing = False
        self._late: list[bytes] = []
        self.frame_bytes = DEFAULT_FRAME_BYTES
        self.busy: Callable[[], bool] = lambda: False  # decides the exit status when the link ends
        self.forked = False
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def pack(self, text: str) -> bytes:
        """Make a frame of JSON text, or raise `TooLargeError`."""
        try:
            body = text.encode()
        except UnicodeEncodeError:  # lone surrogates, as file names have them: no UTF-8, and no JSON either
            body = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        size = len(body)
        if size > self.frame_bytes:
            raise TooLargeError(size, self.frame_bytes)
        return size.to_bytes(4, "big") + body

    def write(self, data: bytes) -> None:
        """Send packed frames in one piece.

        A finaliser or signal handler that prints while this thread writes gets here again: its frame then
        follows the one being written.
        """
        with self._lock:
            if self.forked:
                return
            self._late.append(data)
            if self._writing:
                return
            while self._late:
                self._writing = True
                try:
                    self._write_out(self._late.pop(0))
                finally:
                    self._writing = False

    def send(self, frame: dict[str, Any]) -> None:
        """Send a frame given as an object (control frames; runs build their text themselves)."""
        self.write(self.pack(to_json(frame)))

    def _write_out(self, data: bytes) -> None:
        try:
            sent = os.write(self._descriptor, data)
            while sent < len(data):
                sent += os.write(self._descriptor, memoryview(data)[sent:])
        except OSError:
            self.end()

    def end(self) -> NoReturn:
        """The agent is gone: nothing that runs here can matter to anyone."""
        os._exit(EXIT_ORPHANED if self.busy() else 0)

    def frames(self) -> Iterator[bytes]:
        """Yield the body of every frame; never returns, the process ends with the link."""
        descriptor, buffer = self._descriptor, bytearray()
        while True:
            try:
                received = os.read(descriptor, READ_BYTES)
            except OSError:
                received = b""
            if not received:
                self.end()
            buffer += received
            start, held = 0, len(buffer)
            while held - start >= 4:
                size = int.from_bytes(buffer[start : start + 4], "big")
                if size > self.frame_bytes:
                    raise BrokenFrameError(f"frame of {size} bytes exceeds the limit of {self.frame_bytes} bytes")
                end = start + 4 + size
                if end > held:
                    break
                yield bytes(buffer[start + 4 : end])
                start = end
            del buffer[:start]

    def _leave_to_parent(self) -> None:
        """In a forked child: the link is the parent's alone."""
        self.forked = True
        self._lock = threading.RLock()
        os.close(self._descriptor)


def parse(body: bytes) -> dict[str, Any]:
    """Read one frame, or raise `BrokenFrameError`."""
    try:
        text = body.decode()
        frame, end = _raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise BrokenFrameError(f"frame is not JSON: {error}") from error
    if end != len(text) and text[end:].strip():
        raise BrokenFrameError("frame has something after its JSON object")
    if type(frame) is not dict or not isinstance(frame.get("t"), str):
        raise BrokenFrameError("frame is not an object with a field `t`")
    return frame
