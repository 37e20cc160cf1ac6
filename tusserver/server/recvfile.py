"""Bytes of one body on their way from the socket to a file, past the HTTP parser.

Two engines take turns. On the loop, the transport reads straight into one buffer that all connections share, and each
read is written at once: no copy in between, nothing kept for a slow client but this object. The write itself is made
beside the loop (see `lanes`); one that does not come back at once keeps the buffer, and its body waits alone. A body
that proves fast while the loop has other things to do, or whose writes or digest hold the loop up, goes to a worker
thread until its socket falls quiet.

The transport is paused when a drain begins and when it ends, however it ends. Not one byte behind the body is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable
from time import perf_counter

from tusserver.protocol.checksum import Digest
from tusserver.protocol.errors import ClientDisconnected
from tusserver.server.recvfile_base import Detour, Turn, outlive
from tusserver.server.recvfile_shared import GATHERING, Pump, make_buffer
from tusserver.server.recvfile_workers import BUFFER, PAGE, readable, worker, write_all
from tusserver.streams import Disk

SLICE = 0.1
"""Seconds until a thread tells how far it is."""
BIG_READ = 64 << 10
"""Bytes of a read that shows a fast client."""
WORTH_A_THREAD = 16 << 20
"""Bytes that must be left, else going there and back costs more than it brings."""
WORTH_RELIEF = 1 << 20
"""The same, where the loop suffers."""
SLOW_WRITE = 0.005
"""Seconds that a write may hold the loop up: dirty pages are being throttled, or the disk is slow."""
WAITING_READ = 16 << 10
"""Bytes of one read for a disk that is slow: each is held until it is written, of thousands of bodies maybe."""

SMALL_READ = 8 << 10
"""Bytes of a read that is hardly worth waking up for."""
SMALL_READS = 3
"""Small reads in a row after which the kernel is asked to gather bytes first (SO_RCVLOWAT)."""
GATHERED = 8 << 10
"""Bytes that the kernel gathers at most; they are held in its memory, three times their size."""


def is_heavy(digest: Digest | None) -> bool:
    """Whether a digest costs as much as everything else together: those of hashlib do, crc32 and blake3 do not."""
    return getattr(digest, "name", None) in hashlib.algorithms_guaranteed


class Drain(Detour):
    """`length` bytes from the socket of `transport` to `fd`, from byte `at` on.

    `owner` is the transport's protocol before and after; a lost connection and the flow of the answer are passed on to
    it. `first`: bytes of the body that are here already. See `streams.Wire.drain` for `digest` and `moved`.
    """

    __slots__ = (
        "_at",
        "_digest",
        "_disk",
        "_fd",
        "_first",
        "_full_at",
        "_heavy",
        "_left",
        "_looked_after",
        "_lowat",
        "_moved",
        "_number",
        "_pump",
        "_small",
        "_stop",
        "_updated",
        "_waited",
        "_writing",
    )

    def __init__(
        self,
        pump: Pump,
        transport: asyncio.Transport,
        owner: asyncio.Protocol,
        *,
        fd: int,
        at: int,
        length: int,
        digest: Digest | None,
        moved: Callable[[int], None],
        disk: Disk | None = None,
        first: bytes | bytearray = b"",
    ) -> None:
        super().__init__(transport, owner)
        self._pump = pump
        self._disk = pump.disk if disk is None else disk
        self._first = memoryview(first)
        self._writing: tuple[Awaitable[None], memoryview] | None = None
        self._fd = fd
        self._at = at
        self._left = length - len(first)
        self._digest = digest
        self._heavy = is_heavy(digest)
        self._moved = moved
        self._stop = False
        self._full_at = 0.0
        self._waited = 0.0
        self._updated = 0.0
        self._small = 0
        self._lowat = 1
        self._looked_after = False
        self._number = -1

    @property
    def left(self) -> int:
        """Bytes that have not come yet."""
        return self._left

    async def run(self, *, gone: bool = False) -> None:
        """Drain until the body ends. `gone`: whether the client is known to have gone: nothing more comes.

        Raises:
            ClientDisconnected, OSError: see `streams.Wire.drain`.
        """
        self._pump.bodies += 1
        try:
            first, self._first = self._first, memoryview(b"")
            if first:
                await self._write_through(first)
            del first  # a slow client would have it held for as long as it takes
            if gone and self._left:
                raise ClientDisconnected
            while self._left:
                turn = await self._on_the_loop()
                if self._writing is not None:
                    await self._written()
                relieved = turn is Turn.ESCALATE or (turn is Turn.WRITING and self._wants_a_thread(0.0, busy=False))
                if relieved and not await self._in_threads():
                    raise ClientDisconnected
        finally:
            self._pump.bodies -= 1
            del self._moved, self._digest  # the transport may keep this object until its next drain

    # on the loop -----------------------------------------------------------------------------------------------------

    async def _on_the_loop(self) -> Turn:
        if self._transport.is_closing():
            raise ClientDisconnected
        self._updated = perf_counter()
        turn = self._attach()
        try:
            ended = await turn
        except asyncio.CancelledError:
            self._see(turn)
            if self._attached and not self._transport.is_closing():
                with contextlib.suppress(Exception):  # the cancellation goes on; what could be kept was reported
                    self._sweep()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await self._written()
            raise
        finally:
            self._detach()
        if ended is Turn.GONE:
            raise ClientDisconnected
        return ended

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer the shared buffer, and never more of it than the body has left."""
        if self._full_at:
            self._waited = perf_counter() - self._full_at
        buffer, room = self._pump.buffer, BUFFER - self._at % PAGE
        if self._disk.slow:
            room = WAITING_READ
        return buffer if room == BUFFER <= self._left else buffer[: min(room, self._left)]

    def buffer_updated(self, nbytes: int) -> None:
        """Write what was read. An exception must not leave this method: it would end the connection."""
        before = perf_counter()
        data = self._pump.buffer[:nbytes]
        self._left -= nbytes
        try:
            writing = self._disk.attempt(write_all, self._fd, data, self._at)
            if writing is None:
                self._note(data)
        except BaseException as error:
            self._end(error)
            return
        if writing is not None:
            self._pump.buffer = make_buffer()  # the old one is being written from
            self._writing = writing, data
            self._end(Turn.WRITING)
            return
        after = perf_counter()
        self._updated = after
        if not self._left:
            self._end(Turn.WHOLE)
        elif nbytes >= BIG_READ:
            self._take_big(nbytes, after - before, after)
        else:
            self._full_at = 0.0
            if nbytes < SMALL_READ and self._small < SMALL_READS:
                self._small += 1
        if self._small == SMALL_READS and self._attached:
            self._gather()

    async def _write_through(self, data: memoryview) -> None:
        """Write what was there before the drain, as if it had been read on the loop."""
        writing = self._disk.attempt(write_all, self._fd, data, self._at)
        if writing is None:
            self._note(data)
        else:
            self._writing = writing, data
            await self._written()

    async def _written(self) -> None:
        """Wait for a write that did not come back at once, also when cancelled: it holds a descriptor of others."""
        if self._writing is None:
            return
        (writing, data), self._writing = self._writing, None
        worker = asyncio.ensure_future(writing)
        cancelled = await outlive(worker)
        worker.result()
        self._note(data)
        if cancelled is not None:
            raise cancelled

    def _note(self, data: memoryview) -> None:
        """Take bytes for written."""
        if self._digest is not None:
            self._digest.update(data)
        self._at += len(data)
        self._moved(len(data))

    def _take_big(self, count: int, took: float, now: float) -> None:
        busy = self._pump.busy(count, self._waited, now)
        self._waited = 0.0
        self._full_at = now if count == BUFFER else 0.0  # a full buffer: more stands ready
        if self._wants_a_thread(took, busy=busy):
            self._end(Turn.ESCALATE)
            return
        self._small = 0
        self._wait_for(1)
        self._read_was(full=count == BUFFER)

    def _wants_a_thread(self, took: float, *, busy: bool) -> bool:
        if self._pump.threads == 0 or self._left < WORTH_RELIEF:
            return False
        return self._heavy or took > SLOW_WRITE or self._disk.slow or (busy and self._left >= WORTH_A_THREAD)

    def _before_detaching(self) -> None:
        self._wait_for(1)

    # slow clients ----------------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        if self._lowat == 1:
            self._wait_for(min(GATHERED, self._left))
        elif self._lowat > self._left:  # half: the end is near, and each setting of it costs as much as a read
            self._wait_for(max(1, self._left // 2))
        if not self._looked_after and self._lowat > 1:
            self._looked_after = True
            self._pump.gather(self)

    def _wait_for(self, count: int) -> None:
        """Have the kernel wake us at `count` bytes. More than the body has left would never come."""
        if count != self._lowat:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
                self._lowat = count

    @property
    def _socket(self) -> socket.socket:
        """The transport's own (uvloop's stand-in for one can do little more than tell its number)."""
        found: socket.socket = self._transport.get_extra_info("socket")
        return found

    def look(self, now: float) -> bool:
        """Take what the kernel has gathered for long enough; return whether to look again."""
        self._looked_after = self._attached and self._lowat > 1 and not self._transport.is_closing()
        # Half: what came in good time for the last look is not to wait for the one after this.
        if self._looked_after and now - self._updated >= GATHERING / 2 and not self._sweep():
            if now - self._updated < 2.5 * GATHERING:
                return True  # a client that sends once a second just missed it
            # Silence. Whatever comes next is news, and not to be kept waiting.
            self._small = 0
            self._wait_for(1)
            self._looked_after = False
        return self._looked_after

    def catch_up(self) -> None:
        """Take what the kernel gathers now, not when it is enough."""
        if self._attached and self._lowat > 1 and not self._transport.is_closing():
            self._sweep()

    def _sweep(self) -> bool:
        """Take what the kernel has, without waiting; return whether there was something.

        On the loop and while the transport is open, so that the number of its socket is still its own.
        """
        if self._number < 0:
            self._number = self._socket.fileno()
        try:
            count = os.readv(self._number, (self.get_buffer(-1),))
        except OSError:  # nothing there, or an error that the transport is about to see
            return False
        if count:
            self.buffer_updated(count)
        return count > 0

    # in threads ------------------------------------------------------------------------------------------------------

    async def _in_threads(self) -> bool:
        """Let a worker drain until the socket falls quiet; return whether the client is still there."""
        if self._pump.threads == 0 or self._transport.is_closing():
            return not self._transport.is_closing()
        try:
            # A number of our own: if the transport closes, the old one may soon stand for another connection.
            own = os.dup(self._socket.fileno())
        except OSError:  # too many open files: the loop does it with those it has
            return True
        self._pump.threads -= 1
        try:
            while True:
                worker = self._loop.run_in_executor(self._pump.pool, self._burst, own)
                cancelled = await outlive(worker, self._stop_burst)
                count, how = worker.result()
                self._at += count
                self._left -= count
                if count:
                    self._moved(count)
                if cancelled is not None:
                    raise cancelled
                if isinstance(how, OSError):
                    raise how
                if how is not Turn.SLICED or self._transport.is_closing():
                    return how is not Turn.GONE and not self._transport.is_closing()
        finally:
            self._pump.threads += 1
            os.close(own)

    def _stop_burst(self) -> None:
        self._stop = True

    def _burst(self, source: int) -> tuple[int, Turn | OSError]:
        """Run in a worker: read and write until it is time to tell the loop; return the bytes and why it ended.

        Nothing of this object is changed here, but for the digest.
        """
        way = worker.way(self._digest)
        left, at, done = self._left, self._at, 0
        until = perf_counter() + SLICE
        while done < left:
            most = min(BUFFER - (at + done) % PAGE, left - done)
            try:
                count = way(source, self._fd, at + done, most, self._digest)
            except BlockingIOError:
                if self._stop or not readable(source):
                    return done, Turn.QUIET
                continue
            except OSError as error:
                return done, error
            if not count:
                return done, Turn.GONE
            done += count
            if self._stop or perf_counter() > until:
                break
        return done, Turn.SLICED if done < left else Turn.WHOLE
