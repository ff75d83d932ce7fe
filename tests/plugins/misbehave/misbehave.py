"""Does what no plugin should, in the way that is asked for."""

import contextlib
import ctypes
import os
import signal
import sys
import threading

GARBAGE = b'\x00\x00\x00\x05hello\xff\xfe{"t":"done","run":1}\r\n'


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


def fail():
    raise ValueError("the page is upside down")


def fail_at_length():
    raise ValueError("x" * 1_000_000)


def fail_mutely():
    raise MuteError


def recurse():
    return recurse()


def print_garbage():
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.write("\x00 not a frame \ud800 \n")
        stream.buffer.write(GARBAGE)
        os.write(descriptor, GARBAGE)
    return "printed"


def write_descriptors():
    for descriptor in (0, 1, 2, 3):
        with contextlib.suppress(OSError):
            os.write(descriptor, GARBAGE)
    return "written"


def close_streams():
    sys.stdout.close()
    sys.stderr.close()
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    print("nobody hears this")
    return "closed"


def leave_a_thread():
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    return "left"


def say_and_return():
    os.write(1, b"said past the worker\n")
    return "said"


HOW = {
    "good": lambda: "good",
    "raise": fail,
    "raise at length": fail_at_length,
    "raise mutely": fail_mutely,
    "recurse": recurse,
    "sys.exit": lambda: sys.exit(3),
    "interrupt": lambda: signal.raise_signal(signal.SIGINT),
    "unserialisable": lambda: {"pages": [1, {"lock": threading.Lock()}]},
    "contains itself": lambda: (lambda x: x.append(x) or x)([]),
    "20 MiB": lambda: "x" * (20 << 20),
    "garbage": print_garbage,
    "descriptors": write_descriptors,
    "close streams": close_streams,
    "close all": lambda: os.closerange(0, 256),
    "thread": leave_a_thread,
    "say": say_and_return,
    "os._exit": lambda: os._exit(7),
    "SIGSEGV": lambda: ctypes.string_at(0),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


class Misbehave:
    def execute(self, how):
        return HOW[how]()
