"""A body on its way from the socket to a file by way of the HTTP parser: one in chunks, or one behind TLS.

The parser stays where it is, so that what frames a body is judged by nobody else, and trailers and further requests
are its as ever. But what it lets through is written before the next read: nothing is kept for a slow client but this
object. The transport reads into the buffer that all drains share.

Writes are made beside the loop (see `lanes`), and a digest of much by a worker thread. While one is under way nothing
more of its body is read, and what it holds is no more than the body's share of the buffers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tusserver.protocol.checksum import Digest
from tusserver.protocol.errors import ClientDisconnected
from tusserver.server.recvfile import BIG_READ, is_heavy
from tusserver.server.recvfile_base import Detour, Turn, outlive
from tusserver.server.recvfile_shared import Pump
from tusserver.stores.disk import write_all
from tusserver.streams import Disk, MakeRoom

READ = 256 << 10
"""Bytes of one read."""
SHORT_READ = 32 << 10
"""The same, after one with many pieces: each costs a call of the parser, and others wait meanwhile."""
MANY = 1_000
"""Pieces of one read."""


class ParsedDrain(Detour):
    """What `owner` finds of a body, to `fd`, from byte `at` on, until `whole` says that it has ended.

    The owner calls `take` with each piece. See `streams.Wire.drain` for `digest`, `moved` and `disk`, and `Wire.pour`
    for `admit`, `share` and `make_room`.
    """

    __slots__ = (
        *("_admit", "_at", "_digest", "_disk", "_fd", "_heavy", "_make_room", "_many", "_moved", "_pieces", "_pump"),
        *("_share", "_size", "_whole", "_writing"),
    )

    def __init__(
        self,
        pump: Pump,
        transport: asyncio.Transport,
        owner: asyncio.Protocol,
        *,
        fd: int,
        at: int,
        digest: Digest | None,
        moved: Callable[[int], None],
        admit: Callable[[int], None],
        share: Callable[[], int],
        whole: Callable[[], bool],
        disk: Disk | None = None,
        make_room: MakeRoom | None = None,
    ) -> None:
        super().__init__(transport, owner)
        self._pump = pump
        self._disk = pump.disk if disk is None else disk
        self._make_room = make_room
        self._writing: tuple[Awaitable[None], int] | None = None
        self._fd = fd
        self._at = at
        self._digest = digest
        self._heavy = is_heavy(digest)
        self._moved = moved
        self._admit = admit
        self._share = share
        self._whole = whole
        self._pieces: list[bytes] = []
        self._size = 0
        self._many = False

    def take(self, piece: bytes) -> None:
        """Take the next bytes of the body; they are written when the read that they came with is parsed."""
        self._pieces.append(piece)
        self._size += len(piece)

    async def run(self) -> None:
        """Drain until the body ends, beginning with what was taken before. The transport is paused, then and now.

        Raises:
            ClientDisconnected, OSError: see `streams.Wire.drain`; and what `admit` raises.
        """
        self._pump.bodies += 1
        try:
            while True:
                if self._pieces and self._wants_a_thread():
                    await self._write_in_a_thread()
                elif self._pieces:
                    self._write()
                await self._written()
                if self._whole():
                    return
                if self._transport.is_closing() or await self._read() is Turn.GONE:
                    raise ClientDisconnected
        finally:
            self._pump.bodies -= 1
            del self._moved, self._digest, self._admit, self._whole  # the transport may keep this object

    # reading ---------------------------------------------------------------------------------------------------------

    async def _read(self) -> Turn:
        """Read and write until something has to be done by the task."""
        turn = self._attach()
        try:
            return await turn
        except asyncio.CancelledError:
            self._see(turn)
            await self._written()
            if self._pieces:  # a thread was to write them
                await self._write_in_a_thread()
            raise
        finally:
            self._detach()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer of the shared buffer what this body may have."""
        return self._pump.buffer[: min(SHORT_READ if self._many else READ, self._share())]

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read, and write what is of the body. An exception must not leave this method."""
        try:
            self._owner.data_received(self._pump.buffer[:nbytes])  # type: ignore[arg-type]  # the parser takes any buffer
            self._many = len(self._pieces) > MANY
            if self._pieces and self._wants_a_thread():
                self._end(Turn.ESCALATE)
                return
            if self._pieces:
                self._write()
        except BaseException as error:
            self._end(error)
            return
        if self._writing is not None:
            self._end(Turn.WRITING)
            return
        if self._whole():
            self._end(Turn.WHOLE)
            return
        self._read_was(full=nbytes >= BIG_READ)

    # writing ---------------------------------------------------------------------------------------------------------

    def _wants_a_thread(self) -> bool:
        return self._heavy and self._size >= BIG_READ

    def _take_over(self) -> tuple[list[bytes], int]:
        """Return what is to be written now.

        Raises:
            TusError: it may not be.
        """
        pieces, size = self._pieces, self._size
        self._pieces, self._size = [], 0
        self._admit(size)
        return pieces, size

    def _write(self) -> None:
        """Write what was taken; if that does not come back at once, `_written` waits for it."""
        pieces, size = self._take_over()
        writing = self._disk.attempt(self._put, pieces, size)
        if writing is None:
            self._note(size)
        else:
            self._writing = writing, size

    async def _written(self) -> None:
        if self._writing is not None:
            (writing, size), self._writing = self._writing, None
            await self._wait(asyncio.ensure_future(writing), size)

    async def _write_in_a_thread(self) -> None:
        pieces, size = self._take_over()
        worker = self._loop.run_in_executor(self._pump.pool, self._put, pieces, size)
        del pieces
        await self._wait(worker, size)

    async def _wait(self, worker: asyncio.Future[None], size: int) -> None:
        """Wait for a write, also when cancelled: it holds a descriptor of others."""
        cancelled = await outlive(worker)
        worker.result()
        self._note(size)
        if cancelled is not None:
            raise cancelled

    def _put(self, pieces: list[bytes], size: int) -> None:
        """Write, in any thread."""
        if self._make_room is not None:
            self._make_room(self._at, size)
        write_all(self._fd, pieces, self._at)
        if self._digest is not None:
            for piece in pieces:
                self._digest.update(piece)

    def _note(self, size: int) -> None:
        self._at += size
        self._moved(size)
