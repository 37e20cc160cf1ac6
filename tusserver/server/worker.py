"""A worker: what its parent gives it (see supervisor.py), and a server that follows its parent's commands."""

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

from tusserver.server.accept import Acceptor, ConnectionCounts
from tusserver.server.run import Server
from tusserver.server.shared_counts import ProcessCounts

logger = logging.getLogger("tusserver.workers")

READY = b"ready"
WAITING = b"waiting "
"""Messages of a worker; the second one is followed by the number of requests."""
STOP = b"stop"
STOP_NOW = b"stop now"
"""Messages of its parent."""
MESSAGE_SIZE = 64
"""Bytes; none is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """What a worker has from its parent."""

    number: int
    """From 1 on; a worker that replaces another has its number."""
    channel: socket.socket
    """To and from the parent, in messages."""
    counts: ConnectionCounts
    """Connections of each worker, to share new ones evenly."""
    process_counts: ProcessCounts
    """Connections of all workers, for the limits."""

    def server(
        self,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        on_wait: Callable[[int], None],
    ) -> Server:
        """Make a server that follows the parent's commands."""
        return WorkerServer(self, config, on_start=on_start, on_stop=on_stop, on_wait=on_wait)

    def ready(self) -> None:
        """Tell the parent that requests are accepted."""
        self._send(READY)

    def waiting(self, requests: int) -> None:
        """Tell the parent how many requests the stop waits for."""
        self._send(WAITING + str(requests).encode())

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, which `WorkerServer` notices
            self.channel.send(message)


class WorkerServer(Server):
    """A server that stops when its parent says so or is gone. Signals start the first stage of a stop, however many."""

    def __init__(
        self,
        context: WorkerContext,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        on_wait: Callable[[int], None],
    ) -> None:
        super().__init__(config, on_start=on_start, on_stop=on_stop, on_wait=on_wait)
        self._context = context
        self._channel = context.channel
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen to the parent, and share new connections with the other workers."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._receive)
        await super().startup([])

        def make() -> asyncio.Protocol:
            protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn does
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )
            return protocol

        connections, context = self.server_state.connections, self._context
        self._acceptor = Acceptor(
            sockets or (), context.counts, context.number, count=lambda: len(connections), make=make
        )
        self._acceptor.publish()

    async def on_tick(self, counter: int) -> bool:
        """Publish the number of connections, as some may have ended."""
        if self._acceptor is not None:
            self._acceptor.publish()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave new connections to the other workers, then stop."""
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown(sockets)

    def _receive(self) -> None:
        try:
            message = self._channel.recv(MESSAGE_SIZE)
        except OSError:
            message = b""
        if not message:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            logger.error("the parent process is gone, so this worker stops")
        self.stop(at_once=message == STOP_NOW)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `Server.handle_exit`. SIGHUP is for the parent."""
        if sig != signal.SIGHUP:
            self.stop()
