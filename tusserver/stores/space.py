"""Space of one file system: what is free of its bytes and its inodes, and how far files of unknown length grow."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass

from tusserver.protocol.errors import OutOfSpace

logger = logging.getLogger("tusserver.store")

FILES = 4
"""Inodes that a creation may take: the bytes, the record, a folder for both, a list of the calendar."""
_LARGEST_SHARE = 10
"""What is kept free is a tenth of the disk at most: a small one shall still be of use."""
_ROOMY = 64 << 20
"""Bytes of free space that are not used up in a quarter of a second, by anything but a few large uploads."""
_MANY = 10_000
"""The same in inodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """What may be used; negative where less is free than is to be kept."""

    bytes: int
    inodes: int
    """`sys.maxsize` where the file system does not count them, as btrfs: it reports none at all."""

    @classmethod
    def of(cls, found: os.statvfs_result, keep: int) -> Free:
        """Leave `keep` bytes free, and the same share of the inodes: whoever runs out of either takes no more files."""
        total = found.f_blocks * found.f_frsize
        keep = min(keep, total // _LARGEST_SHARE)
        inodes = found.f_favail - keep * found.f_files // max(1, total) if found.f_files else sys.maxsize
        return cls(bytes=found.f_bavail * found.f_frsize - keep, inodes=inodes)

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


def step(size: int, written: int, room: int | None, most: int) -> int:
    """Return by how many bytes a file of unknown length grows for `size` bytes of a body, behind `written` of them.

    By as much as came before, so that a large body takes few steps and a small one nothing that it does not need.
    `room`: bytes that the whole body may have; `most`: of one step.
    """
    ahead = max(size, min(written, most))
    return ahead if room is None else max(size, min(ahead, room - written))
