"""What ASGI cannot say, under uvicorn: socket to file, file to socket, request trailers, 1xx responses.

`TusHttpProtocol` is uvicorn's httptools protocol and puts a `streams.Wire` into the scope of every request:
`uvicorn --http tusserver.server.protocol:TusHttpProtocol app:app`. It leans on parts of uvicorn that are not promised
to stay (`compat`); where one is missing it is uvicorn's own protocol and nothing more, and the log says so.

Beside the wire it mends what a hostile client could use: bytes that had arrived when a client vanished are delivered,
trailers stay out of `scope["headers"]`, heads and pipelines have a bound, no answer goes to another request than its
own, what another server might frame in another way is refused, a wish to change the protocol does not cost the body,
and a `ConnectionLimiter` counts connections and times heads.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import socket
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tusserver.protocol.errors import HeaderTooLarge, TooManyConnections, TusError
from tusserver.server.compat import choose, missing
from tusserver.server.connections import ConnectionLimiter
from tusserver.server.heads import FIELD, REQUEST, USUAL
from tusserver.server.wire import TOKEN, UvicornWire
from tusserver.streams import WIRE

if TYPE_CHECKING:  # names that an import of this module must not fail for
    from uvicorn.config import Config
    from uvicorn.server import ServerState

logger = logging.getLogger("tusserver.wire")

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


def _nothing() -> None:
    """What is left to do for a request that will not be answered."""


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

    limiter: ClassVar[ConnectionLimiter | None] = None
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
        """Whether the limiter times the head that comes."""
        self._last = False
        """Whether no request is to follow the next one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Send small answers at once: asyncio sets this only on sockets that name their protocol, and ours may not."""
        super().connection_made(transport)
        with contextlib.suppress(OSError):  # a Unix socket
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.limiter is not None:
            self._timed = self.limiter.admit(self, self.client[0] if self.client else None) and self.limiter.times_heads
            if self.limiter.closing:  # it was accepted just before the listeners were closed
                self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the limiter know."""
        if self.limiter is not None:
            self.limiter.release(self)
        super().connection_lost(exc)
        for cycle, _ in self.pipeline:
            cycle.on_response = _nothing  # else each holds on to us, until the garbage collector comes
        self.pipeline.clear()
        self._queued.clear()

    def data_received(self, data: bytes | memoryview) -> None:
        """Parse; then leave the rest of a body in the kernel until the app says where it goes."""
        if self._turned_away is not None:
            self._answer_beginning(bytes(data))
            return
        if self._refused or (self._wire is not None and self._wire.discard(len(data))):
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
        waits = wire is not None and wire.can_receive_into
        if waits and self.cycle.more_body and not self.cycle.response_complete:
            self.flow.pause_reading()

    def _weigh(self) -> None:
        """Tell the limiter what our heads cost, and what the parser holds of the next one or of trailers."""
        if self.limiter is not None:
            coming = self._line + (self._cost if self._in_head else 0)
            waiting = sum(self._queued) + REQUEST * len(self._queued)
            self.limiter.set_head_cost(self, self._answering + waiting + coming)

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
        if self.limiter is not None and self.limiter.times_heads and (cycle is None or cycle.response_complete):
            self._timed = True
            self.limiter.head_started(self)

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

    def as_protocol(self) -> asyncio.Protocol:
        """See `HttpConnection.as_protocol`."""
        return self

    def reset_parser(self) -> None:
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
        self.reset_parser()
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
        if self._timed and self.limiter is not None:
            self._timed = False
            self.limiter.head_complete(self)
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
        if self._wire is None or not self._wire.accept(body):
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
        known = self._target >= size or TOKEN.fullmatch(text)
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

    def reject(self, refusal: TooManyConnections, *, answer: bool) -> None:
        """See `Connection.reject`.

        What to answer depends on the method: on a HEAD that is refused with anything but 423, tus-js-client takes the
        upload for lost and starts again with the first byte.
        """
        self._refused = True
        if answer:
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

    def abort_head(self) -> None:
        """See `Connection.abort_head`. No answer: 408 would be final to clients that try again after a cut."""
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


def guarded(limiter: ConnectionLimiter, *, head_size: int = HEAD_SIZE) -> type[HttpToolsProtocol]:
    """Return `TusHttpProtocol` with a limiter before it, for one event loop. `head_size`: bytes of a request head."""
    if not AT_WORK:
        logger.warning("with this uvicorn nothing limits connections, and the size and time of request heads")
        return TusHttpProtocol
    return type("GuardedProtocol", (WireProtocol,), {"limiter": limiter, "head_size": head_size})


TusHttpProtocol: Final[type[HttpToolsProtocol]] = choose(WireProtocol, missing())
"""For uvicorn's `http=`."""

AT_WORK: Final = TusHttpProtocol is WireProtocol
"""Whether this uvicorn has what the wire needs."""
