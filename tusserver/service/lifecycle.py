"""Steps that several use-cases share: an upload begins, finishes, is removed. Each is store, then event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from tusserver.events import Bus, Created, Event, Finished
from tusserver.protocol import rules
from tusserver.protocol.errors import FinishFailed, FinishPending, TusError, UploadNotFound
from tusserver.protocol.limits import Expiry
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.base import Store

logger = logging.getLogger("tusserver")

Commit = Callable[[Upload], Awaitable[None]]

RETRY_DELAY = timedelta(minutes=1)
"""After which a sweep finishes what could not be finished."""


class Lifecycle:
    """The turns in an upload's life."""

    def __init__(self, store: Store, bus: Bus, expiry: Expiry, now: Callable[[], datetime]) -> None:
        self._store = store
        self._bus = bus
        self._expiry = expiry
        self._now = now

    async def begin(self, upload: Upload) -> None:
        """Make the upload and tell; if a listener fails there is no upload.

        Raises:
            UploadExists, OutOfSpace, MaxSizeExceeded, StoreUnavailable
        """
        await self._store.create(upload)
        logger.info("upload created", extra={"upload_id": upload.id, "length": upload.length})
        try:
            await self._bus.publish(Created(upload))
        except BaseException:
            await self._store.remove(upload.id)
            raise

    async def begin_with_body(self, upload: Upload, data: bytes) -> Upload:
        """Make an upload together with its first bytes, see `Store.create`, where nobody is told of its beginning.

        Raises:
            UploadExists, OutOfSpace, MaxSizeExceeded, StoreUnavailable
        """
        upload = await self.commit(upload, partial(self._store.create, data=data))
        logger.info("upload created", extra={"upload_id": upload.id, "length": upload.length})
        return upload

    @property
    def tells_of_the_beginning(self) -> bool:
        """Whether an application of this process wants to know of new uploads."""
        return self._bus.has_listeners(Created)

    @property
    def tells_of_the_end(self) -> bool:
        """Whether an application of this process wants to know of finished uploads."""
        return self._bus.has_listeners(Finished)

    async def commit(self, upload: Upload, commit: Commit | None = None) -> Upload:
        """Commit what came; the upload is finished in the same stroke if that was all and nobody waits for its end.

        `commit`: does more than `Store.commit` in that stroke.
        """
        if upload.complete and not upload.finished:
            if upload.role is Role.PARTIAL:
                return await self._mark_finished(upload, commit)
            if self.tells_of_the_end and not upload.owed:
                upload = replace(upload, owed=True)  # in the record: another process shall not take it for finished
            elif not upload.owed and self._store.finishes_in_place:
                return await self._mark_finished(upload, commit)
            # Noted first, so that a sweep makes good what a crash interrupts: the client sees that all is there.
            await self._store.remind(upload.id, self._now() + RETRY_DELAY)
        await (commit or self._store.commit)(upload)
        return upload

    async def finish(self, upload: Upload) -> Upload:
        """Do what follows when all bytes are here; return the upload as it is then.

        If that fails the upload stays complete and unfinished: an empty PATCH at its end, a HEAD and the sweeper try
        again, after pauses that grow. If the application refuses it, it is removed.

        Raises:
            FinishPending: an application has to be told, and it is not in this process.
            FinishFailed: it failed.
            TusError: it refused, or the store failed.
        """
        if upload.owed and not self.tells_of_the_end:
            raise FinishPending
        await self._store.remind(upload.id, self._now() + RETRY_DELAY)  # likewise: the first one may have been used up
        upload = await self._store.finish(upload)
        if upload.role is not Role.PARTIAL:
            try:
                await self._bus.publish(Finished(upload))
            except BaseException as error:  # an application may await a task that somebody has cancelled
                if must_propagate(error):
                    raise
                if isinstance(error, TusError) and _refuses(error):
                    await self._store.remove(upload.id)
                    logger.info("upload refused by the application: %s", error, extra={"upload_id": upload.id})
                    raise
                await self._note_failure(upload, error)
                raise FinishFailed from error
        return await self._mark_finished(upload)

    async def _note_failure(self, upload: Upload, error: BaseException) -> None:
        """Log the whole story once, then a line each time; and note when to try again."""
        failed = rules.fail_to_finish(upload, self._expiry, self._now())
        extra = {"upload_id": upload.id}
        if failed.tries == 1:
            logger.error("finishing an upload failed", exc_info=error, extra=extra)
        elif rules.gave_up(failed):
            logger.error("finishing an upload failed %d times, and is not tried again", failed.tries, extra=extra)
        else:
            logger.warning("finishing an upload failed again (%d times): %r", failed.tries, error, extra=extra)
        await self._store.commit(failed)
        if (again := failed.retry_at or failed.expires_at) is not None:
            await self._store.remind(upload.id, again)

    async def _mark_finished(self, upload: Upload, commit: Commit | None = None) -> Upload:
        if upload.unclaimed:  # somebody may have asked since
            upload = replace(upload, unclaimed=(await self._store.load(upload.id)).unclaimed)
        upload = await self.commit_finished(upload, commit)
        logger.info("upload finished", extra={"upload_id": upload.id, "length": upload.length})
        return upload

    async def commit_finished(self, upload: Upload, commit: Commit | None = None) -> Upload:
        """Commit a complete upload as finished; its retention starts now. `commit`: see `commit`."""
        return await self._commit_deadline(rules.finish(upload, self._expiry, self._now()), commit)

    async def give_deadline(self, upload: Upload, *, now: bool = False) -> Upload:
        """Give an upload the deadline that it has by the rules of today, from its last bytes on or from `now` on."""
        expires_at = self._expiry.of(replace(upload, updated_at=None) if now else upload, self._now())
        upload = upload.with_progress(upload.offset, expires_at=expires_at, finished=upload.finished)
        return await self._commit_deadline(upload)

    async def _commit_deadline(self, upload: Upload, commit: Commit | None = None) -> Upload:
        await (commit or self._store.commit)(upload)
        if upload.expires_at is not None:
            await self._store.remind(upload.id, upload.expires_at)
        return upload

    async def remove(self, upload: Upload, why: type[Event]) -> None:
        """Remove everything of an upload and tell."""
        await self._store.remove(upload.id)
        await self.publish_removed(upload, why)

    async def publish_removed(self, upload: Upload, why: type[Event]) -> None:
        """Tell of an upload that is not in the store any more."""
        for part in upload.parts[:1]:
            await self.remove_note(part)
        logger.info("upload %s", why.__name__.lower(), extra={"upload_id": upload.id, "offset": upload.offset})
        await self._bus.publish(why(upload))

    async def remove_note(self, part: UploadId) -> None:
        """Remove what is left of a part that has gone: by that note its final upload was found again."""
        try:
            await self._store.load(part)
        except UploadNotFound:
            await self._store.remove(part)


def must_propagate(error: BaseException) -> bool:
    """Whether this is no failure of an application, but our own task or the process that is to end."""
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
    return task is None or cancelled or isinstance(error, KeyboardInterrupt | SystemExit)


def _refuses(error: TusError) -> bool:
    """Whether an application says no, and nothing that passes by itself or that it has met when it asked us."""
    return 400 <= error.status < 500 and error.status not in (404, 408, 409, 423, 429)
