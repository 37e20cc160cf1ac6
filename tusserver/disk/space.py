"""Space of one file system: what is free of its bytes and its inodes, and how far files of unknown length grow."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tusserver.disk.files import UNSUPPORTED
from tusserver.protocol.errors import MaxSizeExceeded, OutOfSpace

logger = logging.getLogger("tusserver.store")

FILES = 4
"""Inodes that a creation may take: the bytes, the record, a folder for both, a list of the calendar."""
_LARGEST_SHARE = 10
"""What is kept free is a tenth of the disk at most: a small one shall still be of use."""
_ROOMY = 64 << 20
"""Bytes of free space that are not used up in a quarter of a second, by anything but a few large uploads."""
_MANY = 10_000
"""The same in inodes."""
_LITTLE = 1 << 20
"""Bytes that are reserved without an exact look at the free space first."""
LOOK_SECONDS = 0.25
"""For so long a look at plenty of free space counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """What may be used; negative where less is free than is to be kept."""

    bytes: int
    inodes: int
    """`sys.maxsize` where the file system does not count them, as btrfs: it reports none at all."""

    @classmethod
    def of(cls, found: os.statvfs_result, minimum: int) -> Free:
        """Leave `minimum` bytes free, and the same share of the inodes: without either no file can be created."""
        total = found.f_blocks * found.f_frsize
        minimum = min(minimum, total // _LARGEST_SHARE)
        inodes = found.f_favail - minimum * found.f_files // max(1, total) if found.f_files else sys.maxsize
        return cls(bytes=found.f_bavail * found.f_frsize - minimum, inodes=inodes)

    @property
    def plenty(self) -> bool:
        """Whether nobody has to look again at once."""
        return self.bytes > _ROOMY and self.inodes > _MANY


class Watch:
    """Refuses what does not fit, and tells the log once that it does and once that it is over."""

    def __init__(self) -> None:
        self._low = {"free space is": False, "free inodes are": False}

    def require(self, free: Free, *, length: int, files: int) -> None:
        """Refuse `length` bytes or `files` new files for which there is no room.

        Raises:
            OutOfSpace
        """
        self._note("free space is", free.bytes < length)
        if files:
            self._note("free inodes are", free.inodes < files)
        if free.bytes < length:
            raise OutOfSpace
        if free.inodes < files:
            raise OutOfSpace("too few inodes are free, so it can hold no more files")

    def _note(self, what: str, low: bool) -> None:
        if low is not self._low[what]:
            self._low[what] = low
            if low:
                logger.warning("%s below store.reserve: new uploads are refused", what)
            else:
                logger.info("%s above store.reserve again: new uploads are taken", what)


def _find_fallocate() -> Callable[[int, int, int], int] | None:
    """fallocate(2) itself: where the file system cannot reserve, glibc's posix_fallocate writes to every block."""
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (AttributeError, OSError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    call.restype = ctypes.c_int
    return lambda fd, at, length: ctypes.get_errno() if call(fd, 0, at, length) else 0


_fallocate = _find_fallocate()


def file_system(path: Path) -> str:
    """Type of the file system below `path` ("ext4", "tmpfs"), empty where the system does not tell."""
    try:
        device = os.stat(path).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""


class SpaceReservation:
    """Reserves space in files below one folder.

    By `fallocate`; where that is missing, or slow as on tmpfs (0.3 ms for each MiB), `ftruncate` and a look at the
    free space stand in, and the log says so once. `minimum_free`: bytes of the disk that stay free, and
    the same share of its inodes.
    """

    def __init__(self, folder: Path, minimum_free: int = 0, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._folder = folder
        self._minimum_free = minimum_free
        self._look_seconds = look_seconds
        self._roomy_until = 0.0
        self._watch = Watch()
        self._sparse = _fallocate is None
        if file_system(folder) == "tmpfs":
            self._stop_reserving("tmpfs")

    def _stop_reserving(self, why: str) -> None:
        self._sparse = True
        logger.info("space is checked but not reserved in %s (%s)", self._folder, why)

    def require_free(self, length: int = 0, *, files: int = 0) -> None:
        """Refuse what would leave less free than is to be kept. Where there is plenty, it looks now and then.

        `files`: how many are made; what is open already needs no inode.

        Raises:
            OutOfSpace, OSError
        """
        now = time.monotonic()
        if now < self._roomy_until and length <= _LITTLE:
            return
        free = Free.of(os.statvfs(self._folder), self._minimum_free)
        if free.plenty:
            self._roomy_until = now + self._look_seconds
        self._watch.require(free, length=length, files=files)

    def free(self) -> int:
        """Bytes of the disk that may be used.

        Raises:
            OSError
        """
        return max(0, Free.of(os.statvfs(self._folder), self._minimum_free).bytes)

    @property
    def sparse(self) -> bool:
        """Whether nothing is reserved here."""
        return self._sparse

    def reserve(self, fd: int, at: int, length: int) -> None:
        """Make sure that `length` bytes fit from `at` on, and give the file at least that size.

        Raises:
            OutOfSpace: they do not fit now.
            MaxSizeExceeded: they never can.
            OSError
        """
        if length <= 0:
            return
        if length <= _LITTLE and not self._sparse and _fallocate is not None:
            self.require_free(length)
            if _fallocate(fd, at, length) == 0:
                return
        # A look first: fallocate would eat up all free space before it notices that there is not enough.
        self._look(fd, at, length)
        if not self._sparse and _fallocate is not None:
            while (failed := _fallocate(fd, at, length)) == errno.EINTR:
                pass  # nothing was reserved
            if failed == 0:
                return
            if failed == errno.EFBIG:
                raise MaxSizeExceeded("the file system has no files of this size")
            if failed not in UNSUPPORTED:
                raise OSError(failed, os.strerror(failed))
            self._stop_reserving(os.strerror(failed))
        if os.fstat(fd).st_size < at + length:
            _stretch(fd, at + length)

    def require_fit(self, fd: int, length: int) -> None:
        """Refuse what cannot be reserved now in an empty file, as far as a look can tell; and reserve nothing.

        Raises:
            OutOfSpace, MaxSizeExceeded: see `reserve`.
            OSError
        """
        self._look(fd, 0, length)
        _stretch(fd, length)
        os.ftruncate(fd, 0)

    def _look(self, fd: int, at: int, length: int) -> None:
        disk = os.fstatvfs(fd)
        if length > disk.f_blocks * disk.f_frsize:
            raise MaxSizeExceeded("this is more than the whole storage holds")
        if length > Free.of(disk, self._minimum_free).bytes + self._allocated(fd, at):
            raise OutOfSpace

    def _allocated(self, fd: int, at: int) -> int:
        """Bytes behind `at` that the file has already, at most."""
        return max(0, os.fstat(fd).st_blocks * 512 - at)


def _stretch(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise MaxSizeExceeded("the file system has no files of this size") from error
        raise


def step(size: int, written: int, room: int | None, most: int) -> int:
    """Return by how many bytes a file of unknown length grows for `size` bytes of a body, behind `written` of them.

    By as much as came before, so that a large body takes few steps and a small one nothing that it does not need.
    `room`: bytes that the whole body may have; `most`: of one step.
    """
    ahead = max(size, min(written, most))
    return ahead if room is None else max(size, min(ahead, room - written))
