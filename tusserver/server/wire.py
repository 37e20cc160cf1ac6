"""The Wire of one request under uvicorn: socket to file, file to socket, request trailers, 1xx responses."""

from __future__ import annotations

import asyncio
import http
import logging
import os
import re
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from tusserver.protocol.checksum import Digest
from tusserver.protocol.errors import ClientDisconnected, StoreUnavailable
from tusserver.server.recvfile import Drain
from tusserver.server.recvfile_parsed import ParsedDrain
from tusserver.server.recvfile_shared import pump
from tusserver.server.sendfile import send_file
from tusserver.streams import Disk, MakeRoom

if TYPE_CHECKING:  # names that an import of this module must not fail for
    from uvicorn._types import ASGIReceiveEvent
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

logger = logging.getLogger("tusserver.wire")

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "upgrade", "trailer", "keep-alive"})
_PHRASES = {100: "Continue", 103: "Early Hints", 104: "Upload Resumption Supported"}


class HttpConnection(Protocol):
    """What the Wire of a request needs of its connection."""

    flow: FlowControl

    def as_protocol(self) -> asyncio.Protocol:
        """Return what the transport calls."""

    def begin_anew(self) -> None:
        """Expect a new request: the parser has not seen the end of the last one."""


class UvicornWire:
    """The Wire of one request; stands between the app and uvicorn's cycle of request and response.

    It holds the cycle and the protocol weakly: they hold it, and a ring would wait for the garbage collector.
    """

    __slots__ = (
        "_cycle",
        "_drain",
        "_ended",
        "_head",
        "_left",
        "_length",
        "_pouring",
        "_protocol",
        "_spoilt",
        "_taken",
        "trailers",
    )

    def __init__(self, protocol: HttpConnection, cycle: RequestResponseCycle, length: int | None) -> None:
        self.trailers: dict[str, str] = {}
        """See `Wire.trailers`."""
        self._protocol = weakref.ref(protocol)
        self._cycle = weakref.ref(cycle)
        self._length = length
        self._left = 0
        """Bytes of a half-drained body that may still come, to be thrown away."""
        self._taken = False
        """Whether the app asked for bytes of the body."""
        self._drain: Drain | None = None
        """What is under way past the parser."""
        self._pouring: ParsedDrain | None = None
        """What is under way by way of the parser."""
        self._spoilt = False
        """Whether the parser has lost its place in the stream: then the connection is good for one answer only."""
        self._ended = False
        """Whether the app was told that the body is whole."""
        self._head: Any = None
        """The start of the answer, until something follows it."""
        cycle.receive = self.receive  # type: ignore[method-assign]  # the cycle hands it to the app
        cycle.send = self.send  # type: ignore[method-assign]  # likewise

    # what the wire adds ----------------------------------------------------------------------------------------------

    @property
    def drainable(self) -> bool:
        """See `Wire.drainable`."""
        return self._length is not None and not self._taken

    @property
    def pourable(self) -> bool:
        """See `Wire.pourable`."""
        return self._length is None and not self._taken

    @property
    def whole(self) -> bool:
        """See `Wire.whole`."""
        cycle = self._cycle()
        return cycle is None or not cycle.more_body

    async def drain(
        self, fd: int, at: int, digest: Digest | None, moved: Callable[[int], None], disk: Disk | None = None
    ) -> None:
        """See `Wire.drain`."""
        protocol, cycle = self._protocol(), self._cycle()
        if self._length is None or self._taken or (cycle is not None and cycle.response_started):
            raise RuntimeError("this body cannot be drained, or not any more")
        self._taken = True
        if protocol is None or cycle is None:
            raise ClientDisconnected
        _invite(cycle)
        body, cycle.body = cycle.body, bytearray()
        rest = Drain(
            pump(),
            cycle.transport,
            protocol.as_protocol(),
            fd=fd,
            at=at,
            length=self._length,
            digest=digest,
            moved=moved,
            disk=disk,
            first=body,
        )
        if rest.left:  # else the parser has seen the end of the body, and may be far behind it
            self._drain = rest
            self._spoilt = True
            protocol.flow.pause_reading()
        try:
            del body  # a slow client would have it held for as long as it takes
            await rest.run(gone=cycle.disconnected)
        except ClientDisconnected:
            _lose(cycle)
            raise
        finally:
            if self._drain is not None:
                self._drain = None
                self._resume(protocol, cycle, rest.left)

    async def pour(
        self,
        fd: int,
        at: int,
        digest: Digest | None,
        moved: Callable[[int], None],
        disk: Disk | None = None,
        *,
        admit: Callable[[int], None],
        share: Callable[[], int],
        make_room: MakeRoom | None = None,
    ) -> None:
        """See `Wire.pour`."""
        protocol, cycle = self._protocol(), self._cycle()
        if not self.pourable or (cycle is not None and cycle.response_started):
            raise RuntimeError("this body cannot be poured, or not any more")
        self._taken = True
        if protocol is None or cycle is None:
            raise ClientDisconnected
        _invite(cycle)
        protocol.flow.pause_reading()
        self._pouring = ParsedDrain(
            pump(),
            cycle.transport,
            protocol.as_protocol(),
            fd=fd,
            at=at,
            digest=digest,
            moved=moved,
            disk=disk,
            admit=admit,
            share=share,
            make_room=make_room,
            whole=lambda: not cycle.more_body,
        )
        if cycle.body:
            self._pouring.take(bytes(cycle.body))
            cycle.body = bytearray()
        try:
            await self._pouring.run()
        except ClientDisconnected:
            _lose(cycle)
            raise
        finally:
            self._pouring = None
            protocol.flow.read_paused = True  # as it is now; uvicorn resumes for who asks, and after the answer

    def takes(self, piece: bytes) -> bool:
        """Take a piece of the body from the parser, if it is being poured; return whether it is."""
        if self._pouring is None:
            return False
        self._pouring.take(piece)
        return True

    def catch_up(self) -> None:
        """See `Wire.catch_up`."""
        if self._drain is not None:
            self._drain.catch_up()

    def _resume(self, protocol: HttpConnection, cycle: RequestResponseCycle, left: int) -> None:
        """Make the connection fit for what comes next."""
        protocol.flow.read_paused = True  # as a drain leaves it, whatever happened meanwhile
        self._left = left
        if left:
            return
        self._spoilt = False
        cycle.more_body = False
        cycle.message_event.set()
        if not cycle.transport.is_closing():
            protocol.begin_anew()  # once uvicorn resumes reading, after the answer at the latest

    def swallow(self, count: int) -> bool:
        """Throw away `count` bytes that came on a spoilt connection; return whether it is one."""
        if not self._spoilt:
            return False
        self._left = max(0, self._left - count)
        cycle = self._cycle()
        if cycle is not None and not self._left:  # whoever waits for the rest may stop
            cycle.more_body = False
            cycle.message_event.set()
        return True

    async def inform(self, status: int, headers: Mapping[str, str]) -> None:
        """See `Wire.inform`."""
        message = _interim(status, headers)
        cycle = self._cycle()
        if cycle is None or cycle.scope["http_version"] == "1.0":
            return  # RFC 9110 §15.2: "a server MUST NOT send a 1xx response to an HTTP/1.0 client"
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if not (cycle.disconnected or cycle.response_started or cycle.transport.is_closing()):
            cycle.transport.write(message)

    # between the app and the cycle -----------------------------------------------------------------------------------

    async def receive(self) -> ASGIReceiveEvent:
        """Receive as uvicorn does, but lose nothing: it would throw away what it holds when the client is gone."""
        cycle = self._cycle()
        if cycle is None:  # the app has ended, and one of its tasks has not
            return {"type": "http.disconnect"}
        if self._drain is not None or self._pouring is not None:
            raise RuntimeError("the body is being drained")
        self._taken = True
        event = await type(cycle).receive(cycle)
        owed = cycle.body or not (cycle.more_body or self._ended)
        if event["type"] == "http.disconnect" and owed and not cycle.response_complete:
            event = {"type": "http.request", "body": bytes(cycle.body), "more_body": cycle.more_body}
            cycle.body = bytearray()
        if event["type"] == "http.request" and not event["more_body"]:
            self._ended = True
        return event

    async def send(self, message: Any) -> None:
        """Send as uvicorn does, but the head of an answer together with what comes first behind it.

        ASGI has it so: a server "should not actually start sending the response" before its first body event. Where a
        connection dies between the two, tus-js-client in Node.js waits for the rest for ever. On a spoilt connection
        nothing comes after this answer.
        """
        cycle = self._cycle()
        if cycle is None:
            return
        if message["type"] == "http.response.start" and not cycle.response_started:
            if self._spoilt:
                headers = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}  # uvicorn does as this says
            self._head = message
            return
        head, self._head = self._head, None
        if message["type"] == "http.response.zerocopysend":
            await self._send_file(cycle, head, message)
        elif head is None:
            await type(cycle).send(cycle, message)
        else:
            await self._send_together(cycle, head, message)

    async def _send_together(self, cycle: RequestResponseCycle, head: Any, message: Any) -> None:
        transport = cycle.transport
        pieces = _Pieces(transport)
        cycle.transport = cast(asyncio.Transport, pieces)
        try:
            await type(cycle).send(cycle, head)
            await type(cycle).send(cycle, message)
        finally:
            cycle.transport = transport
            pieces.flush()

    async def _send_file(self, cycle: RequestResponseCycle, head: Any, message: Mapping[str, Any]) -> None:
        """Send a range of a file by the kernel (ASGI, "Zero Copy Send" extension), behind the head of the answer.

        Raises:
            StoreUnavailable: too many files are open; nothing was sent.
        """
        own = _duplicate(cycle.transport, begun=head is None)
        try:
            if head is not None:
                await type(cycle).send(cycle, head)
            await self._send_range(cycle, own, message)
        finally:
            if own >= 0:
                os.close(own)

    async def _send_range(self, cycle: RequestResponseCycle, own: int, message: Mapping[str, Any]) -> None:
        if cycle.disconnected:  # then uvicorn has not looked at the head of the answer
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


