"""Lists of uploads by client, for limits on what is unfinished: in files that processes share, or in memory.

A list says who was added, with how many bytes to come, and not who is done: that is looked up in the records when a
list seems full. So finishing, removing and crashing cost nothing here, and a list never comes to less than there is.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tusserver.disk import faults, files
from tusserver.indexes.base import Listed, Sums
from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.upload import as_upload_id
from tusserver.threads import Threads

_ID = 128
_NUMBER = 24
_ENTRY = _ID + 2 * _NUMBER + 1
"""Bytes of an entry: the longest id, its bytes, those of all up to it, and a line feed: so the last one tells all."""


class FileOpenUploads:
    """A file for each list in the folder `folder`. Every change is made under its lock (flock), in any process."""

    def __init__(self, folder: Path, *, file_mode: int = 0o600, folder_mode: int = 0o700) -> None:
        self._folder = folder
        self._translating = faults.FaultLog().translating
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._run = Threads(4, "tusserver-open_uploads").run
        self._run_long = Threads(2, "tusserver-lists").run
        """For whole lists: to be counted waits for none of another client."""

    async def add(self, name: str, upload: Listed) -> Sums:
        """See `OpenUploads.add`."""
        return await self._run(self._add, name, upload)

    def _add(self, name: str, upload: Listed) -> Sums:
        with self._translating("counting an upload"), self._locked(name, make=True) as fd:
            count = os.fstat(fd).st_size // _ENTRY  # an entry that a crash tore is written over
            reserved = _total(fd, count) + upload.reserved
            files.write_all(fd, [_entry(upload, reserved)], count * _ENTRY)
            return Sums(count + 1, reserved)

    async def read(self, name: str) -> Sequence[Listed]:
        """See `OpenUploads.read`."""
        return await self._run_long(self._read, name)

    def _read(self, name: str) -> Sequence[Listed]:
        with self._translating("counting uploads"):
            try:
                with self._locked(name) as fd:
                    return _entries(fd)
            except FileNotFoundError:
                return ()

    async def replace(self, name: str, known: Sequence[Listed], kept: Sequence[Listed]) -> int:
        """See `OpenUploads.replace`."""
        return await self._run_long(self._replace, name, known, kept)

    def _replace(self, name: str, known: Sequence[Listed], kept: Sequence[Listed]) -> int:
        with self._translating("counting uploads"):
            try:
                with self._locked(name) as fd:
                    entries = _entries(fd)
                    if entries[: len(known)] != list(known):  # another process was faster
                        return len(entries)
                    entries[: len(known)] = kept
                    if entries:
                        totals = itertools.accumulate(entry.reserved for entry in entries)
                        files.write_all(fd, [b"".join(map(_entry, entries, totals))], 0)
                        os.ftruncate(fd, len(entries) * _ENTRY)
                    else:
                        os.unlink(self._path(name))
                    return len(entries)
            except FileNotFoundError:
                return 0

    async def names(self, idle: float) -> Sequence[str]:
        """See `OpenUploads.names`."""
        return await self._run_long(self._names, idle)

    def _names(self, idle: float) -> Sequence[str]:
        before = time.time() - idle
        with self._translating("looking for lists"):
            try:
                return [
                    entry.name.replace("_", "/") for entry in _files(self._folder) if entry.stat().st_mtime < before
                ]
            except FileNotFoundError:
                return []

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name.replace('/', '_')}"

    @contextlib.contextmanager
    def _locked(self, name: str, *, make: bool = False) -> Iterator[int]:
        """Open a list and keep others from it.

        Raises:
            FileNotFoundError: there is none, and none is to be made.
        """
        while True:
            fd = self._open(self._path(name), make)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)  # a crash frees it
                if os.fstat(fd).st_nlink:  # else it was removed while we waited
                    yield fd
                    return
            finally:
                os.close(fd)

    def _open(self, path: str, make: bool) -> int:
        if not make:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return files.make_file(path, os.O_RDWR, self._file_mode)
        except FileNotFoundError:
            files.make_folder(self._folder, self._folder_mode, sync=False)
            return files.make_file(path, os.O_RDWR, self._file_mode)


def _entry(upload: Listed, total: int) -> bytes:
    return f"{upload.id:<{_ID}}{upload.reserved:>{_NUMBER}}{total:>{_NUMBER}}\n".encode("ascii")


def _entries(fd: int) -> list[Listed]:
    content = os.pread(fd, os.fstat(fd).st_size // _ENTRY * _ENTRY, 0)
    found: list[Listed] = []
    for at in range(0, len(content), _ENTRY):
        with contextlib.suppress(UploadNotFound, ValueError):  # torn by a power cut
            line = content[at : at + _ENTRY].decode("ascii", "replace")
            found.append(Listed(as_upload_id(line[:_ID].rstrip(" ")), int(line[_ID : _ID + _NUMBER])))
    return found


def _total(fd: int, count: int) -> int:
    """Bytes of all entries."""
    if not count:
        return 0
    try:
        return int(os.pread(fd, _NUMBER, count * _ENTRY - 1 - _NUMBER))
    except ValueError:  # torn by a power cut
        return sum(entry.reserved for entry in _entries(fd))


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))
