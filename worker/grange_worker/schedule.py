"""Which run is next: the queue, the threads that execute, and what must wait until none does.

Owns: the runs that are waiting or running, and their order. Never: what a run does.

Whoever reads the link puts in; the main thread, and as many others as the plugin allows, take out. An action
(configure, release, exit) keeps its place in the order: it waits for every run before it, and every run after it waits
for it.
"""

from __future__ import annotations

import threading
from contextvars import copy_context
from queue import SimpleQueue
from typing import Callable, NoReturn

from .failures import describe
from .link import EXIT_BROKEN_FRAME, EXIT_BUG, BrokenFrameError, Link, die
from .reading import Reading
from .runs import Runner
from .scope import DROPPED, RUNNING, WAITING, Run

Action = Callable[[], None]


class Schedule:
    """Runs in the order in which they came, `concurrency` at a time."""

    def __init__(self, link: Link, concurrency: int) -> None:
        self._link = link
        self._concurrency = concurrency
        self.items: SimpleQueue[Run | Action] = SimpleQueue()
        self._turn = threading.Lock()  # whoever holds it takes the next item
        self._phases = threading.Lock()
        self._idle = threading.Condition(self._phases)
        self._known: dict[int, Run] = {}
        self._active = 0  # threads between taking a run and having sent its end
        self.received = 0

    @property
    def active(self) -> int:
        """How many runs execute now; a run whose end was sent is none of them."""
        return sum(run.phase is RUNNING for run in tuple(self._known.values()))

    @property
    def unfinished(self) -> int:
        """How many runs execute or wait."""
        return len(self._known)

    def submit(self, run: Run) -> None:
        """Take a run from the agent."""
        if run.id in self._known:
            raise BrokenFrameError(f"run {run.id} is already here")
        self._known[run.id] = run
        self.received += 1
        run.waited = len(self._known) > self._concurrency
        self.items.put(run)

    def when_idle(self, action: Action) -> None:
        """Take something that has to be done while no run executes."""
        self.items.put(action)

    def find(self, number: int) -> Run | None:
        """Return a run that has not ended."""
        return self._known.get(number)

    def drop(self, run: Run) -> bool:
        """Take back a run that waits; false when it began already."""
        with self._phases:
            if run.phase is not WAITING:
                return False
            run.phase = DROPPED
        self._known.pop(run.id, None)
        return True

    def work(self, runner: Runner, reading: Reading) -> NoReturn:
        """Execute, on this thread and on as many others as it takes."""
        if self._concurrency == 1:
            reading.share()
        for number in range(1, self._concurrency):
            name = f"grange-run-{number}"
            threading.Thread(target=self._execute, args=(runner, reading), name=name, daemon=True).start()
        self._execute(runner, reading)

    def _execute(self, runner: Runner, reading: Reading) -> NoReturn:
        try:
            self._execute_all(runner, reading)
        except BrokenFrameError as error:
            die(EXIT_BROKEN_FRAME, f"broken frame from the agent: {error}")
        except BaseException as error:
            die(EXIT_BUG, f"the worker itself failed: {describe(error, whole=True)['traceback']}")

    def _execute_all(self, runner: Runner, reading: Reading) -> NoReturn:
        while True:
            with self._turn:
                item = reading.next_item()
                if not isinstance(item, Run):
                    self._act(item)
                    continue
                with self._phases:
                    if item.phase is DROPPED:
                        continue
                    item.phase = RUNNING
                    self._active += 1
            # A context of its own: what a run sets in context variables does not reach the next one.
            frame = copy_context().run(runner.perform, item)
            del self._known[item.id]
            self._link.write(frame)
            with self._phases:
                self._active -= 1
                if not self._active:
                    self._idle.notify_all()

    def _act(self, action: Action) -> None:
        with self._phases:
            while self._active:
                self._idle.wait()
        action()
