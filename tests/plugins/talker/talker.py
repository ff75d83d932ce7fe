"""Streams chunks, prints lines and reports progress, for two runs at a time."""

import os
import sys
import time

from grange_worker.scope import CURRENT


def wait_for(is_there):
    while not is_there():
        time.sleep(0.005)


class Talker:
    def execute(self, **_):
        return "not streamed"

    def execute_stream(
        self, count=0, size=0, name="", lines=0, steps=0, until=None, meet=None, crash_at=None, tell=None
    ):
        if meet is not None:  # the runs that meet begin to talk when both are there
            with open(os.path.join(meet, name), "w"):
                pass
            wait_for(lambda: len(os.listdir(meet)) == 2)
        for n in range(lines):
            print(f"{name} out {n}")
            print(f"{name} err {n}", file=sys.stderr)
        for n in range(steps):
            self.report_progress((n + 1) / steps, f"step {n + 1}")
        filling = "x" * size
        for n in range(count):
            if n == crash_at and CURRENT.get().attempt == 1:
                os._exit(1)
            if tell is not None:
                with open(tell, "w") as file:
                    file.write(str(n))
            yield f"{n} {filling}" if size else n
            if until is not None and n == count // 2:
                wait_for(lambda: os.path.exists(until))
        return {"said": count}
