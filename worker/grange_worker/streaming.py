"""Driving a plugin's call to its value: plain, streamed, asynchronous, or several of these.

Owns: the iteration over chunks, and closing what was not finished. Never: frames; chunks go to a function.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import Any, Callable

from .plugin import is_awaitable
from .scope import Cancelled, Run

Emit = Callable[[Run, Any], None]


def finish(run: Run, value: Any) -> Any:
    """Return what a call of `execute` gave, waiting for it where it is asynchronous."""
    return _run_async(run, _plain(value)) if is_awaitable(value) else value


def stream(run: Run, source: Any, emit: Emit) -> Any:
    """Send every chunk of what a call of `execute_stream` gave; return the generator's own value."""
    if is_awaitable(source) or hasattr(source, "__aiter__"):
        return _run_async(run, _stream_async(run, source, emit))
    iterator = iter(source)
    try:
        while True:
            try:
                chunk = next(iterator)
            except StopIteration as end:
                return end.value
            emit(run, chunk)
            if run.cancelled:
                raise Cancelled
    except BaseException:
        _close(iterator)
        raise


def _close(iterator: Any) -> None:
    """Close a generator that is left early; what it raises then would only hide why it was left."""
    close = getattr(iterator, "close", None)
    if close is None:
        return
    try:
        close()
    except BaseException as error:
        print(f"closing the generator failed: {type(error).__name__}: {error}", file=sys.stderr)


async def _plain(value: Awaitable[Any]) -> Any:
    return await value


async def _stream_async(run: Run, source: Any, emit: Emit) -> Any:
    import asyncio

    if is_awaitable(source):
        source = await source
    if not hasattr(source, "__aiter__"):
        return stream(run, source, emit)
    chunks = source.__aiter__()
    try:
        async for chunk in chunks:
            if not run.has_room():  # wait outside of the loop, so that the plugin's other coroutines go on
                await asyncio.get_running_loop().run_in_executor(None, run.wait_for_room)
            emit(run, chunk)
            if run.cancelled:
                raise Cancelled
    finally:
        aclose = getattr(chunks, "aclose", None)
        if aclose is not None:
            await aclose()
    return None


def _run_async(run: Run, work: Any) -> Any:
    """Run a coroutine in a loop of its own; cancelling the run cancels its task."""
    import asyncio

    async def main() -> Any:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        run.interrupt = lambda: _ignore_closed(loop.call_soon_threadsafe, task.cancel)
        if run.cancelled:
            task.cancel()
        try:
            return await task
        finally:
            run.interrupt = None

    return asyncio.run(main())


def _ignore_closed(call: Callable[..., Any], action: Callable[[], Any]) -> None:
    try:
        call(action)
    except RuntimeError:  # the loop ended between the question and the call: the run is over
        return
