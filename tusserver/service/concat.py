"""Partial uploads become a final one: at once if they are complete, else when the last of them is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime

from tusserver.events import Terminated
from tusserver.locks.base import Locker, Manner
from tusserver.protocol import rules
from tusserver.protocol.errors import InvalidConcat, PartsUnfinished, TusError, UploadLocked, UploadNotFound
from tusserver.protocol.rules import Expiry, Limits
from tusserver.protocol.upload import Upload, UploadId
from tusserver.service.lifecycle import Lifecycle
from tusserver.stores.base import Store

logger = logging.getLogger("tusserver")


class Joiner:
    """Joins partial uploads. `unfinished`: whether a final upload may wait for its parts; `delete_parts`: whether they
    go once it is done; `patience`: seconds to wait for a part that is being written."""

    def __init__(
        self,
        store: Store,
        locker: Locker,
        lifecycle: Lifecycle,
        *,
        limits: Limits,
        expiry: Expiry,
        unfinished: bool,
        delete_parts: bool,
        patience: float,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._locker = locker
        self._lifecycle = lifecycle
        self._limits = limits
        self._expiry = expiry
        self._unfinished = unfinished
        self._delete_parts = delete_parts
        self._patience = patience
        self._now = now

    async def measure(self, ids: Sequence[UploadId]) -> int | None:
        """Check the parts of a final upload that is to be; return its length, None while that is unknown.

        Raises:
            InvalidConcat, PartsUnfinished, MaxSizeExceeded
        """
        parts = await self._load(ids)
        length = rules.join(parts, self._limits, self._now())
        if not self._unfinished and not all(part.complete for part in parts):
            raise PartsUnfinished
        return length

    async def begin(self, final: Upload) -> Upload:
        """Make a final upload, and join its parts now or once they are complete.

        Raises:
            InvalidConcat: a part went away meanwhile.
            TusError
        """
        await self._lifecycle.begin(final)
        try:
            joined = await self._join(final)
            if joined.pending:
                for part in dict.fromkeys(final.parts):
                    await self._store.note_awaiting(final.id, part)
                # Looked at again: a part that completed meanwhile either saw the note or is seen complete.
                joined = await self._join(final)
            return joined
        except BaseException:
            # Its client gets no URL to it; the parts are still there, to ask again.
            await self._lifecycle.remove(final, Terminated)
            await self._forget_notes(final.parts)
            raise

    async def _forget_notes(self, ids: Sequence[UploadId]) -> None:
        """Remove notes that were left for parts which had just gone: nobody else would."""
        for part in dict.fromkeys(ids):
            try:
                await self._store.load(part)
            except UploadNotFound:
                await self._store.remove(part)

    async def resume(self, final_id: UploadId, patience: float) -> None:
        """Join the parts of a waiting final upload if they are all complete now. Never fails: nobody asked for it.

        Wait at most `patience` seconds for somebody else who is at it.
        """
        try:
            async with self._locker.hold(final_id, Manner.RESUME, patience):
                final = await self._store.load(final_id)
                if final.pending and not rules.is_expired(final, self._now()):
                    await self._join(final, stays=True)
        except (UploadLocked, UploadNotFound):
            pass  # somebody else is at it, or it is gone
        except TusError as error:
            logger.warning("joining failed: %s", error, extra={"upload_id": final_id})

    async def _join(self, final: Upload, *, stays: bool = False) -> Upload:
        """Join under the final's lock; return the upload as it came, if a part is not complete.

        `stays`: whether the final upload stays even if it cannot be finished now, so that its parts are done with.
        """
        parts = await self._load(final.parts)
        if not all(part.complete for part in parts):
            return final
        async with self._hold_all(final.parts):
            parts = await self._load(final.parts)
            final = replace(final, length=rules.join(parts, self._limits, self._now()))
            await self._store.amend(final)
            await self._store.concatenate(final, parts)
            advanced = rules.advance(final, final.length or 0, self._expiry, self._now())
            final = await self._lifecycle.keep(advanced)
            if self._delete_parts and stays:
                await self._remove_all(final.parts)
            if not final.finished:
                final = await self._lifecycle.finish(final)
            if self._delete_parts and not stays:
                await self._remove_all(final.parts)
        return final

    async def _remove_all(self, ids: Sequence[UploadId]) -> None:
        for upload_id in dict.fromkeys(ids):
            await self._store.remove(upload_id)

    async def _load(self, ids: Sequence[UploadId]) -> list[Upload]:
        parts: dict[UploadId, Upload] = {}
        for upload_id in ids:
            if upload_id not in parts:
                try:
                    parts[upload_id] = await self._store.load(upload_id)
                except UploadNotFound:
                    raise InvalidConcat(f"there is no partial upload {upload_id}") from None
        return [parts[upload_id] for upload_id in ids]

    @asynccontextmanager
    async def _hold_all(self, ids: Sequence[UploadId]) -> AsyncIterator[None]:
        """Hold every distinct part, in one order for everybody, so that nobody waits in a circle."""
        async with AsyncExitStack() as held:
            for upload_id in sorted(set(ids)):
                await held.enter_async_context(self._locker.hold(upload_id, Manner.RESUME, self._patience))
            yield
