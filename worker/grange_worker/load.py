"""The `load` frame: what a worker is told first.

Owns: its fields and their defaults. Never: acting on them.
"""

from __future__ import annotations

from typing import Any

from .link import DEFAULT_FRAME_BYTES, PROTOCOL, BrokenFrameError

DEFAULT_WINDOW = 64
DEFAULT_INLINE_BYTES = 256 * 1024


class Load:
    """A checked `load` frame; raises `BrokenFrameError`."""

    def __init__(self, frame: dict[str, Any]) -> None:
        if frame["t"] != "load":
            raise BrokenFrameError(f"the first frame is `{frame['t']}`, not `load`")
        if frame.get("protocol") != PROTOCOL:
            raise BrokenFrameError(
                f"the agent speaks worker link {frame.get('protocol')}, this worker speaks {PROTOCOL}"
            )
        self.plugin = _text(frame, "plugin", "")
        self.module = _text(frame, "module")
        self.class_name = _text(frame, "class")
        self.config: Any = frame.get("config")
        self.concurrency = _positive(frame, "concurrency", 1)
        self.frame_bytes = _positive(frame, "frame_bytes", DEFAULT_FRAME_BYTES)
        self.window = _positive(frame, "window", DEFAULT_WINDOW)
        self.inline_bytes = _positive(frame, "inline_bytes", DEFAULT_INLINE_BYTES)
        paths = frame.get("paths") or []
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise BrokenFrameError("`paths` of `load` is not an array of strings")
        self.paths: list[str] = paths


def _text(frame: dict[str, Any], name: str, default: str | None = None) -> str:
    value = frame.get(name)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise BrokenFrameError(f"`{name}` of `load` is not a string")
    return value


def _positive(frame: dict[str, Any], name: str, default: int) -> int:
    value = frame.get(name)
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise BrokenFrameError(f"`{name}` of `load` is not a positive integer")
    return value
