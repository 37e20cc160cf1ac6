"""Removes what has expired and what a crash left half-made, for ever. Looks at what is due, not at what is stored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import anyio

from tusserver.events import Expired
from tusserver.locks.base import Locker
from tusserver.protocol import rules
from tusserver.protocol.errors import TusError, UploadLocked, UploadNotFound
from tusserver.protocol.upload import Upload, UploadId
from tusserver.service.lifecycle import TRY_AGAIN, Lifecycle
from tusserver.service.quota import Quota
from tusserver.stores.base import Store

logger = logging.getLogger("tusserver.sweeper")


class Sweeper:
    """Sweeps every `interval` seconds."""

    def __init__(
        self,
        store: Store,
        locker: Locker,
        lifecycle: Lifecycle,
        quota: Quota,
        *,
        interval: float,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._locker = locker
        self._lifecycle = lifecycle
        self._quota = quota
        self._interval = interval
        self._now = now
        self._failed: set[UploadId] = set()

    async def run(self) -> None:
        """Sweep for ever, where several processes share the store one of them. A sweep that fails is logged; the next
        one tries again.
        """
        while True:
            try:
                if self._locker.leads():
                    await self.sweep()
                else:
                    await self._store.tidy()  # what this process wrote, nobody else knows
            except TusError as error:
                logger.error("a sweep failed: %s", error)
            except Exception:
                logger.exception("a sweep failed")
            await anyio.sleep(self._interval)

    async def sweep(self) -> int:
        """Look at everything that is due; return the number of uploads removed."""
        removed = 0
        self._failed.clear()
        async for upload_id in self._store.due(self._now()):
            try:
                removed += await self._look(upload_id)
            except Exception as error:
                self._note_failure("swept", upload_id, error)
                await self._store.remind(upload_id, self._now() + TRY_AGAIN)
        await self._store.tidy()
        await self._quota.tidy()
        if len(self._failed) > 1:
            logger.warning("%d uploads in all could not be swept; they are tried again", len(self._failed))
        if removed:
            logger.info("sweep removed %d expired uploads", removed)
        return removed

    async def _look(self, upload_id: UploadId) -> bool:
        try:
            async with self._locker.hold(upload_id):
                try:
                    upload = await self._store.load(upload_id)
                except UploadNotFound:
                    if await self._store.remove(upload_id):
                        logger.info("removed what a crash had left", extra={"upload_id": upload_id})
                    return False
                if rules.is_expired(upload, self._now()):
                    await self._lifecycle.remove(upload, Expired)
                    return True
                if upload.complete and not upload.finished:
                    await self._finish(upload)
                elif upload.expires_at is None and not upload.finished:
                    await self._lifecycle.limit(upload)
                elif upload.expires_at is not None:
                    # Its deadline moved, or this was its first look.
                    await self._store.remind(upload_id, upload.expires_at)
        except UploadLocked:
            # "Expiring never touches an upload that is being written": its writer may move the deadline.
            await self._store.remind(upload_id, self._now() + TRY_AGAIN)
        except TusError as error:
            self._note_failure("swept", upload_id, error)
            await self._store.remind(upload_id, self._now() + TRY_AGAIN)
        return False

    async def _finish(self, upload: Upload) -> None:
        try:
            await self._lifecycle.finish(upload)
        except TusError as error:  # it is noted already for another look
            self._note_failure("finished", upload.id, error)

    def _note_failure(self, what: str, upload_id: UploadId, error: Exception) -> None:
        """Log a failure; of refusals the first one in a sweep, as the disk may refuse all, and there may be many."""
        self._failed.add(upload_id)
        trace = None if isinstance(error, TusError) else error
        level = (
            logging.ERROR if trace is not None else logging.WARNING if self._failed == {upload_id} else logging.DEBUG
        )
        logger.log(level, "an upload could not be %s: %s", what, error, exc_info=trace, extra={"upload_id": upload_id})
