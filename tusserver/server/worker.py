"""A worker: what it has of its parent (see supervisor.py), and the server that obeys it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn

from tusserver.server.accept import Door, Tally
from tusserver.server.run import Server
from tusserver.server.shared_counts import Row

logger = logging.getLogger("tusserver.workers")

READY = b"ready"
WAITING = b"waiting "
"""What a worker says; behind the second one the number of requests."""
STOP = b"stop"
NOW = b"now"
"""What its parent says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What a worker has of its parent."""

    number: int
    """From 1 on; whoever takes the place of a worker gets its number."""
    line: socket.socket
    tally: Tally
    row: Row

    def server(
        self,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        on_wait: Callable[[int], None],
    ) -> Server:
        """Make a server that obeys the parent."""
        return _Obedient(self, config, on_start=on_start, on_stop=on_stop, on_wait=on_wait)

    def ready(self) -> None:
        """Tell the parent that requests are taken."""
        self._tell(READY)

    def waiting(self, requests: int) -> None:
        """Tell the parent for how many requests the stop waits."""
        self._tell(WAITING + str(requests).encode())

    def _tell(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # its end is noticed elsewhere
            self.line.send(what)


class _Obedient(Server):
    """A server that stops when its parent says so or is gone. Signals of its own mean the first stage, however many."""

    def __init__(
        self,
        seat: Seat,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        on_wait: Callable[[int], None],
    ) -> None:
        super().__init__(config, on_start=on_start, on_stop=on_stop, on_wait=on_wait)
        self._seat = seat
        self._line = seat.line
        self._door: Door | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen to the parent, and take connections in turn with the other workers."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._line.fileno(), self._hear)
        await super().startup([])

        def make() -> asyncio.Protocol:
            protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn does
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )
            return protocol

        connections = self.server_state.connections
        self._door = Door(sockets or (), self._seat.tally, self._seat.number, count=lambda: len(connections), make=make)
        self._door.publish()

    async def on_tick(self, counter: int) -> bool:
        """Let the other workers know of connections that ended."""
        if self._door is not None:
            self._door.publish()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave new connections to others first."""
        if self._door is not None:
            self._door.close()
        await super().shutdown(sockets)

    def _hear(self) -> None:
        try:
            order = self._line.recv(64)
        except OSError:
            order = b""
        if not order:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            logger.error("the parent process is gone, so this worker stops")
        self.stop(at_once=order == NOW)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `Server.handle_exit`. SIGHUP is for the parent."""
        if sig != signal.SIGHUP:
            self.stop()
