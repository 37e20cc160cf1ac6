"""The Wire of one request under uvicorn: socket to file, file to socket, request trailers, 1xx responses."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from tusserver.protocol.errors import ClientDisconnected, StoreUnavailable
from tusserver.server import answers
from tusserver.server.recvfile import FileReceiver
from tusserver.server.recvfile_parsed import ParsedReceiver
from tusserver.server.recvfile_shared import loop_share
from tusserver.server.sendfile import send_file
from tusserver.streams import BodyCallbacks, FileTarget

if TYPE_CHECKING:  # names that an import of this module must not fail for
    from uvicorn._types import ASGIReceiveEvent
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

logger = logging.getLogger("tusserver.wire")

TRAILERS: Final = frozenset({b"upload-checksum", b"content-digest", b"repr-digest"})
"""Trailers that are delivered. RFC 9110 §6.5.1: a field may be taken from there only if it says that it may stand
there; one that frames, routes or authenticates would be smuggled."""
TRAILER_FIELDS: Final = 32
TRAILER_BYTES: Final = 8 << 10


class HttpConnection(Protocol):
    """What the Wire of a request needs of its connection."""

    flow: FlowControl

    def as_protocol(self) -> asyncio.Protocol:
        """Return what the transport calls."""

    def reset_parser(self) -> None:
        """Start with the next request: the parser has not seen the end of the last one."""


class UvicornWire:
    """The Wire of one request, between the app and uvicorn's cycle of request and response.

    It holds the cycle and the connection weakly: they hold it, and a cycle of references would wait for the garbage
    collector.
    """

    __slots__ = (
        *("_asked", "_connection", "_cycle", "_desynchronized", "_end_delivered", "_length", "_parsed_receiver"),
        *("_receiver", "_start", "_to_discard", "_trailer_bytes", "_trailer_fields", "trailers"),
    )

    def __init__(self, connection: HttpConnection, cycle: RequestResponseCycle, length: int | None) -> None:
        self.trailers: dict[str, str] = {}
        """See `Wire.trailers`."""
        self._trailer_fields = 0
        self._trailer_bytes = 0
        self._connection = weakref.ref(connection)
        self._cycle = weakref.ref(cycle)
        self._length = length
        """Bytes of a body that can be received past the parser."""
        self._asked = False
        """Whether the app asked for bytes of the body."""
        self._receiver: FileReceiver | None = None
        """What receives the body past the parser at the moment."""
        self._parsed_receiver: ParsedReceiver | None = None
        """What receives the body by way of the parser at the moment."""
        self._desynchronized = False
        """Whether the parser has lost its place in the stream: then the connection is good for one answer only."""
        self._to_discard = 0
        """Bytes that may still come of a body that was received in part."""
        self._end_delivered = False
        """Whether the app has received the end of the body."""
        self._start: Any = None
        """The start of the answer, until something follows it."""
        cycle.receive = self.receive  # type: ignore[method-assign]  # the cycle gives it to the app
        cycle.send = self.send  # type: ignore[method-assign]  # likewise

    # what is not in ASGI ---------------------------------------------------------------------------------------------

    @property
    def can_receive_into(self) -> bool:
        """See `Wire.can_receive_into`."""
        return not self._asked

    @property
    def bypasses_parser(self) -> bool:
        """Whether `receive_into` reads past the parser: plain TCP, and the length of the body was announced."""
        return self._length is not None

    @property
    def fully_received(self) -> bool:
        """See `Wire.fully_received`."""
        cycle = self._cycle()
        return cycle is None or not cycle.more_body

    def receive_into(self, target: FileTarget, callbacks: BodyCallbacks) -> Coroutine[Any, Any, None]:
        """See `Wire.receive_into`. Returns one coroutine, not one in another: thousands of slow bodies wait in it."""
        if self._length is not None:
            return self._receive_raw(target, callbacks, self._length)
        return self._receive_parsed(target, callbacks)

    async def _receive_raw(self, target: FileTarget, callbacks: BodyCallbacks, length: int) -> None:
        """Receive a body of `length` bytes past the parser."""
        connection, cycle = self._start_receiving()
        first, cycle.body = cycle.body, bytearray()
        owner = connection.as_protocol()
        receiver = FileReceiver(loop_share(), cycle.transport, owner, target, callbacks, length=length, received=first)
        if receiver.left:  # else the parser has seen the end of the body, and may be far behind it
            self._receiver = receiver
            self._desynchronized = True
            connection.flow.pause_reading()
        try:
            del first  # a slow client would have it held for as long as it takes
            await receiver.run(disconnected=cycle.disconnected)
        except ClientDisconnected:
            _mark_disconnected(cycle)
            raise
        finally:
            if self._receiver is not None:
                self._receiver = None
                self._end_receiving(connection, cycle, receiver.left)

    async def _receive_parsed(self, target: FileTarget, callbacks: BodyCallbacks) -> None:
        """Receive a body as the parser finds it."""
        connection, cycle = self._start_receiving()
        connection.flow.pause_reading()
        owner = connection.as_protocol()
        self._parsed_receiver = ParsedReceiver(
            loop_share(), cycle.transport, owner, target, callbacks, ended=lambda: not cycle.more_body
        )
        if cycle.body:
            self._parsed_receiver.take(bytes(cycle.body))
            cycle.body = bytearray()
        try:
            await self._parsed_receiver.run()
        except ClientDisconnected:
            _mark_disconnected(cycle)
            raise
        finally:
            self._parsed_receiver = None
            connection.flow.read_paused = True  # as it is now; uvicorn resumes when asked, and after the answer

    def _start_receiving(self) -> tuple[HttpConnection, RequestResponseCycle]:
        connection, cycle = self._connection(), self._cycle()
        if self._asked or (cycle is not None and cycle.response_started):
            raise RuntimeError("this body cannot be received into a file, or not any more")
        self._asked = True
        if connection is None or cycle is None:
            raise ClientDisconnected
        _send_continue(cycle)
        return connection, cycle

    def _end_receiving(self, connection: HttpConnection, cycle: RequestResponseCycle, left: int) -> None:
        """Prepare the connection for what comes next: `left` bytes of this body, or the next request."""
        connection.flow.read_paused = True  # as the receiver leaves it, whatever happened meanwhile
        self._to_discard = left
        if left:
            return
        self._desynchronized = False
        cycle.more_body = False
        cycle.message_event.set()
        if not cycle.transport.is_closing():
            connection.reset_parser()  # once uvicorn resumes reading, after the answer at the latest

    def accept(self, piece: bytes) -> bool:
        """Take a piece of the body from the parser if it is being received into a file; return whether it is."""
        if self._parsed_receiver is None:
            return False
        self._parsed_receiver.take(piece)
        return True

    def add_trailer(self, name: bytes, value: bytes) -> None:
        """Take a trailer from the parser. `name`: in lower case.

        Raises:
            ValueError: there are too many of them, or too large ones.
        """
        self._trailer_fields += 1
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_fields > TRAILER_FIELDS or self._trailer_bytes > TRAILER_BYTES:
            raise ValueError("there are too many trailers")
        if name in TRAILERS:
            key, text = name.decode("ascii"), value.decode("latin-1")
            self.trailers[key] = f"{self.trailers[key]}, {text}" if key in self.trailers else text

    def read_pending(self) -> None:
        """See `Wire.read_pending`."""
        if self._receiver is not None:
            self._receiver.read_pending()

    def discard(self, count: int) -> bool:
        """Discard `count` bytes that came on a desynchronized connection; return whether it is one."""
        if not self._desynchronized:
            return False
        self._to_discard = max(0, self._to_discard - count)
        cycle = self._cycle()
        if cycle is not None and not self._to_discard:  # what waits for the rest can stop
            cycle.more_body = False
            cycle.message_event.set()
        return True

    async def send_interim(self, status: int, headers: Mapping[str, str]) -> bool:
        """See `Wire.send_interim`."""
        message = answers.interim(status, headers)
        cycle = self._cycle()
        if cycle is None or cycle.scope["http_version"] == "1.0":
            return False  # RFC 9110 §15.2: "a server MUST NOT send a 1xx response to an HTTP/1.0 client"
        if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or cycle.transport.is_closing():
            return False
        cycle.transport.write(message)
        return True

    # between the app and the cycle -----------------------------------------------------------------------------------

    async def receive(self) -> ASGIReceiveEvent:
        """Receive as uvicorn does, but lose nothing: it would discard what it holds when the client disconnects."""
        cycle = self._cycle()
        if cycle is None:  # the app has ended, and one of its tasks has not
            return {"type": "http.disconnect"}
        if self._receiver is not None or self._parsed_receiver is not None:
            raise RuntimeError("the body is being received into a file")
        self._asked = True
        event = await type(cycle).receive(cycle)
        undelivered = cycle.body or not (cycle.more_body or self._end_delivered)
        if event["type"] == "http.disconnect" and undelivered and not cycle.response_complete:
            event = {"type": "http.request", "body": bytes(cycle.body), "more_body": cycle.more_body}
            cycle.body = bytearray()
        if event["type"] == "http.request" and not event["more_body"]:
            self._end_delivered = True
        return event

    async def send(self, message: Any) -> None:
        """Send as uvicorn does, but the start of an answer together with what comes first after it.

        ASGI has it so: a server "should not actually start sending the response" before its first body event. Where a
        connection breaks between the two, tus-js-client in Node.js waits for the rest for ever. A desynchronized
        connection is closed after this answer.
        """
        cycle = self._cycle()
        if cycle is None:
            return
        if message["type"] == "http.response.start" and not cycle.response_started:
            if self._desynchronized:
                headers = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}  # uvicorn does as this says
            self._start = message
            return
        start, self._start = self._start, None
        if message["type"] == "http.response.zerocopysend":
            await self._send_file(cycle, start, message)
        elif start is None:
            await type(cycle).send(cycle, message)
        else:
            await self._send_together(cycle, start, message)

    async def _send_together(self, cycle: RequestResponseCycle, start: Any, message: Any) -> None:
        transport = cycle.transport
        pieces = _JoinedWrites(transport)
        cycle.transport = cast(asyncio.Transport, pieces)
        try:
            await type(cycle).send(cycle, start)
            await type(cycle).send(cycle, message)
        finally:
            cycle.transport = transport
            pieces.flush()

    async def _send_file(self, cycle: RequestResponseCycle, start: Any, message: Mapping[str, Any]) -> None:
        """Send a range of a file by the kernel (ASGI, "Zero Copy Send" extension), after the start of the answer.

        Raises:
            StoreUnavailable: too many files are open; nothing was sent.
        """
        own = _duplicate_socket(cycle.transport, started=start is None)
        try:
            if start is not None:
                await type(cycle).send(cycle, start)
            await self._send_range(cycle, own, message)
        finally:
            if own >= 0:
                os.close(own)

    async def _send_range(self, cycle: RequestResponseCycle, own: int, message: Mapping[str, Any]) -> None:
        if cycle.disconnected:  # then uvicorn has not looked at the start of the answer
            return
        fd, at = message["file"].fileno(), message.get("offset") or 0
        count = message.get("count")
        count = os.fstat(fd).st_size - at if count is None else count
        if cycle.chunked_encoding or count > cycle.expected_content_length:
            raise RuntimeError("a file is sent in a response that has its Content-Length, and not beyond it")
        transport = cycle.transport
        try:
            transport.set_write_buffer_limits(high=0)
            if cycle.flow.write_paused:  # what was written before must go first
                await cycle.flow.drain()
            if not cycle.disconnected and own >= 0:
                await send_file(transport, own, fd, at, count)
        except ClientDisconnected:
            pass  # uvicorn notices on its own
        except (OSError, EOFError):
            transport.abort()  # the client must not take what it has for the whole
            raise
        finally:
            if not transport.is_closing():
                transport.set_write_buffer_limits()
        cycle.expected_content_length -= count
        await type(cycle).send(
            cycle, {"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)}
        )


def _duplicate_socket(transport: asyncio.Transport, *, started: bool) -> int:
    """Return another descriptor of a socket, -1 if it is closing. `started`: an answer has, so no other can follow."""
    if transport.is_closing():
        return -1
    try:
        return os.dup(transport.get_extra_info("socket").fileno())
    except OSError as error:
        if started:
            transport.abort()
            raise
        logger.error("a download cannot start: %s", error)
        raise StoreUnavailable from error


def _send_continue(cycle: RequestResponseCycle) -> None:
    """Send the 100 that a client waits for before it sends its body."""
    if cycle.waiting_for_100_continue and not cycle.transport.is_closing():
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _mark_disconnected(cycle: RequestResponseCycle) -> None:
    """Note that the client has disconnected."""
    cycle.disconnected = True
    cycle.message_event.set()
    cycle.transport.close()


class _JoinedWrites:
    """Replaces a transport while an answer starts, and writes what it was given in one piece."""

    __slots__ = ("_pieces", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._pieces: list[bytes] = []
        self._transport = transport

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    def flush(self) -> None:
        if self._pieces:
            if not self._transport.is_closing():  # uvloop raises until it has called `connection_lost`
                self._transport.write(b"".join(self._pieces))
            self._pieces.clear()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
