"""ASGI's `receive` as a Body; finds the Wire in the scope."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from tusserver.protocol.checksum import Checksum
from tusserver.protocol.dialect import Dialect
from tusserver.protocol.errors import ClientDisconnected
from tusserver.streams import WIRE, BodyCallbacks, FileTarget, Wire


def wire_of(scope: Scope) -> Wire | None:
    """Return what our own server added to this request; None under another server."""
    wire: Wire | None = (scope.get("extensions") or {}).get(WIRE)
    return wire


class RequestBody:
    """The body of one request."""

    __slots__ = ("_dialect", "_pending", "_receive", "ended", "received", "started", "wire")

    def __init__(self, scope: Scope, receive: Receive, dialect: Dialect) -> None:
        self._receive = receive
        self._dialect = dialect
        self._pending: asyncio.Future[Message] | None = None
        self.wire = wire_of(scope)
        self.started = False
        """Whether bytes were asked for: then a client that expects a 100 Continue got it."""
        self.received = 0
        """Bytes that were received here; those that went straight into a file are not counted."""
        self.ended = False
        """Whether the end was received."""

    async def receive(self) -> bytes:
        """See `Body.receive`."""
        self.started = True
        while not self.ended:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            self.ended = not message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            if chunk:
                self.received += len(chunk)
                return chunk
        return b""

    async def receive_into(self, target: FileTarget, callbacks: BodyCallbacks) -> None:
        """See `Body.receive_into`."""
        assert self.wire is not None
        self.started = True
        await self.wire.receive_into(target, callbacks)
        self.ended = True

    async def disconnected(self) -> None:
        """See `Body.disconnected`."""
        self.started = True
        while (message := await self._next())["type"] != "http.disconnect":
            self.received += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)

    async def _next(self) -> Message:
        """Return the next message. None is lost if the caller is cancelled; servers may lose one then."""
        if self._pending is None:
            if self.wire is not None and self.wire.fully_received:  # there is nothing to wait for
                return await self._receive()
            self._pending = asyncio.ensure_future(self._receive())
        await asyncio.wait((self._pending,))
        pending, self._pending = self._pending, None
        return pending.result()

    def close(self) -> None:
        """Stop waiting for a message: the request has been answered."""
        if self._pending is not None:
            self._pending.cancel()

    def checksum(self) -> Checksum | None:
        """See `Body.checksum`."""
        trailers = None if self.wire is None else self.wire.trailers
        return None if trailers is None else self._dialect.read_trailers(trailers)
