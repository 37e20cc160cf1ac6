"""What the receivers of bodies have in common: they read from a connection for a while instead of its HTTP protocol.

The transport is paused when a receiver takes it and when it gives it back. Between the two it reads in turns: a turn
ends when the task that started it has to do something itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

from tusserver.protocol.checksum import Digest
from tusserver.server.recvfile_shared import LoopShare
from tusserver.streams import BodyCallbacks, FileTarget
from tusserver.threads import until_done

FULL_READS: Final = 4
"""Full reads of one body in a row before the loop serves its other connections; libuv alone would make 32."""


class Turn(Enum):
    """How a turn on the loop or in a worker thread ended."""

    DONE = auto()
    """The body has ended."""
    DISCONNECTED = auto()
    IDLE = auto()
    """Nothing comes at the moment."""
    USE_WORKER = auto()
    WRITE_PENDING = auto()
    """A write did not come back at once."""
    SLICE_OVER = auto()
    """The worker has to report."""


def is_expensive(digest: Digest | None) -> bool:
    """Whether a digest costs as much as everything else together: those of hashlib do, crc32 and blake3 do not."""
    return getattr(digest, "name", None) in hashlib.algorithms_guaranteed


async def join_worker(
    worker: asyncio.Future[Any], stop: Callable[[], None] | None = None
) -> asyncio.CancelledError | None:
    """Wait for a worker even when cancelled: it must not be left alone with descriptors that others will close.

    `stop` is called when that happens. Returns the cancellation, for the caller to raise.
    """
    cancelled: asyncio.CancelledError | None = None
    try:
        await asyncio.wait([worker])
    except asyncio.CancelledError as error:
        cancelled = error
        if stop is not None:
            stop()
    await until_done(worker)
    return cancelled


class BodyReceiver(asyncio.BufferedProtocol):
    """Receives into `target`; replaces `owner`, the protocol of `transport`, meanwhile.

    It passes lost connections and the flow of the answer on to the owner.
    """

    __slots__ = (
        *("_digest", "_disk", "_expensive", "_fd", "_full_reads", "_has_transport", "_loop", "_offset", "_on_written"),
        *("_owner", "_share", "_transport", "_turn"),
    )

    def __init__(
        self,
        share: LoopShare,
        transport: asyncio.Transport,
        owner: asyncio.Protocol,
        target: FileTarget,
        callbacks: BodyCallbacks,
    ) -> None:
        self._share = share
        self._fd = target.fd
        self._offset = target.offset
        self._disk = share.disk if target.disk is None else target.disk
        self._on_written = callbacks.on_written
        self._digest = callbacks.digest
        self._expensive = is_expensive(self._digest)
        self._transport = transport
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Future[Turn] | None = None
        self._has_transport = False
        self._full_reads = 0

    # a turn ----------------------------------------------------------------------------------------------------------

    def _start_turn(self) -> asyncio.Future[Turn]:
        """Take the transport and read; what this returns says how the turn ended."""
        turn = self._turn = self._loop.create_future()
        self._has_transport = True
        self._transport.set_protocol(self)
        self._transport.resume_reading()
        return turn

    def _end_turn(self, how: Turn | BaseException) -> None:
        """End this turn, at once: the transport may ask for the buffer again before the task runs."""
        self._return_transport()
        if self._turn is None or self._turn.done():
            return
        if isinstance(how, Turn):
            self._turn.set_result(how)
        else:
            self._turn.set_exception(how)

    def _retrieve(self, turn: asyncio.Future[Turn]) -> None:
        """Retrieve the error of a turn that is not awaited any more: asyncio logs those that were not retrieved."""
        if turn.done() and not turn.cancelled():
            turn.exception()

    def _return_transport(self) -> None:
        """Give the connection back to its owner, paused."""
        if not self._has_transport:
            return
        self._has_transport = False
        if self._transport.is_closing():
            return
        self._restore_socket()
        # Only while it is paused: uvloop chooses the way of reading when reading starts.
        self._transport.pause_reading()
        self._transport.set_protocol(self._owner)

    def _restore_socket(self) -> None:
        """Undo what was done to the socket, if anything was."""

    def _note_read(self, *, full: bool) -> None:
        """Let other connections be served after many full reads in a row."""
        self._full_reads = self._full_reads + 1 if full else 0
        if self._full_reads == FULL_READS:
            self._full_reads = 0
            self._transport.pause_reading()
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self._has_transport and not self._transport.is_closing():
            self._transport.resume_reading()

    # for the transport -----------------------------------------------------------------------------------------------

    def eof_received(self) -> None:
        """Let the transport close; `connection_lost` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on to the owner, and end the turn."""
        self._has_transport = False
        self._owner.connection_lost(exc)
        self._end_turn(Turn.DISCONNECTED)

    def pause_writing(self) -> None:
        """Pass it on to the owner."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on to the owner."""
        self._owner.resume_writing()
