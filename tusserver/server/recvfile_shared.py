"""What the bodies of one event loop share: the buffer, the worker threads, a measure of how busy the loop is."""

from __future__ import annotations

import asyncio
import mmap
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Final, Protocol

from tusserver.lanes import Lanes

BUFFER_BYTES: Final = 512 << 10
"""Of one read. ext4 takes writes of this size best: at 1 MiB the same bytes cost up to three times as much."""
THREADS: Final = 4
"""Bodies that worker threads receive at the same time."""
BIG_READ_BYTES: Final = 64 << 10
"""Of a read that shows a fast client."""
WORKER_BYTES: Final = 16 << 20
"""That must be left of a body, else going to a worker and back costs more than it brings."""
RELIEF_BYTES: Final = 1 << 20
"""The same, where the body slows down the loop."""
SLOW_WRITE_SECONDS: Final = 0.005
"""That a write may block the loop: dirty pages are being throttled, or the disk is slow."""
WINDOW_SECONDS: Final = 0.02
"""Over which the loop's work is summed up."""
BUSY_BYTES: Final = 4 << 20
"""In a window, that make the loop busy with bodies."""
COALESCE_SECONDS: Final = 1.0
"""That the kernel may hold back bytes, half as long again in the worst case: no slow client shall look silent."""
COALESCE_ROUNDS: Final = 10
"""Parts in which the receivers are polled whose bytes the kernel holds back, each in its own turn of the loop."""


class Coalescing(Protocol):
    """A receiver whose bytes the kernel holds back until there are more of them."""

    def poll(self, now: float) -> bool:
        """Read what has waited for long enough; return whether to poll again."""


class LoopShare:
    """What the receivers of one event loop share, and from where on a body is fast or slow."""

    def __init__(
        self,
        *,
        threads: int = THREADS,
        big_read: int = BIG_READ_BYTES,
        worker_bytes: int = WORKER_BYTES,
        relief_bytes: int = RELIEF_BYTES,
        slow_write: float = SLOW_WRITE_SECONDS,
        coalesce_seconds: float = COALESCE_SECONDS,
    ) -> None:
        self.big_read = big_read
        self.worker_bytes = worker_bytes
        self.relief_bytes = relief_bytes
        self.slow_write = slow_write
        self.coalesce_seconds = coalesce_seconds
        self.buffer = make_buffer()
        self.disk = Lanes()
        """For files of which it is not known on which disk they are."""
        self.bodies = 0
        """That are being received."""
        self.free_threads = self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._window_start = 0.0
        self._bytes = 0
        self._waited = 0.0
        self._coalescing: deque[Coalescing] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """Which the timer is of."""

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The worker threads; none is started before it is needed."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="tusserver-receive")
        return self._pool

    def is_busy(self, count: int, waited: float, now: float) -> bool:
        """Note a read of `count` bytes that stood ready for `waited` seconds; return whether a worker would help.

        Over all bodies, since with many connections none of them looks fast. A single body on an idle loop is as fast
        there as in a worker.
        """
        if now - self._window_start > WINDOW_SECONDS:
            self._window_start, self._bytes, self._waited = now, 0, 0.0
        self._bytes += count
        self._waited += waited
        return self._bytes >= BUSY_BYTES and (self.bodies > 1 or self._waited > WINDOW_SECONDS / 4)

    def poll_later(self, receiver: Coalescing) -> None:
        """Poll a receiver whose bytes the kernel holds back, until it says that this is over."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # a server that reloads goes on in another loop of this thread
            self._loop, self._timer = loop, None
            self._coalescing.clear()
        self._coalescing.append(receiver)
        if self._timer is None:
            self._start_timer(loop)

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self.coalesce_seconds / COALESCE_ROUNDS, self._poll, loop)

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        now = perf_counter()
        for _ in range(len(self._coalescing) // COALESCE_ROUNDS + 1):
            receiver = self._coalescing.popleft()
            if receiver.poll(now):
                self._coalescing.append(receiver)
            elif not self._coalescing:
                self._timer = None
                return
        self._start_timer(loop)


def make_buffer() -> memoryview:
    """Return a buffer that takes memory only as far as it is used."""
    return memoryview(mmap.mmap(-1, BUFFER_BYTES))


class _LoopThread(threading.local):
    share: LoopShare | None = None


# A loop runs in one thread, and one buffer must not serve two loops; state of the process has no better place.
_thread = _LoopThread()


def loop_share() -> LoopShare:
    """Return what the receivers of the running loop share."""
    if _thread.share is None:
        _thread.share = LoopShare()
    return _thread.share


def set_loop_share(share: LoopShare | None) -> None:
    """Let the receivers that the running loop makes from now on share this; None: one with the defaults."""
    _thread.share = share
