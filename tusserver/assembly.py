"""Settings in, a whole server out. The only room that names adapters."""

from __future__ import annotations

from starlette.types import ASGIApp

from tusserver.app import Tus
from tusserver.indexes.file_open_uploads import FileLedger
from tusserver.locks import file
from tusserver.locks.base import Locker
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.limits import Expiry, Features, Limits, Timeouts
from tusserver.settings.schema import Settings
from tusserver.settings.sources import LoadedSettings
from tusserver.stores.base import Claim
from tusserver.stores.file import folder
from tusserver.stores.file.store import FileStore
from tusserver.web.cors import Cors
from tusserver.web.forwarded import Proxies
from tusserver.web.health import LIVE, READY
from tusserver.web.pages import PATHS, UploadPage
from tusserver.web.router import Router


class ServerApp(Router):
    """The ASGI app of `tusserver serve`: uploads below one path, health and the page beside it, 404 elsewhere."""

    def __init__(self, tus: Tus, path: str, locker: Locker, claim: Claim, page: UploadPage | None) -> None:
        rows: dict[str, ASGIApp] = {} if page is None else dict.fromkeys(PATHS, page)
        super().__init__(exact={**rows, LIVE: tus.health, READY: tus.health}, below={path: tus}, other=tus)
        self.tus = tus
        self.page = page
        self._locker = locker
        self._claim = claim

    async def aclose(self) -> None:
        """Give back what is open."""
        await self._locker.aclose()
        self._claim.close()


def assemble(configured: LoadedSettings) -> ServerApp:
    """Build the server.

    Raises:
        SettingsError: a setting cannot work on this machine.
    """
    settings = configured.settings
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
        limits=settings.limits.fill(Limits),
        expiry=settings.expiry.fill(Expiry),
        timeouts=settings.limits.fill(Timeouts),
        features=settings.tus.fill(Features),
        proxies=settings.proxies.fill(Proxies),
        cors=settings.cors.fill(Cors) if settings.cors.enabled else None,
    )
    return ServerApp(app, settings.server.path, locker, claim, _page(settings))


def _page(settings: Settings) -> UploadPage | None:
    if not settings.pages.upload or settings.server.path in PATHS:
        return None  # uploads win, and a page that lacks one of its files is of no use
    # The page is told where uploads are made from where it is itself, so that a proxy may put a path before both.
    return UploadPage(settings.server.path.removeprefix("/"), download=settings.tus.download)


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
