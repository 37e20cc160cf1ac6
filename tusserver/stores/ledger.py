"""Lists of uploads by client, for limits on how many are unfinished: in files that processes share, or in memory.

A list says who was added and not who is done: that is looked up in the records when a list seems full. So finishing,
removing and crashing cost nothing here, and no count is ever wrong for long.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.upload import UploadId, as_upload_id
from tusserver.stores import disk
from tusserver.threads import Threads

_ENTRY = 129
"""Bytes of an entry: the longest id and a line feed. So a list's size tells its number."""


class MemoryLedger:
    """Lists in a dictionary; they are gone with the process."""

    def __init__(self) -> None:
        self._lists: dict[str, list[UploadId]] = {}

    async def add(self, name: str, upload_id: UploadId) -> int:
        """See `Ledger.add`."""
        entries = self._lists.setdefault(name, [])
        entries.append(upload_id)
        return len(entries)

    async def read(self, name: str) -> Sequence[UploadId]:
        """See `Ledger.read`."""
        return tuple(self._lists.get(name, ()))

    async def keep(self, name: str, known: Sequence[UploadId], kept: Sequence[UploadId]) -> int:
        """See `Ledger.keep`."""
        entries = self._lists.get(name, [])
        if tuple(entries[: len(known)]) == tuple(known):
            entries[: len(known)] = kept
        if not entries:
            self._lists.pop(name, None)
        return len(entries)

    async def names(self, idle: float) -> Sequence[str]:
        """See `Ledger.names`. Memory does not know since when: all."""
        return tuple(self._lists)


class FileLedger:
    """A file for each list in the folder `folder`. Every change is made under its lock (flock), in any process."""

    def __init__(self, folder: Path, *, file_mode: int = 0o600, folder_mode: int = 0o700) -> None:
        self._folder = folder
        self._translated = disk.Troubles().translated
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._run = Threads(2, "tusserver-ledger").run

    async def add(self, name: str, upload_id: UploadId) -> int:
        """See `Ledger.add`."""
        return await self._run(self._add, name, upload_id)

    def _add(self, name: str, upload_id: UploadId) -> int:
        with self._translated("counting an upload"), self._locked(name, make=True) as fd:
            size = os.fstat(fd).st_size // _ENTRY * _ENTRY  # an entry that a crash tore is written over
            os.pwrite(fd, _entry(upload_id), size)
            return size // _ENTRY + 1

    async def read(self, name: str) -> Sequence[UploadId]:
        """See `Ledger.read`."""
        return await self._run(self._read, name)

    def _read(self, name: str) -> Sequence[UploadId]:
        with self._translated("counting uploads"):
            try:
                with self._locked(name) as fd:
                    return _entries(fd)
            except FileNotFoundError:
                return ()

    async def keep(self, name: str, known: Sequence[UploadId], kept: Sequence[UploadId]) -> int:
        """See `Ledger.keep`."""
        return await self._run(self._keep, name, known, kept)

    def _keep(self, name: str, known: Sequence[UploadId], kept: Sequence[UploadId]) -> int:
        with self._translated("counting uploads"):
            try:
                with self._locked(name) as fd:
                    entries = _entries(fd)
                    if entries[: len(known)] != list(known):  # another process was faster
                        return len(entries)
                    entries[: len(known)] = kept
                    if entries:
                        disk.write_all(fd, [b"".join(map(_entry, entries))], 0)
                        os.ftruncate(fd, len(entries) * _ENTRY)
                    else:
                        os.unlink(self._path(name))
                    return len(entries)
            except FileNotFoundError:
                return 0

    async def names(self, idle: float) -> Sequence[str]:
        """See `Ledger.names`."""
        return await self._run(self._names, idle)

    def _names(self, idle: float) -> Sequence[str]:
        before = time.time() - idle
        with self._translated("looking for lists"):
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
            return disk.make_file(path, os.O_RDWR, self._file_mode)
        except FileNotFoundError:
            disk.make_folder(self._folder, self._folder_mode, sync=False)
            return disk.make_file(path, os.O_RDWR, self._file_mode)


def _entry(upload_id: UploadId) -> bytes:
    return upload_id.encode("ascii").ljust(_ENTRY - 1) + b"\n"


def _entries(fd: int) -> list[UploadId]:
    content = os.pread(fd, os.fstat(fd).st_size // _ENTRY * _ENTRY, 0)
    found: list[UploadId] = []
    for at in range(0, len(content), _ENTRY):
        with contextlib.suppress(UploadNotFound):  # torn by a power cut
            found.append(as_upload_id(content[at : at + _ENTRY].decode("ascii", "replace").strip()))
    return found


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))
