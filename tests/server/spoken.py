"""The wire protocol without a network: bytes go in by hand, an app plays, and what is written is kept.

So that a property test can have thousands of connections a second. Nothing is waited for but the loop itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from tusserver.server.protocol import WireProtocol


class _Socket:
    def setsockopt(self, *_: object) -> None:
        """Be as good as any."""

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.2", 8080

    def getpeername(self) -> tuple[str, int]:
        return "192.0.2.1", 50_000


class Transport(asyncio.Transport):
    """Keeps what is written, and holds back what comes in while reading is paused."""

    def __init__(self) -> None:
        super().__init__({"socket": _Socket()})
        self.written = b""
        self.reading = True
        self._closing = False

    def write(self, data: Any) -> None:
        if self._closing:  # asyncio's ignores it; uvloop's may do this until it has called `connection_lost`
            raise RuntimeError("the handler is closed")
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self._closing = True

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


@dataclass(slots=True)
class Request:
    """What an app, or h11, saw of a request."""

    method: bytes
    target: bytes
    body: bytes = b""
    whole: bool = False
    """Whether the body has ended."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of a stream of requests."""

    requests: list[Request]
    answers: bytes
    closed: bool
    errors: list[BaseException] = field(default_factory=list)
    """What the app raised."""


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, and answer."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Witness:
    """An app that notes what another one is asked, and asks for."""

    def __init__(self, app: ASGIApp) -> None:
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        request = Request(scope["method"].encode(), target)
        self.requests.append(request)

        async def noting() -> Any:
            message = await receive()
            if message["type"] == "http.request":
                request.body += message["body"]
                request.whole = not message["more_body"]
            return message

        try:
            await self._app(scope, noting, send)
        except Exception as error:
            self.errors.append(error)
            raise


async def _run_pending(turns: int = 12) -> None:
    """Let everything happen that needs no more bytes."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def _speak(pieces: Sequence[bytes], app: ASGIApp) -> Heard:
    witness = Witness(app)
    config = uvicorn.Config(witness, log_config=None, server_header=False, date_header=False, ws="none", lifespan="off")
    state, transport = ServerState(), Transport()
    protocol = WireProtocol(config, state, {}, asyncio.get_running_loop())
    protocol.connection_made(transport)
    for piece in pieces:
        for _ in range(100):
            if transport.reading or transport.is_closing():
                break
            await _run_pending()
        if transport.is_closing():
            break
        protocol.data_received(piece)
        await _run_pending(2)
    await _run_pending()
    closed = transport.is_closing()
    answers = transport.written
    transport.close()
    protocol.connection_lost(None)
    while state.tasks:
        await asyncio.wait(list(state.tasks))
    return Heard(witness.requests, answers, closed, witness.errors)


def speak(pieces: Sequence[bytes], app: ASGIApp = _echo) -> Heard:
    """Say a stream of requests, piece by piece, to an app on a loop of its own."""
    return asyncio.run(_speak(pieces, app))


def read_by_h11(stream: bytes) -> list[Request]:
    """Read a stream with another parser, up to what it refuses."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(stream)
    requests: list[Request] = []
    try:
        while True:
            event = connection.next_event()
            match event:
                case h11.Request():
                    requests.append(Request(event.method, event.target))
                case h11.Data():
                    requests[-1].body += event.data
                case h11.EndOfMessage():
                    requests[-1].whole = True
                    connection.send(h11.Response(status_code=405, headers=[("Content-Length", "0")]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is not h11.DONE:
                        break
                    connection.start_next_cycle()
                case _:
                    break
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        pass
    return requests


def answers_to(methods: Sequence[bytes], answers: bytes) -> list[int]:
    """Read answers with a strict parser; return their statuses.

    Raises:
        h11.RemoteProtocolError: they are not HTTP.
    """
    statuses: list[int] = []
    for method in [*methods, b"GET"]:  # the last: to what could not be read as a request
        if not answers:
            break
        connection = h11.Connection(h11.CLIENT)
        # What an answer to CONNECT has behind it is another protocol's; but ours is always a refusal.
        method = b"GET" if method == b"CONNECT" else method
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(answers)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                statuses.append(event.status_code)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse | h11.Data):
                raise h11.RemoteProtocolError("an answer is cut short")
        answers = connection.trailing_data[0]
    if answers:
        raise h11.RemoteProtocolError("there are more answers than requests")
    return statuses
