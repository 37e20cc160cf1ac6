"""Ways for the blocking calls to one disk, so that the event loop waits for none and a short call for no long one.

A law: no call that may touch the disk runs on the loop's thread. A short one, of microseconds where the page cache
answers, runs in a helper thread for which the loop waits, but only for `LIMIT`: that costs a fifth of what it costs to
come back to the loop, and a disk that hangs costs the loop no more than that limit. While the disk is slow (`Latency`)
nothing is waited for on the loop. Each kind of longer calls has threads of its own (`Lane`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from _thread import allocate_lock  # a lock of `threading`, which has no other way to wait for a thread as cheaply
from collections.abc import Awaitable, Callable
from enum import Enum
from threading import Thread
from typing import Any, Final, TypeVar

from tusserver.threads import Threads, outlast

T = TypeVar("T")

LIMIT: Final = 0.005
"""Seconds that the loop waits for a call; on the average of its calls, those of a slow disk."""
MOST: Final = 16 * LIMIT
"""Seconds that one call counts for at most: so the first that hangs is enough, and quick ones soon outweigh it."""
WEIGHT: Final = 8
"""The moving average goes to each new call by one part in so many."""
TRY_AGAIN: Final = 0.25
"""Seconds after which the loop waits for a call of a slow disk again, to see how quick it is from there."""


class Lane(Enum):
    """A kind of calls, with the number of its threads."""

    BRIEF = "brief", 8
    """Records, names and the bytes of small bodies, while the disk is slow."""
    BODIES = "bodies", 8
    """Batches of bodies."""
    SYNCS = "syncs", 16
    """Commits that wait for the disk, of little: they wait together."""
    LONG_SYNCS = "long-syncs", 4
    """A step of a sync of much."""
    SPACE = "space", 4
    """Large reservations."""
    REMOVALS = "removals", 4
    """A large file gives back its blocks one after the other."""
    COPIES = "copies", 2
    """A step of a copy."""
    DIGESTS = "digests", 2
    """Bytes that are read back."""
    SWEEPS = "sweeps", 2
    """Folders that are listed, and file systems that are synced."""
    CHECKS = "checks", 1
    """Whether the disk works: told in time whatever hangs."""

    def __init__(self, label: str, threads: int) -> None:
        self.label = label
        self.threads = threads


class Latency:
    """How long short calls to one disk take: the one judgement of whether it is slow."""

    def __init__(self) -> None:
        self.average = 0.0
        """Seconds, moving."""
        self.hanging = 0
        """Calls that the loop gave up waiting for, and that have not come back."""
        self._tried = 0.0

    @property
    def slow(self) -> bool:
        """Whether the loop must not wait for this disk."""
        return self.hanging > 0 or self.average >= LIMIT

    def note(self, took: float) -> None:
        """Take a call into account. From any thread: a race loses one of many."""
        self.average += (min(took, MOST) - self.average) / WEIGHT

    def worth_a_try(self) -> bool:
        """Whether the loop may wait for a call now, if only to see whether the disk is still slow."""
        if not self.slow:
            return True
        now = time.monotonic()
        if self.hanging or now - self._tried < TRY_AGAIN:
            return False
        self._tried = now
        return True


class _Helper:
    """A thread that makes one call at a time, for somebody who waits for it."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._asked = allocate_lock()
        self._answered = allocate_lock()
        self._asked.acquire()
        self._answered.acquire()
        self._call: Callable[..., Any] | None = None
        self._args: tuple[object, ...] = ()
        self._value: Any = None
        self._error: BaseException | None = None
        self.took = 0.0
        Thread(target=self._work, name="tusserver-helper", daemon=True).start()

    def ask(self, call: Callable[..., object], args: tuple[object, ...]) -> bool:
        """Make a call; return whether it came back in time. If not, `wait` for it elsewhere."""
        self._call, self._args = call, args
        self._asked.release()
        return self._answered.acquire(timeout=LIMIT)

    def wait(self) -> None:
        """Wait for a call that did not come back in time."""
        self._answered.acquire()

    def result(self) -> Any:
        """Return what the call that came back returned, or raise what it raised."""
        value, error = self._value, self._error
        self._value = self._error = None
        if error is None:
            return value
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def end(self) -> None:
        """End the thread, which has nothing to do."""
        self._asked.release()

    def _work(self) -> None:
        while True:
            self._asked.acquire()
            if self._call is None:
                return
            began = time.perf_counter()
            try:
                self._value = self._call(*self._args)
            except BaseException as error:
                self._error = error
            self._call, self._args = None, ()  # this thread is not what keeps a store alive
            self.took = time.perf_counter() - began
            self._answered.release()


