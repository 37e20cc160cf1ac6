"""The memory store: for tests and demonstrations. It forgets everything with the process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime

from tusserver.clock import WallClock
from tusserver.protocol.checksum import Digest
from tusserver.protocol.errors import LeaseLost, UploadExists, UploadNotFound
from tusserver.protocol.extensions import Extension
from tusserver.protocol.messages import Content
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.base import OnCopied, Reaped
from tusserver.streams import OnProgress, Source

_BATCH = 64 * 1024


class MemoryStore:
    """Uploads in dictionaries."""

    extensions = frozenset(Extension)
    finalizes_in_place = True
    waits_for_disk = False

    def __init__(self) -> None:
        self._records: dict[UploadId, Upload] = {}
        self._bytes: dict[UploadId, bytearray] = {}
        self._awaiting: dict[UploadId, dict[UploadId, None]] = {}
        self._looks: dict[UploadId, datetime] = {}
        self._owed: dict[UploadId, datetime] = {}
        self._notes: dict[str, str] = {}
        self._moments: dict[UploadId, float] = {}
        """When bytes came last, or it was finished; by the steady clock."""
        self.clock = WallClock()
        """See `Store.clock`."""

    async def create(self, upload: Upload, data: bytes = b"") -> None:
        """See `Store.create`."""
        if upload.id in self._records:
            raise UploadExists
        self._records[upload.id] = upload
        self._moments[upload.id] = self.clock.steady()
        self._bytes[upload.id] = bytearray(data)
        if upload.expires_at is not None:
            self._looks[upload.id] = upload.expires_at

    async def load(self, upload_id: UploadId, fence: int = 0) -> Upload:
        """See `Store.load`."""
        if fence and (last := self._records.get(upload_id)) is not None:
            self._records[upload_id] = replace(_fenced(last, fence), fence=fence)
        try:
            return replace(self._records[upload_id], updated_at=self.clock.at(self._moments[upload_id]))
        except KeyError:
            raise UploadNotFound from None

    async def write(self, upload: Upload, source: Source, on_progress: OnProgress) -> int:
        """See `Store.write`."""
        content = self._bytes_of(upload.id)
        del content[upload.offset :]
        at, written = upload.offset, 0
        while batch := await source.read(_BATCH):
            for chunk in batch:
                content[at : at + len(chunk)] = chunk  # not at the end: a writer that lost its lease may be there
                at += len(chunk)
                written += len(chunk)
            if (telling := on_progress(written)) is not None:
                await telling
        return written

    def _bytes_of(self, upload_id: UploadId) -> bytearray:
        try:
            return self._bytes[upload_id]
        except KeyError:
            raise UploadNotFound from None

    async def put(self, upload: Upload, data: bytes) -> None:
        """See `Store.put`."""
        if (last := self._records.get(upload.id)) is not None:
            _fenced(last, upload.fence)
        self._bytes_of(upload.id)[upload.offset - len(data) :] = data
        self.checkpoint(upload)

    async def commit(self, upload: Upload) -> None:
        """See `Store.commit`."""
        self.checkpoint(upload)

    def checkpoint(self, upload: Upload) -> None:
        """See `Store.checkpoint`."""
        last = self._records.get(upload.id)
        if last is None:
            raise UploadNotFound
        _fenced(last, upload.fence)
        if (last.offset, last.finished) != (upload.offset, upload.finished):
            self._moments[upload.id] = self.clock.steady()
        self._records[upload.id] = upload

    async def revert(self, upload: Upload) -> None:
        """See `Store.revert`."""
        await self.commit(upload)

    async def tell(self, upload: Upload) -> None:
        """See `Store.tell`."""
        last = await self.load(upload.id)
        told = max(last.told, upload.told)
        self._records[upload.id] = replace(last, told=told, unclaimed=last.unclaimed and upload.unclaimed)

    async def digest(self, upload: Upload, start: int, stop: int, digest: Digest) -> None:
        """See `Store.digest`."""
        digest.update(self._bytes_of(upload.id)[start:stop])

    async def replace(self, upload: Upload) -> None:
        """See `Store.replace`."""
        await self.commit(upload)

    async def reserve(self, upload: Upload) -> None:
        """See `Store.reserve`: there is always room, as far as this can tell."""

    async def trim(self, upload_id: UploadId) -> None:
        """See `Store.trim`."""
        upload = await self.load(upload_id)
        if upload.length is None:
            del self._bytes_of(upload_id)[upload.offset :]

    async def concatenate(self, final: Upload, parts: Sequence[Upload], on_progress: OnCopied) -> None:
        """See `Store.concatenate`."""
        content = self._bytes_of(final.id)
        content[:] = b"".join(self._bytes_of(part.id)[: part.offset] for part in parts)
        await on_progress(len(content))

    async def add_dependent(self, final: UploadId, part: UploadId) -> None:
        """See `Store.add_dependent`."""
        self._awaiting.setdefault(part, {})[final] = None

    async def dependents(self, part: UploadId) -> tuple[UploadId, ...]:
        """See `Store.dependents`."""
        return tuple(self._awaiting.get(part, ()))

    async def remove_dependents(self, part: UploadId, gone: Collection[UploadId]) -> None:
        """See `Store.remove_dependents`."""
        noted = self._awaiting.get(part, {})
        for final in gone:
            noted.pop(final, None)
        if not noted:
            self._awaiting.pop(part, None)

    async def finalize(self, upload: Upload) -> Upload:
        """See `Store.finalize`."""
        return upload

    async def content(self, upload: Upload) -> Content:
        """See `Store.content`."""
        content = self._bytes_of(upload.id)

        async def read(start: int, stop: int) -> AsyncGenerator[bytes]:
            for at in range(start, stop, _BATCH):
                yield bytes(content[at : min(at + _BATCH, stop)])

        return Content(upload=upload, size=upload.offset, etag=upload.id, read=read)

    async def remove(self, upload_id: UploadId, *, notes: bool = True) -> bool:
        """See `Store.remove`."""
        there = self._bytes.pop(upload_id, None) is not None
        if notes:
            there |= self._awaiting.pop(upload_id, None) is not None
        self._looks.pop(upload_id, None)
        self._owed.pop(upload_id, None)
        self._moments.pop(upload_id, None)
        return self._records.pop(upload_id, None) is not None or there

    async def reap(self, ids: Sequence[UploadId], is_over: Callable[[Upload], bool]) -> Reaped:
        """See `Store.reap`."""
        removed: list[Upload] = []
        failed: dict[UploadId, Exception] = {}
        for upload_id in ids:
            try:
                if is_over(upload := await self.load(upload_id)):
                    await self.remove(upload_id)
                    removed.append(upload)
            except UploadNotFound:
                continue
            except Exception as error:
                failed[upload_id] = error
        return Reaped(removed, failed)

    async def uploads(self) -> AsyncIterator[Upload]:
        """See `Store.uploads`."""
        for upload_id in list(self._records):
            with contextlib.suppress(UploadNotFound):  # removed meanwhile
                yield await self.load(upload_id)

    async def due(
        self, now: datetime, latest: datetime | None = None, *, owed: bool = False
    ) -> AsyncIterator[UploadId]:
        """See `Store.due`."""
        looks = self._owed if owed else self._looks
        for upload_id in [name for name, at in looks.items() if at <= now or (latest is not None and at > latest)]:
            looks.pop(upload_id, None)
            yield upload_id

    async def due_batches(
        self, now: datetime, latest: datetime | None = None, *, owed: bool = False
    ) -> AsyncIterator[Sequence[UploadId]]:
        """See `Store.due_batches`."""
        if ids := [upload_id async for upload_id in self.due(now, latest, owed=owed)]:
            yield ids

    async def schedule(self, upload_id: UploadId, at: datetime, *, owed: bool = False) -> None:
        """See `Store.schedule`."""
        looks = self._owed if owed else self._looks
        looks[upload_id] = min(at, looks.get(upload_id, at))  # an earlier look that was asked for stays

    async def read_note(self, name: str) -> str | None:
        """See `Store.read_note`."""
        return self._notes.get(name)

    async def write_note(self, name: str, text: str) -> None:
        """See `Store.write_note`."""
        self._notes[name] = text

    async def check(self) -> None:
        """See `Store.check`: there is always room, as far as this can tell."""

    async def flush(self) -> None:
        """See `Store.flush`."""


def _fenced(last: Upload, fence: int) -> Upload:
    """Return the record as it is; refuse to change it under an older fence than its own.

    Raises:
        LeaseLost
    """
    if fence < last.fence:
        raise LeaseLost
    return last
