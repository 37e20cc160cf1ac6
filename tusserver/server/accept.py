"""Connections to one port, shared evenly between workers, however fast each of them is.

All workers accept on one listening socket, so no connection waits for a worker that is busy, stopped or dead. Without
more than that, one of two workers took 15 of 16 connections that came at once. A socket for each (SO_REUSEPORT) shares
by chance (every eighth time, 4 connections go to one of two), and what waits for a worker that hangs or died stays
there. So a worker accepts one connection at a time, and one that has more than another lets the others go first for a
moment.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import socket
from collections.abc import Callable, Sequence
from typing import Final

logger = logging.getLogger("tusserver.workers")

YIELD_SECONDS: Final = 0.001
"""For which a worker with more connections lets the others go first. A bound: they may be busy or hang."""
PAUSE_SECONDS: Final = 1.0
"""For which nothing is accepted when the process cannot open more files."""
_ABSENT: Final = 2**32 - 1
_WIDTH: Final = 4
"""Bytes of a number."""


class ConnectionCounts:
    """How many connections each worker has, in memory that the workers share. Numbers of workers start at 1."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, workers * _WIDTH)
        self._counts = memoryview(self._memory).cast("I")
        for number in range(1, workers + 1):
            self.remove(number)

    def put(self, number: int, connections: int) -> None:
        """Write how many a worker has."""
        self._counts[number - 1] = connections

    def remove(self, number: int) -> None:
        """Note that a worker is gone."""
        self._counts[number - 1] = _ABSENT

    def least(self) -> int:
        """Return the smallest number that a worker has."""
        return min(self._counts)


class Acceptor:
    """Accepts connections from `listeners` for the worker `number`. `count` returns how many it has.

    `yield_seconds`: how long it lets others go first; `pause_seconds`: how long it stops when there are too few
    descriptors.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        counts: ConnectionCounts,
        number: int,
        *,
        count: Callable[[], int],
        make: Callable[[], asyncio.Protocol],
        yield_seconds: float = YIELD_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners = list(listeners)
        self._counts = counts
        self._number = number
        self._count = count
        self._make = make
        self._yield_seconds = yield_seconds
        self._pause_seconds = pause_seconds
        self._connecting: set[asyncio.Task[None]] = set()
        self._yielded = False
        for listener in self._listeners:
            listener.setblocking(False)
            self._watch(listener)

    def close(self) -> None:
        """Accept no more; the listeners stay open."""
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        self._listeners.clear()

    def publish(self) -> int:
        """Tell the other workers how many connections there are, and return it."""
        connections = self._count() + len(self._connecting)
        if self._listeners:
            self._counts.put(self._number, connections)
        return connections

    def _watch(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._on_readable, listener)

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(seconds, self._watch, listener)

    def _on_readable(self, listener: socket.socket) -> None:
        mine = self.publish()
        if not self._yielded and mine > self._counts.least() + mine // 8:
            self._yielded = True
            self._pause(listener, self._yield_seconds)
            return
        self._yielded = False
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another worker was faster, or it is gone
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            logger.error("no connection can be accepted: %s", error)
            self._pause(listener, self._pause_seconds)
            return
        accepted.setblocking(False)
        connecting = self._loop.create_task(self._connect(accepted))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, accepted)
        except OSError:  # it is closed already
            accepted.close()
        except BaseException:
            accepted.close()
            raise
