"""What an exception looks like on the link.

Owns: type, message and traceback of an exception, with their size limits. Never: deciding what a failure means.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import Any

MESSAGE_CHARS = 8 * 1024  # longer messages keep their beginning
TRACEBACK_CHARS = 32 * 1024  # longer tracebacks keep their beginning and their end
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep


def describe(error: BaseException, whole: bool = False) -> dict[str, str]:
    """Return `type`, `message` and `traceback`, whatever the exception does when it is asked.

    The traceback leaves out the worker's own frames, unless the `whole` is wanted.
    """
    try:
        message = str(error)
    except Exception as second:
        message = f"(its message cannot be read: {type(second).__name__})"
    return {
        "type": type(error).__name__,
        "message": message[:MESSAGE_CHARS],
        "traceback": _shorten(_format(error, whole)),
    }


def is_bad_call(error: BaseException, function: Any, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Say whether a call failed because its arguments do not fit the function (looked at only after a `TypeError`)."""
    if not isinstance(error, TypeError):
        return False
    import inspect

    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return True
    except ValueError:  # a builtin without a signature
        return False
    return False


def is_disk_full(error: BaseException) -> bool:
    """Say whether the system refused to write because a disk or a quota is full, here or in what led to it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, OSError) and link.errno in _DISK_FULL:
            return True
        link = link.__cause__ or link.__context__
    return False


def _format(error: BaseException, whole: bool) -> str:
    import traceback

    try:
        trace = error.__traceback__ if whole else _plugin_part(error.__traceback__)
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception as second:
        return f"(the traceback cannot be formatted: {type(second).__name__})"


def _plugin_part(tb: TracebackType | None) -> TracebackType | None:
    """Leave out the worker's own frames at the top: nobody can mend them in a plugin."""
    part = tb
    while part is not None and os.path.abspath(part.tb_frame.f_code.co_filename).startswith(_OWN_FOLDER):
        part = part.tb_next
    return part


def _shorten(text: str) -> str:
    if len(text) <= TRACEBACK_CHARS:
        return text
    half = TRACEBACK_CHARS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
