"""Where the files of each upload are.

uploads/ab/abcd…          the bytes, at their final offsets from the start
uploads/ab/abcd….record   the record (see `record`)
uploads/ab/abcd….awaited  of a partial upload: the final uploads that it is in (see `indexes.file_dependents`)
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from tusserver.disk import files
from tusserver.protocol.errors import StoreUnavailable, UploadNotFound
from tusserver.protocol.upload import Upload, UploadId, as_upload_id

logger = logging.getLogger("tusserver.store")

PATH = "path"
"""In `Upload.storage`: where the bytes of a finished upload are, if they have a readable name."""
MTIME_NS = "mtime_ns"
"""When these were written: others may come to that path once they were moved away."""
RECORD = ".record"
AWAITED = ".awaited"
NEW = ".new"
_SUFFIXES = (RECORD + NEW, RECORD, AWAITED + NEW, AWAITED, "")
"""What the files of an upload have behind its id. That of the bytes comes last, as every name ends with it."""


class Layout:
    """The folder `root`/uploads. All methods block. Paths are plain text: a Path costs more than opening its file."""

    def __init__(self, root: Path, folder_mode: int) -> None:
        self.uploads = root / "uploads"
        self._folder = str(self.uploads)
        self._folder_mode = folder_mode
        self._plain: set[str] = set()

    def path(self, upload_id: UploadId) -> str:
        """Return the path of an upload's bytes; its other files have a suffix behind that.

        Raises:
            StoreUnavailable: a symbolic link is in the way. No file is opened through a link, but its folder would be.
        """
        shard = upload_id[:2]
        if shard not in self._plain:
            self._check(shard)
        return f"{self._folder}/{shard}/{upload_id}"

    def is_checked(self, upload_id: UploadId) -> bool:
        """Whether `path` makes no system call for this id."""
        return upload_id[:2] in self._plain

    def _check(self, shard: str) -> None:
        path = f"{self._folder}/{shard}"
        if files.is_symlink(path):
            logger.error("%s is a symbolic link, so what is behind it is not used", path)
            raise StoreUnavailable
        if not self._folder_mode & 0o022:  # else others may put one there at any time
            self._plain.add(shard)

    def record_path(self, upload_id: UploadId) -> str:
        """Return the path of an upload's record."""
        return self.path(upload_id) + RECORD

    def bytes_path(self, upload: Upload) -> str:
        """Return the path of an upload's bytes, also if they have a readable name."""
        path = upload.storage.get(PATH)
        return self.path(upload.id) if path is None else path

    # what is there ---------------------------------------------------------------------------------------------------

    def has_files(self, upload_id: UploadId) -> bool:
        """Whether there may be anything of an upload."""
        try:
            path = self.path(upload_id)
            return any(files.may_exist(path + suffix) for suffix in _SUFFIXES)
        except StoreUnavailable:
            return True

    def shards(self) -> list[Path]:
        """Return the folders with uploads.

        Raises:
            OSError
        """
        with os.scandir(self.uploads) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))

    def remove_files(self, upload_id: UploadId, *, notes: bool) -> bool:
        """Remove what there is of an upload but its readable name; return whether there was anything."""
        path = self.path(upload_id)
        # The record goes before the bytes: these are found by the schedule if we die here.
        there = files.unlink(path + RECORD)
        there |= files.unlink(path)
        there |= notes and files.unlink(path + AWAITED)
        for suffix in (RECORD, AWAITED):
            files.unlink(path + suffix + NEW)
        return there


def recorded(shard: Path) -> Generator[UploadId, None, None]:
    """Go through the ids in a folder that have a record."""
    with os.scandir(shard) as entries:
        for entry in entries:
            if entry.name.endswith(RECORD):
                with contextlib.suppress(UploadNotFound):
                    yield as_upload_id(entry.name.removesuffix(RECORD))


def stored(shard: Path) -> Iterator[UploadId]:
    """Go through the ids in a folder: by their records, and where there is none by whatever there is."""
    with os.scandir(shard) as entries:
        for entry in entries:
            stem = next((entry.name.removesuffix(end) for end in _SUFFIXES if entry.name.endswith(end)), "")
            with contextlib.suppress(UploadNotFound):
                upload_id = as_upload_id(stem)
                if entry.name == stem + RECORD or not files.may_exist(f"{shard}/{stem}{RECORD}"):
                    yield upload_id


def valid(names: Sequence[str]) -> Iterator[UploadId]:
    """Go through the names that are ids: a line that a power cut tore may not be one."""
    for name in names:
        with contextlib.suppress(UploadNotFound):
            yield as_upload_id(name)
