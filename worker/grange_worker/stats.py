"""What this process and its children use.

Owns: reading /proc and the processor time. Never: anything about the plugin.
"""

from __future__ import annotations

import os
import time
from typing import Any

MIB = 1024 * 1024


class Meter:
    """Measures from one question to the next."""

    def __init__(self) -> None:
        self._cpu_s = time.process_time()
        self._at_s = time.monotonic()

    def read(self) -> dict[str, Any]:
        """Return pid, processor use since the last question, and memory of the process tree."""
        cpu_s, at_s = time.process_time(), time.monotonic()
        percent = 100.0 * (cpu_s - self._cpu_s) / max(at_s - self._at_s, 1e-6)
        self._cpu_s, self._at_s = cpu_s, at_s
        return {"pid": os.getpid(), "cpu_percent": round(percent, 1), "rss_mb": tree_rss_mb(os.getpid())}


def tree_rss_mb(root: int) -> float | None:
    """Return the resident memory of a process and its descendants, or None where there is no /proc."""
    if not os.path.isdir("/proc/self"):
        return None
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            parent = _parent_of(entry)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry))
    total, left = 0, [root]
    while left:
        process = left.pop()
        total += _rss_bytes(process)
        left += children.get(process, [])
    return round(total / MIB, 1)


def _parent_of(process: str) -> int | None:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            stat = file.read()
    except OSError:  # it ended meanwhile
        return None
    # The name in parentheses may hold anything; the fields after the last one are state and parent.
    return int(stat[stat.rindex(b")") + 1 :].split()[1])


def _rss_bytes(process: int) -> int:
    try:
        with open(f"/proc/{process}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
