"""Settings in, a whole server out. The only room that names adapters."""

from __future__ import annotations

from starlette._utils import get_route_path
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tusserver.app import Tus
from tusserver.indexes.file_open_uploads import FileLedger
from tusserver.locks import file
from tusserver.locks.base import Locker
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.limits import Expiry, Limits
from tusserver.settings.sources import LoadedSettings
from tusserver.stores.base import Claim
from tusserver.stores.file import folder
from tusserver.stores.file.store import FileStore
from tusserver.web import health
from tusserver.web.cors import Cors
from tusserver.web.pages import UploadPage
from tusserver.web.replies import NEVER_CACHED


class Site:
    """The ASGI app of `tusserver serve`: uploads below one path, health and the page beside it, 404 elsewhere.

    A router would do, but for small requests it costs as much as reading their headers.
    """

    def __init__(self, tus: Tus, path: str, locker: Locker, claim: Claim, page: UploadPage | None) -> None:
        self.tus = tus
        self.page = page
        self._locker = locker
        self._claim = claim
        self._path = path
        self._below = path + "/"

    async def aclose(self) -> None:
        """Give back what is open."""
        await self._locker.aclose()
        self._claim.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "http":
            path = get_route_path(scope)
            if path in (health.LIVE, health.READY):
                await self.tus.health(scope, receive, send)
                return
            if not path.startswith(self._below) and path != self._path:
                page = self.page if self.page is not None and self.page.has(path) else None
                await (page or PlainTextResponse("Not Found", 404, NEVER_CACHED))(scope, receive, send)
                return
            # No redirect to or from a trailing slash: clients do not follow one with a body, and both forms are served.
            scope["root_path"] = scope.get("root_path", "") + self._path
        await self.tus(scope, receive, send)


def assemble(configured: LoadedSettings) -> Site:
    """Build the server.

    Raises:
        SettingsError: a setting cannot work on this machine.
    """
    settings = configured.settings
    limits, expiry, tus, cors = settings.limits, settings.expiry, settings.tus, settings.cors
    store = open_store(configured)
    locker = open_locker(configured, store)
    claim = claim_store(configured, store, locker)
    app = Tus(
        store,
        locker=locker,
        ledger=FileLedger(
            settings.store.root.absolute() / "tally",
            file_mode=settings.store.file_mode,
            folder_mode=settings.store.folder_mode,
        ),
        limits=Limits(
            max_size=limits.max_size,
            body_size=limits.body_size,
            metadata_size=limits.metadata_size,
            parts=limits.parts,
            finals_per_part=limits.finals_per_part,
            uploads=limits.uploads,
            uploads_per_client=limits.uploads_per_client,
            reserved=limits.reserved,
            reserved_per_client=limits.reserved_per_client,
        ),
        expiry=Expiry(
            after=expiry.after,
            untouched=expiry.untouched,
            sliding=expiry.sliding,
            keep_finished=expiry.keep_finished,
            keep_parts=expiry.keep_parts,
        ),
        sweep_interval=expiry.sweep_interval.total_seconds(),
        idle_timeout=limits.idle_timeout.total_seconds(),
        min_speed=limits.min_speed or 0,
        buffers=limits.buffers,
        lock_patience=limits.lock_patience.total_seconds(),
        header_size=limits.header_size,
        head_size=limits.head_size,
        disable=frozenset(tus.disable),
        delete_parts=tus.delete_parts,
        download=tus.download,
        cors=Cors(
            origins=cors.origins,
            credentials=cors.credentials,
            allow_headers=cors.allow_headers,
            expose_headers=cors.expose_headers,
            max_age=int(cors.max_age.total_seconds()),
        )
        if cors.enabled
        else None,
        trusted_proxies=settings.proxies.trusted,
        proxy_headers=settings.proxies.headers,
        proxy_trailers=settings.proxies.trailers,
        relative_location=settings.proxies.relative_location,
    )
    # The page is told where uploads are made from where it is itself, so that a proxy may put a path before both.
    page = UploadPage(settings.server.path.removeprefix("/"), download=tus.download) if settings.pages.upload else None
    if page is not None and page.has(settings.server.path):
        page = None  # uploads win, and a page that lacks one of its files is of no use
    return Site(app, settings.server.path, locker, claim, page)


def open_locker(configured: LoadedSettings, store: FileStore) -> Locker:
    """Build the locks alone: such that a second server on the same folder, or `tusserver remove`, does no harm.

    Raises:
        SettingsError: their folder cannot be used.
    """
    if not file.AVAILABLE:
        if configured.settings.server.workers > 1:
            raise configured.refusal(
                "server.workers", "needs locks across processes, which are not to be had here; write 1"
            )
        return MemoryLocker()
    try:
        return file.FileLocker(store.lock_folder)
    except ValueError as error:
        raise configured.refusal("store.root", f"cannot be used: {error}") from None


def claim_store(configured: LoadedSettings, store: FileStore, locker: Locker) -> Claim:
    """Keep those off the store who would use it with other locks.

    Raises:
        SettingsError: somebody does.
    """
    try:
        return store.claim(locker.domain)
    except ValueError as error:
        raise configured.refusal("store.root", f"cannot be used: {error}") from None


def open_store(configured: LoadedSettings) -> FileStore:
    """Build the store alone.

    Raises:
        SettingsError: its folders cannot be used.
    """
    store = configured.settings.store
    finished = store.finished_folder and store.finished_folder.absolute()
    for inside in folder.FOLDERS:
        if finished and finished.is_relative_to(store.root.absolute() / inside):
            raise configured.refusal("store.finished_folder", "is where unfinished uploads live; name another folder")
    try:
        return FileStore(
            store.root,
            durability=store.durability,
            finished_folder=store.finished_folder,
            finished_name=store.finished_name,
            reserve=store.reserve,
            untouched=configured.settings.limits.untouched,
            file_mode=store.file_mode,
            folder_mode=store.folder_mode,
        )
    except ValueError as error:
        names = [name for name in ("finished_folder", "finished_name") if str(error).startswith(name)]
        raise configured.refusal(f"store.{names[0] if names else 'root'}", f"cannot be used: {error}") from None
