"""What the bodies of one event loop share: the buffer, the worker threads, a measure of how busy the loop is."""

from __future__ import annotations

import asyncio
import mmap
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Protocol

from tusserver.lanes import Lanes
from tusserver.server.recvfile_workers import BUFFER

THREADS = 4
"""Bodies that drain in threads at the same time."""
WINDOW = 0.02
"""Seconds over which the loop's work is summed up."""
BUSY = 4 << 20
"""Bytes in a window that make the loop busy with bodies."""

GATHERING = 1.0
"""Seconds that bytes may wait to be gathered, half as long again in the worst case: no trickle shall look silent."""
ROUNDS = 10
"""Parts in which the gathering connections are looked after, each part in its own turn of the loop."""


class Gathering(Protocol):
    """A body whose bytes the kernel gathers."""

    def look(self, now: float) -> bool:
        """Take what has waited for long enough; return whether to look again."""


class Pump:
    """What the drains of one event loop share: the buffer, the threads, a measure of how busy the loop is."""

    def __init__(self, *, threads: int = THREADS) -> None:
        self.buffer = make_buffer()
        self.disk = Lanes()
        """For files of which nobody says where they are."""
        self.bodies = 0
        """Drains under way."""
        self.threads = threads
        """Threads that are free."""
        self._pool: ThreadPoolExecutor | None = None
        self._since = 0.0
        self._bytes = 0
        self._waited = 0.0
        self._gathering: deque[Gathering] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The worker threads; none is started before it is needed."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="tusserver-drain")
        return self._pool

    def busy(self, count: int, waited: float, now: float) -> bool:
        """Note a read of `count` bytes that stood ready for `waited` seconds; say whether a thread would help.

        Over all bodies, since with many connections none of them looks fast. A single body on an idle loop is as fast
        there as in a thread.
        """
        if now - self._since > WINDOW:
            self._since, self._bytes, self._waited = now, 0, 0.0
        self._bytes += count
        self._waited += waited
        return self._bytes >= BUSY and (self.bodies > 1 or self._waited > WINDOW / 4)

    def gather(self, drain: Gathering) -> None:
        """Look after a drain whose bytes the kernel gathers."""
        self._gathering.append(drain)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHERING / ROUNDS, self._look)

    def _look(self) -> None:
        now = perf_counter()
        for _ in range(len(self._gathering) // ROUNDS + 1):
            drain = self._gathering.popleft()
            if drain.look(now):
                self._gathering.append(drain)
            elif not self._gathering:
                self._timer = None
                return
        self._timer = asyncio.get_running_loop().call_later(GATHERING / ROUNDS, self._look)


def make_buffer() -> memoryview:
    return memoryview(mmap.mmap(-1, BUFFER))  # in memory only as far as it is used


class _Thread(threading.local):
    """What a thread that runs a loop keeps for itself."""

    pump: Pump | None = None


# A loop runs in one thread, and one buffer must not serve two loops; state of the process has no better place.
_thread = _Thread()


def pump() -> Pump:
    """Return the pump of the running loop."""
    if _thread.pump is None:
        _thread.pump = Pump()
    return _thread.pump
