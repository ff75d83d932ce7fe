"""A job whose behaviour its seed decided, and that is its own witness.

What it does is written to a file that the harness owns, one line each, appended at once. Kernel locks say what no
report can: a second execution of a job finds the job's lock taken, whoever believes what, and a lock is free again only
when every process that inherited it is gone.
"""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid

from grange_worker.scope import CURRENT

FOLDER = os.environ["CHAOS_FOLDER"]
AGENT = os.environ["CHAOS_AGENT"]
STEP_S = 0.01


class StoppedError(Exception):
    """The run was asked to stop."""


def say(**line):
    """Append one line to the witness file."""
    line["at_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    handle = os.open(
        os.path.join(FOLDER, "witness.jsonl"),
        os.O_WRONLY | os.O_APPEND | os.O_CREAT,
        0o644,
    )
    try:
        os.write(handle, (json.dumps(line) + "\n").encode())
    finally:
        os.close(handle)


def began(pid):
    """When a process began, in clock ticks since the host booted."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(") ", 1)[1].split(" ")[19])


def chunk(job, attempt, index):
    """Value `index` of the stream of an attempt: whoever knows the job knows it."""
    return f"{job}/{attempt}/{index}"


class Execution:
    """One execution, from its first line to its last. Holds the locks of what it uses."""

    def __init__(self, job, payload, lines):
        run = CURRENT.get()
        self.run = run
        self.id = uuid.uuid4().hex
        self.job, self.attempt = job, run.attempt
        self.digest = hashlib.sha256()
        self.chunks = 0
        self.locks = []
        gpus = [
            gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu
        ]
        say(
            line="start",
            execution=self.id,
            job=job,
            named=run.job,
            attempt=self.attempt,
            agent=AGENT,
            pid=os.getpid(),
            ticks=began(os.getpid()),
            input_sha256=hashlib.sha256(payload.encode()).hexdigest(),
            secrets=[
                name for name, value in os.environ.items() if "canary" in value.lower()
            ],
        )
        for name in [f"job-{job}", *(f"gpu-{gpu}" for gpu in gpus)]:
            self._lock(name)
        if lines:
            with open(os.path.join(run.folder(), "note"), "w") as file:
                file.write(job)
        for number in range(lines):
            print(f"{job} line {number}", flush=True)

    def _lock(self, name):
        folder = os.path.join(FOLDER, "locks")
        handle = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(
                line="taken",
                execution=self.id,
                job=self.job,
                attempt=self.attempt,
                lock=name,
            )
        self.locks.append(handle)

    def leave_a_child(self):
        """Start a process in a session of its own that keeps the locks and outlives the run unless it is killed."""
        subprocess.Popen(["sleep", "600"], start_new_session=True, pass_fds=self.locks)

    def wait(self, seconds, deaf):
        """Take so long; stop when asked to, unless deaf."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not deaf and self.run.cancelled:
                raise StoppedError
            time.sleep(min(STEP_S, left))

    def count(self, value):
        """Take a chunk into account before it is handed over."""
        self.digest.update(value.encode() + b"\n")
        self.chunks += 1

    def end(self, how):
        """Write the last line and give the locks back."""
        say(
            line="end",
            execution=self.id,
            job=self.job,
            attempt=self.attempt,
            how=how,
            chunks=self.chunks,
            digest=self.digest.hexdigest(),
        )
        for handle in self.locks:
            os.close(handle)

    def result(self):
        return {
            "execution": self.id,
            "chunks": self.chunks,
            "digest": self.digest.hexdigest(),
        }


class Chaos:
    """`seconds` of work, `chunks` on the way, then whatever `fate` says for this attempt."""

    def execute(self, **wanted):
        run = self._run(**wanted)
        while True:
            try:
                next(run)
            except StopIteration as end:
                return end.value

    def execute_stream(self, **wanted):
        return (yield from self._run(**wanted))

    def cancel(self):
        return True

    def _run(
        self, job, payload="", seconds=0.0, chunks=0, lines=0, fates=(), deaf=False
    ):
        execution = Execution(job, payload, lines)
        how = "raised"
        try:
            fate = (
                fates[execution.attempt - 1]
                if execution.attempt <= len(fates)
                else "return"
            )
            if fate == "leave_child":
                execution.leave_a_child()
            for index in range(chunks):
                execution.wait(seconds / chunks, deaf)
                value = chunk(job, execution.attempt, index)
                execution.count(value)
                yield value
                if fate != "return" and index == chunks // 2:
                    self._meet(fate, execution)
            if not chunks:
                execution.wait(seconds, deaf)
            self._meet(fate, execution)
            how = "returned"
            return execution.result()
        except StoppedError:
            how = "stopped"
            raise
        finally:
            execution.end(how)

    @staticmethod
    def _meet(fate, execution):
        if fate in ("crash", "leave_child"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif fate == "exit":
            sys.stderr.write("about to leave\n")
            sys.stderr.flush()
            os._exit(3)
        elif fate == "raise":
            raise RuntimeError(f"{execution.job} was told to fail")
