"""Makes a server of settings. The only module that names adapters."""

from __future__ import annotations

import errno
import socket
import time

from starlette.types import ASGIApp

from tusserver.addresses import TrustedProxies
from tusserver.app import Tus
from tusserver.indexes.file_open_uploads import FileOpenUploads
from tusserver.locks import file
from tusserver.locks.base import Locker
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.limits import Expiry, Features, Limits, Timeouts
from tusserver.server import sockets
from tusserver.server.options import ConnectionLimits, RunOptions, ServerOptions
from tusserver.settings.schema import Settings
from tusserver.settings.sources import LoadedSettings, SettingsError
from tusserver.stores.base import Attachment
from tusserver.stores.file import folder
from tusserver.stores.file.store import FileStore
from tusserver.web.cors import Cors
from tusserver.web.forwarded import Proxies
from tusserver.web.health import LIVE, READY
from tusserver.web.pages import PATHS, UploadPage
from tusserver.web.router import Router

_PORT_TIMEOUT = 1.0
"""Seconds for a port to become free: the workers of a parent that was killed close it a moment later."""
_PORT_RETRY = 0.02


class ServerApp(Router):
    """The ASGI app of `tusserver serve`: uploads below one path, health and the page beside it, 404 elsewhere."""

    def __init__(self, tus: Tus, path: str, locker: Locker, attachment: Attachment, page: UploadPage | None) -> None:
        rows: dict[str, ASGIApp] = {} if page is None else dict.fromkeys(PATHS, page)
        super().__init__(exact={**rows, LIVE: tus.health, READY: tus.health}, below={path: tus}, other=tus)
        self.tus = tus
        self.page = page
        self._locker = locker
        self._attachment = attachment

    async def aclose(self) -> None:
        """Release the locks and the data folder."""
        await self._locker.aclose()
        self._attachment.close()


def assemble(configured: LoadedSettings) -> ServerApp:
    """Build the server.

    Raises:
        SettingsError: a setting cannot be used on this machine.
    """
    settings = configured.settings
    store = open_store(configured)
    locker = open_locker(configured, store)
    attachment = attach(configured, store, locker)
    app = Tus(
        store,
        locker=locker,
        open_uploads=FileOpenUploads(
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
    return ServerApp(app, settings.server.path, locker, attachment, _page(settings))


def _page(settings: Settings) -> UploadPage | None:
    if not settings.pages.upload or settings.server.path in PATHS:
        return None  # uploads take precedence, and a page without one of its files does not work
    # A relative address of the uploads, so that a proxy may add a path before both.
    return UploadPage(settings.server.path.removeprefix("/"), download=settings.tus.download)


def run_options(configured: LoadedSettings) -> RunOptions:
    """Return the options of a process that serves."""
    settings = configured.settings
    return RunOptions(
        server=settings.server.fill(ServerOptions),
        limits=settings.limits.fill(ConnectionLimits),
        trusted=TrustedProxies(settings.proxies.trusted),
    )


def open_listeners(configured: LoadedSettings) -> list[socket.socket]:
    """Listen, or take the sockets on which a service manager listens.

    Raises:
        SettingsError: that address or port cannot be listened on.
    """
    server = configured.settings.server
    until = time.monotonic() + _PORT_TIMEOUT
    while True:
        try:
            return sockets.inherited() or sockets.listen(server.host, server.port, server.backlog)
        except socket.gaierror as error:
            raise configured.refusal("server.host", f"is not known here ({error.strerror}); write an address") from None
        except ValueError as error:
            raise SettingsError(f"environment LISTEN_FDS: {error}") from None
        except OSError as error:
            match error.errno:
                case errno.EADDRINUSE if time.monotonic() < until:
                    time.sleep(_PORT_RETRY)
                case errno.EADDRINUSE:
                    problem = (
                        f"is in use on {server.host}; stop the other program or choose another, 0 picks a free one"
                    )
                    raise configured.refusal("server.port", problem) from None
                case errno.EACCES:
                    problem = "needs more rights than this user has; choose one above 1023"
                    raise configured.refusal("server.port", problem) from None
                case _:
                    problem = f"cannot be listened on ({error.strerror}); write an address of this machine or 0.0.0.0"
                    raise configured.refusal("server.host", problem) from None


def open_locker(configured: LoadedSettings, store: FileStore) -> Locker:
    """Return the locks: those that a second server on the same folder, and `tusserver remove`, respect too.

    Raises:
        SettingsError: their folder cannot be used.
    """
    if not file.AVAILABLE:
        if configured.settings.server.workers > 1:
            raise configured.refusal(
                "server.workers", "needs locks across processes, which this system does not have; write 1"
            )
        return MemoryLocker()
    try:
        return file.FileLocker(store.root / "locks")
    except ValueError as error:
        raise configured.refusal("store.root", f"cannot be used: {error}") from None


def attach(configured: LoadedSettings, store: FileStore, locker: Locker) -> Attachment:
    """Attach this process to the store, so that no process uses it with other locks.

    Raises:
        SettingsError: a process does.
    """
    try:
        return store.attach(locker.domain)
    except ValueError as error:
        raise configured.refusal("store.root", f"cannot be used: {error}") from None


def open_store(configured: LoadedSettings) -> FileStore:
    """Return the store.

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
