"""Blocks in C code with a child and with a grandchild in a session of its own. Has no `cancel()`."""

import subprocess
import time


class Stubborn:
    def execute(self, log, until_attempt=1000):
        from grange_worker.scope import CURRENT

        attempt = CURRENT.get().attempt
        with open(log, "a") as file:
            file.write(f"{attempt}\n")
        if attempt >= until_attempt:
            return attempt
        subprocess.Popen(["sleep", "600"])
        subprocess.run(["setsid", "-f", "sleep", "600"], check=True)
        time.sleep(600)
        return None
