"""The file store: for each upload one preallocated file, and one record beside it.

    uploads/            files and records (see `layout`)
    calendar/           which upload to look at when (see `indexes.file_schedule`)
    calendar/owed/      likewise, by a process with the application that is to be told

No chunk files, no assembly: a finished file is ready in place. What a crash can leave is bytes with no record or an
empty one, or a `.new` file; their id is in the calendar before they are created, so its next look removes them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from tusserver import clock
from tusserver.clock import WallClock
from tusserver.disk import faults, files, space
from tusserver.disk.space import FILES
from tusserver.indexes import file_dependents
from tusserver.lanes import Lane, Lanes
from tusserver.protocol.checksum import Digest
from tusserver.protocol.errors import (
    MaxSizeExceeded,
    OutOfSpace,
    StoreUnavailable,
    TusError,
    UploadExists,
    UploadNotFound,
)
from tusserver.protocol.extensions import Extension
from tusserver.protocol.messages import Content
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.base import OnCopied, Reaped
from tusserver.stores.file import folder, layout, record
from tusserver.stores.file.bodies import Bodies
from tusserver.stores.file.contents import GROWTH, Contents
from tusserver.stores.file.deadlines import Deadlines
from tusserver.stores.file.finished import Template
from tusserver.stores.file.layout import Layout
from tusserver.stores.file.records import Durability, Records
from tusserver.stores.file.removal import Removal
from tusserver.stores.file.untouched import Untouched
from tusserver.streams import OnProgress, Source

SYNC_BYTES: Final = 8 << 20
"""Bytes that are synced in one call."""
LOAD_RECORDS: Final = 64
"""Records that are read in one call, where all are read."""


class FileStore:
    """Uploads below the folder `root`.

    `durability`: see `Durability`. `finished_folder` and `finished_name`: where finished files are renamed to (see
    `finished.Template`); they stay in place without. `reserve`: bytes of free space below which new uploads are
    refused; never more than a tenth of the disk. `untouched`: per cent of the free space that uploads without a byte
    may hold together; beyond it, and if it is there then, space is reserved with the first byte. Modes are of the files
    and folders created. `growth`: see `contents.GROWTH`.

    Raises:
        ValueError: an argument is wrong; the text names it and the remedy.
    """

    extensions = frozenset(Extension)

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        durability: Durability | str = Durability.ACK,
        finished_folder: str | os.PathLike[str] | None = None,
        finished_name: str = "{filename}",
        reserve: int = 0,
        untouched: int = 50,
        file_mode: int = 0o600,
        folder_mode: int = 0o700,
        growth: int = GROWTH,
    ) -> None:
        self.root = Path(root).absolute()
        self.durability = Durability(durability)
        self._sync = self.durability is Durability.ACK
        self._file_mode = file_mode
        self._growth = growth
        fault_log = faults.FaultLog()
        self._translating = fault_log.translating
        self._layout = Layout(self.root, folder_mode)
        folder.prepare(self.root, self._layout.uploads, file_mode=file_mode, folder_mode=folder_mode)
        self._template = None
        if finished_folder is not None:
            self._template = Template(Path(finished_folder).absolute(), finished_name, folder_mode)
            self._template.require_same_file_system(self._layout.uploads)
        self._lanes = Lanes()
        self._run_inline = self._lanes.run_inline
        self._reservation = space.SpaceReservation(self._layout.uploads, reserve)
        self._records = Records(self.root, self._layout, fault_log, self.durability, WallClock(), file_mode)
        self._deadlines = Deadlines(
            self.root,
            self._layout,
            self._records,
            fault_log,
            self._lanes,
            file_mode=file_mode,
            folder_mode=folder_mode,
        )
        self._contents = Contents(
            self._layout,
            fault_log,
            self._reservation,
            Untouched(
                f"{self.root}/untouched", file_mode, untouched, self._reservation.free, self._records.holds_untouched
            ),
            on_growth=self._deadlines.note_now,
            file_mode=file_mode,
            folder_mode=folder_mode,
            sync_folders=self._sync,
            growth=growth,
        )
        self._bodies = Bodies(self._layout, self._records, self._contents, fault_log, self._lanes)
        self._removal = Removal(self._layout, self._records, self._contents, fault_log, self._template)
        self._open_records: dict[UploadId, record.OpenRecord] = {}
        with contextlib.suppress(StoreUnavailable):
            self.clock.restore(self._deadlines.read_note(clock.NOTE) or "")

    @property
    def clock(self) -> WallClock:
        """See `Store.clock`."""
        return self._records.clock

    @clock.setter
    def clock(self, clock: WallClock) -> None:
        self._records.clock = clock

    @property
    def finalizes_in_place(self) -> bool:
        """See `Store.finalizes_in_place`."""
        return self._template is None

    @property
    def waits_for_disk(self) -> bool:
        """See `Store.waits_for_disk`."""
        return self._sync

    def attach(self, domain: str) -> folder.Attachment:
        """See `SharedFolder.attach`."""
        try:
            return folder.Attachment(self.root, domain, self._file_mode)
        except OSError as error:
            raise ValueError(f"the data folder {self.root} cannot be used: {error.strerror}") from error

    @property
    def lanes(self) -> Lanes:
        """All calls to its disk."""
        return self._lanes

    async def check(self) -> None:
        """See `Store.check`."""
        await self._lanes.run(Lane.CHECKS, self._check)

    def _check(self) -> None:
        try:
            self._reservation.require_free(files=FILES)  # first: without an inode nothing could be tried
            files.probe(self._layout.uploads)
        except OSError as error:
            raise StoreUnavailable(f"{error.strerror}") from error

    # making and reading ----------------------------------------------------------------------------------------------

    async def create(self, upload: Upload, data: bytes = b"") -> None:
        """See `Store.create`."""
        if (upload.length or 0) > self._growth and not upload.pending:
            await self._lanes.run(Lane.SPACE, self._create, upload, data)
        elif self._sync or (data and self._records.syncs(upload)):
            await self._lanes.run(Lane.SYNCS, self._create, upload, data)
        else:
            await self._run_inline(self._create, upload, data)

    def _create(self, upload: Upload, data: bytes = b"") -> None:
        path = self._layout.path(upload.id)
        with self._translating("creating an upload"):
            self._reservation.require_free(files=FILES)
            self._deadlines.note_first(upload.id, upload.expires_at)
            try:
                fd = self._contents.create(path)
            except FileExistsError:
                raise UploadExists from None
            try:
                try:
                    # A pending final upload takes its space when its parts are there.
                    if upload.length and not upload.pending:
                        self._contents.reserve_whole(fd, upload)
                    sync = self._sync
                    if data:
                        self._records.dirty = True
                        files.write_all(fd, [data], 0)
                        if sync := self._records.syncs(upload):
                            files.sync_data(fd)
                finally:
                    os.close(fd)
                self._records.create(upload, path, sync=sync)
            except FileExistsError:  # the bytes of that one have gone to their readable place
                files.unlink_quietly(path)
                raise UploadExists from None
            except BaseException:
                files.unlink_quietly(self._layout.record_path(upload.id), path)
                raise

    async def load(self, upload_id: UploadId, fence: int = 0) -> Upload:
        """See `Store.load`."""
        if fence:
            return await self._lanes.run(Lane.SYNCS, self._records.load_fenced, upload_id, fence)
        upload = self._records.load_cached(upload_id)
        return await self._run_inline(self._records.load, upload_id) if upload is None else upload

    # bytes -----------------------------------------------------------------------------------------------------------

    async def write(self, upload: Upload, source: Source, on_progress: OnProgress) -> int:
        """See `Store.write`."""
        try:
            return await self._bodies.write(upload, source, on_progress)
        finally:
            if (opened := self._open_records.pop(upload.id, None)) is not None:
                opened.end()

    async def put(self, upload: Upload, data: bytes) -> None:
        """See `Store.put`: one call where there is little to do, as most of what it costs is to go to a thread."""
        start = upload.with_progress(upload.offset - len(data), expires_at=upload.expires_at, finished=False)
        syncs = self._records.syncs(upload)
        if self._contents.reserves_much(start, len(data)) or (syncs and upload.offset > SYNC_BYTES):
            fd = await self._bodies.open(start, len(data), len(data))
            try:
                await self._run_inline(self._contents.write, fd, start, [data], 0, None)
            finally:
                os.close(fd)
            await self.commit(upload)
        elif syncs:
            await self._lanes.run(Lane.SYNCS, self._put, start, data, upload)
        else:
            await self._run_inline(self._put, start, data, upload)

    def _put(self, start: Upload, data: bytes, upload: Upload) -> None:
        if upload.fence:
            self._records.require_fence(upload)
        fd = self._contents.open(start, len(data), len(data))
        try:
            self._contents.write(fd, start, [data], 0, None)
        finally:
            os.close(fd)
        self._records.commit(upload)

    async def reserve(self, upload: Upload) -> None:
        """See `Store.reserve`."""
        await self._lanes.run(Lane.SPACE, self._contents.reserve, upload)

    async def trim(self, upload_id: UploadId) -> None:
        """See `Store.trim`."""
        upload = await self.load(upload_id)
        # Also of one that has become complete where it was: its length followed from the end of a body.
        if upload.length is None or upload.pending or (upload.complete and layout.PATH not in upload.storage):
            await self._bodies.trim(upload, sync=self._sync)

    async def commit(self, upload: Upload) -> None:
        """See `Store.commit`."""
        if not self._records.syncs(upload):
            await self._run_inline(self._records.commit, upload)
        elif upload.offset > SYNC_BYTES and await self._bodies.sync_most(upload, SYNC_BYTES):
            await self._lanes.run(Lane.LONG_SYNCS, self._records.commit, upload)
        else:
            await self._lanes.run(Lane.SYNCS, self._records.commit, upload)

    def checkpoint(self, upload: Upload) -> Awaitable[None] | None:
        """See `Store.checkpoint`. A task for each, with thousands of slow clients, would cost more than their bytes."""
        if self._sync:
            return self.commit(upload)
        self._records.dirty = True
        opened = self._open_records.get(upload.id)
        if opened is None:
            opened = self._open_records[upload.id] = record.OpenRecord(self._records.boot)
        try:
            return self._lanes.attempt(self._records.checkpoint, opened, upload)
        except TusError as error:
            return _raise(error)

    async def revert(self, upload: Upload) -> None:
        """See `Store.revert`."""
        await self._lanes.run(Lane.SYNCS, self._records.commit, upload)

    async def tell(self, upload: Upload) -> None:
        """See `Store.tell`."""
        if self._sync and upload.role is Role.FINAL and not upload.unclaimed:
            await self._lanes.run(Lane.SYNCS, partial(self._records.tell, upload, sync=True))
        else:
            await self._run_inline(partial(self._records.tell, upload, sync=False))

    async def digest(self, upload: Upload, start: int, stop: int, digest: Digest) -> None:
        """See `Store.digest`."""
        await self._lanes.run(Lane.DIGESTS, self._contents.digest, upload, start, stop, digest)

    async def replace(self, upload: Upload) -> None:
        """See `Store.replace`."""
        await self._lanes.run(Lane.SYNCS, self._records.replace, upload)

    # concatenation ---------------------------------------------------------------------------------------------------

    async def concatenate(self, final: Upload, parts: Sequence[Upload], on_progress: OnCopied) -> None:
        """See `Store.concatenate`."""
        try:
            await self._bodies.concatenate(final, parts, on_progress)
        except (StoreUnavailable, OutOfSpace, MaxSizeExceeded):
            with contextlib.suppress(TusError):
                await self.trim(final.id)  # it may take long until it can be tried again
            raise

    async def add_dependent(self, final: UploadId, part: UploadId) -> None:
        """See `Store.add_dependent`."""
        path = self._layout.path(part) + layout.AWAITED
        with self._translating("noting a final upload"):
            await self._lanes.run(Lane.BRIEF, file_dependents.note, path, final, self._file_mode)

    async def dependents(self, part: UploadId) -> tuple[UploadId, ...]:
        """See `Store.dependents`."""
        path = self._layout.path(part) + layout.AWAITED
        with self._translating("reading which final uploads wait"):
            noted = await self._run_inline(file_dependents.read_short, path)
            return await self._lanes.run(Lane.BRIEF, file_dependents.read, path) if noted is None else noted

    async def remove_dependents(self, part: UploadId, gone: Collection[UploadId]) -> None:
        """See `Store.remove_dependents`."""
        path = self._layout.path(part) + layout.AWAITED
        with self._translating("striking out final uploads"):
            await self._lanes.run(Lane.BRIEF, file_dependents.strike, path, frozenset(gone), self._file_mode)

    # the end of an upload --------------------------------------------------------------------------------------------

    async def finalize(self, upload: Upload) -> Upload:
        """See `Store.finalize`."""
        if self._template is None or upload.role is Role.PARTIAL:
            return upload
        return await self._lanes.run(Lane.SYNCS, self._finalize, self._template, upload)

    def _finalize(self, template: Template, upload: Upload) -> Upload:
        with self._translating("renaming a finished upload"):
            path = self._layout.path(upload.id)
            # The file has both names until the record knows the new one, so a crash loses neither.
            known = upload.storage.get(layout.PATH)
            if known is None and files.excess(path, upload.offset):  # of a body that a crash has cut off
                files.truncate_to(path, upload.offset)
            readable = known or str(template.link(Path(path), upload))
            if self._records.syncs(upload):
                if known is None:
                    files.sync_file(readable)  # with the time that it is known by: fdatasync has no need of that
                files.sync_folder(Path(readable).parent)
            storage = {layout.PATH: readable}
            if (written := files.mtime_ns(readable)) is not None:
                storage[layout.MTIME_NS] = str(written)
            named = replace(upload, storage=storage)
            if named != upload:
                self._records.replace(named)
            files.unlink(path)
        return named

    async def content(self, upload: Upload) -> Content:
        """See `Store.content`."""
        if not await self._run_inline(self._contents.are_there, upload):
            raise UploadNotFound
        return Content(upload=upload, size=upload.offset, etag=upload.id, path=Path(self._layout.bytes_path(upload)))

    async def remove(self, upload_id: UploadId, *, notes: bool = True) -> bool:
        """See `Store.remove`."""
        before = partial(self._deadlines.note_first, upload_id)
        return await self._lanes.run(
            Lane.REMOVALS, partial(self._removal.remove, upload_id, notes=notes, before=before)
        )

    async def reap(self, ids: Sequence[UploadId], is_over: Callable[[Upload], bool]) -> Reaped:
        """See `Store.reap`."""
        return await self._lanes.run(Lane.REMOVALS, self._removal.reap, ids, is_over)

    # going through them ----------------------------------------------------------------------------------------------

    async def uploads(self) -> AsyncIterator[Upload]:
        """See `Store.uploads`."""
        for shard in await self._lanes.run(Lane.SWEEPS, self._shards):
            with contextlib.closing(layout.recorded(shard)) as found:
                more = True
                while more:
                    some, more = await self._lanes.run(Lane.SWEEPS, self._records.load_some, found, LOAD_RECORDS)
                    for upload in some:
                        yield upload

    def _shards(self) -> list[Path]:
        with self._translating("looking for uploads"):
            return self._layout.shards()

    async def due(
        self, now: datetime, latest: datetime | None = None, *, owed: bool = False
    ) -> AsyncIterator[UploadId]:
        """See `Store.due`."""
        batches = self.due_batches(now, latest, owed=owed)
        try:
            async for ids in batches:
                for upload_id in ids:
                    yield upload_id
        finally:
            await batches.aclose()

    def due_batches(
        self, now: datetime, latest: datetime | None = None, *, owed: bool = False
    ) -> AsyncGenerator[Sequence[UploadId], None]:
        """See `Store.due_batches`."""
        return self._deadlines.due_batches(now, latest, owed=owed)

    async def schedule(self, upload_id: UploadId, at: datetime, *, owed: bool = False) -> None:
        """See `Store.schedule`."""
        await self._run_inline(partial(self._deadlines.note, upload_id, at.timestamp(), owed=owed))

    async def read_note(self, name: str) -> str | None:
        """See `Store.read_note`."""
        return await self._lanes.run(Lane.BRIEF, self._deadlines.read_note, name)

    async def write_note(self, name: str, text: str) -> None:
        """See `Store.write_note`."""
        await self._lanes.run(Lane.BRIEF, self._deadlines.write_note, name, text)

    async def flush(self) -> None:
        """See `Store.flush`. In the weaker modes everything is synced, so that what is older survives a power cut.

        At first in every mode: a process that died in a weaker one may have left something unsynced.
        """
        records = self._records
        if records.dirty and (records.inherits or not self._sync):
            records.dirty = False
            try:
                await self._lanes.run(Lane.SWEEPS, records.sync_all)
            except BaseException:
                records.dirty = True
                raise
            records.inherits = False


async def _raise(error: TusError) -> None:
    raise error
