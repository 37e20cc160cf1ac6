"""Locks across the processes of one machine that share a folder.

Each upload is one byte of one file, found by the hash of its id; who holds the upload holds that byte (an open file
description lock). The kernel frees it when the process dies, however it dies: there are no lock files to go stale, no
process numbers to mistake for others, and nothing to clean up.

A holder in another process is asked how far it is, or to leave, by a datagram to the socket on which every process
listens.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType

from tusserver.locks import names
from tusserver.locks.base import LEAVING, Lease, Takeover
from tusserver.locks.memory import MemoryLocker
from tusserver.locks.peers import Peers
from tusserver.protocol.errors import StoreUnavailable, UploadLocked
from tusserver.protocol.upload import UploadId
from tusserver.threads import Threads

AVAILABLE = hasattr(fcntl, "F_OFD_SETLK")
"""Whether this system has such locks; Linux does."""

_TRY_SOON = 0.001
"""Seconds until the second attempt at a byte that another process holds; each next wait is twice as long."""
_TRY_AGAIN = 0.025
"""The longest of these waits."""
_ASK_AGAIN = 0.25
"""Seconds after which its holder is asked again: one that stays now may leave later."""
_LOOKED_AT = 100
"""Names that who leads looks at each time, whether their processes live."""
_LEAD = 0
"""Byte that the one holds who leads."""
_PROBE = 1
"""Byte that is taken and given back to see that locks work."""
logger = logging.getLogger("tusserver.locks")

_FLOCK = struct.Struct("hhqqi4x")


class FileLocker:
    """Locks below `folder`, which all processes name alike and which is on a local disk.

    Raises:
        ValueError: the folder cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._within = MemoryLocker()
        self._post: Peers | None = None
        self._opening: asyncio.Task[None] | None = None
        self._leading = False
        self._process = os.getpid()
        self._deaf = False
        self._run = Threads(2, "tusserver-locks").run  # a disk that hangs hangs with names too, of sockets as of files
        self._open: list[int] = []
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._open.append(self._folder)
            self._bytes = self._open_bytes()
            found = os.fstat(self._bytes)
            names.clear(self._folder)
        except OSError as error:
            reason = "it is a symbolic link" if Path(folder).is_symlink() else error.strerror
            raise ValueError(f"the folder for locks {folder} cannot be used: {reason}") from error
        self._scope = f"file {found.st_ino} of device {found.st_dev}"

    def _open_bytes(self) -> int:
        fd = os.open("held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._folder)
        self._open.append(fd)
        return fd

    def __del__(self) -> None:
        self.close()
        for fd in self._open:
            os.close(fd)

    def hold(
        self,
        upload_id: UploadId,
        takeover: Takeover | None = None,
        patience: float = 0.0,
        before_asking: Callable[[], Awaitable[None]] | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """See `Locker.hold`."""
        return _Hold(self, upload_id, takeover, patience, before_asking)

    def leads(self) -> bool:
        """See `Locker.leads`."""
        self._after_fork()
        self._leading = self._leading or self.try_byte(_LEAD)
        if self._leading:
            names.clear(self._folder, most=_LOOKED_AT)
        return self._leading

    @property
    def scope(self) -> str:
        """See `Locker.scope`: the file's number, as a folder may have several names."""
        return self._scope

    def check(self) -> None:
        """See `Locker.check`."""
        if not os.fstat(self._bytes).st_nlink:  # a process that starts now would use another file
            raise StoreUnavailable("the folder of the locks was removed")
        if self.try_byte(_PROBE):
            self.free_byte(_PROBE)

    def close(self) -> None:
        """See `Locker.close`."""
        if self._process != os.getpid():
            self._forget()
            return
        self._close_post()
        if self._leading:
            self._leading = False
            self.free_byte(_LEAD)

    def _close_post(self) -> None:
        if self._post is not None:
            self._post.close()
            self._post = None

    def try_byte(self, at: int) -> bool:
        """Take a byte if no other process has it.

        Raises:
            StoreUnavailable: the file system has no such locks.
        """
        return self._set(fcntl.F_WRLCK, at)

    def free_byte(self, at: int) -> None:
        """Give a byte back."""
        self._set(fcntl.F_UNLCK, at)

    def _set(self, kind: int, at: int) -> bool:
        self._after_fork()
        try:
            fcntl.fcntl(self._bytes, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            logger.error("locks do not work: %s", error)
            raise StoreUnavailable from error
        return True

    def _after_fork(self) -> None:
        """Open the file anew in a forked child: the open file of its parent would not keep the two apart."""
        if self._process != (process := os.getpid()):
            self._bytes = self._open_bytes()
            self._forget()
            self._process = process

    def _forget(self) -> None:
        """Leave to the parent what is the parent's."""
        self._leading = False
        if self._post is not None:
            self._post.forget()
            self._post = None

    async def ask(self, upload_id: UploadId, takeover: Takeover) -> bool:
        """Ask whichever process holds an upload; return whether the holder leaves."""
        at = "-" if takeover.at is None else takeover.at
        return await self.listen() and await self._ask(upload_id, f"leave {at}") == "leaving"

    async def report(self, upload_id: UploadId) -> int | None:
        """See `Locker.report`."""
        if self._within.holds(upload_id):
            return await self._within.report(upload_id)
        if not await self.listen():
            return None
        answer = await self._ask(upload_id, "report -")
        return int(answer) if answer is not None and answer.isdigit() else None

    async def _ask(self, upload_id: UploadId, question: str) -> str | None:
        post = self._post
        return None if post is None else await post.ask(upload_id, question, await self._run(post.others))

    @property
    def listens(self) -> bool:
        """Whether other processes can ask the running loop."""
        self._after_fork()
        return self._post is not None and self._post.loop is asyncio.get_running_loop()

    async def listen(self) -> bool:
        """Let other processes ask us from now on, if that can be: on a full disk there is no room for a socket's name.

        Without it locks hold as ever, and who wants ours has to wait.
        """
        if not self.listens:
            try:
                await asyncio.shield(self._post_being_opened())
            except OSError as error:
                if not self._deaf:
                    logger.warning("other processes cannot ask for locks now: %s", error.strerror)
                self._deaf = True
                return False
        self._deaf = False
        return True

    def _post_being_opened(self) -> asyncio.Task[None]:
        """One socket, however many requests want to ask before there is one, and whichever of them are cancelled."""
        loop = asyncio.get_running_loop()
        if self._opening is None or self._opening.done() or self._opening.get_loop() is not loop:
            self._opening = loop.create_task(self._open_post())
        return self._opening

    async def _open_post(self) -> None:
        post = Peers(self._folder, asyncio.get_running_loop(), self._within)
        try:
            await self._run(post.bind)
        except BaseException:
            post.close()
            raise
        self._close_post()
        self._post = post
        post.begin()


class _Hold:
    """The context of one lease: within the process first, then across processes."""

    def __init__(
        self,
        locker: FileLocker,
        upload_id: UploadId,
        takeover: Takeover | None,
        patience: float,
        before_asking: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._locker = locker
        self._id = upload_id
        self._takeover = takeover
        self._patience = patience
        self._before_asking = before_asking
        self._byte = byte_of(upload_id)
        self._within = locker._within.hold(upload_id, takeover, patience, before_asking)

    async def __aenter__(self) -> Lease:
        if not self._locker.listens:
            await self._locker.listen()
        lease = await self._within.__aenter__()
        try:
            if not self._locker.try_byte(self._byte):
                await self._wait()
        except BaseException:
            await self._within.__aexit__(None, None, None)
            raise
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locker.free_byte(self._byte)
        await self._within.__aexit__(kind, error, trace)

    async def _wait(self) -> None:
        if self._takeover is None and not self._patience:
            raise UploadLocked
        loop = asyncio.get_running_loop()
        began = loop.time()
        asked = -_ASK_AGAIN
        pause = _TRY_SOON
        leaving = False
        while True:
            if not leaving and loop.time() - asked >= _ASK_AGAIN:
                if self._before_asking is not None:
                    await self._before_asking()
                if self._takeover is not None:
                    leaving = await self._locker.ask(self._id, self._takeover)
                asked = loop.time()
            if self._locker.try_byte(self._byte):
                return
            if loop.time() >= began + (max(LEAVING, self._patience) if leaving else self._patience):
                raise UploadLocked
            await asyncio.sleep(pause)
            pause = min(2 * pause, _TRY_AGAIN)


def byte_of(upload_id: str) -> int:
    """Return the place of an upload's byte: 62 bits of its id's hash, behind the first bytes, which have other uses."""
    return 1024 + (int.from_bytes(hashlib.blake2b(upload_id.encode(), digest_size=8).digest()) >> 2)
