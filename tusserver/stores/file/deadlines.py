"""The deadlines of the file store: lists by moment, made again from the records when they are lost."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from tusserver.clock import WallClock
from tusserver.disk import files
from tusserver.disk.faults import FaultLog
from tusserver.indexes.file_schedule import DatedLists
from tusserver.lanes import Lane, Lanes
from tusserver.protocol.errors import OutOfSpace, StoreUnavailable, UploadNotFound
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file import layout
from tusserver.stores.file.layout import Layout
from tusserver.stores.file.records import Records

logger = logging.getLogger("tusserver.store")

FIRST_LOOK = 3600.0
"""Seconds after which a new id gets its first look, for what a crash may have left half-made."""
_LOOKED_AT_ONCE = 256
"""Ids whose files are looked for by one call. A thread that makes short calls in turn would not let the loop have the
interpreter for as long as it goes on."""


class Deadlines:
    """`listed_at_once`: uploads that one call lists where the lists are made again."""

    def __init__(
        self,
        root: Path,
        store_layout: Layout,
        records: Records,
        faults: FaultLog,
        lanes: Lanes,
        *,
        file_mode: int,
        folder_mode: int,
        listed_at_once: int = 500,
    ) -> None:
        self._layout = store_layout
        self._records = records
        self._translating = faults.translating
        self._lanes = lanes
        self._listed_at_once = listed_at_once
        self._calendar = DatedLists(root / "calendar", file_mode, folder_mode)
        self._owed = DatedLists(root / "calendar" / "owed", file_mode, folder_mode)

    @property
    def _clock(self) -> WallClock:
        return self._records.clock

    def note_first(self, upload_id: UploadId, expires_at: datetime | None = None) -> None:
        """List an id whose files are about to be created or removed.

        Raises:
            OSError
        """
        now = self._clock.seconds()
        look = now + FIRST_LOOK
        if expires_at is not None:
            look = min(look, expires_at.timestamp())
        self._calendar.add(upload_id, look, now)

    def note(self, upload_id: UploadId, at: float, *, owed: bool = False) -> None:
        """List an id; if that fails the lists are made again when that can be done."""
        calendar = self._owed if owed else self._calendar
        with contextlib.suppress(OutOfSpace, StoreUnavailable), self._translating("noting a deadline"):
            try:
                calendar.add(upload_id, at, self._clock.seconds())
            except OSError:
                self._calendar.mark_incomplete()
                raise

    def note_now(self, upload_id: UploadId) -> None:
        """List an id for the next sweep."""
        self.note(upload_id, self._clock.seconds())

    def read_note(self, name: str) -> str | None:
        """See `Store.read_note`."""
        with self._translating("reading a note"):
            return self._calendar.read_note(name)

    def write_note(self, name: str, text: str) -> None:
        """See `Store.write_note`."""
        with self._translating("writing a note"):
            self._calendar.write_note(name, text)

    # what is due -----------------------------------------------------------------------------------------------------

    async def due_batches(
        self, now: datetime, latest: datetime | None, *, owed: bool
    ) -> AsyncGenerator[Sequence[UploadId], None]:
        """See `Store.due_batches`."""
        try:
            if not owed and not await self._lanes.run(Lane.SWEEPS, self._is_complete):
                await self._rebuild()
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

    def _is_complete(self) -> bool:
        with self._translating("reading the calendar"):
            return self._calendar.is_complete(self._records.boot)

    def _next_names(self, batches: Iterator[list[str]]) -> list[str] | None:
        with self._translating("reading the calendar"):
            return next(batches, None)

    def _those_there(self, names: Sequence[str]) -> list[UploadId]:
        """Return the ids that may have files: most that were removed in time are listed still."""
        return [upload_id for upload_id in layout.valid(names) if self._layout.has_files(upload_id)]

    # lost ------------------------------------------------------------------------------------------------------------

    async def _rebuild(self) -> None:
        """List everything that is there: records at their deadlines, and bytes without one for a first look."""
        logger.info("making the calendar of deadlines again")
        failures = self._calendar.failures
        for shard in await self._lanes.run(Lane.SWEEPS, self._shards):
            listing = self._list_shard(shard)
            try:
                while await self._lanes.run(Lane.SWEEPS, self._go_on, listing):
                    pass
            finally:
                listing.close()
        if failures == self._calendar.failures:
            await self._lanes.run(Lane.SWEEPS, self._mark_complete)

    def _shards(self) -> list[Path]:
        with self._translating("looking for uploads"):
            return self._layout.shards()

    def _mark_complete(self) -> None:
        with self._translating("making the calendar again"):
            self._calendar.mark_complete(self._records.boot)

    def _go_on(self, listing: Iterator[bool]) -> bool:
        with self._translating("making the calendar again"):
            return next(listing, False)

    def _list_shard(self, shard: Path) -> Generator[bool, None, None]:
        """List what is in a folder, some hundreds at once: nobody knows how many there are."""
        now = self._clock.seconds()
        looks: list[tuple[str, float]] = []
        for upload_id in layout.stored(shard):
            if (at := self._next_look(upload_id, now)) is not None:
                looks.append((upload_id, at))
            if len(looks) == self._listed_at_once:
                self._calendar.add_all(looks, now, overdue=True)
                looks.clear()
                yield True
                now = self._clock.seconds()
        self._calendar.add_all(looks, now, overdue=True)

    def _next_look(self, upload_id: UploadId, now: float) -> float | None:
        """When an upload that is there needs its next look; None if it does not."""
        try:
            upload = self._records.load(upload_id)
        except UploadNotFound:
            return now + FIRST_LOOK
        except StoreUnavailable:
            return None
        self._drop_spare_name(upload)
        if upload.length is None and files.excess(self._layout.bytes_path(upload), upload.offset):
            return now  # that look trims it
        # One without a deadline was finished, and is not any more since a power cut.
        if not upload.finished and (upload.complete or upload.pending or upload.expires_at is None):
            return now
        return None if upload.expires_at is None else upload.expires_at.timestamp()

    def _drop_spare_name(self, upload: Upload) -> None:
        """Remove the first name of a file that has its readable one: a power cut may have brought it back."""
        if (readable := upload.storage.get(layout.PATH)) is not None and upload.finished:
            path = self._layout.path(upload.id)
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(path), os.lstat(readable)):
                    files.unlink(path)
