"""Steps that several use-cases share: an upload begins, finishes, is removed. Each is store, then event."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from tusserver.events import Bus, Created, Event, Finished
from tusserver.protocol import rules
from tusserver.protocol.errors import FinishFailed, TusError
from tusserver.protocol.rules import Expiry
from tusserver.protocol.upload import Role, Upload
from tusserver.stores.base import Store

logger = logging.getLogger("tusserver")

TRY_AGAIN = timedelta(minutes=1)
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
            IdTaken, OutOfSpace, MaxSizeExceeded, StoreUnavailable
        """
        await self._store.create(upload)
        logger.info("upload created", extra={"upload_id": upload.id, "length": upload.length})
        try:
            await self._bus.publish(Created(upload))
        except BaseException:
            await self._store.remove(upload.id)
            raise

    async def keep(self, upload: Upload) -> Upload:
        """Commit what came; the upload is finished in the same stroke if that was all and nobody waits for its end."""
        at_once = self._store.finishes_in_place and not self._bus.has_listeners(Finished)
        if upload.complete and not upload.finished and (at_once or upload.role is Role.PARTIAL):
            return await self._close(upload)
        await self._store.commit(upload)
        return upload

    async def finish(self, upload: Upload) -> Upload:
        """Do what follows when all bytes are here; return the upload as it is then.

        If that fails the upload stays complete and unfinished: an empty PATCH at its end and the sweeper try again.

        Raises:
            FinishFailed, TusError
        """
        # Noted first, so that a sweep makes good what a crash interrupts: the client sees that all is there and is off.
        await self._store.remind(upload.id, self._now() + TRY_AGAIN)
        try:
            upload = await self._store.finish(upload)
            if upload.role is not Role.PARTIAL:
                await self._bus.publish(Finished(upload))
        except TusError:
            raise
        except Exception as error:
            logger.exception("finishing an upload failed", extra={"upload_id": upload.id})
            raise FinishFailed from error
        return await self._close(upload)

    async def _close(self, upload: Upload) -> Upload:
        upload = rules.finish(upload, self._expiry, self._now())
        await self._store.commit(upload)
        if upload.expires_at is not None:
            await self._store.remind(upload.id, upload.expires_at)
        logger.info("upload finished", extra={"upload_id": upload.id, "length": upload.length})
        return upload

    async def limit(self, upload: Upload) -> None:
        """Give an unfinished upload a deadline, if they have one: a power cut may have undone that it was finished."""
        if (deadline := self._expiry.from_creation(self._now())) is not None:
            await self._store.commit(upload.at(upload.offset, expires_at=deadline, finished=False))
            await self._store.remind(upload.id, deadline)

    async def remove(self, upload: Upload, why: type[Event]) -> None:
        """Remove everything of an upload and tell."""
        await self._store.remove(upload.id)
        logger.info("upload %s", why.__name__.lower(), extra={"upload_id": upload.id, "offset": upload.offset})
        await self._bus.publish(why(upload))