class Lanes:
    """All calls to one disk. The threads are started when they are needed."""

    def __init__(self) -> None:
        self.latency = Latency()
        self._threads = {lane: Threads(lane.threads, f"tusserver-{lane.label}") for lane in Lane}
        self._helpers: list[_Helper] = []  # more than one, if several loops use this store

    def __del__(self) -> None:
        for helper in self._helpers:
            if helper.process == os.getpid():
                helper.end()

    @property
    def slow(self) -> bool:
        """See `Latency.slow`."""
        return self.latency.slow

    async def run(
        self, lane: Lane, call: Callable[..., T], *args: object, discard: Callable[[T], object] | None = None
    ) -> T:
        """Make a call in the threads of its kind; when cancelled, wait until it has ended. `discard`: see `outlast`."""
        return await self._threads[lane].run(call, *args, discard=discard)

    def start(self, lane: Lane, call: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """See `Threads.start`."""
        return self._threads[lane].start(call, *args)

    async def swift(self, call: Callable[..., T], *args: object, discard: Callable[[T], object] | None = None) -> T:
        """Make a call that takes microseconds when the page cache answers; when cancelled, wait until it has ended.

        `discard`: see `outlast`.
        """
        if not self.latency.worth_a_try():
            return await self.run(Lane.BRIEF, self._timed, call, args, discard=discard)
        helper = self._helper()
        if helper.ask(call, args):
            return self._result(helper)  # type: ignore[no-any-return]  # what `call` returns
        return await self._late(helper, self._leave(helper), discard)  # type: ignore[no-any-return]  # likewise

    def attempt(self, call: Callable[..., None], *args: object) -> Awaitable[None] | None:
        """Make such a call without a task, for its effect alone; None if it is done, else what must be awaited."""
        if not self.latency.worth_a_try():
            return outlast(self.start(Lane.BRIEF, self._timed, call, args))
        helper = self._helper()
        if helper.ask(call, args):
            self._result(helper)
            return None
        return self._late(helper, self._leave(helper))

    def _timed(self, call: Callable[..., T], args: tuple[object, ...]) -> T:
        began = time.perf_counter()
        try:
            return call(*args)
        finally:
            self.latency.note(time.perf_counter() - began)

    # helpers ---------------------------------------------------------------------------------------------------------

    def _helper(self) -> _Helper:
        process = os.getpid()
        while self._helpers:
            helper = self._helpers.pop()
            if helper.process == process:  # else its thread is in the process that we were forked from
                return helper
        return _Helper()

    def _leave(self, helper: _Helper) -> asyncio.Future[None]:
        """Let a thread wait in our place. At once: nobody else is to begin to wait for the same disk."""
        self.latency.hanging += 1
        waiting = self.start(Lane.BRIEF, helper.wait)
        waiting.add_done_callback(self._came_back)
        return waiting

    def _came_back(self, _: object) -> None:
        self.latency.hanging -= 1

    async def _late(
        self, helper: _Helper, waiting: asyncio.Future[None], discard: Callable[[Any], object] | None = None
    ) -> Any:
        try:
            await outlast(waiting)
        except asyncio.CancelledError:
            with contextlib.suppress(BaseException):
                value = self._result(helper)
                if discard is not None:
                    discard(value)
            raise
        return self._result(helper)

    def _result(self, helper: _Helper) -> Any:
        self.latency.note(helper.took)
        try:
            return helper.result()
        finally:
            self._helpers.append(helper)
