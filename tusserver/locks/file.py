"""Locks across the processes of one machine that share a folder.

Each upload is one byte of one file, found by the hash of its id; who holds the upload holds that byte (an open file
description lock). The kernel frees it when the process dies, however it dies: there are no lock files to go stale, no
process ids to mistake for others, and nothing to clean up.

A holder in another process is asked how far it is, or to release the upload, by a datagram (see `peers`).
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
from tusserver.locks.base import RELEASE_TIMEOUT, Lease, Preempt
from tusserver.locks.memory import MemoryLocker
from tusserver.locks.peers import ANSWER_TIMEOUT, PEERS_PER_TURN, Peers
from tusserver.protocol.errors import StoreUnavailable, UploadLocked
from tusserver.protocol.upload import UploadId
from tusserver.threads import Threads

AVAILABLE = hasattr(fcntl, "F_OFD_SETLK")
"""Whether this system has such locks; Linux does."""

_FIRST_PAUSE = 0.001
"""Seconds before the second attempt at a byte that another process holds; each further pause is twice as long."""
_LONGEST_PAUSE = 0.025
"""Seconds."""
_ASK_AGAIN = 0.25
"""Seconds after which a holder that stays is asked again: it may release the upload later."""
_CHECKED_NAMES = 100
"""Names that the leader checks each time for processes that have died."""
_LEADER = 0
"""Byte that the leader holds."""
_PROBE = 1
"""Byte that is locked and freed to see that locks work."""
logger = logging.getLogger("tusserver.locks")

_FLOCK = struct.Struct("hhqqi4x")


class FileLocker:
    """Locks below `folder`, which all processes name alike and which is on a local disk.

    `answer_timeout`: seconds for which other processes are waited for when they are asked about an upload.
    `peers_per_turn`: processes that are asked before the event loop runs something else.

    Raises:
        ValueError: the folder cannot be used.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        answer_timeout: float = ANSWER_TIMEOUT,
        peers_per_turn: int = PEERS_PER_TURN,
    ) -> None:
        self._answer_timeout = answer_timeout
        self._peers_per_turn = peers_per_turn
        self._within = MemoryLocker()
        self._peers: Peers | None = None
        self._opening: asyncio.Task[None] | None = None
        self._leader = False
        self._process = os.getpid()
        self._unreachable = False
        self._run = Threads(2, "tusserver-locks").run  # a disk that hangs also blocks the names of sockets
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
        self._domain = f"file {found.st_ino} of device {found.st_dev}"

    def _open_bytes(self) -> int:
        fd = os.open("held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._folder)
        self._open.append(fd)
        return fd

    def __del__(self) -> None:
        self._close()
        for fd in self._open:
            os.close(fd)

    def hold(
        self,
        upload_id: UploadId,
        preempt: Preempt | None = None,
        timeout: float = 0.0,
        before_request: Callable[[], Awaitable[None]] | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """See `Locker.hold`."""
        return _Hold(self, upload_id, preempt, timeout, before_request)

    async def is_leader(self) -> bool:
        """See `Locker.is_leader`."""
        self._after_fork()
        self._leader = self._leader or self.try_byte(_LEADER)
        if self._leader:
            names.clear(self._folder, most=_CHECKED_NAMES)
        return self._leader

    @property
    def domain(self) -> str:
        """See `Locker.domain`: the file's number, as a folder may have several names."""
        return self._domain

    async def check(self) -> None:
        """See `Locker.check`."""
        if not os.fstat(self._bytes).st_nlink:  # a process that starts now would use another file
            raise StoreUnavailable("the folder of the locks was removed")
        if self.try_byte(_PROBE):
            self.free_byte(_PROBE)

    async def aclose(self) -> None:
        """See `Locker.aclose`."""
        self._close()

    def _close(self) -> None:
        if self._process != os.getpid():
            self._forget()
            return
        self._close_peers()
        if self._leader:
            self._leader = False
            self.free_byte(_LEADER)

    def _close_peers(self) -> None:
        if self._peers is not None:
            self._peers.close()
            self._peers = None

    def try_byte(self, at: int) -> bool:
        """Lock a byte if no other process has locked it.

        Raises:
            StoreUnavailable: the file system has no such locks.
        """
        return self._set(fcntl.F_WRLCK, at)

    def free_byte(self, at: int) -> None:
        """Free a byte."""
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
        """Open the file again in a forked child: the open file of its parent would not exclude the two."""
        if self._process != (process := os.getpid()):
            self._bytes = self._open_bytes()
            self._forget()
            self._process = process

    def _forget(self) -> None:
        """Drop what belongs to the parent of a fork."""
        self._leader = False
        if self._peers is not None:
            self._peers.forget()
            self._peers = None

    async def ask(self, upload_id: UploadId, preempt: Preempt) -> bool:
        """Ask whichever process holds an upload to release it; return whether it does."""
        at = "-" if preempt.at is None else preempt.at
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
        peers = self._peers
        return None if peers is None else await peers.ask(upload_id, question, await self._run(peers.others))

    @property
    def listens(self) -> bool:
        """Whether other processes can ask the running loop."""
        self._after_fork()
        return self._peers is not None and self._peers.loop is asyncio.get_running_loop()

    async def listen(self) -> bool:
        """Let other processes ask this one from now on; return whether they can: a full disk has no room for a
        socket's name.

        Without it locks exclude all the same, and other processes wait for ours.
        """
        if not self.listens:
            try:
                await asyncio.shield(self._peers_being_opened())
            except OSError as error:
                if not self._unreachable:
                    logger.warning("other processes cannot ask for locks now: %s", error.strerror)
                self._unreachable = True
                return False
        self._unreachable = False
        return True

    def _peers_being_opened(self) -> asyncio.Task[None]:
        """Open one socket, however many requests need it at once and whichever of them are cancelled."""
        loop = asyncio.get_running_loop()
        if self._opening is None or self._opening.done() or self._opening.get_loop() is not loop:
            self._opening = loop.create_task(self._open_peers())
        return self._opening

    async def _open_peers(self) -> None:
        peers = Peers(
            self._folder,
            asyncio.get_running_loop(),
            self._within,
            answer_timeout=self._answer_timeout,
            peers_per_turn=self._peers_per_turn,
        )
        try:
            await self._run(peers.bind)
        except BaseException:
            peers.close()
            raise
        self._close_peers()
        self._peers = peers
        peers.listen()


class _Hold:
    """The context of one lease: within the process first, then across processes."""

    def __init__(
        self,
        locker: FileLocker,
        upload_id: UploadId,
        preempt: Preempt | None,
        timeout: float,
        before_request: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._locker = locker
        self._id = upload_id
        self._preempt = preempt
        self._timeout = timeout
        self._before_request = before_request
        self._byte = byte_of(upload_id)
        self._within = locker._within.hold(upload_id, preempt, timeout, before_request)

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
        if self._preempt is None and not self._timeout:
            raise UploadLocked
        loop = asyncio.get_running_loop()
        began = loop.time()
        asked = -_ASK_AGAIN
        pause = _FIRST_PAUSE
        releasing = False
        while True:
            if not releasing and loop.time() - asked >= _ASK_AGAIN:
                if self._before_request is not None:
                    await self._before_request()
                if self._preempt is not None:
                    releasing = await self._locker.ask(self._id, self._preempt)
                asked = loop.time()
            if self._locker.try_byte(self._byte):
                return
            if loop.time() >= began + (max(RELEASE_TIMEOUT, self._timeout) if releasing else self._timeout):
                raise UploadLocked
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def byte_of(upload_id: str) -> int:
    """Return the place of an upload's byte: 62 bits of its id's hash, behind the first bytes, which have other uses."""
    return 1024 + (int.from_bytes(hashlib.blake2b(upload_id.encode(), digest_size=8).digest()) >> 2)
