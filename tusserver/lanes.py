"""Ways for the blocking calls to one disk, so that the event loop waits for none and a short call for no long one.

A law: no call that may touch the disk runs on the loop's thread. Short ones, of microseconds where the page cache
answers, run in a helper thread for which the loop waits, but only for `LIMIT` for each: that costs a fifth of what it
costs to come back to the loop, and a disk that hangs costs the loop no more than that limit. Those of one turn of the
loop go there together, as the way costs as much as a call. While the disk is slow (`Latency`) nothing is waited for on
the loop. Each kind of longer calls has threads of its own (`Lane`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from _thread import allocate_lock  # a lock of `threading`, which has no other way to wait for a thread as cheaply
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum
from threading import Thread
from typing import Any, Final, TypeVar

from tusserver.threads import Threads, outlast, until_done

T = TypeVar("T")

LIMIT: Final = 0.005
"""Seconds that the loop waits for a call; on the average of its calls, those of a slow disk."""
MOST: Final = 16 * LIMIT
"""Seconds that one call counts for at most: so the first that hangs is enough, and quick ones soon outweigh it."""
WEIGHT: Final = 8
"""The moving average goes to each new call by one part in so many."""
TOGETHER: Final = 8
"""Short calls that the loop waits for at once, at most."""
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


class _Call:
    """A short call, from the loop to a helper and back."""

    __slots__ = ("_args", "_call", "_error", "_value", "awaited", "elsewhere", "ended", "took")

    def __init__(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        self._call: Callable[..., object] | None = call
        self._args = args
        self._value: Any = None
        self._error: BaseException | None = None
        self.took = 0.0
        self.awaited: asyncio.Future[None] | None = None
        """By somebody who is told when it has ended."""
        self.elsewhere = False
        """Whether the loop does not wait for it."""
        self.ended = False
        """Whether that was told."""

    def make(self) -> None:
        """Make it; raises nothing."""
        assert self._call is not None
        began = time.perf_counter()
        try:
            self._value = self._call(*self._args)
        except BaseException as error:
            self._error = error
        self._call, self._args = None, ()  # the thread is not what keeps a store alive
        self.took = time.perf_counter() - began

    def result(self) -> Any:
        """Return what it returned, or raise what it raised."""
        value, error = self._value, self._error
        self._value = self._error = None
        if error is None:
            return value
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def drop(self, discard: Callable[[Any], object] | None) -> None:
        """Do away with what it returned, if it did."""
        if self._error is None and discard is not None:
            with contextlib.suppress(BaseException):
                discard(self._value)

    def fail(self, error: Exception) -> None:
        """Tell that it cannot be made."""
        self._error = error
        self.end()

    def end(self) -> None:
        """Tell that it has ended."""
        self.ended = True
        if self.awaited is not None and not self.awaited.done():
            self.awaited.set_result(None)


class _Helper:
    """A thread that makes a few calls, one after the other, for somebody who waits for it."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._asked = allocate_lock()
        self._answered = allocate_lock()
        self._asked.acquire()
        self._answered.acquire()
        self._calls: deque[_Call] | None = None
        self._began = 0.0
        Thread(target=self._work, name="tusserver-helper", daemon=True).start()

    def ask(self, calls: deque[_Call]) -> bool:
        """Make calls, which are taken off; return whether each came back in time. If not, `wait` for it elsewhere."""
        self._calls, self._began = calls, time.monotonic()
        self._asked.release()
        left = LIMIT
        while left > 0 and not self._answered.acquire(timeout=left):
            left = self._began + LIMIT - time.monotonic()
        return left > 0

    def wait(self) -> None:
        """Wait for the call that did not come back in time."""
        self._answered.acquire()

    def end(self) -> None:
        """End the thread, which has nothing to do."""
        self._asked.release()

    def _work(self) -> None:
        while True:
            self._asked.acquire()
            calls, self._calls = self._calls, None
            if calls is None:
                return
            while (call := _next(calls)) is not None:
                self._began = time.monotonic()
                call.make()
                del call  # nor is this one
            del calls
            self._answered.release()


def _next(calls: deque[_Call]) -> _Call | None:
    """Take the first call, as the loop and a helper may do at the same time."""
    try:
        return calls.popleft()
    except IndexError:
        return None


