"""Worker threads that move a fast body from its socket to a file, by a buffer or by a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import threading
from collections.abc import Callable

from tusserver.protocol.checksum import Digest

BUFFER = 512 << 10
"""Bytes of one read. ext4 takes writes of this size best: at 1 MiB the same bytes cost up to three times as much."""
SPLICES = hasattr(os, "splice")
"""Whether the kernel has a way past user space; Linux has."""
PAGE = 4 << 10
"""Writes begin at multiples of this where they can: one that begins inside a page touches that page a second time."""

QUIET = 0.025
"""Seconds that a thread waits for more bytes before it gives the socket back to the loop."""


def write_all(fd: int, data: memoryview, at: int) -> None:
    """Write `data` from byte `at` on, however many calls it takes."""
    written = os.pwrite(fd, data, at)
    while written < len(data):
        written += os.pwrite(fd, data[written:], at + written)


class _Copy:
    """A worker's way by a buffer, so that a digest can see the bytes."""

    def __init__(self) -> None:
        self._buffer = memoryview(mmap.mmap(-1, BUFFER))

    def move(self, source: int, fd: int, at: int, most: int, digest: Digest | None) -> int:
        """Move up to `most` bytes from a socket to byte `at` of a file; return their number, 0 at the end.

        Raises:
            BlockingIOError: there are none now.
            OSError: the disk failed.
        """
        try:
            count = os.readv(source, (self._buffer[:most],))
        except BlockingIOError:
            raise
        except OSError:  # whatever befell the connection, it is over
            return 0
        data = self._buffer[:count]
        if count:
            write_all(fd, data, at)
            if digest is not None:
                digest.update(data)
        return count


class _Splice:
    """A worker's way by a pipe: the kernel hands on what came from the network, and user space never sees it."""

    def __init__(self) -> None:
        self._out = self._in = -1
        self._out, self._in = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # each user has a limit for all pipes; one of 64 KiB does as well
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, BUFFER)

    def move(self, source: int, fd: int, at: int, most: int, digest: Digest | None) -> int:
        """See `_Copy.move`."""
        try:
            count = os.splice(source, self._in, most, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError:
            return 0
        left = count
        try:
            while left:
                left -= os.splice(self._out, fd, left, offset_dst=at + count - left, flags=os.SPLICE_F_MOVE)
        except OSError:
            self._rescue(fd, at + count - left, left)
        return count

    def _rescue(self, fd: int, at: int, left: int) -> None:
        """Write what is in the pipe as plain bytes: some file systems want it so, else the error comes again.

        Either way the pipe is empty then, and no byte of this body gets into the next.
        """
        data = b""
        while len(data) < left:
            data += os.read(self._out, left - len(data))
        write_all(fd, memoryview(data), at)

    def __del__(self) -> None:
        if self._in >= 0:
            os.close(self._in)
            os.close(self._out)


class _Thread(threading.local):
    """What a worker keeps for itself: ways for the bytes."""

    copy: _Copy | None = None
    splice: _Splice | None = None

    def way(self, digest: Digest | None) -> Callable[[int, int, int, int, Digest | None], int]:
        """Return how to move bytes that `digest` wants to see."""
        if digest is None and SPLICES:
            with contextlib.suppress(OSError):  # too many open files for a pipe: a buffer needs none
                self.splice = self.splice or _Splice()
                return self.splice.move
        self.copy = self.copy or _Copy()
        return self.copy.move


worker = _Thread()


def readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(QUIET * 1000))
