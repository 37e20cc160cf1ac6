"""The bytes of uploads: files that are reserved, written at an offset, trimmed, read back and copied."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from tusserver.disk import files, space
from tusserver.disk.faults import FaultLog
from tusserver.protocol.checksum import Digest
from tusserver.protocol.errors import MaxSizeExceeded, OutOfSpace, StoreUnavailable, UploadNotFound
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file.layout import MTIME_NS, PATH, Layout
from tusserver.stores.file.untouched import Untouched

logger = logging.getLogger("tusserver.store")

GROWTH: Final = 64 << 20
"""Bytes by which a file of unknown length grows at most; so many are reserved or given back without a thread."""
SMALL: Final = 64 * 1024
"""Bytes that are written without a thread."""
_READ_BYTES = 1 << 20


class Contents:
    """All methods block.

    `on_growth` is called with an upload whose file is about to hold more than `SMALL` bytes of space for what has not
    come: a crash may come before they are given back. `growth`: see `GROWTH`.
    """

    def __init__(
        self,
        layout: Layout,
        faults: FaultLog,
        reservation: space.SpaceReservation,
        untouched: Untouched,
        *,
        on_growth: Callable[[UploadId], None],
        file_mode: int,
        folder_mode: int,
        sync_folders: bool,
        growth: int = GROWTH,
    ) -> None:
        self._layout = layout
        self._translating = faults.translating
        self._reservation = reservation
        self._untouched = untouched
        self._on_growth = on_growth
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._sync_folders = sync_folders
        self._growth = growth

    def create(self, path: str) -> int:
        """Create the file of an upload, open it, and return its descriptor.

        Raises:
            FileExistsError, OSError
        """
        flags = os.O_RDWR | os.O_EXCL
        try:
            return files.make_file(path, flags, self._file_mode)
        except FileNotFoundError:
            files.make_folder(Path(path).parent, self._folder_mode, sync=self._sync_folders)
            return files.make_file(path, flags, self._file_mode)

    def reserve_whole(self, fd: int, upload: Upload) -> None:
        """Reserve an upload's space; of one without a byte only check it if such hold too much already.

        Raises:
            OutOfSpace, MaxSizeExceeded, OSError
        """
        assert upload.length is not None
        small = self._reservation.sparse or upload.length <= SMALL
        if upload.offset or small or self._untouched.admit(upload.id, upload.length):
            self._reservation.reserve(fd, 0, upload.length)
        else:
            self._reservation.require_fit(fd, upload.length)

    def open(self, upload: Upload, more: int, here: int = 0) -> int:
        """Open the file with room for `more` bytes behind the offset, of which so many are `here`.

        Where the length is known there is room for all that is to come.
        """
        if upload.length is not None:
            more = upload.length - upload.offset
        with self._translating("opening an upload"):
            try:
                fd = os.open(self._layout.bytes_path(upload), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise UploadNotFound from None
            try:
                size = os.fstat(fd).st_size
                if size < upload.offset:  # a gap would read as zeros, and nobody would ever know
                    logger.error("the file of %s has %d bytes, and its record %d", upload.id, size, upload.offset)
                    raise StoreUnavailable
                # Of a length that was known from the start, all space is there, but for some that never got a byte.
                if size < upload.offset + more:
                    if upload.length is None:
                        self._note_growth(upload, more - here)
                    self._reservation.reserve(fd, upload.offset, more)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def write(self, fd: int, upload: Upload, batch: list[bytes], written: int, limit: int | None) -> int:
        """Write a batch behind `written` bytes of a body of `limit` bytes at most; return its bytes."""
        at = upload.offset + written
        with self._translating("writing"):
            self.grow(fd, upload, limit, at, sum(map(len, batch)))
            return files.write_all(fd, batch, at)

    def grow(self, fd: int, upload: Upload, limit: int | None, at: int, size: int) -> None:
        """Make a file of unknown length larger, by more than is needed now; if there is no room for that, by less."""
        if upload.length is not None or os.fstat(fd).st_size >= at + size:
            return
        ahead = space.step(size, at - upload.offset, limit, self._growth)
        try:
            self._note_growth(upload, ahead - size)
            self._reservation.reserve(fd, at, ahead)
        except (OutOfSpace, MaxSizeExceeded):
            self._reservation.reserve(fd, at, size)

    def _note_growth(self, upload: Upload, ahead: int) -> None:
        if ahead > SMALL:
            self._on_growth(upload.id)

    def reserve(self, upload: Upload) -> None:
        """See `Store.reserve`."""
        assert upload.length is not None
        with self._translating("reserving space"):
            self._note_growth(upload, upload.length - upload.offset)
            if not upload.untouched:
                os.close(self.open(upload, upload.length - upload.offset))
                return
            fd = self.open(replace(upload, length=None), 0)
            try:
                self.reserve_whole(fd, upload)
            finally:
                os.close(fd)

    def excess(self, upload: Upload) -> int:
        """Return the bytes of space behind the offset."""
        with self._translating("looking at an upload"):
            return files.excess(self._layout.bytes_path(upload), upload.offset)

    def is_small(self, excess: int) -> bool:
        """Whether so much is given back without a thread."""
        return excess <= self._growth

    def trim(self, upload: Upload, reach: int) -> None:
        """Give back what is behind the offset, or behind byte `reach`."""
        with self._translating("giving back space"):
            files.truncate_to(self._layout.bytes_path(upload), max(upload.offset, reach))

    def digest(self, upload: Upload, start: int, stop: int, digest: Digest) -> None:
        """See `Store.digest`."""
        with self._translating("reading an upload"):
            fd = os.open(self._layout.bytes_path(upload), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                while start < stop and (data := os.pread(fd, min(_READ_BYTES, stop - start), start)):
                    digest.update(data)
                    start += len(data)
            finally:
                os.close(fd)

    def copy(self, part: Upload, start: int, target: int, at: int, length: int) -> None:
        """Copy bytes of a part into an open file."""
        with self._translating("joining partial uploads"):
            source = self.open(part, 0)
            try:
                files.copy(source, start, target, at, length)
            finally:
                os.close(source)

    def are_there(self, upload: Upload) -> bool:
        """Whether the bytes are still where they were put: people move finished files away, and names are reused."""
        with self._translating("looking for the bytes"):
            found = files.mtime_ns(self._layout.bytes_path(upload))
        known = PATH not in upload.storage or not upload.finished or upload.storage.get(MTIME_NS) == str(found)
        return found is not None and known

    def reserves_much(self, upload: Upload, more: int) -> bool:
        """Whether much may have to be reserved for `more` bytes: the length is unknown, or no byte has come yet."""
        return (upload.length or more) > self._growth and (upload.length is None or upload.untouched)