class Lanes:
    """All calls to one disk. The threads are started when they are needed."""

    def __init__(self) -> None:
        self.latency = Latency()
        self._threads = {lane: Threads(lane.threads, f"tusserver-{lane.label}") for lane in Lane}
        self._collected: dict[asyncio.AbstractEventLoop, deque[_Call]] = {}
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

    async def run_inline(
        self, call: Callable[..., T], *args: object, discard: Callable[[T], object] | None = None
    ) -> T:
        """Make a call that takes microseconds when the page cache answers; when cancelled, wait until it has ended.

        `discard`: see `outlast`.
        """
        if not self.latency.worth_a_try():
            return await self.run(Lane.BRIEF, self._timed, call, args, discard=discard)
        made = self._collect(call, args)
        made.awaited = asyncio.get_running_loop().create_future()
        try:
            await made.awaited
        except asyncio.CancelledError:
            if not made.ended:
                made.awaited = asyncio.get_running_loop().create_future()
                await until_done(made.awaited)
            made.drop(discard)
            raise
        return made.result()  # type: ignore[no-any-return]  # what `call` returns

    def attempt(self, call: Callable[..., None], *args: object) -> Awaitable[None] | None:
        """Make such a call without a task, for its effect alone; None if it is done, else what must be awaited."""
        if not self.latency.worth_a_try():
            return outlast(self.start(Lane.BRIEF, self._timed, call, args))
        made, helper = _Call(call, args), self._helper()
        if helper.ask(deque((made,))):
            self._helpers.append(helper)
            self._end(made)
            made.result()
            return None
        return self._late(made, self._leave(helper))

    def _timed(self, call: Callable[..., T], args: tuple[object, ...]) -> T:
        began = time.perf_counter()
        try:
            return call(*args)
        finally:
            self.latency.note(time.perf_counter() - began)

    # helpers ---------------------------------------------------------------------------------------------------------

    def _helper(self) -> _Helper:
        process = os.getpid()
        with contextlib.suppress(IndexError):
            while True:
                helper = self._helpers.pop()
                if helper.process == process:  # else its thread is in the process that we were forked from
                    return helper
        return _Helper()

    def _collect(self, call: Callable[..., object], args: tuple[object, ...]) -> _Call:
        """Let a call be made with the others of this turn of the loop."""
        loop = asyncio.get_running_loop()
        if (calls := self._collected.get(loop)) is None:
            calls = self._collected[loop] = deque()
            loop.call_soon(self._make_collected, loop)
        made = _Call(call, args)
        calls.append(made)
        return made

    def _make_collected(self, loop: asyncio.AbstractEventLoop) -> None:
        collected = self._collected.pop(loop)
        calls = [collected.popleft() for _ in range(min(TOGETHER, len(collected)))]
        if collected:
            self._collected[loop] = collected
            loop.call_soon(self._make_collected, loop)
        under_way = deque(calls)
        try:
            helper = self._helper()
        except RuntimeError as error:  # this system has no thread left
            for call in calls:
                call.fail(error)
            return
        if helper.ask(under_way):
            self._helpers.append(helper)
        else:
            self._do_without(helper, calls, under_way)
        for call in calls:
            if not call.elsewhere:
                self._end(call)

    def _do_without(self, helper: _Helper, calls: list[_Call], under_way: deque[_Call]) -> None:
        """Wait for one of the calls in a thread, and have those behind it made in others."""
        waiting = self._leave(helper)
        behind: list[_Call] = []
        while (call := _next(under_way)) is not None:
            behind.append(call)
        if len(behind) < len(calls):  # else the thread had not even begun
            self._elsewhere(calls[len(calls) - len(behind) - 1], waiting)
        for call in behind:
            self._elsewhere(call, self.start(Lane.BRIEF, call.make))

    def _elsewhere(self, call: _Call, ended: asyncio.Future[None]) -> None:
        call.elsewhere = True
        ended.add_done_callback(lambda _: self._end(call))

    def _leave(self, helper: _Helper) -> asyncio.Future[None]:
        """Let a thread wait in our place. At once: nobody else is to begin to wait for the same disk."""
        self.latency.hanging += 1
        waiting = self.start(Lane.BRIEF, helper.wait)

        def came_back(_: object) -> None:
            self.latency.hanging -= 1
            self._helpers.append(helper)

        waiting.add_done_callback(came_back)
        return waiting

    async def _late(self, call: _Call, waiting: asyncio.Future[None]) -> None:
        await outlast(waiting)
        self._end(call)
        call.result()

    def _end(self, call: _Call) -> None:
        self.latency.note(call.took)
        call.end()
