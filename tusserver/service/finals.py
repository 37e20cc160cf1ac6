"""Which final uploads a part is in, by the notes that the store keeps of it.

A final upload is made, then noted. So one that is noted and not there is gone, and its note is struck out by whoever
comes across it. How many there may be is bounded, and others have their turn between any two of them: a data folder of
an older version may have notes without end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import anyio.lowlevel

from tusserver.protocol.errors import InvalidConcat, StoreUnavailable, UploadNotFound
from tusserver.protocol.upload import Upload, UploadId
from tusserver.service.parts import in_turns
from tusserver.stores.base import Store

NEWEST = 1000
"""Notes that are looked through for one final upload, the last ones, where there are more than the limit."""


class Finals:
    """Goes through the final uploads of a part. `limit`: most of them."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit

    async def noted(self, part: UploadId) -> bool:
        """Whether there may be any."""
        return bool(await self._store.dependents(part))

    async def of(self, part: UploadId, *, newest: int | None = None, lenient: bool = False) -> AsyncIterator[Upload]:
        """Go through them, one a turn. `newest`: only so many; `lenient`: step over records that cannot be read.

        Raises:
            StoreUnavailable
        """
        ids = await self._store.dependents(part)
        gone: list[UploadId] = []
        for final_id in ids if newest is None else ids[-newest:]:
            await anyio.lowlevel.checkpoint()
            try:
                final = await self._store.load(final_id)
            except UploadNotFound:
                gone.append(final_id)
            except StoreUnavailable:
                if not lenient:
                    raise
            else:
                yield final
        if gone:
            await self._store.remove_dependents(part, gone)

    async def same(self, parts: Sequence[UploadId], metadata: str | None) -> AsyncIterator[Upload]:
        """Go through those that were made of the same parts in the same order, with the same metadata (None: any)."""
        async for final in self.of(parts[0], newest=max(self._limit, NEWEST)):
            if final.parts == tuple(parts) and metadata in (None, final.metadata.text):
                yield final

    async def require_room(self, parts: Sequence[UploadId], final: UploadId | None = None) -> None:
        """Refuse another final upload of these parts; `final`: one that is noted already, where others came before.

        Raises:
            InvalidConcat: one of them is in too many.
        """
        known: dict[UploadId, bool] = {}
        async for part in in_turns(parts):
            ids = await self._store.dependents(part)
            if final in ids:
                ids = ids[: ids.index(final)]
            if len(ids) >= self._limit and await self._count(part, ids, known) >= self._limit:
                raise InvalidConcat(
                    f"the partial upload {part} is in limits.finals_per_part = {self._limit} final uploads already"
                )

    async def _count(self, part: UploadId, ids: Sequence[UploadId], known: dict[UploadId, bool]) -> int:
        """Count those that are there, up to the limit. `known`: of which that is known."""
        there = 0
        gone: list[UploadId] = []
        for final_id in ids:
            if final_id not in known:
                await anyio.lowlevel.checkpoint()
                known[final_id] = await self._is_there(final_id)
            if known[final_id]:
                there += 1
                if there == self._limit:
                    break
            else:
                gone.append(final_id)
        if gone:
            await self._store.remove_dependents(part, gone)
        return there

    async def _is_there(self, final_id: UploadId) -> bool:
        try:
            await self._store.load(final_id)
        except UploadNotFound:
            return False
        except StoreUnavailable:
            pass  # its record cannot be read
        return True
