"""What ASGI cannot say, under uvicorn: socket to file, file to socket, request trailers, 1xx responses.

`TusHttpProtocol` is uvicorn's httptools protocol and puts a `streams.Wire` into the scope of every request:
`uvicorn --http tusserver.server.wire:TusHttpProtocol app:app`. It leans on parts of uvicorn that are not promised to
stay (`LEANED_ON`); where one is missing it is uvicorn's own protocol and nothing more, and the log says so.

Beside the wire it mends what a hostile client could use: bytes that had arrived when a client vanished are delivered,
trailers stay out of `scope["headers"]`, heads and pipelines have a bound, no answer goes to another request than its
own, what another server might frame in another way is refused, a wish to change the protocol does not cost the body,
and a `Gate` counts connections and times heads.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import os
import re
import socket
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import httptools
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tusserver.protocol.checksum import Digest
from tusserver.protocol.errors import ClientDisconnected, HeaderTooLarge, StoreUnavailable, TooManyConnections, TusError
from tusserver.server.drain import Drain, pump
from tusserver.server.gate import Gate
from tusserver.server.heads import FIELD, REQUEST, USUAL
from tusserver.server.parsed import ParsedDrain
from tusserver.server.sendfile import send_file
from tusserver.streams import WIRE, Disk, MakeRoom

if TYPE_CHECKING:  # names that an import of this module must not fail for
    from uvicorn._types import ASGIReceiveEvent
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

logger = logging.getLogger("tusserver.wire")

LEANED_ON: Final[Mapping[str, tuple[str, ...]]] = {
    "HttpToolsProtocol": (
        *("data_received", "connection_lost", "send_400_response", "on_response_complete", "shutdown"),
        *("on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body", "on_message_complete"),
        *("transport", "flow", "parser", "loop", "scheme", "scope", "headers", "cycle", "server_state"),
        *("client", "pipeline", "timeout_keep_alive_task", "_should_upgrade"),
    ),
    "RequestResponseCycle": (
        *("receive", "send", "scope", "transport", "body", "more_body", "message_event", "disconnected", "keep_alive"),
        *("waiting_for_100_continue", "response_started", "response_complete"),
        *("expected_content_length", "chunked_encoding"),
    ),
    "FlowControl": ("pause_reading", "resume_reading", "read_paused", "write_paused", "drain"),
}
"""Attributes of uvicorn's classes, set by the class or by its `__init__`."""

TRAILERS: Final = frozenset({b"upload-checksum", b"content-digest", b"repr-digest"})
"""Trailers that are delivered. RFC 9110 §6.5.1: a field may be taken from there only if it says that it may stand
there; one that frames, routes or authenticates would be a smuggler's."""
TRAILER_FIELDS: Final = 32
TRAILER_BYTES: Final = 8 << 10

