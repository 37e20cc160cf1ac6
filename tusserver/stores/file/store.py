"""The file store: for each upload one preallocated file, and one record beside it.

    uploads/ab/abcd…          the bytes, at their final offsets from the start
    uploads/ab/abcd….record   the record (see `record`)
    uploads/ab/abcd….awaited  of a partial upload: the final uploads that it is in (see `awaited`)
    calendar/                 which upload to look at when (see `calendar`)
    calendar/owed/            likewise, by a process with the application that is to be told

No chunk files, no assembly: a finished file is ready in place. What a crash can leave is bytes with no record or an
empty one, or a `.new` file; their id is in the calendar before they are made, so its next look removes them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterator,
    Sequence,
)
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from tusserver import clock
from tusserver.clock import WallClock, boot_id
from tusserver.disk import faults, files, space, writeback
from tusserver.disk.cached import Cached
from tusserver.disk.space import FILES
from tusserver.disk.writeback import Ahead
from tusserver.indexes import file_dependents
from tusserver.indexes.file_schedule import Calendar
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
from tusserver.protocol.upload import Role, Upload, UploadId, as_upload_id
from tusserver.stores.base import OnCopied, Reaped
from tusserver.stores.file import folder, record
from tusserver.stores.file.finished import Template
from tusserver.stores.file.untouched import Untouched
from tusserver.streams import FileTarget, OnProgress, Source

logger = logging.getLogger("tusserver.store")

BATCH = 512 * 1024
"""Bytes written at once: above, ext4 takes page-cache folios that cost more than they save."""
GROWTH = 64 << 20
"""Bytes by which a file of unknown length grows at most; so many are reserved or given back without a thread."""
FIRST_LOOK = 3600.0
"""Seconds after which a new id gets its first look, for what a crash may have left half-made."""
SMALL = 64 * 1024
"""Bytes that are written without a thread."""
LITTLE = 8 << 20
"""Bytes that are synced in one call."""
COPY_STEP = 16 << 20
"""Bytes that are copied at once, in much less than a second."""
TOGETHER = 64
"""Records that are read in one call, where all are read."""
_READ = 1 << 20
_CLOCK = ".clock"
"""Behind the name of a run of the machine in `settled`: that line is in seconds of that run."""
_RECORD = ".record"
_AWAITED = ".awaited"
_NEW = ".new"
_SUFFIXES = (_RECORD + _NEW, _RECORD, _AWAITED + _NEW, _AWAITED, "")
"""What the files of an upload have behind its id. That of the bytes comes last, as every name ends with it."""
_LOOKED_AT_ONCE = 256
"""Ids whose files are looked for by one call. A thread that makes short calls in turn would not let the loop have the
interpreter for as long as it goes on."""
_LISTED_AT_ONCE = 500
"""Uploads that one call puts into a calendar that is made anew."""

T = TypeVar("T")


class Durability(StrEnum):
    """What survives a power cut. What was acknowledged survives a crash of the server in every mode."""

    ACK = "ack"
    """Every acknowledged byte."""
    FINISH = "finish"
    """Finished uploads; unfinished ones resume from what had reached the disk."""
    NONE = "none"
    """What had reached the disk."""


class FileStore:
    """Uploads below the folder `root`.

    `durability`: see `Durability`. `finished_folder` and `finished_name`: where finished files are renamed to (see
    `naming.Template`); they stay in place without. `reserve`: bytes of free space below which new uploads are refused;
    never more than a tenth of the disk. `untouched`: per cent of the free space that uploads without a byte may hold
    together; beyond it, and if it is there then, space is reserved with the first byte. Modes are of the files and
    folders made.

    Raises:
        ValueError: an argument is wrong; the text names it and the remedy.
    """

    extensions = frozenset(Extension)

    @property
    def finishes_in_place(self) -> bool:
        """See `Store.finishes_in_place`."""
        return self._template is None

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
    ) -> None:
        self.root = Path(root).absolute()
        self.durability = Durability(durability)
        self._sync = self.durability is Durability.ACK
        self._file_mode = file_mode
        self._translated = faults.Troubles().translated
        self._folder_mode = folder_mode
        self._uploads = self.root / "uploads"
        self._folder = str(self._uploads)
        try:
            marked = folder.check_format(self.root)
            folder.inspect(self.root, folder_mode)
            files.make_folder(self._uploads, folder_mode)
            if not os.access(self._uploads, os.W_OK | os.X_OK):
                raise PermissionError(13, "it is not writable")
            if not marked:
                folder.mark(self.root, file_mode)
        except OSError as error:
            raise ValueError(f"the data folder {self.root} cannot be used: {error.strerror}") from error
        self._template = None
        if finished_folder is not None:
            self._template = Template(Path(finished_folder).absolute(), finished_name, folder_mode)
            self._template.require_same_file_system(self._uploads)
        self._reserver = space.Reserver(self._uploads, reserve)
        self._untouched = Untouched(
            f"{self.root}/untouched", file_mode, untouched, self._reserver.free, self._holds_untouched
        )
        self._calendar = Calendar(self.root / "calendar", file_mode, folder_mode)
        self._owed = Calendar(self.root / "calendar" / "owed", file_mode, folder_mode)
        self.clock = WallClock()
        """See `Store.clock`."""
        with contextlib.suppress(OSError):
            self.clock.restore(self._calendar.read_note(clock.NOTE) or "")
        self._boot = boot_id()
        self._settled = self._read_settled()
        # Another process may have died before it had synced what it wrote, in whatever mode.
        self._unsettled = True
        self._inherits = True
        self._plain: set[str] = set()
        self._progress: dict[UploadId, record.Progress] = {}
        self._lanes = Lanes()
        self._swift = self._lanes.swift
        self._cached = Cached()

    @property
    def waits_for_disk(self) -> bool:
        """See `Store.waits_for_disk`."""
        return self._sync

    @property
    def lock_folder(self) -> Path:
        """See `Store.lock_folder`."""
        return self.root / "locks"

    def claim(self, scope: str) -> folder.Claim:
        """See `Store.claim`."""
        try:
            return folder.Claim(self.root, scope, self._file_mode)
        except OSError as error:
            raise ValueError(f"the data folder {self.root} cannot be used: {error.strerror}") from error

    @property
    def lanes(self) -> Lanes:
        """All calls to its disk."""
        return self._lanes

    async def _run(self, call: Callable[..., T], *args: object, discard: Callable[[T], object] | None = None) -> T:
        """Run a call that is neither swift nor long."""
        return await self._lanes.run(Lane.BRIEF, call, *args, discard=discard)

    async def check(self) -> None:
        """See `Store.check`."""
        await self._lanes.run(Lane.CHECKS, self._check)

    def _check(self) -> None:
        try:
            self._reserver.require_room(files=FILES)  # first: without an inode nothing could be tried
            files.probe(self._uploads)
        except OSError as error:
            raise StoreUnavailable(f"{error.strerror}") from error

    # Plain text: a Path costs more to make than its file to open.

    def _path(self, upload_id: UploadId) -> str:
        shard = upload_id[:2]
        if shard not in self._plain:
            self._look_at(shard)
        return f"{self._folder}/{shard}/{upload_id}"

    def _look_at(self, shard: str) -> None:
        """Let no link stand for a folder: no file is opened through a link, but the way to it would go through one."""
        path = f"{self._folder}/{shard}"
        if files.leads_elsewhere(path):
            logger.error("%s is a symbolic link, so what is behind it is not used", path)
            raise StoreUnavailable
        if not self._folder_mode & 0o022:  # else others may put one there at any time
            self._plain.add(shard)

    def _bytes_path(self, upload: Upload) -> str:
        return self._path(upload.id) if upload.place is None else upload.place

    # making and reading ----------------------------------------------------------------------------------------------

    async def create(self, upload: Upload, data: bytes = b"") -> None:
        """See `Store.create`."""
        if (upload.length or 0) > GROWTH and not upload.pending:
            await self._lanes.run(Lane.SPACE, self._create, upload, data)
        elif self._sync or (data and self._syncs(upload)):
            await self._lanes.run(Lane.SYNCS, self._create, upload, data)
        else:
            await self._swift(self._create, upload, data)

    def _create(self, upload: Upload, data: bytes = b"") -> None:
        path = self._path(upload.id)
        now = self.clock.seconds()
        look = now + FIRST_LOOK
        if upload.expires_at is not None:
            look = min(look, upload.expires_at.timestamp())
        with self._translated("creating an upload"):
            self._reserver.require_room(files=FILES)
            self._calendar.add(upload.id, look, now)
            try:
                fd = self._open_new(path)
            except FileExistsError:
                raise UploadExists from None
            try:
                try:
                    # A pending final upload takes its space when its parts are there.
                    if upload.length and not upload.pending:
                        self._reserve_whole(fd, upload)
                    syncs = self._sync
                    if data:
                        self._unsettled = True
                        files.write_all(fd, [data], 0)
                        if syncs := self._syncs(upload):
                            files.sync_data(fd)
                finally:
                    os.close(fd)
                content = record.pack(upload, self._slot(upload, 0, upload.offset if syncs else 0))
                files.write_new_file(path + _RECORD, content, self._file_mode, sync=syncs)
                if syncs and (not self._sync or self._inherits):  # see `_commit`
                    files.sync_folder(self._uploads)
            except FileExistsError:  # the bytes of that one have gone to their readable place
                files.discard(path)
                raise UploadExists from None
            except BaseException:
                files.discard(path + _RECORD, path)
                raise

    def _reserve_whole(self, fd: int, upload: Upload) -> None:
        """Reserve an upload's space; of one without a byte only look at it if such hold too much already."""
        assert upload.length is not None
        small = self._reserver.sparse or upload.length <= SMALL
        if upload.offset or small or self._untouched.admit(upload.id, upload.length):
            self._reserver.reserve(fd, 0, upload.length)
        else:
            self._reserver.require_fit(fd, upload.length)

    def _holds_untouched(self, upload_id: UploadId) -> bool:
        try:
            return self._load(upload_id).untouched
        except UploadNotFound:  # it is being made, or a crash has left its bytes
            return files.written_at(self._path(upload_id)) is not None
        except TusError:
            return True

    def _open_new(self, path: str) -> int:
        flags = os.O_RDWR | os.O_EXCL
        try:
            return files.make_file(path, flags, self._file_mode)
        except FileNotFoundError:
            files.make_folder(Path(path).parent, self._folder_mode, sync=self._sync)
            return files.make_file(path, flags, self._file_mode)

    def _slot(self, upload: Upload, number: int, synced: int) -> record.Slot:
        return record.Slot.of(
            upload,
            number=number,
            synced=synced,
            written_at=self.clock.seconds(),
            clock=self.clock.steady(),
            boot=self._boot,
        )

    async def load(self, upload_id: UploadId) -> Upload:
        """See `Store.load`."""
        if upload_id[:2] in self._plain and (content := self._cached.read(self._record_path(upload_id))) is not None:
            with contextlib.suppress(ValueError):  # the usual way tells what is wrong with it
                upload, slot = record.unpack(content, self._boot)
                if slot.boot == self._boot:
                    return self._dated(upload, slot)
        return await self._swift(self._load, upload_id)

    def _record_path(self, upload_id: UploadId) -> str:
        return self._path(upload_id) + _RECORD

    def _load(self, upload_id: UploadId) -> Upload:
        try:
            with self._translated("reading a record"):
                try:
                    content = files.read_file(self._record_path(upload_id))
                except FileNotFoundError:
                    raise UploadNotFound from None
            upload, slot = record.unpack(content, self._boot)
        except record.NeverMade:
            raise UploadNotFound from None
        except ValueError as error:
            if self._was_never_whole(content):
                raise UploadNotFound from None
            logger.error("the record of %s cannot be read: %s", upload_id, error)
            raise StoreUnavailable from error
        if slot.boot != self._boot:
            return self._after_restart(upload, slot)
        return self._dated(upload, slot)

    def _dated(self, upload: Upload, slot: record.Slot) -> Upload:
        if slot.clock is not None and abs(self.clock.believed + slot.clock - slot.written_at) > 1:
            # The wall clock was wrong then, or is now; the steady one knows how long ago that is.
            upload = replace(upload, updated_at=self.clock.at(slot.clock))
        return upload

    def _after_restart(self, upload: Upload, slot: record.Slot) -> Upload:
        """Return what is surely left of an upload that another run of the machine wrote last."""
        if slot.synced < slot.offset and self._may_be_lost(slot):
            logger.warning("upload %s goes back to byte %d after a restart of the machine", upload.id, slot.synced)
            told = min(upload.told, slot.synced)
            upload = replace(upload, offset=slot.synced, complete=False, finished=False, told=told)
        in_hand = upload.place is None or not upload.finished  # people take finished files away
        with self._translated("looking for the bytes"):
            if in_hand and files.written_at(self._bytes_path(upload)) is None:
                raise UploadNotFound  # a power cut came while it was made or removed
        return upload

    def _was_never_whole(self, content: bytes) -> bool:
        """Whether a record that cannot be read is what a power cut leaves of one that nothing was promised of."""
        last = record.newer(content[: record.JSON_AT], self._boot)
        if last is None:  # two commits on their way to the disk at once
            return self.durability is not Durability.ACK
        return self._may_be_lost(last) and not record.has_end(content)

    def _may_be_lost(self, slot: record.Slot) -> bool:
        """Whether what was not synced when this slot was written may be missing: the machine was restarted since."""
        return slot.boot != self._boot and not self._is_settled(slot)

    def _is_settled(self, slot: record.Slot) -> bool:
        settled = self._settled.get(slot.boot + _CLOCK)
        if slot.clock is not None and settled is not None:
            return slot.clock < settled
        return slot.written_at < self._settled.get(slot.boot, 0.0)  # older versions went by the wall clock

    def _synced(self, slot: record.Slot) -> int:
        """Bytes of an upload that are surely on the disk, by its last slot."""
        return max(slot.synced, slot.offset) if self._is_settled(slot) else slot.synced

    # bytes -----------------------------------------------------------------------------------------------------------

    async def write(self, upload: Upload, source: Source, on_progress: OnProgress) -> int:
        """See `Store.write`."""
        fd = -1
        ahead = Ahead(self._lanes, upload.offset) if self.durability is Durability.FINISH else None

        def on_disk(added: int) -> Awaitable[None] | None:
            if ahead is not None:
                ahead.note(fd, upload.offset + added)
            return on_progress(added)

        try:
            if source.can_receive_into:
                fd = await self._open_for(upload, source.expected or 0)
                reserve = partial(self._make_room, fd, upload, source.limit) if source.expected is None else None
                target = FileTarget(fd=fd, offset=upload.offset, disk=self._lanes, reserve=reserve)
                with self._translated("writing"):
                    return await source.receive_into(target, on_disk)
            written = 0
            while batch := await source.read(BATCH):
                size = sum(map(len, batch))
                if fd < 0:
                    fd = await self._open_for(upload, source.expected or size, size)
                if size <= SMALL:
                    written += await self._swift(self._write, fd, upload, batch, written, source.limit)
                else:
                    written += await self._lanes.run(Lane.BODIES, self._write, fd, upload, batch, written, source.limit)
                del batch  # while the next one is waited for
                if (telling := on_disk(written)) is not None:
                    await telling
            return written
        finally:
            try:
                if ahead is not None:
                    await ahead.end()
            finally:
                if fd >= 0:
                    os.close(fd)
                self._end_progress(upload.id)

    async def _open_for(self, upload: Upload, more: int, here: int = 0) -> int:
        """See `_open_bytes`."""
        if _reserves_much(upload, more):
            return await self._lanes.run(Lane.SPACE, self._open_bytes, upload, more, here, discard=os.close)
        return await self._swift(self._open_bytes, upload, more, here, discard=os.close)

    def _open_bytes(self, upload: Upload, more: int, here: int = 0) -> int:
        """Open the file with room for `more` bytes behind the offset, of which so many are `here`.

        Where the length is known there is room for all that is to come.
        """
        if upload.length is not None:
            more = upload.length - upload.offset
        with self._translated("opening an upload"):
            try:
                fd = os.open(self._bytes_path(upload), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
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
                    self._reserver.reserve(fd, upload.offset, more)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def _write(self, fd: int, upload: Upload, batch: list[bytes], written: int, room: int | None) -> int:
        at = upload.offset + written
        with self._translated("writing"):
            self._make_room(fd, upload, room, at, sum(map(len, batch)))
            return files.write_all(fd, batch, at)

    def _make_room(self, fd: int, upload: Upload, room: int | None, at: int, size: int) -> None:
        """Make a file of unknown length larger, by more than is needed now; if there is no room for that, by less."""
        if upload.length is not None or os.fstat(fd).st_size >= at + size:
            return
        ahead = space.step(size, at - upload.offset, room, GROWTH)
        try:
            self._note_growth(upload, ahead - size)
            self._reserver.reserve(fd, at, ahead)
        except (OutOfSpace, MaxSizeExceeded):
            self._reserver.reserve(fd, at, size)

    def _note_growth(self, upload: Upload, ahead: int) -> None:
        """Have the next sweep look at an upload that takes space for what has not come: we may die before `trim`."""
        if ahead > SMALL:
            self._remind(self._calendar, upload.id, self.clock.seconds())

    async def put(self, upload: Upload, data: bytes) -> None:
        """See `Store.put`: one call where there is little to do, as most of what it costs is to go to a thread."""
        start = upload.with_progress(upload.offset - len(data), expires_at=upload.expires_at, finished=False)
        syncs = self._syncs(upload)
        if _reserves_much(start, len(data)) or (syncs and upload.offset > LITTLE):
            fd = await self._open_for(start, len(data), len(data))
            try:
                await self._swift(self._write, fd, start, [data], 0, None)
            finally:
                os.close(fd)
            await self.commit(upload)
        elif syncs:
            await self._lanes.run(Lane.SYNCS, self._put, start, data, upload)
        else:
            await self._swift(self._put, start, data, upload)

    def _put(self, start: Upload, data: bytes, upload: Upload) -> None:
        fd = self._open_bytes(start, len(data), len(data))
        try:
            self._write(fd, start, [data], 0, None)
        finally:
            os.close(fd)
        self._commit(upload)

    async def reserve(self, upload: Upload) -> None:
        """See `Store.reserve`."""
        await self._lanes.run(Lane.SPACE, self._reserve, upload)

    def _reserve(self, upload: Upload) -> None:
        assert upload.length is not None
        with self._translated("reserving space"):
            self._note_growth(upload, upload.length - upload.offset)
            if not upload.untouched:
                os.close(self._open_bytes(upload, upload.length - upload.offset))
                return
            fd = self._open_bytes(replace(upload, length=None), 0)
            try:
                self._reserve_whole(fd, upload)
            finally:
                os.close(fd)

    async def trim(self, upload_id: UploadId) -> None:
        """See `Store.trim`."""
        upload = await self.load(upload_id)
        if upload.length is not None and not upload.pending:
            return
        excess = await self._swift(self._excess, upload)
        if excess:
            await (self._run if self._sync or excess > GROWTH else self._swift)(self._trim, upload)

    def _excess(self, upload: Upload) -> int:
        with self._translated("looking at an upload"):
            return files.excess(self._bytes_path(upload), upload.offset)

    def _trim(self, upload: Upload) -> None:
        with self._translated("giving back space"):
            fd = self._open_record(upload.id)
            try:
                reach = record.reach(os.pread(fd, record.JSON_AT, 0))
            finally:
                os.close(fd)
            files.cut(self._bytes_path(upload), max(upload.offset, reach))

    async def commit(self, upload: Upload) -> None:
        """See `Store.commit`."""
        if not self._syncs(upload):
            await self._swift(self._commit, upload)
        elif upload.offset > LITTLE and await self._sync_most(upload):
            await self._lanes.run(Lane.LONG_SYNCS, self._commit, upload)
        else:
            await self._lanes.run(Lane.SYNCS, self._commit, upload)

    async def _sync_most(self, upload: Upload) -> bool:
        """Write what may be much to the disk, in steps between which others have their turn; return whether it was."""
        at = await self._lanes.run(Lane.BRIEF, self._first_unsynced, upload)
        if upload.offset - at <= LITTLE:
            return False
        path = self._bytes_path(upload)
        with self._translated("syncing"):
            while at < upload.offset:
                length = min(writeback.STEP, upload.offset - at)
                await self._lanes.run(Lane.LONG_SYNCS, writeback.step, path, at, length)
                at += length
        return True

    def _first_unsynced(self, upload: Upload) -> int:
        with self._translated("committing"):
            fd = self._open_record(upload.id)
            try:
                last = record.read_slot(fd, self._boot)
            finally:
                os.close(fd)
        return 0 if last is None else self._synced(last)

    def checkpoint(self, upload: Upload) -> Awaitable[None] | None:
        """See `Store.checkpoint`. A task for each, with thousands of slow clients, would cost more than their bytes."""
        if self._sync:
            return self.commit(upload)
        self._unsettled = True
        progress = self._progress.get(upload.id)
        if progress is None:
            progress = self._progress[upload.id] = record.Progress(self._boot)
        try:
            return self._lanes.attempt(self._checkpoint, progress, upload)
        except TusError as error:
            return _raise(error)

    def _checkpoint(self, progress: record.Progress, upload: Upload) -> None:
        try:
            with progress.open(lambda: self._record_path(upload.id)) as last:
                progress.move(self._slot(upload, last.number + 1, min(self._synced(last), upload.offset)))
        except (OSError, ValueError):
            self._commit(upload)  # it finds the same, and says so

    def _end_progress(self, upload_id: UploadId) -> None:
        if (progress := self._progress.pop(upload_id, None)) is not None:
            progress.end()

    def _syncs(self, upload: Upload) -> bool:
        return self._sync or (self.durability is Durability.FINISH and upload.complete)

    def _commit(self, upload: Upload) -> None:
        """Bytes first, then the record that says so."""
        self._unsettled = True
        syncs = self._syncs(upload)
        with self._translated("committing"):
            fd = self._open_record(upload.id)
            try:
                head = os.pread(fd, record.JSON_AT, 0)
                last = record.newer(head, self._boot)
                if last is None:
                    raise StoreUnavailable
                unsynced = upload.offset > last.synced
                if syncs and unsynced:
                    self._sync_bytes(upload)
                synced = upload.offset if syncs else min(self._synced(last), upload.offset)
                slot = self._slot(upload, last.number + 1, synced)
                if (slot.offset, slot.finished, slot.boot) == (last.offset, last.finished, last.boot):
                    slot = replace(slot, written_at=last.written_at, clock=last.clock)  # see `Upload.updated_at`
                promised = self._sync or last.offset == upload.length
                if syncs and promised and not record.was_synced(head, last):
                    files.sync_data(fd)  # else a power cut may take the last slot and tear the one that is written now
                # `finished` alone needs no sync: if it is lost, finishing is done again.
                changed = unsynced or (slot.offset, slot.complete, slot.expires_at) != (
                    last.offset,
                    last.complete,
                    last.expires_at,
                )
                if slot.offset < last.offset or (syncs and changed):
                    self._write_synced(fd, slot)
                    if syncs and (not self._sync or self._inherits):  # the names neither, when they were made
                        files.sync_folder(self._uploads / upload.id[:2])
                        files.sync_folder(self._uploads)
                else:
                    record.write_slot(fd, slot)
                if slot.offset < last.offset:  # what was told of the bytes that are taken back
                    record.write_cell(fd, upload)
            finally:
                os.close(fd)

    def _open_record(self, upload_id: UploadId) -> int:
        try:
            return os.open(self._path(upload_id) + _RECORD, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise UploadNotFound from None

    def _write_synced(self, fd: int, slot: record.Slot) -> None:
        """Write a slot that counts once it has reached the disk, and not before."""
        slot = replace(slot, unsynced=True)
        record.write_slot(fd, slot)
        try:
            files.sync_data(fd)
        except OSError:
            with contextlib.suppress(OSError):
                record.take_back(fd, slot)
            raise
        record.mark_synced(fd, slot)

    async def take_back(self, upload: Upload) -> None:
        """See `Store.take_back`."""
        await self._lanes.run(Lane.SYNCS, self._commit, upload)

    async def tell(self, upload: Upload) -> None:
        """See `Store.tell`."""
        claims = upload.role is Role.FINAL and not upload.unclaimed
        if self._sync and claims:
            await self._lanes.run(Lane.SYNCS, self._tell, upload, True)
        else:
            await self._swift(self._tell, upload, False)

    def _tell(self, upload: Upload, syncs: bool) -> None:
        with self._translated("recording what was told"):
            fd = self._open_record(upload.id)
            try:
                record.write_cell(fd, upload)
                if syncs:
                    files.sync_data(fd)
            finally:
                os.close(fd)

    async def digest(self, upload: Upload, start: int, stop: int, digest: Digest) -> None:
        """See `Store.digest`."""
        await self._lanes.run(Lane.DIGESTS, self._digest, upload, start, stop, digest)

    def _digest(self, upload: Upload, start: int, stop: int, digest: Digest) -> None:
        with self._translated("reading an upload"):
            fd = os.open(self._bytes_path(upload), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                while start < stop and (data := os.pread(fd, min(_READ, stop - start), start)):
                    digest.update(data)
                    start += len(data)
            finally:
                os.close(fd)

    def _sync_bytes(self, upload: Upload) -> None:
        fd = os.open(self._bytes_path(upload), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            files.sync_data(fd)
        finally:
            os.close(fd)

    async def amend(self, upload: Upload) -> None:
        """See `Store.amend`."""
        await self._lanes.run(Lane.SYNCS, self._amend, upload)

    def _amend(self, upload: Upload) -> None:
        with self._translated("writing a record"):
            fd = self._open_record(upload.id)
            try:
                self._replace(fd, upload)
            finally:
                os.close(fd)

    def _replace(self, fd: int, upload: Upload) -> None:
        path = self._path(upload.id)
        head = os.pread(fd, record.JSON_AT, 0)
        last = record.newer(head, self._boot)
        number, synced = (last.number, self._synced(last)) if last is not None else (0, 0)
        if upload.place is None and upload.length is not None:
            files.cut(path, upload.length)  # it had grown ahead
        slot = self._slot(upload, number + 1, min(synced, upload.offset))
        content = record.pack(upload, slot, cell=record.cell_of(head))
        files.replace_file(path + _RECORD, content, self._file_mode, sync=self._syncs(upload))
        if (told := record.cell_of(os.pread(fd, record.JSON_AT, 0))) != record.cell_of(head):
            new = self._open_record(upload.id)  # somebody was told meanwhile
            try:
                record.copy_cell(new, told)
            finally:
                os.close(new)

    # concatenation ---------------------------------------------------------------------------------------------------

    async def concatenate(self, final: Upload, parts: Sequence[Upload], on_progress: OnCopied) -> None:
        """See `Store.concatenate`."""
        assert final.length is not None
        fd = -1
        try:
            room = final.length - final.offset
            fd = await self._lanes.run(Lane.SPACE, self._open_bytes, final, room, discard=os.close)
            begins = 0
            for part in parts:
                ends = begins + part.offset
                done = min(max(final.offset, begins), ends)
                while done < ends:
                    step = min(COPY_STEP, ends - done)
                    await self._lanes.run(Lane.COPIES, self._copy, part, done - begins, fd, done, step)
                    done += step
                    await on_progress(done)
                begins = ends
        except (StoreUnavailable, OutOfSpace, MaxSizeExceeded):
            with contextlib.suppress(TusError):
                await self.trim(final.id)  # it may take long until it can be tried again
            raise
        finally:
            if fd >= 0:
                os.close(fd)

    def _copy(self, part: Upload, start: int, target: int, at: int, length: int) -> None:
        with self._translated("joining partial uploads"):
            source = self._open_bytes(part, 0)
            try:
                files.copy(source, start, target, at, length)
            finally:
                os.close(source)

    async def note_awaiting(self, final: UploadId, part: UploadId) -> None:
        """See `Store.note_awaiting`."""
        path = self._path(part) + _AWAITED
        with self._translated("noting a final upload"):
            await self._run(file_dependents.note, path, final, self._file_mode)

    async def awaiting(self, part: UploadId) -> tuple[UploadId, ...]:
        """See `Store.awaiting`."""
        path = self._path(part) + _AWAITED
        with self._translated("reading which final uploads wait"):
            noted = await self._swift(file_dependents.read_short, path)
            return await self._run(file_dependents.read, path) if noted is None else noted

    async def strike_awaiting(self, part: UploadId, gone: Collection[UploadId]) -> None:
        """See `Store.strike_awaiting`."""
        path = self._path(part) + _AWAITED
        with self._translated("striking out final uploads"):
            await self._run(file_dependents.strike, path, frozenset(gone), self._file_mode)

    # the end of an upload --------------------------------------------------------------------------------------------

    async def finish(self, upload: Upload) -> Upload:
        """See `Store.finish`."""
        if self._template is None or upload.role is Role.PARTIAL:
            return upload
        return await self._lanes.run(Lane.SYNCS, self._finish, self._template, upload)

    def _finish(self, template: Template, upload: Upload) -> Upload:
        with self._translated("renaming a finished upload"):
            path = self._path(upload.id)
            # The file has both names until the record knows the new one, so a crash loses neither.
            place = upload.place or str(template.link(Path(path), upload))
            if self._syncs(upload):
                if upload.place is None:
                    files.sync_file(place)  # with the time that it is known by: fdatasync has no need of that
                files.sync_folder(Path(place).parent)
            sealed = replace(upload, place=place, seal=files.written_at(place))
            if sealed != upload:
                self._amend(sealed)
            files.unlink(path)
        return sealed

    async def content(self, upload: Upload) -> Content:
        """See `Store.content`."""
        if not await self._swift(self._has_bytes, upload):
            raise UploadNotFound
        return Content(upload=upload, size=upload.offset, etag=upload.id, path=Path(self._bytes_path(upload)))

    def _has_bytes(self, upload: Upload) -> bool:
        """Whether the bytes are still where they were put: people move finished files away, and names are reused."""
        with self._translated("looking for the bytes"):
            found = files.written_at(self._bytes_path(upload))
        return found is not None and (upload.place is None or not upload.finished or found == upload.seal)

    async def remove(self, upload_id: UploadId, *, notes: bool = True) -> bool:
        """See `Store.remove`."""
        return await self._lanes.run(Lane.REMOVALS, self._remove, upload_id, notes)

    def _remove(self, upload_id: UploadId, notes: bool) -> bool:
        try:
            upload = self._load(upload_id)
        except TusError:
            upload = None
        with self._translated("removing an upload"):
            if upload is not None:
                now = self.clock.seconds()
                with contextlib.suppress(OSError):  # removing must work on a full disk
                    self._calendar.add(upload_id, now + FIRST_LOOK, now)
                self._sync_folders(self._remove_place(upload))
            folders: set[Path] = set()
            there = self._remove_files(upload_id, notes, folders)
            self._sync_folders(folders)
        return there

    async def reap(self, ids: Sequence[UploadId], is_over: Callable[[Upload], bool]) -> Reaped:
        """See `Store.reap`."""
        return await self._lanes.run(Lane.REMOVALS, self._reap, ids, is_over)

    def _reap(self, ids: Sequence[UploadId], is_over: Callable[[Upload], bool]) -> Reaped:
        over: dict[UploadId, Upload] = {}
        failed: dict[UploadId, Exception] = {}
        folders: set[Path] = set()
        for upload_id in ids:
            try:
                if is_over(upload := self._load(upload_id)):
                    with self._translated("removing an upload"):
                        folders |= self._remove_place(upload)
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
                    with self._translated("removing an upload"):
                        self._remove_files(upload_id, True, folders)
                except TusError as error:
                    failed[upload_id] = error
            self._sync_folders(folders)
        except TusError as error:  # a power cut may bring them back
            return Reaped([], failed | dict.fromkeys(over, error))
        return Reaped([upload for upload_id, upload in over.items() if upload_id not in failed], failed)

    def _remove_files(self, upload_id: UploadId, notes: bool, folders: set[Path]) -> bool:
        """Remove what there is of an upload but its readable name; note in `folders` which ones are to be synced."""
        path = self._path(upload_id)
        # The record goes before the bytes: these are found by the calendar if we die here.
        there = files.unlink(path + _RECORD)
        there |= files.unlink(path)
        there |= notes and files.unlink(path + _AWAITED)
        for suffix in (_RECORD, _AWAITED):
            files.unlink(path + suffix + _NEW)
        if there:
            folders.add(Path(path).parent)
        return there

    def _sync_folders(self, folders: Collection[Path]) -> None:
        if self._sync:
            with self._translated("removing an upload"):
                for path in folders:
                    files.sync_folder(path)

    def _remove_place(self, upload: Upload) -> set[Path]:
        """Remove the readable name, also one that a crash kept from the record; return its folder, to be synced.

        That comes first, as only the record knows it: a power cut could bring it back when the record has gone.
        """
        place = upload.place if upload.place is not None and self._has_bytes(upload) else None
        if upload.place is None and self._template is not None:
            path = Path(self._path(upload.id))
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_nlink > 1:
                    place = str(self._template.link(path, upload))
        if place is None:
            return set()
        files.unlink(place)
        return {Path(place).parent}

    # going through them ----------------------------------------------------------------------------------------------

    async def uploads(self) -> AsyncIterator[Upload]:
        """See `Store.uploads`."""
        for shard in await self._lanes.run(Lane.SWEEPS, self._shards):
            with contextlib.closing(_ids(shard, _RECORD)) as found:
                more = True
                while more:
                    some, more = await self._lanes.run(Lane.SWEEPS, self._load_some, found)
                    for upload in some:
                        yield upload

    def _load_some(self, found: Iterator[UploadId]) -> tuple[list[Upload], bool]:
        """Read some records in one call, as a thread costs more than a record; return whether there may be more."""
        uploads = []
        with self._translated("looking for uploads"):
            ids = list(islice(found, TOGETHER))
            for upload_id in ids:
                # It was removed meanwhile, or what is wrong with it was logged where it was read.
                with contextlib.suppress(UploadNotFound, StoreUnavailable):
                    uploads.append(self._load(upload_id))
        return uploads, len(ids) == TOGETHER

    def _shards(self) -> list[Path]:
        with self._translated("looking for uploads"), os.scandir(self._uploads) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))

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

    async def due_batches(
        self, now: datetime, latest: datetime | None = None, *, owed: bool = False
    ) -> AsyncGenerator[Sequence[UploadId], None]:
        """See `Store.due_batches`."""
        try:
            if not owed and not await self._lanes.run(Lane.SWEEPS, self._covers):
                await self._remake_calendar()
        except (OutOfSpace, StoreUnavailable):
            pass  # the next sweep tries again; to remove what is listed makes room
        calendar = self._owed if owed else self._calendar
        batches = calendar.batches(now.timestamp(), math.inf if latest is None else latest.timestamp())
        try:
            while (names := await self._lanes.run(Lane.SWEEPS, self._next_names, batches)) is not None:
                ids: list[UploadId] = []
                for start in range(0, len(names), _LOOKED_AT_ONCE):
                    ids += await self._lanes.run(Lane.SWEEPS, self._those_there, names[start : start + _LOOKED_AT_ONCE])
                if ids:
                    yield sorted(ids)  # those that share a folder are removed together, and synced once
        finally:
            batches.close()

    def _covers(self) -> bool:
        with self._translated("reading the calendar"):
            return self._calendar.covers(self._boot)

    def _next_names(self, batches: Iterator[list[str]]) -> list[str] | None:
        with self._translated("reading the calendar"):
            return next(batches, None)

    def _those_there(self, names: Sequence[str]) -> list[UploadId]:
        ids = []
        for name in names:
            with contextlib.suppress(UploadNotFound):  # a line torn by a power cut
                upload_id = as_upload_id(name)
                if self._has_files(upload_id):
                    ids.append(upload_id)
        return ids

    def _has_files(self, upload_id: UploadId) -> bool:
        """Whether there may be anything of an upload: most that were removed in time are listed still."""
        try:
            path = self._path(upload_id)
            return any(files.may_exist(path + suffix) for suffix in _SUFFIXES)
        except StoreUnavailable:
            return True

    async def _remake_calendar(self) -> None:
        """List everything that is there: records at their deadlines, and bytes without one for a first look."""
        logger.info("making the calendar of deadlines anew")
        failures = self._calendar.failures
        for shard in await self._lanes.run(Lane.SWEEPS, self._shards):
            listing = self._list_shard(shard)
            try:
                while await self._lanes.run(Lane.SWEEPS, self._go_on, listing):
                    pass
            finally:
                listing.close()
        if failures == self._calendar.failures:
            await self._lanes.run(Lane.SWEEPS, self._set_covers)

    def _set_covers(self) -> None:
        with self._translated("making the calendar anew"):
            self._calendar.set_covers(self._boot)

    def _go_on(self, listing: Iterator[bool]) -> bool:
        with self._translated("making the calendar anew"):
            return next(listing, False)

    def _list_shard(self, shard: Path) -> Generator[bool, None, None]:
        """List what is in a folder, some hundreds at once: nobody knows how many there are."""
        now = self.clock.seconds()
        looks: list[tuple[str, float]] = []
        for upload_id in self._seen(shard):
            if (at := self._wants_look(upload_id, now)) is not None:
                looks.append((upload_id, at))
            if len(looks) == _LISTED_AT_ONCE:
                self._calendar.add_all(looks, now, overdue=True)
                looks.clear()
                yield True
                now = self.clock.seconds()
        self._calendar.add_all(looks, now, overdue=True)

    def _seen(self, shard: Path) -> Iterator[UploadId]:
        """Go through the ids in a folder: by their records, and where there is none by whatever there is."""
        with os.scandir(shard) as entries:
            for entry in entries:
                stem = next((entry.name.removesuffix(end) for end in _SUFFIXES if entry.name.endswith(end)), "")
                with contextlib.suppress(UploadNotFound):
                    upload_id = as_upload_id(stem)
                    if entry.name == stem + _RECORD or not files.may_exist(f"{shard}/{stem}{_RECORD}"):
                        yield upload_id

    def _wants_look(self, upload_id: UploadId, now: float) -> float | None:
        """When an upload that is there wants its next look; None if it does not."""
        try:
            upload = self._load(upload_id)
        except UploadNotFound:
            return now + FIRST_LOOK
        except StoreUnavailable:
            return None
        self._drop_spare_name(upload)
        if upload.length is None and files.excess(self._bytes_path(upload), upload.offset):
            return now  # that look cuts it
        # One without a deadline was finished, and is not any more since a power cut.
        if not upload.finished and (upload.complete or upload.pending or upload.expires_at is None):
            return now
        return None if upload.expires_at is None else upload.expires_at.timestamp()

    def _drop_spare_name(self, upload: Upload) -> None:
        """Take away the first name of a file that has its readable one: a power cut may have given it back."""
        if upload.place is not None and upload.finished:
            path = self._path(upload.id)
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(path), os.lstat(upload.place)):
                    files.unlink(path)

    async def remind(self, upload_id: UploadId, at: datetime, *, owed: bool = False) -> None:
        """See `Store.remind`."""
        await self._swift(self._remind, self._owed if owed else self._calendar, upload_id, at.timestamp())

    def _remind(self, calendar: Calendar, upload_id: UploadId, at: float) -> None:
        # What it is about has happened. So it stands, and the calendar is made anew when that can be done.
        with contextlib.suppress(OutOfSpace, StoreUnavailable), self._translated("noting a deadline"):
            try:
                calendar.add(upload_id, at, self.clock.seconds())
            except OSError:
                self._calendar.doubt()
                raise

    async def read_note(self, name: str) -> str | None:
        """See `Store.read_note`."""
        with self._translated("reading a note"):
            return await self._run(self._calendar.read_note, name)

    async def write_note(self, name: str, text: str) -> None:
        """See `Store.write_note`."""
        with self._translated("writing a note"):
            await self._run(self._calendar.write_note, name, text)

    # power cuts in the weaker modes ----------------------------------------------------------------------------------

    async def tidy(self) -> None:
        """See `Store.tidy`. In the weaker modes everything is synced, so that what is older survives a power cut.

        At first in every mode: a process that died in a weaker one may have left something unsynced.
        """
        if self._unsettled and (self._inherits or self.durability is not Durability.ACK):
            self._unsettled = False
            try:
                await self._lanes.run(Lane.SWEEPS, self._settle)
            except BaseException:
                self._unsettled = True
                raise
            self._inherits = False

    def _settle(self) -> None:
        with self._translated("syncing"):
            moment, running = self.clock.seconds(), self.clock.steady()
            files.sync_file_system(self.root)
            with files.locked(self.root):  # other processes do the same
                self._settled = settled = self._read_settled()
                # Both: an older version knows the wall clock only.
                settled[self._boot] = max(moment, settled.get(self._boot, 0.0))
                settled[self._boot + _CLOCK] = max(running, settled.get(self._boot + _CLOCK, 0.0))
                # Two lines for each run of the machine: records written under an old one may stay for years.
                lines = "".join(f"{boot} {at}\n" for boot, at in settled.items())
                files.replace_file(str(self.root / "settled"), lines.encode(), self._file_mode, sync=True)

    def _read_settled(self) -> dict[str, float]:
        try:
            lines = files.read_file(str(self.root / "settled")).decode("ascii").splitlines()
            return {boot: float(moment) for boot, _, moment in (line.rpartition(" ") for line in lines)}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.root}/settled cannot be read ({error}); remove it") from error


def _reserves_much(upload: Upload, more: int) -> bool:
    """Whether much may have to be reserved for `more` bytes: the length is unknown, or no byte has come yet."""
    return (upload.length or more) > GROWTH and (upload.length is None or upload.untouched)


async def _raise(error: TusError) -> None:
    raise error


def _ids(shard: Path, suffix: str) -> Generator[UploadId, None, None]:
    """Ids of the files in `shard` that are an id with `suffix` behind."""
    with os.scandir(shard) as entries:
        for entry in entries:
            if entry.name.endswith(suffix):
                try:
                    yield as_upload_id(entry.name.removesuffix(suffix))
                except UploadNotFound:
                    continue
