"""The records of the file store: read, made, committed and replaced, and what a restart of the machine left of them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from itertools import islice
from pathlib import Path

from tusserver.clock import WallClock, boot_id
from tusserver.disk import files
from tusserver.disk.cached import Cached
from tusserver.disk.faults import FaultLog
from tusserver.protocol.errors import LeaseLost, StoreUnavailable, TusError, UploadNotFound
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file import record
from tusserver.stores.file.layout import PATH, Layout

logger = logging.getLogger("tusserver.store")

_CLOCK = ".clock"
"""Behind the name of a run of the machine in `synced_through`: that line is in seconds of that run."""


class Durability(StrEnum):
    """What survives a power cut. What was acknowledged survives a crash of the server in every mode."""

    ACK = "ack"
    """Every acknowledged byte."""
    FINISH = "finish"
    """Finished uploads; unfinished ones resume from what had reached the disk."""
    NONE = "none"
    """What had reached the disk."""


class Records:
    """All methods block.

    `dirty`: whether something was written that may not have reached the disk; `inherits`: whether another process may
    have left something unsynced, in whatever mode it ran.
    """

    def __init__(
        self, root: Path, layout: Layout, faults: FaultLog, durability: Durability, clock: WallClock, file_mode: int
    ) -> None:
        self.durability = durability
        self.boot = boot_id()
        self.clock = clock
        # Another process may have died before it had synced what it wrote, in whatever mode.
        self.dirty = True
        self.inherits = True
        self._root = root
        self._layout = layout
        self._translating = faults.translating
        self._file_mode = file_mode
        self._cached = Cached()
        self._parsed = record.ParsedTexts()
        self._synced_through = self._read_synced_through()

    @property
    def syncs_all(self) -> bool:
        """Whether every commit waits for the disk."""
        return self.durability is Durability.ACK

    def syncs(self, upload: Upload) -> bool:
        """Whether a commit of this upload waits for the disk."""
        return self.syncs_all or (self.durability is Durability.FINISH and upload.complete)

    def slot(self, upload: Upload, number: int, synced: int) -> record.Slot:
        """Make the slot of a commit that is written now."""
        return record.Slot.of(
            upload,
            number=number,
            synced=synced,
            written_at=self.clock.seconds(),
            clock=self.clock.steady(),
            boot=self.boot,
        )

    # reading ---------------------------------------------------------------------------------------------------------

    def load_cached(self, upload_id: UploadId) -> Upload | None:
        """Load an upload if no call for that can wait for the disk; on the loop."""
        if not self._layout.is_checked(upload_id):
            return None
        if (content := self._cached.read(self._layout.record_path(upload_id))) is not None:
            with contextlib.suppress(ValueError):  # `load` reports what is wrong with it
                upload, slot = record.unpack(content, self.boot, self._parsed)
                if slot.boot == self.boot:
                    return self._dated(upload, slot)
        return None

    def load(self, upload_id: UploadId) -> Upload:
        """See `Store.load`."""
        try:
            with self._translating("reading a record"):
                try:
                    content = files.read_file(self._layout.record_path(upload_id))
                except FileNotFoundError:
                    raise UploadNotFound from None
            upload, slot = record.unpack(content, self.boot, self._parsed)
        except record.IncompleteRecord:
            raise UploadNotFound from None
        except ValueError as error:
            if self._was_never_whole(content):
                raise UploadNotFound from None
            logger.error("the record of %s cannot be read: %s", upload_id, error)
            raise StoreUnavailable from error
        if slot.boot != self.boot:
            return self._after_restart(upload, slot)
        return self._dated(upload, slot)

    def load_some(self, found: Iterator[UploadId], most: int) -> tuple[list[Upload], bool]:
        """Load some uploads in one call, as a thread costs more than a record; return whether there may be more."""
        uploads = []
        with self._translating("looking for uploads"):
            ids = list(islice(found, most))
            for upload_id in ids:
                # It was removed meanwhile, or what is wrong with it was logged where it was read.
                with contextlib.suppress(UploadNotFound, StoreUnavailable):
                    uploads.append(self.load(upload_id))
        return uploads, len(ids) == most

    def holds_untouched(self, upload_id: UploadId) -> bool:
        """Whether an upload holds space without having got a byte, or that cannot be told."""
        try:
            return self.load(upload_id).untouched
        except UploadNotFound:  # it is being created, or a crash has left its bytes
            return files.mtime_ns(self._layout.path(upload_id)) is not None
        except TusError:
            return True

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
        in_hand = PATH not in upload.storage or not upload.finished  # people move finished files away
        with self._translating("looking for the bytes"):
            if in_hand and files.mtime_ns(self._layout.bytes_path(upload)) is None:
                raise UploadNotFound  # a power cut came while it was created or removed
        return upload

    def _was_never_whole(self, content: bytes) -> bool:
        """Whether a record that cannot be read is what a power cut leaves of one that nothing was promised of."""
        last = record.latest(content[: record.JSON_AT], self.boot)
        if last is None:  # two commits on their way to the disk at once
            return not self.syncs_all
        return self._may_be_lost(last) and not record.has_end(content)

    def load_fenced(self, upload_id: UploadId, fence: int) -> Upload:
        """See `Store.load`, of a caller whose lease has a fence. Until it is there an older holder may commit."""
        while True:
            last = self._last_slot(upload_id, "reading a record")
            upload = self.load(upload_id)
            if upload.fence == fence:
                return upload
            if upload.fence > fence:
                raise LeaseLost
            with contextlib.suppress(LeaseLost):  # what was committed meanwhile is to be loaded
                self.commit(replace(upload, fence=fence), after=-1 if last is None else last.number)

    def _last_slot(self, upload_id: UploadId, doing: str) -> record.Slot | None:
        """Return what the last commit wrote; None if the record says none, which `load` reports."""
        with self._translating(doing):
            fd = self.open(upload_id)
            try:
                return record.read_slot(fd, self.boot)
            finally:
                os.close(fd)

    def require_fence(self, upload: Upload) -> None:
        """Refuse to write the bytes of an upload whose record has a newer fence.

        Raises:
            LeaseLost
        """
        if upload.fence < self.load(upload.id).fence:
            raise LeaseLost

    # writing ---------------------------------------------------------------------------------------------------------

    def create(self, upload: Upload, path: str, *, sync: bool) -> None:
        """Write the record of a new upload, whose bytes are at `path`.

        Raises:
            FileExistsError, OSError
        """
        content = record.pack(upload, self.slot(upload, 0, upload.offset if sync else 0), parsed=self._parsed)
        files.write_new_file(f"{path}.record", content, self._file_mode, sync=sync)
        if sync and (not self.syncs_all or self.inherits):  # see `commit`
            files.sync_folder(self._layout.uploads)

    def commit(self, upload: Upload, after: int | None = None) -> None:
        """See `Store.commit`: bytes first, then the record that says so. `after`: only as the next one to this number.

        Raises:
            LeaseLost: also if another one came after that.
        """
        self.dirty = True
        syncs = self.syncs(upload)
        with self._translating("committing"):
            fd = self.open(upload.id)
            try:
                head = os.pread(fd, record.JSON_AT, 0)
                last = record.latest(head, self.boot)
                if last is None:
                    raise StoreUnavailable
                if upload.fence < last.fence or after not in (None, last.number):
                    raise LeaseLost
                unsynced = upload.offset > last.synced
                if syncs and unsynced:
                    files.sync_data_of(self._layout.bytes_path(upload))
                    if upload.fence and record.read_slot(fd, self.boot) != last:
                        raise LeaseLost  # a newer holder has come while the disk was waited for
                synced = upload.offset if syncs else min(self._known_synced(last), upload.offset)
                slot = self.slot(upload, last.number + 1, synced)
                if (slot.offset, slot.finished, slot.boot) == (last.offset, last.finished, last.boot):
                    slot = replace(slot, written_at=last.written_at, clock=last.clock)  # see `Upload.updated_at`
                promised = self.syncs_all or last.offset == upload.length
                if syncs and promised and not record.was_synced(head, last):
                    files.sync_data(fd)  # else a power cut may take the last slot and tear the one that is written now
                # `finished` alone needs no sync: if it is lost, finalizing is done again.
                changed = unsynced or (slot.offset, slot.complete, slot.expires_at, slot.fence) != (
                    last.offset,
                    last.complete,
                    last.expires_at,
                    last.fence,
                )
                if slot.offset < last.offset or (syncs and changed):
                    self._write_synced(fd, slot)
                    if syncs and (not self.syncs_all or self.inherits):  # the names neither, when they were made
                        files.sync_folder(self._layout.uploads / upload.id[:2])
                        files.sync_folder(self._layout.uploads)
                else:
                    record.write_slot(fd, slot)
                if slot.offset < last.offset:  # what was told of the bytes that are taken back
                    record.write_cell(fd, upload)
            finally:
                os.close(fd)

    def open(self, upload_id: UploadId) -> int:
        """Open a record.

        Raises:
            UploadNotFound, OSError
        """
        try:
            return os.open(self._layout.record_path(upload_id), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
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
                record.revert(fd, slot)
            raise
        if slot.fence:  # likewise; without one nobody commits beside us
            packed = slot.pack()
            if os.pread(fd, len(packed), record.SLOT_SPACE * (slot.number % 2)) != packed:
                raise LeaseLost
        record.mark_synced(fd, slot)

    def checkpoint(self, opened: record.OpenRecord, upload: Upload) -> None:
        """See `Store.checkpoint`; never with a sync."""
        if upload.fence:  # another machine may have committed since
            self.commit(upload)
            return
        try:
            with opened.use(lambda: self._layout.record_path(upload.id)) as last:
                if last.fence:
                    raise LeaseLost
                opened.write(self.slot(upload, last.number + 1, min(self._known_synced(last), upload.offset)))
        except (OSError, ValueError):
            self.commit(upload)  # it finds the same, and raises what that means

    def tell(self, upload: Upload, *, sync: bool) -> None:
        """See `Store.tell`."""
        with self._translating("recording what was told"):
            fd = self.open(upload.id)
            try:
                record.write_cell(fd, upload)
                if sync:
                    files.sync_data(fd)
            finally:
                os.close(fd)

    def replace(self, upload: Upload) -> None:
        """See `Store.replace`."""
        with self._translating("writing a record"):
            fd = self.open(upload.id)
            try:
                self._replace(fd, upload)
            finally:
                os.close(fd)

    def _replace(self, fd: int, upload: Upload) -> None:
        path = self._layout.path(upload.id)
        head = os.pread(fd, record.JSON_AT, 0)
        last = record.latest(head, self.boot)
        if last is not None and upload.fence < last.fence:
            raise LeaseLost
        number, synced = (last.number, self._known_synced(last)) if last is not None else (0, 0)
        if PATH not in upload.storage and upload.length is not None:
            files.truncate_to(path, upload.length)  # it had grown ahead
        slot = self.slot(upload, number + 1, min(synced, upload.offset))
        content = record.pack(upload, slot, cell=record.cell_of(head), parsed=self._parsed)
        files.replace_file(f"{path}.record", content, self._file_mode, sync=self.syncs(upload))
        if (told := record.cell_of(os.pread(fd, record.JSON_AT, 0))) != record.cell_of(head):
            new = self.open(upload.id)  # somebody was told meanwhile
            try:
                record.copy_cell(new, told)
            finally:
                os.close(new)

    # what has reached the disk ---------------------------------------------------------------------------------------

    def reach(self, upload_id: UploadId) -> int:
        """See `record.reach`."""
        fd = self.open(upload_id)
        try:
            return record.reach(os.pread(fd, record.JSON_AT, 0))
        finally:
            os.close(fd)

    def first_unsynced(self, upload: Upload) -> int:
        """Return the first byte of an upload that may not be on the disk."""
        last = self._last_slot(upload.id, "committing")
        return 0 if last is None else self._known_synced(last)

    def _may_be_lost(self, slot: record.Slot) -> bool:
        """Whether what was not synced when this slot was written may be missing: the machine was restarted since."""
        return slot.boot != self.boot and not self._is_synced(slot)

    def _is_synced(self, slot: record.Slot) -> bool:
        """Whether everything has been synced since this slot was written."""
        through = self._synced_through.get(slot.boot + _CLOCK)
        if slot.clock is not None and through is not None:
            return slot.clock < through
        return slot.written_at < self._synced_through.get(slot.boot, 0.0)  # older versions went by the wall clock

    def _known_synced(self, slot: record.Slot) -> int:
        """Bytes of an upload that are surely on the disk, by its last slot."""
        return max(slot.synced, slot.offset) if self._is_synced(slot) else slot.synced

    def sync_all(self) -> None:
        """Sync everything, and remember that what is older than this moment survives a power cut."""
        with self._translating("syncing"):
            moment, running = self.clock.seconds(), self.clock.steady()
            files.sync_file_system(self._root)
            with files.locked(self._root):  # other processes do the same
                self._synced_through = through = self._read_synced_through()
                # Both: an older version knows the wall clock only.
                through[self.boot] = max(moment, through.get(self.boot, 0.0))
                through[self.boot + _CLOCK] = max(running, through.get(self.boot + _CLOCK, 0.0))
                # Two lines for each run of the machine: records written under an old one may stay for years.
                lines = "".join(f"{boot} {at}\n" for boot, at in through.items())
                files.replace_file(str(self._root / "settled"), lines.encode(), self._file_mode, sync=True)

    def _read_synced_through(self) -> dict[str, float]:
        try:
            lines = files.read_file(str(self._root / "settled")).decode("ascii").splitlines()
            return {boot: float(moment) for boot, _, moment in (line.rpartition(" ") for line in lines)}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._root}/settled cannot be read ({error}); remove it") from error