HEAD_SIZE: Final = 192 << 10
"""Bytes of a request line with its header fields, if `guarded` is not told otherwise (`limits.head_size`)."""
OVERHEAD: Final = 64 << 10
"""Bytes in a row of a message that are neither of its head nor of its body: empty lines, extensions of chunks."""
FIELD_SHOWN: Final = 128
"""Bytes of the start of a field's line that are kept until the line is whole, to name the field in a refusal."""
FIELD_OVERHEAD: Final = 32
"""Bytes that a header field counts in `head_size` beside its name and value, as in HTTP/2 (RFC 9113 §6.5.2). It costs
more: see `heads.FIELD`."""
PIPELINED: Final = 64
"""Requests that may wait for the answer to the one before; all that stand in one read are taken at once."""
LAST_REQUEST: Final = 0.25
"""Seconds for a request that is on its way when the server stops: who sent it on an idle connection, or on a new one,
cannot know. Then the connection is closed."""
LINGER: Final = 2.0
"""Seconds for a client to notice why it was refused; and, if that is before its request, for the request to begin."""
FIRST_BYTES: Final = 64
"""Bytes of a request that are looked at for its method before it is turned away; blank lines may stand before it."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "upgrade", "trailer", "keep-alive"})
_PHRASES = {100: "Continue", 103: "Early Hints", 104: "Upload Resumption Supported"}


def missing(leaned_on: Mapping[str, tuple[str, ...]] = LEANED_ON) -> list[str]:
    """Name what we lean on and this uvicorn does not have."""
    lost: list[str] = []
    for name, attributes in leaned_on.items():
        owner = getattr(httptools_impl, name, None) or getattr(flow_control, name, None)
        if owner is None:
            lost.append(name)
            continue
        code = getattr(owner.__init__, "__code__", None)
        there = {*dir(owner), *(code.co_names if code is not None else ())}
        lost += [f"{name}.{attribute}" for attribute in attributes if attribute not in there]
    return lost


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

    def __init__(self, protocol: WireProtocol, cycle: RequestResponseCycle, length: int | None) -> None:
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
            protocol,
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
            protocol,
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

    def _resume(self, protocol: WireProtocol, cycle: RequestResponseCycle, left: int) -> None:
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


def _nothing() -> None:
    """What is left to do for a request that will not be answered."""


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
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _FRAMING:
            raise ValueError(f"{name!r} cannot stand in an interim response")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


class _Parser(httptools.HttpRequestParser):
    """httptools' parser, for a server that stays with HTTP/1.1."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: WireProtocol) -> None:
        super().__init__(protocol)
        self._protocol = weakref.ref(protocol)
        with contextlib.suppress(AttributeError):  # httptools before 0.6.3
            self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    def feed_data(self, data: Any) -> None:
        """Parse; go on behind a request that wants another protocol, where httptools stops."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            protocol = self._protocol()
            if protocol is None or protocol.gives_way():
                raise
            protocol.go_on(data[upgrade.args[0] :])


class WireProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a Wire for each request. `guarded` makes one with limits."""

    gate: ClassVar[Gate | None] = None
    head_size: ClassVar[int] = HEAD_SIZE

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser = _Parser(self)
        self._wire: UvicornWire | None = None
        """That of the newest request, which is the one the parser is at."""
        self._in_head = False
        self._head = 0
        """What the newest head, or that which comes in, counts in `head_size`."""
        self._cost = 0
        """What it costs in memory."""
        self._answering = 0
        """What the head of the request costs that is being answered."""
        self._queued: deque[int] = deque()
        """The same, of each request in `pipeline`."""
        self._target = 0
        """Bytes of the request target."""
        self._field = b""
        """The start of the line of a head that is not whole yet, if that line began in an earlier read."""
        self._trailer_fields = 0
        self._trailer_bytes = 0
        self._line = 0
        """Bytes of a line that is not whole yet, which the parser may hold on to."""
        self._of_body = 0
        """Bytes of what was read last that are of bodies."""
        self._progress = False
        """Whether the parser told of a message or a body since it was last fed."""
        self._unheard = 0
        """Bytes fed to the parser without progress. It may hold on to all of them."""
        self._refused = False
        self._turned_away: TooManyConnections | None = None
        """Why the connection is refused, until its request has begun."""
        self._begun = b""
        """What came of that request, without blank lines before it."""
        self._heard = 0
        """Bytes of it, with those."""
        self._framing = b""
        """The field that says where the body of the newest request ends; empty if it has none."""
        self._going_on = False
        """Whether the parser is told again what it has been told."""
        self._timed = False
        """Whether the gate times the head that comes."""
        self._last = False
        """Whether no request is to follow the next one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Send small answers at once: asyncio sets this only on sockets that name their protocol, and ours may not."""
        super().connection_made(transport)
        with contextlib.suppress(OSError):  # a Unix socket
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.gate is not None:
            self._timed = self.gate.enter(self, self.client[0] if self.client else None) and self.gate.times_heads
            if self.gate.closing:  # it was accepted just before the listeners were closed
                self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the gate know."""
        if self.gate is not None:
            self.gate.leave(self)
        super().connection_lost(exc)
        for cycle, _ in self.pipeline:
            cycle.on_response = _nothing  # else each holds on to us, until the garbage collector comes
        self.pipeline.clear()
        self._queued.clear()

    def data_received(self, data: bytes | memoryview) -> None:
        """Parse; then leave the rest of a drainable body in the kernel until the app says where it goes."""
        if self._turned_away is not None:
            self._answer_beginning(bytes(data))
            return
        if self._refused or (self._wire is not None and self._wire.swallow(len(data))):
            return
        self._progress, self._of_body = False, 0
        super().data_received(data)  # type: ignore[arg-type]  # the parser takes any buffer
        self._unheard = 0 if self._progress else self._unheard + len(data)
        if self.transport.is_closing():
            return
        if not self._timed and self.timeout_keep_alive_task is None:
            self._time_the_next_head()
        if self._in_head:
            self._note_field(bytes(data))
        self._note_line(data)
        self._weigh()
        if self._unheard > (self.head_size if self._in_head else OVERHEAD):
            self.send_400_response("Overhead without end received.")
            return
        wire = self._wire
        waits = wire is not None and (wire.drainable or wire.pourable)
        if waits and self.cycle.more_body and not self.cycle.response_complete:
            self.flow.pause_reading()

    def _weigh(self) -> None:
        """Tell the gate what our heads cost, and what the parser holds of the next one or of trailers."""
        if self.gate is not None:
            coming = self._line + (self._cost if self._in_head else 0)
            waiting = sum(self._queued) + REQUEST * len(self._queued)
            self.gate.weigh(self, self._answering + waiting + coming)

    def on_response_complete(self) -> None:
        """Go on to the next request; the head of this one is not kept any longer."""
        self._answering = 0
        super().on_response_complete()
        while len(self._queued) > len(self.pipeline):
            self._answering = self._queued.pop()
        self._weigh()

    def _time_the_next_head(self) -> None:
        """Time it from the first byte after an answer, be it an empty line or the rest of a body that nobody reads.

        uvicorn's own timer for idle connections ended with that byte.
        """
        cycle = self.cycle
        if self.gate is not None and self.gate.times_heads and (cycle is None or cycle.response_complete):
            self._timed = True
            self.gate.expect(self)

    def shutdown(self) -> None:
        """Answer the request that is under way, if there is one or comes at once; then close."""
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()
        else:
            self._last = True
            self.loop.call_later(LAST_REQUEST, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def begin_anew(self) -> None:
        """Expect a new request: the parser has not seen the end of the last one."""
        self.parser = _Parser(self)

    def gives_way(self) -> bool:
        """Whether the newest request changes the protocol, and may: a WebSocket, where uvicorn has them."""
        return bool(self.parser.should_upgrade()) and self._should_upgrade()

    def go_on(self, rest: bytes) -> None:
        """Parse what follows a head that wants another protocol, as if it did not.

        RFC 9110 §7.8: "A server MAY ignore a received Upgrade header field". httptools ends such a request with its
        head, and would lose its body. Java's HttpClient and `curl --http2` ask for h2c with every first request.
        """
        self.begin_anew()
        if self._framing:
            self._going_on = True
            try:
                self.parser.feed_data(b"POST / HTTP/1.1\r\n" + self._framing + b"\r\n\r\n")
            finally:
                self._going_on = False
        if rest:
            self.parser.feed_data(rest)

    # what the parser tells -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a head."""
        if self._going_on:
            return
        super().on_message_begin()
        self._progress = self._in_head = True
        self._head = self._target = self._cost = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        if self._going_on:
            return
        self._target += len(url)
        self._cost += len(url)
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field, or a trailer: uvicorn would put both among the headers."""
        if self._going_on:
            return
        if self._in_head:
            super().on_header(name, value)
            self._count(len(name) + len(value) + FIELD_OVERHEAD)
            self._cost += len(name) + len(value) + FIELD
        else:
            self._take_trailer(name.lower(), value)

    def on_headers_complete(self) -> None:
        """Give the new request its wire, before the task of the app begins."""
        if self._going_on:
            return
        self._progress = True
        self._in_head = False
        self._field = b""
        if self._timed and self.gate is not None:
            self._timed = False
            self.gate.welcome(self)
        self._trailer_fields = self._trailer_bytes = 0
        length = self._frame()
        before = self.cycle
        super().on_headers_complete()
        if len(self.pipeline) > len(self._queued):
            self._queued.appendleft(self._cost)
        else:
            self._answering = self._cost
        if len(self.pipeline) > PIPELINED or sum(self._queued) > max(self.head_size, HEAD_SIZE):
            # The parser stops, and `send_400_response` is called.
            raise ValueError("there are too many requests at once")
        if self.cycle is not before:  # else a WebSocket begins
            self._wire = UvicornWire(self, self.cycle, length)
            if self._last:
                self.cycle.keep_alive = False
            extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
            extensions[WIRE] = self._wire
            if self.scheme == "http":
                extensions["http.response.zerocopysend"] = {}

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._progress = True
        self._of_body += len(body)
        if self._wire is None or not self._wire.takes(body):
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a message."""
        self._progress = True
        if self._framing and self.parser.should_upgrade() and not self._should_upgrade():
            return  # only its head: see `go_on`
        super().on_message_complete()

    def _frame(self) -> int | None:
        """Note how the body is framed; return its bytes if it can be drained: announced, and on plain TCP.

        Two lengths, or a length and chunks, are for the parser to refuse.

        Raises:
            ValueError: this is nothing that servers must understand alike; the parser stops, and `send_400_response` is
                called.
        """
        version = self.parser.get_http_version()
        hosts, length = 0, None
        self._framing = b""
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                length = int(value)
                self._framing = b"Content-Length: " + value if length else b""
            elif name == b"transfer-encoding":
                # RFC 9112 §6.1: of a coding that is not understood nobody knows what the bytes are.
                if value.lower() != b"chunked" or self._framing or version != "1.1":
                    raise ValueError("only chunked is understood")
                self._framing = b"Transfer-Encoding: chunked"
        # RFC 9112 §3.2: "MUST respond with a 400 ... to any HTTP/1.1 request message that lacks a Host header field
        # and to any request message that contains more than one".
        if version not in ("1.0", "1.1") or hosts > 1 or (not hosts and version == "1.1"):
            raise ValueError("neither HTTP/1.1 with one Host nor HTTP/1.0")
        return None if self.scheme != "http" or self.parser.should_upgrade() else length or None

    def _count(self, count: int) -> None:
        self._head += count
        if self._head > self.head_size:
            raise ValueError("the request head is too large")  # likewise

    def _note_line(self, data: bytes | memoryview) -> None:
        """Note how much of a line has come, be it of a head or of trailers. At most, where it is long."""
        framing = len(data) - self._of_body
        if not framing:
            self._line = 0
            return
        end = bytes(data[-USUAL:])
        at = end.rfind(b"\n")
        self._line = self._line + framing if at < 0 else min(framing, len(end) - at - 1)

    def _note_field(self, data: bytes) -> None:
        """Keep the start of the line that is under way."""
        start = data.rfind(b"\n") + 1
        if start:
            self._field = data[start : start + FIELD_SHOWN]
        elif len(self._field) < FIELD_SHOWN:
            self._field += data[: FIELD_SHOWN - len(self._field)]

    def _too_large(self) -> HeaderTooLarge:
        """Say what of the head is too large, as far as it can be known."""
        sizes = [(len(name) + len(value), name) for name, value in self.headers]
        begun = self._field.partition(b":")[0]
        sizes.append((self._unheard - self._head, b"" if begun == self._field else begun))  # what was not counted
        size, name = max(sizes)
        text = name.decode("latin-1").title()
        if self._target >= size:
            text = "the request target"
        known = self._target >= size or _TOKEN.fullmatch(text)
        named = f"; the longest part of it is {text}" if known else ""
        return HeaderTooLarge(f"limits.head_size is {self.head_size} bytes for a whole request head{named}")

    def _take_trailer(self, name: bytes, value: bytes) -> None:
        self._trailer_fields += 1
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_fields > TRAILER_FIELDS or self._trailer_bytes > TRAILER_BYTES:
            raise ValueError("there are too many trailers")  # likewise
        if self._wire is not None and name in TRAILERS:
            key, text = name.decode("ascii"), value.decode("latin-1")
            trailers = self._wire.trailers
            trailers[key] = f"{trailers[key]}, {text}" if key in trailers else text

    # refusals --------------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as uvicorn does; and a head without end by its own status."""
        cycle = self.cycle
        if self.pipeline:
            self.transport.abort()  # an answer here would be taken for that to a request before
        elif cycle is not None and not (cycle.response_complete or cycle.more_body):
            self._refused = True  # likewise; that one is answered, and nothing comes after it
            cycle.keep_alive = False
        elif cycle is not None and not cycle.response_complete and cycle.response_started:
            self.transport.close()  # it has its answer
        elif cycle is not None and not cycle.response_complete and cycle.scope["method"] == "HEAD":
            self.transport.write(_head(400))  # whose answer has no body
            self.transport.close()
        elif not self._in_head or max(self._head, self._unheard) <= self.head_size:
            self.transport.write(_answer(400, msg))
            self.transport.close()
        else:
            self._dismiss(_render(self._too_large()))

    def turn_away(self, refusal: TooManyConnections, *, politely: bool) -> None:
        """See `Guest.turn_away`.

        What to answer depends on the method: on a HEAD that is refused with anything but 423, tus-js-client takes the
        upload for lost and starts again with the first byte.
        """
        self._refused = True
        if politely:
            self._turned_away = refusal
            self.loop.call_later(LINGER, self._give_up_on_beginning)
        else:
            self.transport.abort()

    def _answer_beginning(self, data: bytes) -> None:
        """Answer a request that is turned away, once its method is known."""
        refusal = self._turned_away
        assert refusal is not None
        self._begun = (self._begun + data[:FIRST_BYTES]).lstrip(b"\r\n")[:FIRST_BYTES]
        self._heard += len(data)
        if b"HEAD ".startswith(self._begun[:5]) and len(self._begun) < 5 and self._heard < FIRST_BYTES:
            return
        self._turned_away = None
        self._dismiss(_render_head(refusal) if self._begun.startswith(b"HEAD ") else _render(refusal))

    def _give_up_on_beginning(self) -> None:
        """Close a connection that was turned away and has not said what it wants."""
        if self._turned_away is not None:
            self._turned_away = None
            self.transport.close()

    def give_up_on_head(self) -> None:
        """See `Guest.give_up_on_head`. No answer: 408 would be final to clients that try again after a cut."""
        logger.debug("the head of a request did not come in time")
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # it does not read either
        else:
            self.transport.close()

    def _dismiss(self, answer: bytes) -> None:
        """Answer without having read all, and close."""
        self._refused = True
        self.transport.write(answer)
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closed with bytes unread, the connection would be reset, and the client never see the answer.
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)


