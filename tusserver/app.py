"""Tus: the app that is embedded or served. It takes ready parts and options, and knows no settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime

import anyio
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tusserver.events import Observers
from tusserver.hooks.callables import CallableHooks, Callback
from tusserver.indexes.base import OpenUploads
from tusserver.indexes.file_open_uploads import FileOpenUploads
from tusserver.indexes.memory import MemoryOpenUploads
from tusserver.locks import file
from tusserver.locks.base import Locker
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.dialect import Dialect, Offer
from tusserver.protocol.extensions import Extension
from tusserver.protocol.limits import Expiry, Features, Limits, Timeouts
from tusserver.protocol.tus import TusDialect
from tusserver.service.wiring import Options, wire
from tusserver.stores.base import Attachment, Store, is_shared
from tusserver.web.cors import Cors, CorsMiddleware
from tusserver.web.endpoint import UploadEndpoint
from tusserver.web.forwarded import Proxies, PublicUrl
from tusserver.web.health import Health
from tusserver.web.router import UploadRoute

logger = logging.getLogger("tusserver")

DIALECTS: Sequence[Callable[[Offer], Dialect]] = (TusDialect,)
"""Every dialect that is spoken. A request that is in none of them is read by the first."""


class Tus:
    """A tus server as an ASGI app, to be mounted at the path of uploads.

        tus = Tus(FileStore("storage"), on_finished=process)
        app = FastAPI(lifespan=tus.lifespan)
        app.mount("/files", tus)

    Args:
        store: where uploads are stored.
        locker: the locks of uploads; by default those of the store, which all processes on it share.
        open_uploads: lists of unfinished uploads, if `limits` bound them; by default in the folder of the store, which
            all processes on it share.
        limits: how much clients may ask for.
        expiry: when uploads are removed.
        timeouts: how long a request may take, and how slow its client may be.
        features: which extensions are offered, and what else.
        proxies: reverse proxies in front, and which of their headers are believed.
        cors: which web pages may use the server; with None no CORS headers are sent.
        before_create: called before an upload is created; raise `UploadRejected` to refuse it.
        on_created, on_finished, on_terminated, on_expired: awaited after the event and before the client is answered.
            If `on_finished` fails the client gets 500, and it is called again, after pauses that grow; until it
            succeeds the upload cannot be downloaded, and HEAD gets 423. If it raises `UploadRejected` the upload is
            removed.
        new_id: returns the id of a new upload: 1 to 128 letters, digits, `-` and `_`, hard to guess, never used before.
        now: the clock, in UTC; by default the wall clock; after that was set, its new time counts only if it stays.
        dialects: the protocols that are spoken; a request that is in none of them is read by the first.

    Raises:
        ValueError: an argument is wrong.
    """

    health: Health
    """An ASGI app that answers `/livez` and `/readyz`: `Route("/readyz", tus.health)`."""
    extensions: tuple[Extension, ...]
    """What OPTIONS announces (checksum-trailer only where trailers can arrive)."""
    observers: Observers
    """Functions that are told of events and cannot fail a request: `tus.observers.subscribe(Finished, count)`."""

    _sweeping: asyncio.Task[None] | None = None
    _attachment: Attachment | None = None
    _closed = False

    def __init__(
        self,
        store: Store,
        *,
        locker: Locker | None = None,
        open_uploads: OpenUploads | None = None,
        limits: Limits = Limits(),
        expiry: Expiry = Expiry(),
        timeouts: Timeouts = Timeouts(),
        features: Features = Features(),
        proxies: Proxies = Proxies(),
        cors: Cors | None = Cors(),
        before_create: Callback | None = None,
        on_created: Callback | None = None,
        on_finished: Callback | None = None,
        on_terminated: Callback | None = None,
        on_expired: Callback | None = None,
        new_id: Callable[[], str] | None = None,
        now: Callable[[], datetime] | None = None,
        dialects: Sequence[Callable[[Offer], Dialect]] = DIALECTS,
    ) -> None:
        self._store, self._locker, self.observers = store, locker or _locker_of(store), Observers()
        service = wire(
            store,
            self._locker,
            open_uploads or _open_uploads_of(store),
            CallableHooks(before_create, on_created, on_finished, on_terminated, on_expired),
            self.observers,
            Options(limits=limits, expiry=expiry, timeouts=timeouts, features=features),
            new_id=new_id,
            now=now or store.clock,
        )
        self._service, self._sweeper = service.uploads, service.sweeper
        self.extensions = tuple(extension for extension in Extension if extension in service.extensions)
        offer = Offer(extensions=service.extensions, limits=limits, download=features.download)
        spoken = [make(offer) for make in dialects]
        self._endpoint = UploadEndpoint(self._service, spoken, PublicUrl(proxies), limits)
        self._app: ASGIApp = self._endpoint if cors is None else CorsMiddleware(self._endpoint, cors, spoken)
        self.health = Health({"store": store.check, "locks": self._locker.check})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Served at the root, it runs its own lifespan."""
        if scope["type"] == "http":
            if self._sweeping is None or (self._sweeping.done() and not self._closed):
                self._start_sweeping()
            await self._app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        else:  # a WebSocket: refuse the handshake
            await send({"type": "websocket.close"})

    def route(self, path: str) -> BaseRoute:
        """Return a route for Starlette and FastAPI that serves `path` with and without a trailing slash.

        `app.mount(path, tus)` works as well, but redirects `path` to `path/`.
        """
        return UploadRoute(path, self)

    # background ------------------------------------------------------------------------------------------------------

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Remove expired uploads while the context lasts: `Starlette(lifespan=tus.lifespan)`."""
        return self._lifespan()

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        self._closed = False
        self._endpoint.open()
        self.health.open()
        sweeping = self._start_sweeping()
        try:
            yield
        finally:
            self.close()
            sweeping.cancel()
            with anyio.CancelScope(shield=True):
                try:
                    await asyncio.wait([sweeping])
                    await self._service.wait_for_background()
                    await self._store.flush()
                finally:
                    await self._let_go()

    async def _let_go(self) -> None:
        """Release what others may wait for, also if some of that fails or is cancelled."""
        try:
            await self._locker.aclose()
        finally:
            if self._attachment is not None:
                self._attachment.close()
                self._attachment = None

    def _start_sweeping(self) -> asyncio.Task[None]:
        """Start the task that sweeps, unless it runs.

        Without a lifespan the first request starts it, as the lifespan of a mounted app is easily forgotten; and a
        request on another event loop starts it again, as the task ended with the loop that it was started on.

        Raises:
            ValueError: see `SharedFolder.attach`, which is called here and not in the constructor: the process that
                makes this app may fork those that serve it.
        """
        if self._attachment is None and is_shared(self._store):
            self._attachment = self._store.attach(self._locker.domain)
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.get_running_loop().create_task(self._sweeper.run(), name="tusserver sweeper")
        return self._sweeping

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._lifespan())
            except ValueError as error:  # else uvicorn would take this for an app without a lifespan, and serve it
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def close(self) -> None:
        """End the requests that receive bodies: their bytes are kept, and clients get 503 and resume later."""
        self._closed = True
        self._endpoint.close()
        self.health.close()

    async def sweep(self) -> int:
        """Remove expired uploads now and complete what a crash interrupted; return the number of uploads removed."""
        return await self._sweeper.sweep()

    async def joined(self) -> None:
        """Wait for final uploads that are being made: for a process that sweeps once and ends."""
        await self._service.wait_for_background()


def _locker_of(store: Store) -> Locker:
    if not is_shared(store) or not file.AVAILABLE:
        return MemoryLocker()
    return file.FileLocker(store.root / "locks")


def _open_uploads_of(store: Store) -> OpenUploads:
    if not is_shared(store):
        return MemoryOpenUploads()
    return FileOpenUploads(store.root / "tally")
