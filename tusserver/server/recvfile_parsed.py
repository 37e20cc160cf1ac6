"""A body from the socket to a file by way of the HTTP parser: one in chunks, or one behind TLS.

The parser stays where it is, so that what frames a body is judged by nothing else, and trailers and further requests
are its as ever. But what it lets through is written before the next read: nothing is kept for a slow client but this
object. The transport reads into the buffer that all receivers of the loop share.

Writes are made beside the loop (see `lanes`), and an expensive digest of much by a worker thread. Meanwhile
nothing more of its body is read, and what it holds is no more than the body's share of the buffers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from tusserver.disk.files import write_all
from tusserver.protocol.errors import ClientDisconnected
from tusserver.server.recvfile_base import BodyReceiver, Turn, join_worker
from tusserver.server.recvfile_shared import LoopShare
from tusserver.streams import BodyCallbacks, FileTarget

READ_BYTES: Final = 256 << 10
"""Of one read."""
SHORT_READ_BYTES: Final = 32 << 10
"""The same, after one with many pieces: each costs a call of the parser, and other connections wait meanwhile."""
MANY_PIECES: Final = 1_000
"""Of one read."""


class ParsedReceiver(BodyReceiver):
    """What `owner` finds of a body, to a file, until `ended` says that all of it was found.

    The owner calls `take` with each piece.
    """

    __slots__ = (*("_admit", "_buffer_share", "_ended", "_many", "_pending_write", "_pieces", "_reserve", "_size"),)

    def __init__(
        self,
        share: LoopShare,
        transport: asyncio.Transport,
        owner: asyncio.Protocol,
        target: FileTarget,
        callbacks: BodyCallbacks,
        *,
        ended: Callable[[], bool],
    ) -> None:
        super().__init__(share, transport, owner, target, callbacks)
        self._reserve = target.reserve
        self._admit = callbacks.admit
        self._buffer_share = callbacks.buffer_share
        self._ended = ended
        self._pending_write: tuple[Awaitable[None], int] | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._many = False

    def take(self, piece: bytes) -> None:
        """Take the next bytes of the body; they are written when the read that they came with is parsed."""
        self._pieces.append(piece)
        self._size += len(piece)

    async def run(self) -> None:
        """Receive until the body ends, starting with what was taken before. The transport is paused, then and now.

        Raises:
            ClientDisconnected, OSError, TusError: see `streams.Wire.receive_into`.
        """
        self._share.bodies += 1
        try:
            while True:
                if self._pieces and self._needs_worker():
                    await self._write_in_worker()
                elif self._pieces:
                    self._write()
                await self._finish_write()
                if self._ended():
                    return
                if self._transport.is_closing() or await self._read() is Turn.DISCONNECTED:
                    raise ClientDisconnected
        finally:
            self._share.bodies -= 1
            # The transport may keep this object.
            del self._on_written, self._digest, self._admit, self._ended

    # reading ---------------------------------------------------------------------------------------------------------

    async def _read(self) -> Turn:
        """Read and write until the task has to do something."""
        turn = self._start_turn()
        try:
            return await turn
        except asyncio.CancelledError:
            self._retrieve(turn)
            await self._finish_write()
            if self._pieces:  # a worker was to write them
                await self._write_in_worker()
            raise
        finally:
            self._return_transport()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer of the shared buffer what this body may have."""
        return self._share.buffer[: min(SHORT_READ_BYTES if self._many else READ_BYTES, self._buffer_share())]

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read, and write what is of the body. An exception must not leave this method."""
        try:
            self._owner.data_received(self._share.buffer[:nbytes])  # type: ignore[arg-type]  # the parser takes any
            self._many = len(self._pieces) > MANY_PIECES
            if self._pieces and self._needs_worker():
                self._end_turn(Turn.USE_WORKER)
                return
            if self._pieces:
                self._write()
        except BaseException as error:
            self._end_turn(error)
            return
        if self._pending_write is not None:
            self._end_turn(Turn.WRITE_PENDING)
            return
        if self._ended():
            self._end_turn(Turn.DONE)
            return
        self._note_read(full=nbytes >= self._share.big_read)

    # writing ---------------------------------------------------------------------------------------------------------

    def _needs_worker(self) -> bool:
        return self._expensive and self._size >= self._share.big_read

    def _take_pieces(self) -> tuple[list[bytes], int]:
        """Return what is to be written now, and its size.

        Raises:
            TusError: it may not be.
        """
        pieces, size = self._pieces, self._size
        self._pieces, self._size = [], 0
        self._admit(size)
        return pieces, size

    def _write(self) -> None:
        """Write what was taken; if that does not come back at once, `_finish_write` waits for it."""
        pieces, size = self._take_pieces()
        pending = self._disk.attempt(self._put, pieces, size)
        if pending is None:
            self._note_written(size)
        else:
            self._pending_write = pending, size

    async def _finish_write(self) -> None:
        if self._pending_write is not None:
            (pending, size), self._pending_write = self._pending_write, None
            await self._wait(asyncio.ensure_future(pending), size)

    async def _write_in_worker(self) -> None:
        pieces, size = self._take_pieces()
        worker = self._loop.run_in_executor(self._share.pool, self._put, pieces, size)
        del pieces
        await self._wait(worker, size)

    async def _wait(self, worker: asyncio.Future[None], size: int) -> None:
        """Wait for a write, also when cancelled: it holds a descriptor of others."""
        cancelled = await join_worker(worker)
        worker.result()
        self._note_written(size)
        if cancelled is not None:
            raise cancelled

    def _put(self, pieces: list[bytes], size: int) -> None:
        """Write, in any thread."""
        if self._reserve is not None:
            self._reserve(self._offset, size)
        write_all(self._fd, pieces, self._offset)
        if self._digest is not None:
            for piece in pieces:
                self._digest.update(piece)

    def _note_written(self, size: int) -> None:
        self._offset += size
        self._on_written(size)
