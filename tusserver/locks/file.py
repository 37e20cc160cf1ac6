"""Locks across the processes of one machine that share a folder.

Each upload is one byte of one file, found by the hash of its id; who holds the upload holds that byte (an open file
description lock). The kernel frees it when the process dies, however it dies: there are no lock files to go stale, no
process numbers to mistake for others, and nothing to clean up.

A holder in another process is asked how far it is, or to leave, by a datagram to the socket on which every process
listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import struct
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType

from tusserver.locks import names
from tusserver.locks.base import LEAVING, Lease, Takeover
from tusserver.locks.memory import MemoryLocker
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
_ANSWER = 0.5
"""Seconds a process has to answer."""
_SEND_AGAIN = 0.002
"""Seconds after which a datagram is sent again to a process that has not read the last ones: few are kept for it."""
_NOTHING = "-"
"""Answers who has nothing to say, be it that it holds the upload and stays, or that it does not hold it."""
_TURN = 50
"""Processes that are asked before others have their turn: killed ones may have left thousands of names."""
_LOOKED_AT = 100
"""Names that who leads looks at each time, whether their processes live."""
_LEAD = 0
"""Byte that the one holds who leads."""
_PROBE = 1
"""Byte that is taken and given back to see that locks work."""
logger = logging.getLogger("tusserver.locks")

_FLOCK = struct.Struct("hhqqi4x")
_DATAGRAM = 512


class FileLocker:
    """Locks below `folder`, which all processes name alike and which is on a local disk.

    Raises:
        ValueError: the folder cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._within = MemoryLocker()
        self._post: _Post | None = None
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
        post = _Post(self._folder, asyncio.get_running_loop(), self._within)
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


class _Post:
    """Datagrams between the processes: who wants an upload asks all of them, and the one that holds it answers."""

    def __init__(self, folder: int, loop: asyncio.AbstractEventLoop, within: MemoryLocker) -> None:
        self.loop = loop
        self._folder = folder
        self._within = within
        self._reporting: set[asyncio.Task[None]] = set()
        self._answers: dict[str, _Answer] = {}
        self._socket = names.datagrams()
        weakref.finalize(self, self._socket.close)  # without a warning, for those who do not close their locker
        self._name = ""

    def bind(self) -> None:
        """Take a name; to be called in a thread.

        Raises:
            OSError
        """
        self._name = names.bind(self._socket, self._folder)

    def begin(self) -> None:
        """Listen from now on."""
        self.loop.add_reader(self._socket.fileno(), self._read)

    def forget(self) -> None:
        """Leave the name to the process that we were forked from."""
        self._socket.close()

    def close(self) -> None:
        """Listen no more."""
        if self._socket.fileno() >= 0 and not self.loop.is_closed():
            self.loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._name:
            with contextlib.suppress(OSError):  # it has gone, or whoever leads removes it
                os.unlink(self._name, dir_fd=self._folder)

    def others(self) -> list[str]:
        """Name the sockets of the other processes; to be called in a thread."""
        try:
            return [name for name in names.listed(self._folder) if name != self._name]
        except OSError as error:  # too many open files: as if nobody had anything to say
            logger.warning("other processes cannot be asked for locks now: %s", error.strerror)
            return []

    async def ask(self, upload_id: UploadId, question: str, others: Sequence[str]) -> str | None:
        """Ask other processes; return what the holder says, None if nobody has anything to say."""
        token = secrets.token_hex(8)
        answer = self._answers[token] = _Answer(self.loop)
        try:
            answer.missing = 1  # until all are asked
            for number, name in enumerate(others, 1):
                answer.missing += self._send(name, f"ask {self._name} {token} {question} {upload_id}")
                if number % _TURN == 0:
                    await asyncio.sleep(0)
            answer.missing -= 1
            if answer.missing:
                await asyncio.wait([answer.said], timeout=_ANSWER)
            return answer.said.result() if answer.said.done() else None
        finally:
            del self._answers[token]

    def _send(self, name: str, text: str, until: float | None = None) -> bool:
        """Send a datagram, now or soon; return whether it may arrive."""
        try:
            if not names.is_socket(self._folder, name):
                return False
            self._socket.sendto(text.encode(), names.address(self._folder, name))
        except BlockingIOError:  # too busy to listen, or frozen
            now = self.loop.time()
            until = now + _ANSWER if until is None else until
            if now < until:
                self.loop.call_later(_SEND_AGAIN, self._send, name, text, until)
        except ConnectionRefusedError:  # its process died
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._folder)
            return False
        except OSError:  # gone meanwhile; or we are
            return False
        return True

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                match self._socket.recv(_DATAGRAM).decode("ascii", "replace").split(" "):
                    case ["ask", name, token, "leave", at, upload_id]:
                        self._leave(name, token, Takeover(int(at) if at.isdigit() else None), UploadId(upload_id))
                    case ["ask", name, token, "report", _, upload_id]:
                        if self._within.holds(UploadId(upload_id)):
                            report = self.loop.create_task(self._report(name, token, UploadId(upload_id)))
                            self._reporting.add(report)
                            report.add_done_callback(self._reporting.discard)
                        else:
                            self._send(name, f"answer {token} {_NOTHING}")
                    case ["answer", token, said] if token in self._answers:
                        self._answers[token].take(said)

    def _leave(self, name: str, token: str, takeover: Takeover, upload_id: UploadId) -> None:
        leaving = self._within.ask(upload_id, takeover)
        self._send(name, f"answer {token} {'leaving' if leaving else _NOTHING}")

    async def _report(self, name: str, token: str, upload_id: UploadId) -> None:
        try:
            offset = await self._within.report(upload_id)
        except Exception as error:
            logger.warning("an upload's offset could not be told: %s", error, extra={"upload_id": upload_id})
            offset = None
        self._send(name, f"answer {token} {_NOTHING if offset is None else offset}")


class _Answer:
    """What those who were asked say: what the first says that has something to say; nothing once all have answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.said: asyncio.Future[str | None] = loop.create_future()
        self.missing = 0

    def take(self, said: str) -> None:
        self.missing -= 1
        if not self.said.done() and (said != _NOTHING or not self.missing):
            self.said.set_result(None if said == _NOTHING else said)


def byte_of(upload_id: str) -> int:
    """Return the place of an upload's byte: 62 bits of its id's hash, behind the first bytes, which have other uses."""
    return 1024 + (int.from_bytes(hashlib.blake2b(upload_id.encode(), digest_size=8).digest()) >> 2)
