"""Takes more of its host than it was given, and leaves behind what it can, in the way that is asked for."""

import os
import resource
import signal
import tempfile
import time

from grange_worker import scratch

DEAF = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def turn_deaf():
    import ctypes

    libc = ctypes.CDLL(None)
    for number in DEAF:
        libc.signal(number, ctypes.c_void_p(1))  # SIG_IGN, also outside of the main thread


def fork_away(depth):
    """A child in a session of its own, which has one itself, and so on; none listens to anything polite."""
    if os.fork() == 0:
        os.setsid()
        if depth > 1:
            fork_away(depth - 1)
        while True:
            time.sleep(600)


def storm(children):
    turn_deaf()
    for n in range(children):
        fork_away(1 + n % 3)
    return children


def allocate(mib):
    held = []
    for _ in range(mib):
        block = bytearray(1 << 20)
        for place in range(0, len(block), 4096):
            block[place] = 1
        held.append(block)
        time.sleep(0.002)  # so that nobody has to be fast to see it
    return len(held)


def bomb():
    made = 0
    try:
        while True:
            if os.fork() == 0:
                time.sleep(600)
            made += 1
    except OSError as error:
        return {"made": made, "why": error.strerror}


def fill(mib):
    with open(os.path.join(tempfile.gettempdir(), "filler"), "wb") as out:
        for _ in range(mib):
            out.write(bytes(1 << 20))
    time.sleep(600)


def no_space():
    with open("/dev/full", "wb", buffering=0) as out:
        out.write(b"x")


def see():
    with open("/proc/self/oom_score_adj") as file:
        adjusted = int(file.read())
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":", 1) for line in file)
    return {
        "environment": dict(os.environ),
        "temporary": tempfile.gettempdir(),
        "scratch": str(scratch()),
        "mode": os.stat(os.path.dirname(tempfile.gettempdir())).st_mode & 0o777,
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "address_space": resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY,
        "oom_score_adj": adjusted,
        "no_new_privs": status["NoNewPrivs"].strip(),
    }


def leave(files):
    """Many small files where they are thrown away, and a folder that nobody may enter."""
    for n in range(files):
        open(os.path.join(tempfile.gettempdir(), str(n)), "w").close()
    return files


class Hostile:
    def execute(self, how="see", pids=None, block=False, **what):
        if pids is not None:
            with open(pids, "a") as out:
                out.write(os.environ["GRANGE_WORKER"] + "\n")
        done = globals()[how](**what)
        if block:
            time.sleep(600)
        return done
