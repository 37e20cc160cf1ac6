"""A real uvicorn with our protocol class, in a thread of the test, that plays whatever app a test gives it.

Apps run on the server's loop, tests block on sockets and queues: they wait for what they need to see, never for a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.tus import eventually
from tests.support.wire import TIMEOUT, Connection
from tusserver.protocol.checksum import Digest
from tusserver.protocol.errors import ClientDisconnected
from tusserver.server.protocol import TusHttpProtocol
from tusserver.server.recvfile_shared import LoopShare, set_loop_share
from tusserver.streams import WIRE, BodyCallbacks, Disk, FileTarget, Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an app saw of one request."""

    how: str
    """`whole`, `gone`, `cancelled`, or what was raised."""
    written: tuple[int, ...] = ()
    trailers: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    digest: str = ""

    @property
    def total(self) -> int:
        """Bytes that were reported."""
        return sum(self.written)


def wire_of(scope: Scope) -> Wire:
    """The wire of a request; its absence is a failure."""
    wire: Wire = scope["extensions"][WIRE]
    return wire


async def receive_into(
    scope: Scope,
    fd: int,
    *,
    offset: int = 0,
    on_written: Callable[[int], None] = lambda count: None,
    admit: Callable[[int], None] = lambda count: None,
    share: Callable[[], int] = lambda: 1 << 20,
    digest: Digest | None = None,
    disk: Disk | None = None,
) -> None:
    """Receive the body of a request into a file, with nothing asked for that a test does not name."""
    target = FileTarget(fd=fd, offset=offset, disk=disk)
    callbacks = BodyCallbacks(on_written=on_written, admit=admit, buffer_share=share, digest=digest)
    await wire_of(scope).receive_into(target, callbacks)


async def answer(send: Send, status: int = 200, body: bytes = b"") -> None:
    """Send a whole answer."""
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> tuple[bytes, str]:
    """Everything that comes, and how it ends."""
    body = b""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return body, "gone"
        body += event["body"]
        if not event["more_body"]:
            return body, "whole"


class Keep:
    """An app that receives each body into `<folder>/<path>` and says so in `seen` before it answers.

    `flags` open the files. `stop` cancels what is received at the moment, `written` is called after each report, on the
    loop.
    """

    def __init__(self, folder: Path, *, flags: int = os.O_RDWR | os.O_CREAT, hashed: str = "") -> None:
        self.folder = folder
        self.seen: queue.Queue[Seen] = queue.Queue()
        self.written: Callable[[int], None] = lambda count: None
        self.started = threading.Event()
        self._flags = flags
        self._hashed = hashed
        self._receiving: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive and answer 200, or 500 where the disk failed, or 503 where it was stopped."""
        self._loop = asyncio.get_running_loop()
        wire = wire_of(scope)
        digest = hashlib.new(self._hashed, usedforsecurity=False) if self._hashed else None
        written: list[int] = []

        def note(count: int) -> None:
            written.append(count)
            self.written(count)

        fd = os.open(self.folder / scope["path"].strip("/"), self._flags, 0o600)
        receiving = asyncio.ensure_future(receive_into(scope, fd, on_written=note, digest=digest))
        self._receiving.add(receiving)
        self._loop.call_soon(self.started.set)
        status, how = 200, "whole"
        try:
            await receiving
        except ClientDisconnected:
            how = "gone"
        except asyncio.CancelledError:
            status, how = 503, "cancelled"
        except OSError as error:
            status, how = 500, type(error).__name__ + f" {error.errno}"
        finally:
            os.close(fd)
            self._receiving.discard(receiving)
        self.seen.put(
            Seen(
                how=how,
                written=tuple(written),
                trailers=dict(wire.trailers or {}),
                headers=tuple(scope["headers"]),
                digest=digest.hexdigest() if digest is not None else "",
            )
        )
        await answer(send, status, str(sum(written)).encode())

    def stop(self) -> None:
        """Cancel all that is being received, from the test's thread."""
        assert self._loop is not None

        def cancel() -> None:
            for receiving in list(self._receiving):
                receiving.cancel()

        self._loop.call_soon_threadsafe(cancel)

    def next(self) -> Seen:
        """What was seen next."""
        return self.seen.get(timeout=TIMEOUT)

    def stored(self, name: str) -> bytes:
        """Bytes of a file."""
        return (self.folder / name).read_bytes()


class Stage:
    """The server. `play(app)` sets who answers from now on."""

    def __init__(self, loop: Literal["uvloop", "asyncio"], **options: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._app: ASGIApp | None = None
        options = {"http": TusHttpProtocol, "log_config": None, "lifespan": "off", "interface": "asgi3"} | options
        self._server = _Server(uvicorn.Config(self._call, loop=loop, **options))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name=f"stage on {loop}")

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._app is not None
        await self._app(scope, receive, send)

    def play(self, app: ASGIApp) -> None:
        """Let `app` answer."""
        self._app = app

    def connect(self) -> Connection:
        """Connect to it."""
        return Connection(self.url)

    def share(self, share: LoopShare | None) -> None:
        """Let the bodies that come from now on share this."""
        done = threading.Event()

        def set_it() -> None:
            set_loop_share(share)
            done.set()

        self._server.loop.call_soon_threadsafe(set_it)
        assert done.wait(TIMEOUT)

    def start_to_stop(self, connections: int) -> int:
        """Shut down so many connections, once they are there, as a server that stops does; return how many."""
        shut_down: queue.Queue[int] = queue.Queue()
        assert eventually(lambda: len(self._server.server_state.connections) == connections)

        def shut_them_down() -> None:
            there = list(self._server.server_state.connections)
            for connection in there:
                connection.shutdown()
            shut_down.put(len(there))

        self._server.loop.call_soon_threadsafe(shut_them_down)
        return shut_down.get(timeout=TIMEOUT)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._server.up.wait(TIMEOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(TIMEOUT)
        self._socket.close()
        assert not self._thread.is_alive()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()
        self.loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.up.set()