def _render(refusal: TusError) -> bytes:
    retry = "" if refusal.retry_after is None else f"retry-after: {refusal.retry_after}\r\n"
    return _answer(refusal.status, f"{refusal.code}: {refusal}\n", retry)


def _render_head(refusal: TooManyConnections) -> bytes:
    """Refuse a HEAD, whose answer has no body."""
    return _head(http.HTTPStatus.LOCKED, f"retry-after: {refusal.retry_after}\r\n")


def _answer(status: int, text: str, further: str = "") -> bytes:
    body = text.encode()
    described = f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
    return _head(status, described + further) + body


def _head(status: int, further: str = "") -> bytes:
    told = http.HTTPStatus(status)
    return (
        f"HTTP/1.1 {told.value} {told.phrase}\r\ncache-control: no-store\r\n{further}connection: close\r\n\r\n"
    ).encode("ascii")


def guarded(gate: Gate, *, head_size: int = HEAD_SIZE) -> type[HttpToolsProtocol]:
    """Return `TusHttpProtocol` with a gate before it, for one event loop. `head_size`: bytes of a request head."""
    if not AT_WORK:
        logger.warning("with this uvicorn nothing limits connections, and the size and time of request heads")
        return TusHttpProtocol
    return type("GuardedProtocol", (WireProtocol,), {"gate": gate, "head_size": head_size})


def choose(lost: list[str]) -> type[HttpToolsProtocol]:
    """Choose the protocol for a uvicorn that lacks `lost`."""
    if lost:
        logger.warning("this uvicorn lacks %s: bodies go through its parser, without trailers", ", ".join(lost))
        return HttpToolsProtocol
    return WireProtocol


TusHttpProtocol: Final[type[HttpToolsProtocol]] = choose(missing())
"""For uvicorn's `http=`."""

AT_WORK: Final = TusHttpProtocol is WireProtocol
"""Whether this uvicorn has what the wire needs."""
