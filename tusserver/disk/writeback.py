"""Bytes on their way to the disk in steps, so that no call waits for all of a large file.

What makes them last is the `fdatasync` that follows, which finds little to do then.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

from tusserver.lanes import Lane, Lanes
from tusserver.threads import outlast

STEP: Final = 16 << 20
"""Bytes of a step: much less than a second's work for any disk."""
AHEAD: Final = 32 << 20
"""Bytes after which a body that is synced at its end starts on its way to the disk."""

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ESPIPE}


def _find() -> Callable[[int, int, int, int], int] | None:
    """sync_file_range(2); Linux has it."""
    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (AttributeError, OSError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    call.restype = ctypes.c_int
    return lambda fd, at, length, flags: ctypes.get_errno() if call(fd, at, length, flags) else 0


_sync_file_range = _find()


def begin(fd: int, at: int, length: int) -> None:
    """Have the kernel start to write a range to the disk. What it cannot write is told by a later sync."""
    if _sync_file_range is not None:
        _sync_file_range(fd, at, length, _WRITE)


def step(path: str, at: int, length: int) -> None:
    """Write a range of a file to the disk, and wait for that.

    Raises:
        OSError: it failed, so a sync that follows says nothing about this range.
    """
    if _sync_file_range is None:
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        failed = _sync_file_range(fd, at, length, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
    finally:
        os.close(fd)
    if failed and failed not in _UNSUPPORTED:
        raise OSError(errno.EIO, f"not synced ({os.strerror(failed)})")


class Ahead:
    """Starts the bytes of one file on their way while more of them come. `at`: where the first of them is."""

    def __init__(self, lanes: Lanes, at: int) -> None:
        self._lanes = lanes
        self._at = at
        self._under_way: asyncio.Future[None] | None = None

    def note(self, fd: int, reached: int) -> None:
        """Take note that all is written up to byte `reached`. The file stays open until `end` has returned."""
        ready = self._under_way is None or self._under_way.done()
        if ready and reached - self._at >= AHEAD:
            self._under_way = self._lanes.start(Lane.LONG_SYNCS, begin, fd, self._at, reached - self._at)
            self._at = reached

    async def end(self) -> None:
        """Return once no call is under way."""
        if self._under_way is not None:
            await outlast(self._under_way)
