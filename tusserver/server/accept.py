"""How workers share the connections to one port: evenly, whoever is quicker.

All of them listen on one socket, so a connection waits for none that is busy, stopped or dead. Left alone they take
what they can: of 16 connections at once, one of two workers took 15. A socket for each (SO_REUSEPORT) spreads by chance
(every eighth time, 4 connections go to one of two), and what waits for a worker that hangs or died waits on.
So each takes one connection at a time, and one that has more than another lets the others go first for a moment.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import socket
from collections.abc import Callable, Sequence

logger = logging.getLogger("tusserver.workers")

YIELD = 0.001
"""Seconds for which a worker with more connections lets the others go first. A bound: they may be busy or hang."""
PAUSE = 1.0
"""Seconds without a look for new connections, when the process can have no more open files."""
_ABSENT = 2**32 - 1
_WIDTH = 4


class Tally:
    """How many connections each worker has, in memory that they share."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, workers * _WIDTH)
        self._counts = memoryview(self._memory).cast("I")
        for number in range(1, workers + 1):
            self.forget(number)

    def note(self, number: int, connections: int) -> None:
        """Tell the others."""
        self._counts[number - 1] = connections

    def forget(self, number: int) -> None:
        """Note that a worker is gone."""
        self._counts[number - 1] = _ABSENT

    def least(self) -> int:
        """Return the smallest number."""
        return min(self._counts)


class Door:
    """Takes connections from `listeners` for the worker `number`. `count` tells how many it has."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        tally: Tally,
        number: int,
        *,
        count: Callable[[], int],
        make: Callable[[], asyncio.Protocol],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners = list(listeners)
        self._tally = tally
        self._number = number
        self._count = count
        self._make = make
        self._admitting: set[asyncio.Task[None]] = set()
        self._yielded = False
        for listener in self._listeners:
            listener.setblocking(False)
            self._watch(listener)

    def close(self) -> None:
        """Take no more; the listeners stay open."""
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        self._listeners.clear()

    def publish(self) -> int:
        """Tell the other workers how many connections there are, and return it."""
        connections = self._count() + len(self._admitting)
        if self._listeners:
            self._tally.note(self._number, connections)
        return connections

    def _watch(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._knock, listener)

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(seconds, self._watch, listener)

    def _knock(self, listener: socket.socket) -> None:
        mine = self.publish()
        if not self._yielded and mine > self._tally.least() + mine // 8:
            self._yielded = True
            self._pause(listener, YIELD)
            return
        self._yielded = False
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another worker was faster, or it is gone
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            logger.error("no connection can be taken: %s", error)
            self._pause(listener, PAUSE)
            return
        connection.setblocking(False)
        admitting = self._loop.create_task(self._admit(connection))
        self._admitting.add(admitting)
        admitting.add_done_callback(self._admitting.discard)

    async def _admit(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection)
        except OSError:  # it is gone again
            connection.close()
        except BaseException:
            connection.close()
            raise