def _duplicate(transport: asyncio.Transport, *, begun: bool) -> int:
    """Return another number for a socket, -1 if it is closing. Before an answer begins its client can be told why."""
    if transport.is_closing():
        return -1
    try:
        return os.dup(transport.get_extra_info("socket").fileno())
    except OSError as error:
        if begun:
            transport.abort()
            raise
        logger.error("a download cannot begin: %s", error)
        raise StoreUnavailable from error


def _invite(cycle: RequestResponseCycle) -> None:
    """Let a client send its body that waits for us to want it."""
    if cycle.waiting_for_100_continue and not cycle.transport.is_closing():
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _lose(cycle: RequestResponseCycle) -> None:
    """Take notice that the client is gone."""
    cycle.disconnected = True
    cycle.message_event.set()
    cycle.transport.close()


class _Pieces:
    """Stands for a transport while an answer begins, and sends what it was given in one piece."""

    __slots__ = ("_pieces", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._pieces: list[bytes] = []
        self._transport = transport

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    def flush(self) -> None:
        if self._pieces:
            if not self._transport.is_closing():  # uvloop raises between the end and the news of it
                self._transport.write(b"".join(self._pieces))
            self._pieces.clear()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def _interim(status: int, headers: Mapping[str, str]) -> bytes:
    """Write a 1xx response.

    Raises:
        ValueError: it would be none, or not one.
    """
    if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
        raise ValueError(f"{status} is no interim response")
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}"]
    for name, value in headers.items():
        if not TOKEN.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _FRAMING:
            raise ValueError(f"{name!r} cannot stand in an interim response")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")
