"""Prints more than anybody reads: through Python, and past it."""

import os
import time

LINE = "x" * 1023 + "\n"  # 1 KiB


class Flood:
    def execute(self, printed_mib=0, written_mib=0):
        for _ in range(printed_mib << 10):
            print(LINE, end="")
        block = LINE.encode() * 64
        for _ in range(written_mib << 4):
            os.write(1, block)
        time.sleep(0.5)  # what lies in the pipe belongs to the run that goes on
        return "printed"
