"""Datagrams between the processes that share a folder of locks: how far is an upload, and a request to release it.

Each process listens on one socket with a name in that folder (see `names`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import weakref
from collections.abc import Sequence

from tusserver.locks import names
from tusserver.locks.base import Preempt
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.upload import UploadId

ANSWER_TIMEOUT = 0.5
"""Seconds within which a process answers."""
_RESEND = 0.002
"""Seconds after which a datagram is sent again to a process that has not read the last ones: the kernel keeps ten."""
_NOTHING = "-"
"""The answer of a process that does not hold the upload, or that holds it and stays."""
PEERS_PER_TURN = 50
"""Processes that are asked before the loop runs something else: killed ones may have left thousands of names."""
_DATAGRAM = 512
logger = logging.getLogger("tusserver.locks")


class Peers:
    """The socket of one process: a question goes to all others, and the one that holds the upload answers.

    `answer_timeout`: seconds. `peers_per_turn`: processes that are asked before the loop runs something else.
    """

    def __init__(
        self,
        folder: int,
        loop: asyncio.AbstractEventLoop,
        within: MemoryLocker,
        *,
        answer_timeout: float,
        peers_per_turn: int,
    ) -> None:
        self.loop = loop
        self._folder = folder
        self._within = within
        self._answer_timeout = answer_timeout
        self._peers_per_turn = peers_per_turn
        self._reporting: set[asyncio.Task[None]] = set()
        self._answers: dict[str, _Answer] = {}
        self._socket = names.datagrams()
        weakref.finalize(self, self._socket.close)  # without a warning, for those who do not close their locker
        self._name = ""

    def bind(self) -> None:
        """Give the socket its name; to be called in a thread.

        Raises:
            OSError
        """
        self._name = names.bind(self._socket, self._folder)

    def listen(self) -> None:
        """Answer from now on."""
        self.loop.add_reader(self._socket.fileno(), self._read)

    def forget(self) -> None:
        """Close the socket in a forked child; its name stays, as it is the parent's."""
        self._socket.close()

    def close(self) -> None:
        """Close the socket and remove its name."""
        if self._socket.fileno() >= 0 and not self.loop.is_closed():
            self.loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._name:
            with contextlib.suppress(OSError):  # it was removed, or the leader removes it
                os.unlink(self._name, dir_fd=self._folder)

    def others(self) -> list[str]:
        """Return the names of the other processes' sockets; to be called in a thread."""
        try:
            return [name for name in names.listed(self._folder) if name != self._name]
        except OSError as error:  # too many open files: as if nobody answered
            logger.warning("other processes cannot be asked for locks now: %s", error.strerror)
            return []

    async def ask(self, upload_id: UploadId, question: str, others: Sequence[str]) -> str | None:
        """Ask other processes; return the answer of the holder, None if there is none."""
        token = secrets.token_hex(8)
        answer = self._answers[token] = _Answer(self.loop)
        try:
            answer.missing = 1  # until all are asked
            for number, name in enumerate(others, 1):
                answer.missing += self._send(name, f"ask {self._name} {token} {question} {upload_id}")
                if number % self._peers_per_turn == 0:
                    await asyncio.sleep(0)
            answer.missing -= 1
            if answer.missing:
                await asyncio.wait([answer.said], timeout=self._answer_timeout)
            return answer.said.result() if answer.said.done() else None
        finally:
            del self._answers[token]

    def _send(self, name: str, text: str, until: float | None = None) -> bool:
        """Send a datagram, now or within `answer_timeout`; return whether it may arrive."""
        try:
            if not names.is_socket(self._folder, name):
                return False
            self._socket.sendto(text.encode(), names.address(self._folder, name))
        except BlockingIOError:  # too busy to listen, or frozen
            now = self.loop.time()
            until = now + self._answer_timeout if until is None else until
            if now < until:
                self.loop.call_later(_RESEND, self._send, name, text, until)
        except ConnectionRefusedError:  # its process died
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._folder)
            return False
        except OSError:  # it was closed meanwhile; or this one was
            return False
        return True

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                match self._socket.recv(_DATAGRAM).decode("ascii", "replace").split(" "):
                    case ["ask", name, token, "leave", at, upload_id]:
                        self._release(name, token, Preempt(int(at) if at.isdigit() else None), UploadId(upload_id))
                    case ["ask", name, token, "report", _, upload_id]:
                        if self._within.holds(UploadId(upload_id)):
                            report = self.loop.create_task(self._report(name, token, UploadId(upload_id)))
                            self._reporting.add(report)
                            report.add_done_callback(self._reporting.discard)
                        else:
                            self._send(name, f"answer {token} {_NOTHING}")
                    case ["answer", token, said] if token in self._answers:
                        self._answers[token].take(said)

    def _release(self, name: str, token: str, preempt: Preempt, upload_id: UploadId) -> None:
        releases = self._within.ask(upload_id, preempt)
        self._send(name, f"answer {token} {'leaving' if releases else _NOTHING}")

    async def _report(self, name: str, token: str, upload_id: UploadId) -> None:
        try:
            offset = await self._within.report(upload_id)
        except Exception as error:
            logger.warning("an upload's offset could not be told: %s", error, extra={"upload_id": upload_id})
            offset = None
        self._send(name, f"answer {token} {_NOTHING if offset is None else offset}")


class _Answer:
    """The first answer that says something, of all that were asked; None once all have answered with nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.said: asyncio.Future[str | None] = loop.create_future()
        self.missing = 0

    def take(self, said: str) -> None:
        self.missing -= 1
        if not self.said.done() and (said != _NOTHING or not self.missing):
            self.said.set_result(None if said == _NOTHING else said)
