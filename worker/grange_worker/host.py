"""The worker's conversation with its agent: frames in, what follows from them.

Owns: the order of start-up, and the answer to every frame that is not a run. Never: executing, which other threads
do; so `cancel` and `ask` are answered while every run blocks.

Threads: the main thread loads the plugin and executes; the link is read by it and by `grange-reader` in turn
(`reading`), and whoever reads answers by itself what needs no code of the plugin; `grange-control`, started when it is
needed, calls `cancel()` and the like, so that one of these that hangs does not take the answers about health with it.
"""

from __future__ import annotations

import os
import sys
import threading
from queue import SimpleQueue
from typing import Any, Callable, NoReturn

from . import output
from .failures import describe
from .link import (
    EXIT_BROKEN_FRAME,
    EXIT_BUG,
    EXIT_NOT_LOADED,
    PROTOCOL,
    BrokenFrameError,
    Link,
    die,
    parse,
    take_descriptor,
    to_json,
)
from .load import Load
from .plugin import LoadError, Plugin, first_config, load, settle
from .progress import Board
from .reading import Reading
from .runs import Runner
from .schedule import Schedule
from .scope import RUNNING, Run
from .stats import Meter
from .values import encode


def serve() -> NoReturn:
    """Be a worker until the agent says `exit` or the link ends."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the agent, which decides what becomes of the run
    link = Link(take_descriptor())
    log = output.install(link)
    bodies = link.frames()
    try:
        first = Load(parse(next(bodies)))
    except BrokenFrameError as error:
        die(EXIT_BROKEN_FRAME, f"broken frame from the agent: {error}")
    link.frame_bytes = first.frame_bytes
    host = Host(link, log, first)
    reading = Reading(bodies, host.take, host.items)
    threading.Thread(target=host.listen, args=(reading,), name="grange-reader", daemon=True).start()
    host.run(reading)


class Host:
    """One plugin on one link."""

    def __init__(self, link: Link, log: output.Log, first: Load) -> None:
        self._link = link
        self._log = log
        self._first = first
        self._schedule = Schedule(link, first.concurrency)
        self.items = self._schedule.items
        self._plugin: Plugin | None = None
        self._runner: Runner | None = None
        self._meter = Meter()
        self._control: SimpleQueue[Callable[[], None]] | None = None
        link.busy = lambda: self._schedule.unfinished > 0

    # === the main thread ===

    def run(self, reading: Reading) -> NoReturn:
        """Load the plugin, then execute."""
        first = self._first
        try:
            plugin = load(first.module, first.class_name, first.paths, first.plugin)
            first_config(plugin, first.config)
        except LoadError as error:
            self._fail(error)
        self._plugin = plugin
        board = Board(self._link)
        self._runner = Runner(self._link, self._log, board, plugin, first.inline_bytes, alone=first.concurrency == 1)
        self._link.write(self._ready(plugin))
        self._schedule.work(self._runner, reading)

    def _ready(self, plugin: Plugin) -> bytes:
        return self._packed(
            "ready",
            protocol=PROTOCOL,
            pid=os.getpid(),
            name=plugin.name,
            version=plugin.version,
            config=self._told(plugin.config, "config"),
            schema=self._told(plugin.schema, "schema"),
            streams=plugin.streams,
            cancels=plugin.cancels,
            releases=plugin.release is not None,
        )

    def _fail(self, error: LoadError) -> NoReturn:
        cause = error.__cause__ or error
        self._log.finish()
        self._link.write(self._packed("failed", stage=error.stage, **describe(cause)))
        os._exit(EXIT_NOT_LOADED)

    def _told(self, question: Callable[[], Any], name: str) -> Any:
        """Ask a plugin something that it need not be able to answer."""
        try:
            return _Raw(encode(question(), name).text)
        except Exception as error:
            print(f"the plugin's {name} cannot be told: {type(error).__name__}: {error}", file=sys.stderr)
            return None

    def _packed(self, kind: str, **fields: Any) -> bytes:
        parts = [f'"t":"{kind}"']
        for name, value in fields.items():
            parts.append(f'"{name}":{value if isinstance(value, _Raw) else to_json(value)}')
        return self._link.pack("{" + ",".join(parts) + "}")

    # === whoever reads ===

    def listen(self, reading: Reading) -> NoReturn:
        """Read in the place of the main thread until the link ends, and the process with it."""
        try:
            reading.stand_in()
        except BrokenFrameError as error:
            die(EXIT_BROKEN_FRAME, f"broken frame from the agent: {error}")
        except BaseException as error:
            die(EXIT_BUG, f"the worker itself failed: {describe(error, whole=True)['traceback']}")
        raise AssertionError("the link never just stops")

    def take(self, body: bytes) -> None:
        """Handle one frame."""
        frame = parse(body)
        kind = frame["t"]
        if kind == "run":
            self._schedule.submit(Run(_checked_run(frame), self._first.window, b'"$bytes"' in body))
            return
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, frame)

    def _on_credit(self, frame: dict[str, Any]) -> None:
        run = self._schedule.find(_integer(frame, "run"))
        if run is not None:
            run.grant(max(_integer(frame, "chunks"), 0))

    def _on_cancel(self, frame: dict[str, Any]) -> None:
        number = _integer(frame, "run")
        run = self._schedule.find(number)
        runner = self._runner
        if run is None or runner is None:
            self._cancelling(number, "unknown", "no such run")
        elif self._schedule.drop(run):
            run.cancelled = True
            self._cancelling(number, "cancelled", "it had not begun")
            self._link.write(runner.drop(run))
        else:
            self._later(lambda: self._cancel(run))

    def _on_configure(self, frame: dict[str, Any]) -> None:
        self._schedule.when_idle(lambda: self._answer(frame, lambda: self._configure(frame.get("config"))))

    def _on_release(self, frame: dict[str, Any]) -> None:
        self._schedule.when_idle(lambda: self._answer(frame, self._release))

    def _on_exit(self, _: dict[str, Any]) -> None:
        self._schedule.when_idle(self._exit)

    def _on_ask(self, frame: dict[str, Any]) -> None:
        what = frame.get("what")
        if what == "health":
            self._answer(frame, self._health)
        elif what == "stats":
            self._answer(frame, self._stats)
        elif what == "config":
            self._later(lambda: self._answer(frame, lambda: self._loaded().config()))
        elif what == "schema":
            self._later(lambda: self._answer(frame, lambda: self._loaded().schema()))
        else:
            self._answer(frame, lambda: _refuse(f"unknown question `{what}`"))

    def _health(self) -> dict[str, Any]:
        plugin, active = self._plugin, self._schedule.active
        return {
            "status": "loading" if plugin is None else "running" if active else "idle",
            "pid": os.getpid(),
            "name": plugin.name if plugin else self._first.plugin,
            "version": plugin.version if plugin else None,
            "active": active,
            "waiting": max(self._schedule.unfinished - active, 0),
        }

    def _stats(self) -> dict[str, Any]:
        return {**self._meter.read(), "runs": self._schedule.received, "active": self._schedule.active}

    # === the control thread, and the main thread while no run executes ===

    def _later(self, call: Callable[[], None]) -> None:
        if self._control is None:
            self._control = SimpleQueue()
            threading.Thread(target=_do_all, args=(self._control,), name="grange-control", daemon=True).start()
        self._control.put(call)

    def _cancel(self, run: Run) -> None:
        """Ask the plugin to stop; streams and asynchronous plugins stop in any case."""
        runner = self._runner
        assert runner is not None
        with runner.stopping:
            if run.phase is RUNNING:
                answer, message = self._stop(run)
            else:
                answer, message = "unknown", "it has just ended"
        self._cancelling(run.id, answer, message)

    def _stop(self, run: Run) -> tuple[str, str]:
        plugin = self._loaded()
        cancel = plugin.cancel
        stops_alone = plugin.asynchronous or (plugin.streams if run.stream is None else run.stream)
        if cancel is None and run.interrupt is None and not stops_alone:
            return "not_supported", "the plugin has no cancel()"
        run.cancelled = True  # before the call: the plugin may stop before cancel() returns
        run.wake()
        interrupt = run.interrupt  # read after `cancelled` is set, which a coroutine looks at when it begins
        answer, message = "cancelled", "" if cancel is not None else "it ends at its next chunk or await"
        if cancel is not None:
            try:
                settle(cancel())
            except BaseException as error:
                answer, message = "error", f"{type(error).__name__}: {describe(error)['message']}"
                run.cancelled = stops_alone or interrupt is not None
        if interrupt is not None:
            interrupt()
        return answer, message

    def _cancelling(self, number: int, answer: str, message: str) -> None:
        self._link.write(self._packed("cancelling", run=number, answer=answer, message=message))

    def _configure(self, config: Any) -> Any:
        plugin = self._loaded()
        if not plugin.initialize(config):
            _refuse("the plugin has no `initialize`")
        return plugin.config()

    def _release(self) -> bool:
        release = self._loaded().release
        if release is None:
            return False
        settle(release())
        return True

    def _exit(self) -> None:
        import atexit

        try:
            self._loaded().cleanup()
        except BaseException as error:
            print(f"cleanup failed: {describe(error)['traceback']}", file=sys.stderr)
        # What the plugin's libraries asked for; threads that it left behind are not waited for.
        atexit._run_exitfuncs()
        self._log.finish()
        os._exit(0)

    def _loaded(self) -> Plugin:
        if self._plugin is None:
            raise RuntimeError("the plugin is still loading")
        return self._plugin

    def _answer(self, frame: dict[str, Any], question: Callable[[], Any]) -> None:
        """Send what a question gave, or how it failed."""
        number = frame.get("id")
        try:
            text = encode(question(), "answer").text
            data = self._packed("answer", id=number, ok=True, value=_Raw(text))
        except BaseException as error:
            data = self._packed("answer", id=number, ok=False, error=describe(error))
        self._link.write(data)


class _Raw(str):
    """Text that is JSON already."""


_HANDLERS: dict[str, Callable[[Host, dict[str, Any]], None]] = {
    "credit": Host._on_credit,
    "cancel": Host._on_cancel,
    "configure": Host._on_configure,
    "release": Host._on_release,
    "exit": Host._on_exit,
    "ask": Host._on_ask,
}


def _do_all(calls: SimpleQueue[Callable[[], None]]) -> NoReturn:
    while True:
        calls.get()()


def _refuse(message: str) -> NoReturn:
    raise LookupError(message)


def _integer(frame: dict[str, Any], name: str) -> int:
    value = frame.get(name)
    if type(value) is not int:
        raise BrokenFrameError(f"`{name}` of `{frame['t']}` is not an integer")
    return value


def _checked_run(frame: dict[str, Any]) -> dict[str, Any]:
    if type(frame.get("run")) is not int:
        raise BrokenFrameError("`run` of `run` is not an integer")
    if type(frame.get("args") or []) is not list or type(frame.get("kwargs") or {}) is not dict:
        raise BrokenFrameError("`args` of `run` is not an array, or `kwargs` no object")
    return frame
