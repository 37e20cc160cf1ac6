"""The parts of final uploads: there may be a thousand of each, so they are read in turns with everybody else.

What was seen of a final upload that waits is remembered, so that the next look at it reads one part and not all. That
is a hint, not the truth: whoever joins reads them all again, with their locks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import TypeVar

import anyio.lowlevel

from tusserver.protocol.errors import InvalidConcat, UploadNotFound
from tusserver.protocol.limits import Expiry
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.base import Store

T = TypeVar("T")

STEP = 16
"""Parts after which others have their turn."""


async def in_turns(ids: Sequence[UploadId]) -> AsyncIterator[UploadId]:
    """Go through distinct ids; others have their turn now and then."""
    for number, upload_id in enumerate(dict.fromkeys(ids)):
        if number % STEP == STEP - 1:
            await anyio.lowlevel.checkpoint()
        yield upload_id


class Parts:
    """Reads parts, and remembers of the final uploads that wait for them what cannot be otherwise soon."""

    def __init__(self, store: Store, expiry: Expiry, now: Callable[[], datetime], most: int) -> None:
        self._store = store
        self._expiry = expiry
        self._now = now
        self._most = most
        """Final uploads of which something is remembered."""
        self._missing: dict[UploadId, int] = {}
        """By final upload, which of its distinct parts was the first that was not complete."""
        self._deadlines: dict[UploadId, datetime] = {}
        """By final upload, until when all of its parts live at least, if nobody deletes one."""

    async def load(self, ids: Sequence[UploadId]) -> list[Upload]:
        """Return the parts of these ids.

        Raises:
            InvalidConcat: one is not there.
        """
        parts = {upload_id: await self._one(upload_id) async for upload_id in in_turns(ids)}
        return [parts[upload_id] for upload_id in ids]

    async def are_complete(self, final: Upload) -> bool:
        """Whether the parts of a final upload are all complete; if one was missing before, that one is asked first.

        Raises:
            InvalidConcat: one is not there, as far as they were looked at.
        """
        known = self._missing.get(final.id)
        distinct = tuple(dict.fromkeys(final.parts))
        missing = None
        async for number, part in self._from(distinct, known or 0):
            if not part.complete and missing is None:
                missing = number
                if known is not None:
                    break  # at the first look all are read: one that is not there is found then
        self._remember(self._missing, final.id, missing)
        return missing is None

    async def prolong(self, final: Upload) -> Upload:
        """Return a final upload that waits with the deadline that it has through its parts.

        It lives as long as they do: the first of them that goes ends its hope.
        """
        now = self._now()
        if final.expires_at is None or final.expires_at > now or not final.pending:
            return final
        deadline = self._deadlines.get(final.id)
        if deadline is None or deadline <= now:
            try:
                deadline = await self._deadline(final.parts)
            except InvalidConcat:
                return final
            self._remember(self._deadlines, final.id, deadline)
        if deadline is None or deadline > final.expires_at:
            return final.with_progress(final.offset, expires_at=deadline, finished=False)
        return final

    async def _deadline(self, ids: Sequence[UploadId]) -> datetime | None:
        """Return when the first of some parts goes. One whose time is over is enough to know.

        Raises:
            InvalidConcat
        """
        now = self._now()
        earliest: datetime | None = None
        async for upload_id in in_turns(ids):
            part = await self._one(upload_id)
            if part.expires_at is not None and (earliest is None or part.expires_at < earliest):
                earliest = part.expires_at
                if earliest <= now:
                    break
        return self._expiry.from_creation(now) if earliest is None else earliest

    async def _from(self, ids: Sequence[UploadId], start: int) -> AsyncIterator[tuple[int, Upload]]:
        number = start
        async for upload_id in in_turns(ids[start:]):
            yield number, await self._one(upload_id)
            number += 1

    async def _one(self, upload_id: UploadId) -> Upload:
        try:
            return await self._store.load(upload_id)
        except UploadNotFound:
            raise InvalidConcat(f"there is no partial upload {upload_id}") from None

    def _remember(self, where: dict[UploadId, T], final: UploadId, what: T | None) -> None:
        if what is None:
            where.pop(final, None)
            return
        if len(where) >= self._most:
            where.clear()
        where[final] = what
