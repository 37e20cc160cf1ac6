"""Notes of one partial upload: the final uploads that are made of it. A file with a line for each id.

A process that notes or removes an id holds the lock of the file (flock); a reader needs none, as a file with fewer
lines takes the place of the old one by renaming. All functions block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator

from tusserver.disk import files
from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.upload import UploadId, as_upload_id

SHORT = 8 * 1024
"""Bytes of a file that is read and understood in much less than a millisecond."""


def read(path: str) -> tuple[UploadId, ...]:
    """Return the ids in the order in which they were noted, each once."""
    try:
        return _ids(files.read_file(path))
    except FileNotFoundError:
        return ()


def read_short(path: str) -> tuple[UploadId, ...] | None:
    """Do the same for a file that is short; None if it is not."""
    try:
        return read(path) if os.lstat(path).st_size <= SHORT else None
    except FileNotFoundError:
        return ()


def note(path: str, final: UploadId, mode: int) -> None:
    """Add an id, if it is not there."""
    with _locked(path, mode) as fd:
        if final not in _ids(files.read_file(path)):
            files.write_line(fd, final)


def strike(path: str, gone: Collection[UploadId], mode: int) -> None:
    """Remove ids, and the file with the last one."""
    with contextlib.suppress(FileNotFoundError), _locked(path, None):
        kept = [final for final in _ids(files.read_file(path)) if final not in gone]
        if kept:
            files.replace_file(path, "".join(f"{final}\n" for final in kept).encode(), mode, sync=False)
        else:
            files.unlink(path)


@contextlib.contextmanager
def _locked(path: str, mode: int | None) -> Iterator[int]:
    """Open a file and keep others from changing it. `mode`: of a file that is made if there is none.

    Raises:
        FileNotFoundError: there is none, and none is to be made.
    """
    flags = os.O_WRONLY | os.O_APPEND
    while True:
        fd = (
            files.make_file(path, flags, mode)
            if mode is not None
            else os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # a crash frees it
            if os.fstat(fd).st_nlink:  # else it was replaced or removed while we waited
                yield fd
                return
        finally:
            os.close(fd)


def _ids(content: bytes) -> tuple[UploadId, ...]:
    finals: dict[UploadId, None] = {}
    for line in content.decode("ascii", "replace").split():
        with contextlib.suppress(UploadNotFound):  # torn by a power cut
            finals[as_upload_id(line)] = None
    return tuple(finals)
