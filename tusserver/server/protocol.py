"""uvicorn's HTTP protocol with a Wire for each request, limits, strict framing and refusals.

`TusHttpProtocol` is uvicorn's httptools protocol and puts a `streams.Wire` into the scope of every request:
`uvicorn --http tusserver.server.protocol:TusHttpProtocol app:app`. It uses parts of uvicorn that may change (`compat`);
where one is missing it is uvicorn's own protocol and nothing more, and the log says so.

Beside the wire it closes what a hostile client could use: bytes that had arrived when a client disconnected are
delivered, trailers stay out of `scope["headers"]`, heads and pipelines have a limit, no answer goes to another request
than its own, what another server might frame in another way is refused, a request to change the protocol does not cost
the body, and a `ConnectionLimiter` counts connections and times heads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tusserver.protocol.errors import TooManyConnections
from tusserver.server import answers
from tusserver.server.compat import missing_internals, supported
from tusserver.server.connections import ConnectionLimiter
from tusserver.server.framing import read_framing
from tusserver.server.heads import HeadMeter
from tusserver.server.options import HEAD_SIZE
from tusserver.server.wire import UvicornWire
from tusserver.streams import WIRE

if TYPE_CHECKING:  # names that an import of this module must not fail for
    from uvicorn.config import Config
    from uvicorn.server import ServerState

logger = logging.getLogger("tusserver.wire")

OVERHEAD_BYTES: Final = 64 << 10
"""In a row of a message that are neither of its head nor of its body: empty lines, extensions of chunks."""
PIPELINED: Final = 64
"""Requests that may wait for the answer to the one before; all that stand in one read are taken at once."""
LAST_REQUEST_SECONDS: Final = 0.25
"""For a request that is on its way when the server stops: a client that sent it on an idle connection, or on a new one,
cannot know. Then the connection is closed."""
LINGER_SECONDS: Final = 2.0
"""For a client to read why it was refused; and, if that is before its request, for the request to start."""


def _do_nothing() -> None:
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
        """Parse, also what follows a request that asks for another protocol, where httptools stops."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            protocol = self._protocol()
            if protocol is None or protocol.upgrades():
                raise
            protocol.ignore_upgrade(data[upgrade.args[0] :])


class WireProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a Wire for each request. `limited_protocol` makes one with limits."""

    limiter: ClassVar[ConnectionLimiter | None] = None
    head_size: ClassVar[int] = HEAD_SIZE
    last_request: ClassVar[float] = LAST_REQUEST_SECONDS

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
        self._heads = HeadMeter(self.head_size)
        self._body_bytes = 0
        """Of what was read last, that are of bodies."""
        self._progress = False
        """Whether the parser found a message or a body since it was last fed."""
        self._refused = False
        """Whether nothing more is parsed."""
        self._rejection: answers.Rejection | None = None
        """What answers a connection that is rejected, until it has."""
        self._framing = b""
        """The field that says where the body of the newest request ends; empty if it has none."""
        self._replaying = False
        """Whether the parser is fed again what it has parsed."""
        self._timed = False
        """Whether the limiter times the head that comes."""
        self._is_last = False
        """Whether no request may follow the next one."""

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
        """Release what counts the connection, and what holds it."""
        if self.limiter is not None:
            self.limiter.release(self)
        super().connection_lost(exc)
        for cycle, _ in self.pipeline:
            cycle.on_response = _do_nothing  # else each holds us, until the garbage collector runs
        self.pipeline.clear()
        self._heads.clear()

    def data_received(self, data: bytes | memoryview) -> None:
        """Parse; then leave the rest of a body in the kernel until the app says where it goes."""
        if self._rejection is not None:
            self._feed_rejection(self._rejection, data)
            return
        if self._refused or (self._wire is not None and self._wire.discard(len(data))):
            return
        self._progress, self._body_bytes = False, 0
        super().data_received(data)  # type: ignore[arg-type]  # the parser takes any buffer
        heads = self._heads
        heads.note_read(data, self._body_bytes, progress=self._progress)
        if self.transport.is_closing():
            return
        if not self._timed and self.timeout_keep_alive_task is None:
            self._time_next_head()
        if self.limiter is not None:
            self.limiter.set_head_cost(self, heads.cost)
        if heads.unparsed > (heads.limit if heads.in_head else OVERHEAD_BYTES):
            self.send_400_response("Overhead without end received.")
            return
        waits = self._wire is not None and self._wire.can_receive_into
        if waits and self.cycle.more_body and not self.cycle.response_complete:
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        """Continue with the next request; the head of this one is not kept any longer."""
        super().on_response_complete()
        self._heads.end_request(len(self.pipeline))
        if self.limiter is not None:
            self.limiter.set_head_cost(self, self._heads.cost)

    def _time_next_head(self) -> None:
        """Time it from the first byte after an answer, be it an empty line or the rest of a body that is not read.

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
            self._is_last = True
            self.loop.call_later(self.last_request, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    # the parser ------------------------------------------------------------------------------------------------------

    def as_protocol(self) -> asyncio.Protocol:
        """See `HttpConnection.as_protocol`."""
        return self

    def reset_parser(self) -> None:
        """See `HttpConnection.reset_parser`."""
        self.parser = _Parser(self)

    def upgrades(self) -> bool:
        """Whether the newest request changes the protocol, and may: a WebSocket, where uvicorn has them."""
        return bool(self.parser.should_upgrade()) and self._should_upgrade()

    def ignore_upgrade(self, rest: bytes) -> None:
        """Parse what follows a head that asks for another protocol, as if it did not.

        RFC 9110 §7.8: "A server MAY ignore a received Upgrade header field". httptools ends such a request with its
        head, and would lose its body. Java's HttpClient and `curl --http2` ask for h2c with every first request.
        """
        self.reset_parser()
        if self._framing:
            self._replaying = True
            try:
                self.parser.feed_data(b"POST / HTTP/1.1\r\n" + self._framing + b"\r\n\r\n")
            finally:
                self._replaying = False
        if rest:
            self.parser.feed_data(rest)

    # calls of the parser: it stops at a ValueError, and `send_400_response` is called --------------------------------

    def on_message_begin(self) -> None:
        """Start with a head."""
        if self._replaying:
            return
        super().on_message_begin()
        self._progress = True
        self._heads.start()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        if self._replaying:
            return
        self._heads.add_target(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field, or a trailer: uvicorn would put both among the headers."""
        if self._replaying:
            return
        if self._heads.in_head:
            super().on_header(name, value)
            self._heads.add_field(len(name) + len(value))
        elif self._wire is not None:
            self._wire.add_trailer(name.lower(), value)

    def on_headers_complete(self) -> None:
        """Give the new request its wire, before the task of the app starts."""
        if self._replaying:
            return
        self._progress = True
        self._heads.complete()
        if self._timed and self.limiter is not None:
            self._timed = False
            self.limiter.head_complete(self)
        self._framing = b""
        length, self._framing = read_framing(self.parser.get_http_version(), self.headers)
        before = self.cycle
        super().on_headers_complete()
        queued = len(self.pipeline)
        self._heads.add_request(queued)
        if queued > PIPELINED or self._heads.queued_cost > max(self.head_size, HEAD_SIZE):
            raise ValueError("there are too many requests at once")
        if self.cycle is not before:  # else a WebSocket starts
            past_parser = self.scheme == "http" and not self.parser.should_upgrade()
            self._wire = UvicornWire(self, self.cycle, length if past_parser else None)
            if self._is_last:
                self.cycle.keep_alive = False
            extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
            extensions[WIRE] = self._wire
            if self.scheme == "http":
                extensions["http.response.zerocopysend"] = {}

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._progress = True
        self._body_bytes += len(body)
        if self._wire is None or not self._wire.accept(body):
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a message."""
        self._progress = True
        if self._framing and self.parser.should_upgrade() and not self._should_upgrade():
            return  # only its head: see `ignore_upgrade`
        super().on_message_complete()

    # refusals --------------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, as uvicorn does; and a head that is too large by its own status."""
        cycle = self.cycle
        if self.pipeline:
            self.transport.abort()  # an answer here would be taken for that to a request before
        elif cycle is not None and not (cycle.response_complete or cycle.more_body):
            self._refused = True  # likewise; that one is answered, and nothing comes after it
            cycle.keep_alive = False
        elif cycle is not None and not cycle.response_complete and cycle.response_started:
            self.transport.close()  # it has its answer
        elif cycle is not None and not cycle.response_complete and cycle.scope["method"] == "HEAD":
            self.transport.write(answers.bare(400))
            self.transport.close()
        elif self._heads.is_too_large:
            self._answer_and_close(answers.refusal(self._heads.too_large(self.headers)))
        else:
            self.transport.write(answers.plain(400, msg))
            self.transport.close()

    def reject(self, refusal: TooManyConnections, *, answer: bool) -> None:
        """See `Connection.reject`."""
        self._refused = True
        if answer:
            self._rejection = answers.Rejection(refusal)
            self.loop.call_later(LINGER_SECONDS, self._end_rejection)
        else:
            self.transport.abort()

    def _feed_rejection(self, rejection: answers.Rejection, data: bytes | memoryview) -> None:
        if (answer := rejection.feed(data)) is not None:
            self._rejection = None
            self._answer_and_close(answer)

    def _end_rejection(self) -> None:
        """Close a connection that was rejected and has sent no request."""
        if self._rejection is not None:
            self._rejection = None
            self.transport.close()

    def abort_head(self) -> None:
        """See `Connection.abort_head`. No answer: 408 would be final to clients that retry after a cut."""
        logger.debug("the head of a request did not come in time")
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # it does not read either
        else:
            self.transport.close()

    def _answer_and_close(self, answer: bytes) -> None:
        """Answer without having read all, and close."""
        self._refused = True
        self.transport.write(answer)
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closed with bytes unread, the connection would be reset, and the client would not get the answer.
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def limited_protocol(
    limiter: ConnectionLimiter, *, head_size: int = HEAD_SIZE, last_request: float = LAST_REQUEST_SECONDS
) -> type[HttpToolsProtocol]:
    """Return `TusHttpProtocol` with limits, for one event loop.

    `head_size`: bytes of a request head. `last_request`: seconds for requests on their way when the server stops.
    """
    if not SUPPORTED:
        logger.warning("with this uvicorn nothing limits connections, and the size and time of request heads")
        return TusHttpProtocol
    options = {"limiter": limiter, "head_size": head_size, "last_request": last_request}
    return type("LimitedProtocol", (WireProtocol,), options)


TusHttpProtocol: Final[type[HttpToolsProtocol]] = supported(WireProtocol, missing_internals())
"""For uvicorn's `http=`."""

SUPPORTED: Final = TusHttpProtocol is WireProtocol
"""Whether this uvicorn has what the wire needs."""
