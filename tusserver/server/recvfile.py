"""A body from the socket to a file, past the HTTP parser.

Two engines take turns. On the loop, the transport reads straight into one buffer that all connections share, and each
read is written at once: no copy in between, nothing kept for a slow client but this object. The write itself is made
beside the loop (see `lanes`); one that does not come back at once keeps the buffer, and its body waits alone. A body
that proves fast while the loop has other things to do, or whose writes or digest slow the loop down, goes to a worker
thread until nothing comes for a moment.

Not one byte after the body is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable
from time import perf_counter
from typing import Final

from tusserver.protocol.errors import ClientDisconnected
from tusserver.server.recvfile_base import BodyReceiver, Turn, join_worker
from tusserver.server.recvfile_shared import BUFFER_BYTES, LoopShare, make_buffer
from tusserver.server.recvfile_workers import PAGE_BYTES, move_slice, pwrite_all
from tusserver.streams import BodyCallbacks, FileTarget

SLOW_DISK_READ_BYTES: Final = 16 << 10
"""Of one read for a disk that is slow: each is held until it is written, maybe for thousands of bodies."""
SMALL_READ_BYTES: Final = 8 << 10
"""Of a read that is hardly worth a wakeup."""
SMALL_READS: Final = 3
"""Small reads in a row after which the kernel is asked to hold back bytes until there are more (SO_RCVLOWAT)."""
COALESCED_BYTES: Final = 8 << 10
"""That the kernel holds back at most; they take three times their size of its memory."""


class FileReceiver(BodyReceiver):
    """`length` bytes from the socket of `transport` to a file; `received` are here already.

    `owner` is the transport's protocol before and after.
    """

    __slots__ = (
        *("_full_at", "_last_read_at", "_left", "_low_water", "_pending_write", "_polled", "_received"),
        *("_small_reads", "_socket_fd", "_stopped", "_waited"),
    )

    def __init__(
        self,
        share: LoopShare,
        transport: asyncio.Transport,
        owner: asyncio.Protocol,
        target: FileTarget,
        callbacks: BodyCallbacks,
        *,
        length: int,
        received: bytes | bytearray = b"",
    ) -> None:
        super().__init__(share, transport, owner, target, callbacks)
        self._received = memoryview(received)
        self._left = length - len(received)
        self._pending_write: tuple[Awaitable[None], memoryview] | None = None
        self._stopped = False
        """Whether the worker is to stop."""
        self._full_at = 0.0
        """When the buffer was full: more stood ready."""
        self._waited = 0.0
        """Seconds from then to the next read."""
        self._last_read_at = 0.0
        self._small_reads = 0
        """In a row, up to `SMALL_READS`."""
        self._low_water = 1
        """Bytes that the kernel wakes us at."""
        self._polled = False
        """Whether `poll` is called from time to time."""
        self._socket_fd = -1

    @property
    def left(self) -> int:
        """Bytes that have not come yet."""
        return self._left

    async def run(self, *, disconnected: bool = False) -> None:
        """Receive until the body ends. `disconnected`: nothing more comes than is here.

        Raises:
            ClientDisconnected, OSError: see `streams.Wire.receive_into`.
        """
        self._share.bodies += 1
        try:
            received, self._received = self._received, memoryview(b"")
            if received:
                await self._write_received(received)
            del received  # a slow client would have it held for as long as it takes
            if disconnected and self._left:
                raise ClientDisconnected
            while self._left:
                turn = await self._on_the_loop()
                if self._pending_write is not None:
                    await self._finish_write()
                use = turn is Turn.USE_WORKER or (turn is Turn.WRITE_PENDING and self._needs_worker(0.0, busy=False))
                if use and not await self._in_worker():
                    raise ClientDisconnected
        finally:
            self._share.bodies -= 1
            del self._on_written, self._digest  # the transport may keep this object until its next receiver

    # on the loop -----------------------------------------------------------------------------------------------------

    async def _on_the_loop(self) -> Turn:
        if self._transport.is_closing():
            raise ClientDisconnected
        self._last_read_at = perf_counter()
        turn = self._start_turn()
        try:
            ended = await turn
        except asyncio.CancelledError:
            self._retrieve(turn)
            if self._has_transport and not self._transport.is_closing():
                with contextlib.suppress(Exception):  # the cancellation goes on; what could be kept was reported
                    self._read_now()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await self._finish_write()
            raise
        finally:
            self._return_transport()
        if ended is Turn.DISCONNECTED:
            raise ClientDisconnected
        return ended

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer the shared buffer, and never more of it than the body has left."""
        if self._full_at:
            self._waited = perf_counter() - self._full_at
        buffer, limit = self._share.buffer, BUFFER_BYTES - self._offset % PAGE_BYTES
        if self._disk.slow:
            limit = SLOW_DISK_READ_BYTES
        return buffer if limit == BUFFER_BYTES <= self._left else buffer[: min(limit, self._left)]

    def buffer_updated(self, nbytes: int) -> None:
        """Write what was read. An exception must not leave this method: it would close the connection."""
        before = perf_counter()
        data = self._share.buffer[:nbytes]
        self._left -= nbytes
        try:
            pending = self._disk.attempt(pwrite_all, self._fd, data, self._offset)
            if pending is None:
                self._note_written(data)
        except BaseException as error:
            self._end_turn(error)
            return
        if pending is not None:
            self._share.buffer = make_buffer()  # the old one is being written from
            self._pending_write = pending, data
            self._end_turn(Turn.WRITE_PENDING)
            return
        after = perf_counter()
        self._last_read_at = after
        if not self._left:
            self._end_turn(Turn.DONE)
        elif nbytes >= self._share.big_read:
            self._note_big_read(nbytes, after - before, after)
        else:
            self._full_at = 0.0
            if nbytes < SMALL_READ_BYTES and self._small_reads < SMALL_READS:
                self._small_reads += 1
        if self._small_reads == SMALL_READS and self._has_transport:
            self._coalesce()

    async def _write_received(self, data: memoryview) -> None:
        """Write what was here before, as if it had been read on the loop."""
        pending = self._disk.attempt(pwrite_all, self._fd, data, self._offset)
        if pending is None:
            self._note_written(data)
        else:
            self._pending_write = pending, data
            await self._finish_write()

    async def _finish_write(self) -> None:
        """Wait for a write that did not come back at once, also when cancelled: it holds a descriptor of others."""
        if self._pending_write is None:
            return
        (pending, data), self._pending_write = self._pending_write, None
        worker = asyncio.ensure_future(pending)
        cancelled = await join_worker(worker)
        worker.result()
        self._note_written(data)
        if cancelled is not None:
            raise cancelled

    def _note_written(self, data: memoryview) -> None:
        if self._digest is not None:
            self._digest.update(data)
        self._offset += len(data)
        self._on_written(len(data))

    def _note_big_read(self, count: int, took: float, now: float) -> None:
        busy = self._share.is_busy(count, self._waited, now)
        self._waited = 0.0
        self._full_at = now if count == BUFFER_BYTES else 0.0
        if self._needs_worker(took, busy=busy):
            self._end_turn(Turn.USE_WORKER)
            return
        self._small_reads = 0
        self._set_low_water(1)
        self._note_read(full=count == BUFFER_BYTES)

    def _needs_worker(self, took: float, *, busy: bool) -> bool:
        share = self._share
        if share.free_threads == 0 or self._left < share.relief_bytes:
            return False
        slow = self._expensive or took > share.slow_write or self._disk.slow
        return slow or (busy and self._left >= share.worker_bytes)

    def _restore_socket(self) -> None:
        self._set_low_water(1)

    # slow clients ----------------------------------------------------------------------------------------------------

    def _coalesce(self) -> None:
        """Ask the kernel to hold back bytes until there are more."""
        if self._low_water == 1:
            self._set_low_water(min(COALESCED_BYTES, self._left))
        elif self._low_water > self._left:  # half: the end is near, and each setting of it costs as much as a read
            self._set_low_water(max(1, self._left // 2))
        if not self._polled and self._low_water > 1:
            self._polled = True
            self._share.poll_later(self)

    def _set_low_water(self, count: int) -> None:
        """Have the kernel wake us at `count` bytes. More than the body has left would never come."""
        if count != self._low_water:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
                self._low_water = count

    @property
    def _socket(self) -> socket.socket:
        """The transport's own (uvloop's stand-in for one can do little more than return its number)."""
        found: socket.socket = self._transport.get_extra_info("socket")
        return found

    def poll(self, now: float) -> bool:
        """See `Coalescing.poll`."""
        share, silent = self._share, now - self._last_read_at
        self._polled = self._has_transport and self._low_water > 1 and not self._transport.is_closing()
        # Half: what came in good time for the last poll is not to wait for the one after this.
        if self._polled and silent >= share.coalesce_seconds / 2 and not self._read_now():
            if silent < 2.5 * share.coalesce_seconds:
                return True  # a client that sends once a second just missed it
            # Silence. Whatever comes next is news, and not to be kept waiting.
            self._small_reads = 0
            self._set_low_water(1)
            self._polled = False
        return self._polled

    def read_pending(self) -> None:
        """Read now what the kernel holds back."""
        if self._has_transport and self._low_water > 1 and not self._transport.is_closing():
            self._read_now()

    def _read_now(self) -> bool:
        """Read what the kernel has, without waiting; return whether there was something.

        On the loop and while the transport is open, so that the number of its socket is still its own.
        """
        if self._socket_fd < 0:
            self._socket_fd = self._socket.fileno()
        try:
            count = os.readv(self._socket_fd, (self.get_buffer(-1),))
        except OSError:  # nothing there, or an error that the transport is about to see
            return False
        if count:
            self.buffer_updated(count)
        return count > 0

    # in a worker thread ----------------------------------------------------------------------------------------------

    async def _in_worker(self) -> bool:
        """Let a worker receive until nothing comes for a moment; return whether the client is still there."""
        share = self._share
        if share.free_threads == 0 or self._transport.is_closing():
            return not self._transport.is_closing()
        try:
            # A descriptor of our own: if the transport closes, the old one may soon stand for another connection.
            own = os.dup(self._socket.fileno())
        except OSError:  # too many open files: the loop does it with those it has
            return True
        share.free_threads -= 1
        try:
            while True:
                worker = self._loop.run_in_executor(
                    share.pool, move_slice, own, self._fd, self._offset, self._left, self._digest, self._is_stopped
                )
                cancelled = await join_worker(worker, self._stop)
                count, how = worker.result()
                self._offset += count
                self._left -= count
                if count:
                    self._on_written(count)
                if cancelled is not None:
                    raise cancelled
                if isinstance(how, OSError):
                    raise how
                if how is not Turn.SLICE_OVER or self._transport.is_closing():
                    return how is not Turn.DISCONNECTED and not self._transport.is_closing()
        finally:
            share.free_threads += 1
            os.close(own)

    def _stop(self) -> None:
        self._stopped = True

    def _is_stopped(self) -> bool:
        return self._stopped
