"""How much of the disk uploads may hold that never got a byte: a share of what is free, over all processes.

Without a bound one client could take the whole disk with creations alone. What goes beyond the share is not refused, as
an upload that fits shall be taken: its space is reserved with its first byte.

The file `untouched` lists those whose space was reserved when they were made. It is never told of those that got bytes
or were removed: they are struck out a piece at a time, when the list seems to come to too much, or to be long.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tusserver.disk import files
from tusserver.protocol.upload import UploadId

_ENTRY = struct.Struct("<128sq")
"""An id and its bytes."""
_LONG = 4096
"""Entries that are none too many, however many of them are done."""
_PIECE = 512
"""Entries that are looked at in one go."""
_REST = 50
"""After a look that made no room there is none for so many times its time."""


class _Books(NamedTuple):
    """The head of the file."""

    total: int = 0
    """Bytes of all entries."""
    entries: int = 0
    at: int = 0
    """Entry at which the next piece begins."""
    long: int = 0
    """Number of entries at which it is time to look, if that is more than `long`."""
    changes: int = 0
    """How often entries were struck out."""


_HEAD = struct.Struct("<5q")


class Untouched:
    """Books in the file `path`. All methods block.

    `share`: per cent of the space that is `free()`, with what is held. `is_held` says whether an upload still holds
    space without having got a byte. `long`, `piece`, `rest`: see the constants.
    """

    def __init__(
        self,
        path: str,
        mode: int,
        share: int,
        free: Callable[[], int],
        is_held: Callable[[UploadId], bool],
        *,
        long: int = _LONG,
        piece: int = _PIECE,
        rest: float = _REST,
    ) -> None:
        self._path = path
        self._mode = mode
        self._share = share
        self._free = free
        self._is_held = is_held
        self._long = long
        self._piece = piece
        self._rest = rest
        self._fd = -1
        self._process = 0
        self._guard = threading.Lock()
        self._rest_until = 0.0

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def admit(self, upload_id: UploadId, length: int) -> bool:
        """Say whether a new upload may hold its space; if so it is noted. Call it once the upload has its file.

        It may not, too, where the books cannot be kept just now.
        """
        try:
            with self._guard:
                fits = self._enter(upload_id, length)
                while fits is None and self._look():
                    fits = self._enter(upload_id, length)
                return self._enter(upload_id, length, last=True) is True if fits is None else fits
        except OSError:
            return False

    def _enter(self, upload_id: UploadId, length: int, *, last: bool = False) -> bool | None:
        """Note an upload if there is room; return whether there is. None: it is time for a look at the list first."""
        with self._books() as (fd, books):
            # Of those that got bytes the space is not free: so what the list says too much only makes the bound lower.
            fits = books.total + length <= (self._free() + books.total) * self._share // 100
            if (
                not last
                and (not fits or books.entries >= max(self._long, books.long))
                and time.monotonic() >= self._rest_until
            ):
                return None
            if fits:
                os.pwrite(fd, _ENTRY.pack(upload_id.encode("ascii"), length), _place(books.entries))
                _write(fd, books._replace(total=books.total + length, entries=books.entries + 1))
            return fits

    def _look(self) -> bool:
        """Strike out what is done in the next piece of the list; return whether another look may be of use."""
        began = time.monotonic()
        with self._books() as (fd, books):
            piece = _read(fd, books.at, min(self._piece, books.entries - books.at))
        held = [entry for entry in piece if self._is_held(entry[0])]
        gone = len(piece) - len(held)
        with self._books() as (fd, now):
            if now.changes != books.changes:  # another process was faster
                return True
            # The end of the list goes to where they stood. It was not looked at, so the next piece begins there.
            rest = now.at + len(piece)
            filling = _read(fd, max(now.entries - gone, rest), min(gone, now.entries - rest))
            lines = [_ENTRY.pack(name.encode("ascii"), size) for name, size in (*held, *filling)]
            files.write_all(fd, lines, _place(now.at))
            at, count = now.at + len(held), now.entries - gone
            ended = at >= count
            total = now.total - sum(size for _, size in piece) + sum(size for _, size in held)
            long = 2 * count if ended else now.long
            _write(fd, _Books(total, count, 0 if ended else at, long, now.changes + 1))
            os.ftruncate(fd, _place(count))
        if not gone or ended:
            self._rest_until = time.monotonic() + self._rest * (time.monotonic() - began)
            return False
        return True

    @contextmanager
    def _books(self) -> Iterator[tuple[int, _Books]]:
        """Open the file, and keep other processes from it."""
        if self._process != os.getpid():  # a lock that a fork inherits excludes nobody
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = files.make_file(self._path, os.O_RDWR, self._mode)
            self._process = os.getpid()
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            head = os.pread(self._fd, _HEAD.size, 0)
            books = _Books(*_HEAD.unpack(head)) if len(head) == _HEAD.size else _Books()
            size = os.fstat(self._fd).st_size
            if (
                not (0 <= books.at <= books.entries and _place(books.entries) <= max(size, _HEAD.size))
                or books.total < 0
            ):
                books = _Books()  # a power cut tore it
            yield self._fd, books
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


def _place(number: int) -> int:
    return _HEAD.size + number * _ENTRY.size


def _read(fd: int, at: int, count: int) -> list[tuple[UploadId, int]]:
    content = os.pread(fd, count * _ENTRY.size, _place(at))
    whole = content[: len(content) // _ENTRY.size * _ENTRY.size]
    return [(UploadId(name.rstrip(b"\0").decode("ascii", "replace")), size) for name, size in _ENTRY.iter_unpack(whole)]


def _write(fd: int, books: _Books) -> None:
    os.pwrite(fd, _HEAD.pack(*books), 0)
