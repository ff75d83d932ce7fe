"""The life of one run: from its arguments to its `done` or `error`.

Owns: which method of the plugin is called, the chunks and their window, and the frame that ends a run.
Never: which run is next, or reading from the link.
"""

from __future__ import annotations

import os
import threading
from time import perf_counter
from typing import Any, Callable

from . import streaming
from .failures import describe, is_bad_call, is_disk_full
from .link import Link, TooLargeError, to_json
from .output import Log
from .plugin import Plugin, set_quietly
from .progress import Board, normal
from .scope import CURRENT, Cancelled, Run
from .values import Encoded, UnserialisableError, encode, revive

_FLAG = {False: "false", True: "true"}
SLOW_STREAM_S = 0.001  # chunks farther apart than this are handed over at once
SHORT_MESSAGE_CHARS = 200  # of an error that does not fit into a frame otherwise

# Linux wakes a socket's reader on the writer's core, in the belief that the writer is about to sleep. A plugin that
# computes on does not, and the chunk would wait for milliseconds where no other core is free.
_yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class BadArgumentsError(Exception):
    """The arguments of a run cannot be read."""


class Runner:
    """Executes runs on one plugin, from one or several threads."""

    def __init__(self, link: Link, log: Log, board: Board, plugin: Plugin, inline_bytes: int, alone: bool) -> None:
        self._link = link
        self._log = log
        self._board = board
        self._plugin = plugin
        self._inline_bytes = inline_bytes
        self._alone = alone  # one run at a time: what belongs to the instance belongs to the run
        self._tells_scratch = alone and hasattr(plugin.instance, "grange_scratch")
        self.stopping = threading.Lock()  # held while the plugin's cancel() is called
        self._watches = False  # the plugin's progress attributes
        plugin.adopt_report(board.report)
        self._watch_progress()

    def perform(self, run: Run) -> bytes:
        """Execute a run; return the frame that ends it, after which nothing may be sent for it."""
        CURRENT.set(run)
        with self.stopping:  # a cancel() that was meant for the run before must not reach this one
            pass
        if run.waited:
            self._link.write(self._link.pack(f'{{"t":"started","run":{run.id}}}'))
        if self._tells_scratch:
            self._tells_scratch = set_quietly(self._plugin.instance, "grange_scratch", run.folder())
        self._board.begin(run, self._alone)
        begun = perf_counter()
        try:
            frame = self._well_ended(run, self._call(run), begun)
        except BaseException as error:
            frame = self._badly_ended(run, error, begun)
        if self._link.forked:  # the plugin forked, and its child came back here: the run is the parent's
            os._exit(0)
        if self._alone and not self._watches:
            self._watch_progress()
        self._board.end(run)
        self._log.end(run)
        return frame

    def drop(self, run: Run) -> bytes:
        """Return the frame that ends a run which was cancelled before it began."""
        run.silent = True
        return self._error(run, "Cancelled", "cancelled before it began", "", "raised", 0.0)

    def _call(self, run: Run) -> Any:
        plugin = self._plugin
        if run.marked:
            try:
                run.args, run.kwargs = revive(run.args), revive(run.kwargs)
            except ValueError as error:
                raise BadArgumentsError(f"a `$bytes` argument is not base64: {error}") from error
        streams = plugin.streams if run.stream is None else run.stream
        if not streams:
            return streaming.finish(run, plugin.execute(*run.args, **run.kwargs))
        run.make_room()
        if plugin.execute_stream is not None:
            source = plugin.execute_stream(*run.args, **run.kwargs)
            return streaming.stream(run, source, self._emit)
        self._emit(run, streaming.finish(run, plugin.execute(*run.args, **run.kwargs)))
        return None

    def _emit(self, run: Run, chunk: Any) -> None:
        encoded = encode(chunk, "chunk", run.scratch, self._inline_bytes)
        try:
            data = self._link.pack(
                f'{{"t":"chunk","run":{run.id},"value":{encoded.text},"files":{_FLAG[encoded.files]}}}'
            )
            if run.sent >= run.allowed:
                run.wait_for_room()
        except BaseException:
            encoded.discard()
            raise
        run.sent += 1
        self._link.write(data)
        now = perf_counter()
        if now - run.sent_at > SLOW_STREAM_S:
            _yield_core()
        run.sent_at = now

    def _well_ended(self, run: Run, value: Any, begun: float) -> bytes:
        ms = _ms(run, begun)
        encoded: Encoded = encode(value, "result", run.scratch, self._inline_bytes)
        files = _FLAG[encoded.files]
        try:
            return self._link.pack(
                f'{{"t":"done","run":{run.id},"value":{encoded.text},"files":{files},"ms":{ms:.3f}}}'
            )
        except TooLargeError:
            encoded.discard()
            raise

    def _badly_ended(self, run: Run, error: BaseException, begun: float) -> bytes:
        ms = _ms(run, begun)
        if isinstance(error, UnserialisableError):
            kind = "unserialisable"
        elif isinstance(error, TooLargeError):
            kind = "too_large"
        elif isinstance(error, BadArgumentsError) or self._is_bad_call(run, error):
            kind = "bad_arguments"
        elif is_disk_full(error):
            kind = "out_of_disk"
        else:
            kind = "raised"
        if isinstance(error, Cancelled):
            return self._error(run, "Cancelled", "cancelled", "", kind, ms)
        told = describe(error)
        return self._error(run, told["type"], told["message"], told["traceback"], kind, ms)

    def _is_bad_call(self, run: Run, error: BaseException) -> bool:
        plugin = self._plugin
        streams = plugin.streams if run.stream is None else run.stream
        function = (plugin.execute_stream if streams else None) or plugin.execute
        return is_bad_call(error, function, run.args, run.kwargs)

    def _error(self, run: Run, name: str, message: str, trace: str, kind: str, ms: float) -> bytes:
        frame = {
            "t": "error",
            "run": run.id,
            "type": name,
            "message": message,
            "traceback": trace,
            "cancelled": run.cancelled,
            "kind": kind,
            "ms": round(ms, 3),
        }
        try:
            return self._link.pack(to_json(frame))
        except TooLargeError:
            frame["message"], frame["traceback"] = message[:SHORT_MESSAGE_CHARS], ""
            return self._link.pack(to_json(frame))

    def _watch_progress(self) -> None:
        if self._alone and self._plugin.keeps_progress:
            self._watches = True
            self._board.watch(self._look)

    def _look(self) -> tuple[float, str] | None:
        seen = self._plugin.progress()
        return None if seen is None else normal(*seen)


def _ms(run: Run, begun: float) -> float:
    """Return the time since a moment, without what the run spent waiting for credit."""
    return (perf_counter() - begun - run.blocked_s) * 1000.0
