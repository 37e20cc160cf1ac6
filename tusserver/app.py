"""Tus: the app that is embedded or served. It takes ready parts and knows no settings."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime

import anyio
from starlette._utils import get_route_path
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import ASGIApp, Receive, Scope, Send

from tusserver.events import Bus, Created, Event, Expired, Finished, Terminated
from tusserver.indexes.base import Ledger
from tusserver.indexes.file_open_uploads import FileLedger
from tusserver.indexes.memory import MemoryLedger
from tusserver.locks import file
from tusserver.locks.base import Locker
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.dialect import Dialect, Offer
from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.extensions import Extension, enabled
from tusserver.protocol.limits import Expiry, Limits
from tusserver.protocol.tus import TusDialect
from tusserver.protocol.upload import ID_DIGITS, Upload, UploadId, as_upload_id
from tusserver.service.buffers import BUFFERS
from tusserver.service.concat import Concatenator
from tusserver.service.lifecycle import Lifecycle
from tusserver.service.quota import Quota
from tusserver.service.sweeper import Sweeper
from tusserver.service.uploads import UploadService
from tusserver.stores.base import Claim, Store
from tusserver.web.cors import Cors, CorsMiddleware
from tusserver.web.endpoint import UploadEndpoint
from tusserver.web.forwarded import X_FORWARDED, PublicUrl
from tusserver.web.health import Health

logger = logging.getLogger("tusserver")

DIALECTS: Sequence[Callable[[Offer], Dialect]] = (TusDialect,)
"""Every dialect that is spoken. A request that is in none of them is read by the first."""

Callback = Callable[[Upload], Awaitable[None]]
"""Called with an upload as it is at that moment."""


class _RandomIds:
    """`ID_DIGITS` hexadecimal digits of random numbers, fetched many at a time: one call may cost 25 µs."""

    def __init__(self) -> None:
        self._digits = ""
        self._process = 0

    def __call__(self) -> str:
        if not self._digits or self._process != os.getpid():  # a forked child must not repeat its parent's
            self._digits, self._process = secrets.token_hex(ID_DIGITS // 2 * 256), os.getpid()
        name, self._digits = self._digits[:ID_DIGITS], self._digits[ID_DIGITS:]
        return name


class Tus:
    """A tus server as an ASGI app, to be mounted where uploads shall live.

        tus = Tus(FileStore("storage"), on_finished=process)
        app = FastAPI(lifespan=tus.lifespan)
        app.mount("/files", tus)

    Args:
        store: where uploads are kept.
        locker: what keeps requests apart; by default the store's own locks, which all processes on it share.
        ledger: what counts unfinished uploads, if `limits` bound them; by default lists in the store's own folder,
            which all processes on it share.
        limits: how much clients may ask for.
        expiry: when uploads end.
        sweep_interval: seconds between looks for what has expired.
        idle_timeout: seconds a client may be silent within a body.
        min_speed: bytes a second that a body must bring, averaged over `idle_timeout`; 0 for any speed.
        buffers: bytes of all bodies together that are gathered in memory before they are written; each body may have
            its share of them, and 32 KiB however many there are. What the server in front holds is its own.
        lock_patience: seconds a request waits for another one that holds the same upload and does not leave it.
        header_size: bytes of one header value, other than Upload-Concat; more is answered with 431.
        head_size: bytes of all headers with the request target; more is answered with 431. The server in front may have
            a limit of its own.
        disable: names of extensions that are not offered.
        delete_parts: whether partial uploads are removed once the final upload made of them is done.
        download: whether finished uploads can be read with GET.
        cors: which web pages may use the server; None leaves CORS to somebody else.
        trusted_proxies: addresses and networks of proxies that are believed, `unix` for sockets without an address, `*`
            for all. A server in front must then leave the client's address as it is (`uvicorn --no-proxy-headers`).
        proxy_headers: by which headers: "x-forwarded" (X-Forwarded-*) or "forwarded" (RFC 7239). The other ones may
            come from anybody, as proxies pass on what they do not know.
        proxy_trailers: whether these proxies pass on the trailers of requests. If not, checksum-trailer
            is not offered through them.
        relative_location: whether Location is a path instead of a URL.
        before_create: asked before an upload is made; raise `UploadRejected` to refuse it.
        on_created, on_finished, on_terminated, on_expired: awaited after it happened and before the client hears of it.
            If `on_finished` fails the client gets 500, and it is called again, after pauses that grow; until it
            succeeds the upload is not given back, and HEAD says 423. If it raises `UploadRejected` the upload is
            removed.
        new_id: names new uploads: 1 to 128 letters, digits, `-` and `_`, hard to guess, never the same twice.
        now: the clock, in UTC; by default the wall clock, which is not believed until it has stayed where it is set.

    Raises:
        ValueError: an argument is wrong.
    """

    def __init__(
        self,
        store: Store,
        *,
        locker: Locker | None = None,
        ledger: Ledger | None = None,
        limits: Limits | None = None,
        expiry: Expiry | None = None,
        sweep_interval: float = 60.0,
        idle_timeout: float = 30.0,
        min_speed: float = 100.0,
        buffers: int = BUFFERS,
        lock_patience: float = 5.0,
        header_size: int = 17 * 1024,
        head_size: int = 192 * 1024,
        disable: Iterable[str] = (),
        delete_parts: bool = False,
        download: bool = True,
        cors: Cors | None = Cors(),  # noqa: B008 - it is frozen
        trusted_proxies: Sequence[str] = (),
        proxy_headers: str = X_FORWARDED,
        proxy_trailers: bool = False,
        relative_location: bool = False,
        before_create: Callback | None = None,
        on_created: Callback | None = None,
        on_finished: Callback | None = None,
        on_terminated: Callback | None = None,
        on_expired: Callback | None = None,
        new_id: Callable[[], str] | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        limits = limits or Limits()
        expiry = expiry or Expiry()
        locker = locker or _locker_of(store)
        now = now or store.clock
        on = enabled(store.extensions, disable, expires=expiry.after is not None)
        joins = Extension.CONCATENATION in on
        _check_sizes(limits, header_size, head_size, part_size=0 if not joins else 2 if new_id else ID_DIGITS + 1)
        bus = _bus(on_created, on_finished, on_terminated, on_expired)
        lifecycle = Lifecycle(store, bus, expiry, now)
        concatenator = Concatenator(
            store,
            locker,
            lifecycle,
            limits=limits,
            expiry=expiry,
            unfinished=Extension.CONCATENATION_UNFINISHED in on,
            delete_parts=delete_parts,
            lock_timeout=lock_patience,
            now=now,
        )
        quota = Quota(store, ledger or _ledger_of(store), locker, limits, now)
        service = UploadService(
            store,
            locker,
            lifecycle,
            concatenator,
            quota,
            limits=limits,
            expiry=expiry,
            idle_timeout=idle_timeout,
            min_speed=min_speed,
            buffers=buffers,
            lock_timeout=lock_patience,
            new_id=_checked(new_id or _RandomIds()),
            before_create=before_create,
            now=now,
        )
        offer = Offer(extensions=on, limits=limits, download=download)
        dialects = [make(offer) for make in DIALECTS]
        public_url = PublicUrl(
            trusted_proxies, family=proxy_headers, relative=relative_location, trailers=proxy_trailers
        )
        self._endpoint = UploadEndpoint(service, dialects, public_url, header_size=header_size, head_size=head_size)
        self._app: ASGIApp = self._endpoint
        if cors is not None:
            self._app = CorsMiddleware(self._endpoint, cors, dialects)
        self._sweeper = Sweeper(
            store, locker, lifecycle, concatenator, quota, expiry=expiry, interval=sweep_interval, now=now
        )
        self._service = service
        self._sweeping: asyncio.Task[None] | None = None
        self._claim: Claim | None = None
        self._closed = False
        self._store = store
        self._locker = locker
        self.health = Health({"store": store.check, "locks": locker.check})
        """An ASGI app that answers `/livez` and `/readyz`: `Route("/readyz", tus.health)`."""
        self.extensions = tuple(extension for extension in Extension if extension in on)
        """Names of what OPTIONS advertises (checksum-trailer only where trailers can arrive)."""

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
        """Make a route for Starlette and FastAPI that serves `path` with and without a trailing slash.

        `app.mount(path, tus)` works as well, but redirects `path` to `path/`.
        """
        return _UploadRoute(path, self)

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
            await asyncio.wait([sweeping])
            with anyio.CancelScope(shield=True):
                await self._service.wait_for_background()
                await self._store.tidy()
            await self._locker.aclose()
            if self._claim is not None:
                self._claim.close()
                self._claim = None

    def _start_sweeping(self) -> asyncio.Task[None]:
        """Also without a lifespan, from the first request on: a mounted app's lifespan is easily forgotten.

        And anew on another event loop: the task has ended with the one it was started on.

        Raises:
            ValueError: see `Store.claim`. Only now: who made this app may have forked those that serve it.
        """
        if self._claim is None:
            self._claim = self._store.claim(self._locker.domain)
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.get_running_loop().create_task(self._sweeper.run(), name="tusserver sweeper")
        return self._sweeping

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._lifespan())
            except ValueError as error:  # else uvicorn would take it for an app without a lifespan, and go on
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def close(self) -> None:
        """Stop what is under way: bytes are kept, and clients are told to come again (503)."""
        self._closed = True
        self._endpoint.close()
        self.health.close()

    async def sweep(self) -> int:
        """Remove what has expired now, and make good what a crash left undone; return the number of uploads removed."""
        return await self._sweeper.sweep()

    async def joined(self) -> None:
        """Wait for partial uploads that are being joined: for a process that sweeps once and ends."""
        await self._service.wait_for_background()


def _locker_of(store: Store) -> Locker:
    if store.lock_folder is None or not file.AVAILABLE:
        return MemoryLocker()
    return file.FileLocker(store.lock_folder)


def _ledger_of(store: Store) -> Ledger:
    if store.lock_folder is None:
        return MemoryLedger()
    return FileLedger(store.lock_folder.parent / "tally")


def _check_sizes(limits: Limits, header_size: int, head_size: int, *, part_size: int) -> None:
    """Refuse limits that cannot be reached. `part_size`: least bytes of a partial upload's URL and a blank.

    Raises:
        ValueError: one of them cannot.
    """
    if limits.metadata_size > header_size:
        problem = f"limits.metadata_size = {limits.metadata_size} is more than header_size = {header_size} lets in"
        raise ValueError(f"{problem}; raise that one too")
    if header_size > head_size:
        raise ValueError(
            f"header_size = {header_size} is more than head_size = {head_size} lets in; raise that one too"
        )
    least = limits.parts * part_size
    if least > head_size:
        problem = f"limits.parts = {limits.parts} need {least} bytes in Upload-Concat"
        raise ValueError(f"{problem}, and head_size = {head_size} lets in less; raise that one")


def _checked(new_id: Callable[[], str]) -> Callable[[], UploadId]:
    def checked() -> UploadId:
        name = new_id()
        try:
            return as_upload_id(name)
        except UploadNotFound:
            raise ValueError(f"new_id gave {name!r}: an id has 1 to 128 letters, digits, - and _") from None

    return checked


def _bus(
    on_created: Callback | None,
    on_finished: Callback | None,
    on_terminated: Callback | None,
    on_expired: Callback | None,
) -> Bus:
    bus = Bus()

    def subscribe(kind: type[Event], callback: Callback | None) -> None:
        if callback is not None:
            bus.subscribe(kind, lambda event: callback(event.upload))

    subscribe(Created, on_created)
    subscribe(Finished, on_finished)
    subscribe(Terminated, on_terminated)
    subscribe(Expired, on_expired)
    return bus


class _UploadRoute(BaseRoute):
    """What `Mount` does, but the path itself is served too instead of being redirected."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must start with /")
        self.path = path.rstrip("/")
        self.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        path = get_route_path(scope)
        if path != self.path and not path.startswith(self.path + "/"):
            return Match.NONE, {}
        root_path = scope.get("root_path", "")
        child = {"root_path": root_path + self.path, "app_root_path": scope.get("app_root_path", root_path)}
        return Match.FULL, {**child, "endpoint": self.app}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: object) -> URLPath:
        raise NoMatchFound(name, path_params)
