"""ASGI's `receive` as a Body; finds the Wire in the scope."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Receive, Scope

from tusserver.protocol.checksum import Checksum, Digest
from tusserver.protocol.dialect import Dialect
from tusserver.protocol.errors import ClientGone
from tusserver.streams import WIRE, Wire


def wire_of(scope: Scope) -> Wire | None:
    """Return what our own server added to this request; None under another server."""
    wire: Wire | None = (scope.get("extensions") or {}).get(WIRE)
    return wire


class RequestBody:
    """The body of one request."""

    __slots__ = ("_dialect", "_receive", "ended", "received", "started", "wire")

    def __init__(self, scope: Scope, receive: Receive, dialect: Dialect) -> None:
        self._receive = receive
        self._dialect = dialect
        self.wire = wire_of(scope)
        self.started = False
        """Whether something asked for bytes: then a client that expects a 100 Continue got it."""
        self.received = 0
        """Bytes that were received here; those that were drained are not counted."""
        self.ended = False
        """Whether the end was received."""

    async def receive(self) -> bytes:
        """See `Body.receive`."""
        self.started = True
        while not self.ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self.ended = not message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            if chunk:
                self.received += len(chunk)
                return chunk
        return b""

    async def drain(self, fd: int, at: int, digest: Digest | None, moved: Callable[[int], None]) -> None:
        """See `Body.drain`."""
        assert self.wire is not None
        self.started = True
        await self.wire.drain(fd, at, digest, moved)
        self.ended = True

    async def gone(self) -> None:
        """See `Body.gone`."""
        self.started = True
        while (message := await self._receive())["type"] != "http.disconnect":
            self.received += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)

    def checksum(self) -> Checksum | None:
        """See `Body.checksum`."""
        trailers = None if self.wire is None else self.wire.trailers
        return None if trailers is None else self._dialect.read_trailers(trailers)
