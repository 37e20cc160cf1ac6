"""Small files as the page cache has them: read on the loop, since nothing here ever waits for a disk."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Callable
from typing import Final

MOST: Final = 16 << 10
"""Bytes; larger files are not read here."""
_PAGE: Final = 4096
_OPENAT2: Final = 437
"""Its number on every architecture."""
_RESOLVE_CACHED: Final = 0x20
_AT_FDCWD: Final = -100
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _find() -> Callable[[bytes], int] | None:
    """openat2(2) that fails with EAGAIN where a name is not in the memory of the kernel (Linux 5.12)."""
    if platform.system() != "Linux" or not hasattr(os, "RWF_NOWAIT"):
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    call.restype = ctypes.c_long
    how = _How(_FLAGS, 0, _RESOLVE_CACHED)
    given, size = ctypes.byref(how), ctypes.sizeof(how)
    return lambda path: int(call(_OPENAT2, _AT_FDCWD, path, given, size))


_open = _find()


class Cached:
    """Reads what is cached of the files of one file system, as long as that can do so without waiting."""

    def __init__(self) -> None:
        self._able = _open is not None
        self._buffer = bytearray(MOST)

    def read(self, path: str) -> bytes | None:
        """Return what a small file holds; None if only a call that may wait can tell."""
        if not self._able or _open is None:
            return None
        fd = _open(path.encode())
        if fd < 0:
            if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
                self._able = False  # an old kernel, or one that somebody keeps us from
            return None
        try:
            count = os.preadv(fd, (self._buffer,), 0, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # tmpfs, for one, whose files are in memory anyway
                self._able = False
            return None
        finally:
            os.close(fd)
        # A read ends before a page that is not there, and else where the file ends.
        return bytes(self._buffer[:count]) if count % _PAGE else None
