"""Worker threads that move a fast body from its socket to a file, by a buffer or by a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Final

from tusserver.protocol.checksum import Digest
from tusserver.server.recvfile_base import Turn
from tusserver.server.recvfile_shared import BUFFER_BYTES, make_buffer

PAGE_BYTES: Final = 4 << 10
"""Writes start at multiples of this where they can: one that starts inside a page touches that page a second time."""
SLICE_SECONDS: Final = 0.1
"""Until a worker reports."""
IDLE_SECONDS: Final = 0.025
"""That a worker waits for more bytes before it gives the socket back to the loop."""
HAS_SPLICE: Final = hasattr(os, "splice")
"""Whether the kernel can move bytes past user space; Linux can."""


def pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    """Write `data` from byte `offset` on, however many calls it takes."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)


class _Copy:
    """Moves bytes by a buffer, so that a digest can see them."""

    def __init__(self) -> None:
        self._buffer = make_buffer()

    def move(self, source: int, fd: int, offset: int, limit: int, digest: Digest | None) -> int:
        """Move up to `limit` bytes from a socket to byte `offset` of a file; return their number, 0 at the end.

        Raises:
            BlockingIOError: there are none now.
            OSError: the disk failed.
        """
        try:
            count = os.readv(source, (self._buffer[:limit],))
        except BlockingIOError:
            raise
        except OSError:  # of whatever kind, the connection is lost
            return 0
        data = self._buffer[:count]
        if count:
            pwrite_all(fd, data, offset)
            if digest is not None:
                digest.update(data)
        return count


class _Splice:
    """Moves bytes by a pipe: the kernel passes on what came from the network, and user space never sees it."""

    def __init__(self) -> None:
        self._out = self._in = -1
        self._out, self._in = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # each user has a limit for all pipes; one of 64 KiB does as well
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, BUFFER_BYTES)

    def move(self, source: int, fd: int, offset: int, limit: int, digest: Digest | None) -> int:
        """See `_Copy.move`."""
        try:
            count = os.splice(source, self._in, limit, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError:
            return 0
        left = count
        try:
            while left:
                left -= os.splice(self._out, fd, left, offset_dst=offset + count - left, flags=os.SPLICE_F_MOVE)
        except OSError:
            self._write_rest(fd, offset + count - left, left)
        return count

    def _write_rest(self, fd: int, offset: int, left: int) -> None:
        """Write what is in the pipe as plain bytes: some file systems want it so, else the error comes again.

        Either way the pipe is empty then, and no byte of this body gets into the next.
        """
        data = b""
        while len(data) < left:
            data += os.read(self._out, left - len(data))
        pwrite_all(fd, memoryview(data), offset)

    def __del__(self) -> None:
        if self._in >= 0:
            os.close(self._in)
            os.close(self._out)


class _Worker(threading.local):
    """What a worker thread keeps for itself: a buffer and a pipe, once it needed them."""

    copy: _Copy | None = None
    splice: _Splice | None = None

    def mover(self, digest: Digest | None) -> Callable[[int, int, int, int, Digest | None], int]:
        """Return what moves bytes that `digest` has to see."""
        if digest is None and HAS_SPLICE:
            with contextlib.suppress(OSError):  # too many open files for a pipe: a buffer needs none
                self.splice = self.splice or _Splice()
                return self.splice.move
        self.copy = self.copy or _Copy()
        return self.copy.move


_worker = _Worker()


def move_slice(
    source: int, fd: int, offset: int, left: int, digest: Digest | None, stopped: Callable[[], bool]
) -> tuple[int, Turn | OSError]:
    """Run in a worker: move bytes until it is time to report; return their number and why this ended."""
    move = _worker.mover(digest)
    done = 0
    until = perf_counter() + SLICE_SECONDS
    while done < left:
        limit = min(BUFFER_BYTES - (offset + done) % PAGE_BYTES, left - done)
        try:
            count = move(source, fd, offset + done, limit, digest)
        except BlockingIOError:
            if stopped() or not _becomes_readable(source):
                return done, Turn.IDLE
            continue
        except OSError as error:
            return done, error
        if not count:
            return done, Turn.DISCONNECTED
        done += count
        if stopped() or perf_counter() > until:
            break
    return done, Turn.SLICE_OVER if done < left else Turn.DONE


def _becomes_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(IDLE_SECONDS * 1000))
