"""How uploads are removed, one or many: in an order that a crash may interrupt anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from tusserver.disk import files
from tusserver.disk.faults import FaultLog
from tusserver.protocol.errors import TusError, UploadNotFound
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.base import Reaped
from tusserver.stores.file.contents import Contents
from tusserver.stores.file.finished import Template
from tusserver.stores.file.layout import PATH, Layout
from tusserver.stores.file.records import Records

DOING = "removing an upload"


class Removal:
    """All methods block. `template`: of readable names, if there are any."""

    def __init__(
        self, layout: Layout, records: Records, contents: Contents, faults: FaultLog, template: Template | None
    ) -> None:
        self._layout = layout
        self._records = records
        self._contents = contents
        self._translating = faults.translating
        self._template = template

    def remove(self, upload_id: UploadId, *, notes: bool, before: Callable[[], None]) -> bool:
        """See `Store.remove`. `before` is called first, if there is a record; it may raise OSError."""
        try:
            upload = self._records.load(upload_id)
        except TusError:
            upload = None
        with self._translating(DOING):
            if upload is not None:
                with contextlib.suppress(OSError):  # removing must work on a full disk
                    before()
                self._sync_folders(self._remove_readable(upload))
            there = self._layout.remove_files(upload_id, notes=notes)
            if there:
                self._sync_folders({Path(self._layout.path(upload_id)).parent})
        return there

    def reap(self, ids: Sequence[UploadId], is_over: Callable[[Upload], bool]) -> Reaped:
        """See `Store.reap`: each folder is synced once."""
        over: dict[UploadId, Upload] = {}
        failed: dict[UploadId, Exception] = {}
        folders: set[Path] = set()
        for upload_id in ids:
            try:
                if is_over(upload := self._records.load(upload_id)):
                    with self._translating(DOING):
                        folders |= self._remove_readable(upload)
                    over[upload_id] = upload
            except UploadNotFound:
                continue
            except TusError as error:
                failed[upload_id] = error
        try:
            self._sync_folders(folders)
            folders.clear()
            for upload_id in over:
                try:
                    with self._translating(DOING):
                        if self._layout.remove_files(upload_id, notes=True):
                            folders.add(Path(self._layout.path(upload_id)).parent)
                except TusError as error:
                    failed[upload_id] = error
            self._sync_folders(folders)
        except TusError as error:  # a power cut may bring them back
            return Reaped([], failed | dict.fromkeys(over, error))
        return Reaped([upload for upload_id, upload in over.items() if upload_id not in failed], failed)

    def _sync_folders(self, folders: Collection[Path]) -> None:
        if self._records.syncs_all:
            with self._translating(DOING):
                for path in folders:
                    files.sync_folder(path)

    def _remove_readable(self, upload: Upload) -> set[Path]:
        """Remove the readable name, also one that a crash kept from the record; return its folder, to be synced.

        That comes first, as only the record knows it: a power cut could bring it back when the record has gone.
        """
        path = upload.storage.get(PATH)
        readable = path if path is not None and self._contents.are_there(upload) else None
        if path is None and self._template is not None:
            first = Path(self._layout.path(upload.id))
            with contextlib.suppress(FileNotFoundError):
                if first.lstat().st_nlink > 1:
                    readable = str(self._template.link(first, upload))
        if readable is None:
            return set()
        files.unlink(readable)
        return {Path(readable).parent}
