"""Steps that several use-cases share: an upload is created, finished, removed.

Each asks the hooks first, then stores, then tells the hooks, then the observers. What is stored depends on hooks
alone: whether anybody observes makes no difference to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

from tusserver.events import Created, Expired, Finished, Observers, Progressed, Terminated, UploadEvent
from tusserver.hooks.base import HookRequest, HookResponse, Hooks, HookType, UploadChanges
from tusserver.protocol import rules
from tusserver.protocol.dialect import RequestContext
from tusserver.protocol.errors import FinishFailed, FinishPending, TusError, UploadNotFound
from tusserver.protocol.limits import Expiry
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.service.tuning import Tuning
from tusserver.stores.base import Store

logger = logging.getLogger("tusserver")

Commit = Callable[[Upload], Awaitable[None]]

_TOLD: dict[type[UploadEvent], HookType] = {
    Terminated: HookType.POST_TERMINATE,
    Expired: HookType.POST_EXPIRE,
}
"""What hooks are told of a removal."""


class Lifecycle:
    """The steps. `context`: the request that takes one; None for a sweep and whatever else has no request."""

    def __init__(
        self,
        store: Store,
        hooks: Hooks,
        observers: Observers,
        expiry: Expiry,
        now: Callable[[], datetime],
        tuning: Tuning = Tuning(),
    ) -> None:
        self.hooks = hooks
        self.observers = observers
        # Once: what hooks want stays so, and small uploads pass here several times.
        self.asks_to_create = hooks.wants(HookType.PRE_CREATE)
        self.tells_of_creation = hooks.wants(HookType.POST_CREATE)
        self.asks_to_terminate = hooks.wants(HookType.PRE_TERMINATE)
        self.asks_while_receiving = hooks.wants(HookType.POST_RECEIVE)
        self.has_finish_hooks = hooks.wants(HookType.PRE_FINISH) or hooks.wants(HookType.POST_FINISH)
        """Whether an application of this process is asked or told of the end of uploads."""
        self._store = store
        self.tuning = tuning
        self._expiry = expiry
        self._now = now

    async def ask_to_create(self, upload: Upload, context: RequestContext | None) -> Upload:
        """Ask the application, if it wants that, before an upload is stored; return it as it is to be stored.

        Raises:
            TusError: it is refused.
        """
        changes = await self._require_agreement(HookType.PRE_CREATE, upload, context)
        return upload if changes is None else changes.apply(upload)

    async def ask_to_terminate(self, upload: Upload, context: RequestContext | None) -> None:
        """Ask the application before a client removes an upload. Only if a hook wants that.

        Raises:
            TusError: it is refused.
        """
        await self._require_agreement(HookType.PRE_TERMINATE, upload, context)

    async def ask_while_receiving(self, upload: Upload, context: RequestContext) -> HookResponse:
        """Ask the application whether more of a body is wanted. Only if a hook wants that."""
        return await self.hooks.ask(self._hook(HookType.POST_RECEIVE, upload, context))

    async def begin(self, upload: Upload, context: RequestContext | None) -> None:
        """Store a new upload, and tell; if the hook fails the upload is removed again.

        Raises:
            UploadExists, OutOfSpace, MaxSizeExceeded, StoreUnavailable
        """
        await self._store.create(upload)
        logger.info("upload created", extra={"upload_id": upload.id, "length": upload.length})
        if self.tells_of_creation:
            try:
                await self.hooks.tell(self._hook(HookType.POST_CREATE, upload, context))
            except BaseException:
                await self._store.remove(upload.id)
                raise
        self.publish(Created, upload, context)

    async def begin_with_body(self, upload: Upload, data: bytes, context: RequestContext | None) -> Upload:
        """Store a new upload together with its first bytes, see `Store.create`, where no hook is told of that.

        Raises:
            UploadExists, OutOfSpace, MaxSizeExceeded, StoreUnavailable
        """
        upload = await self.commit(upload, context, partial(self._store.create, data=data), created=True)
        logger.info("upload created", extra={"upload_id": upload.id, "length": upload.length})
        return upload

    async def commit(
        self, upload: Upload, context: RequestContext | None, commit: Commit | None = None, *, created: bool = False
    ) -> Upload:
        """Commit what came. If that was all, and no hook waits for it, the upload is finished in the same commit.

        `commit`: called instead of `Store.commit`, to do more in one step; `created`: it also creates the upload.
        """
        finishes = upload.complete and not upload.finished
        if finishes and upload.role is not Role.PARTIAL:
            if self.has_finish_hooks and not upload.owed:
                upload = replace(upload, owed=True)  # in the record: another process must not take it for finished
            finishes = not upload.owed and self._store.finalizes_in_place
            if not finishes:
                # Noted first, so that a sweep makes good what a crash interrupts: the client sees that all is there.
                await self._store.schedule(upload.id, self._now() + self.tuning.retry_delay)
        if finishes:
            upload = await self._mark_finished(upload, commit)
        else:
            await (commit or self._store.commit)(upload)
        if self.observers.present:
            if created:
                self.publish(Created, upload, context)
            if upload.offset:
                self.publish(Progressed, upload, context)
            if finishes:
                self._publish_finished(upload, context)
        return upload

    async def finish(self, upload: Upload, context: RequestContext | None) -> Upload:
        """Do what follows when all bytes are here; return the upload as it is then.

        If that fails the upload stays complete and unfinished: an empty PATCH at its end, a HEAD and the sweeper try
        again, after pauses that grow. If the application refuses the upload, it is removed.

        Raises:
            FinishPending: an application has to be asked or told, and it is not in this process.
            FinishFailed: it failed.
            TusError: it refused, or the store failed.
        """
        if upload.owed and not self.has_finish_hooks:
            raise FinishPending
        # Likewise: the first one may be past.
        await self._store.schedule(upload.id, self._now() + self.tuning.retry_delay)
        upload = await self._store.finalize(upload)
        if upload.role is not Role.PARTIAL:
            refusal = await self._call_finish_hooks(upload, context)
            if refusal is not None:
                await self._remove(upload)
                logger.info("upload refused by the application: %s", refusal, extra={"upload_id": upload.id})
                self.publish(Terminated, upload, context)
                try:
                    raise refusal
                finally:
                    del refusal  # its traceback holds this frame
        upload = await self._mark_finished(upload)
        self._publish_finished(upload, context)
        return upload

    async def _call_finish_hooks(self, upload: Upload, context: RequestContext | None) -> TusError | None:
        """Ask and tell the application, if it wants that; return its refusal.

        Raises:
            FinishFailed: it failed, and is called again later.
        """
        try:
            if self.hooks.wants(HookType.PRE_FINISH):
                response = await self._ask(HookType.PRE_FINISH, upload, context)
                if response.refusal is not None:
                    return response.refusal
            if self.hooks.wants(HookType.POST_FINISH):
                await self.hooks.tell(self._hook(HookType.POST_FINISH, upload, context))
        except BaseException as error:  # an application may await a task that somebody has cancelled
            if must_propagate(error):
                raise
            await self._note_failure(upload, error)
            raise FinishFailed from error
        return None

    async def _note_failure(self, upload: Upload, error: BaseException) -> None:
        """Log the traceback once, then a line each time; and schedule the next attempt."""
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
            await self._store.schedule(upload.id, again)

    async def _mark_finished(self, upload: Upload, commit: Commit | None = None) -> Upload:
        if upload.unclaimed:  # a client may have asked for it since
            upload = replace(upload, unclaimed=(await self._store.load(upload.id)).unclaimed)
        upload = await self.commit_finished(upload, commit)
        logger.info("upload finished", extra={"upload_id": upload.id, "length": upload.length})
        return upload

    async def commit_finished(self, upload: Upload, commit: Commit | None = None) -> Upload:
        """Commit a complete upload as finished; its retention starts now. `commit`: see `commit`."""
        return await self._commit_deadline(rules.finish(upload, self._expiry, self._now()), commit)

    async def give_deadline(self, upload: Upload, *, now: bool = False) -> Upload:
        """Give an upload the deadline that it has by the current settings, from its last bytes on or from `now` on."""
        expires_at = self._expiry.of(replace(upload, updated_at=None) if now else upload, self._now())
        upload = upload.with_progress(upload.offset, expires_at=expires_at, finished=upload.finished)
        return await self._commit_deadline(upload)

    async def _commit_deadline(self, upload: Upload, commit: Commit | None = None) -> Upload:
        await (commit or self._store.commit)(upload)
        if upload.expires_at is not None:
            await self._store.schedule(upload.id, upload.expires_at)
        return upload

    async def remove(self, upload: Upload, why: type[UploadEvent], context: RequestContext | None) -> None:
        """Remove everything of an upload, and tell. `why`: `Terminated` or `Expired`.

        Raises:
            LeaseLost: a newer holder has it.
        """
        await self._remove(upload)
        await self.publish_removed(upload, why, context)

    async def _remove(self, upload: Upload) -> None:
        if upload.fence:  # an application may have been waited for, and somebody else have the upload since
            await self._store.load(upload.id, upload.fence)
        await self._store.remove(upload.id)

    async def publish_removed(self, upload: Upload, why: type[UploadEvent], context: RequestContext | None) -> None:
        """Tell of an upload that is not in the store any more. `why`: see `remove`."""
        for part in upload.parts[:1]:
            await self.remove_note(part)
        logger.info("upload %s", why.__name__.lower(), extra={"upload_id": upload.id, "offset": upload.offset})
        self.publish(why, upload, context)
        if self.hooks.wants(_TOLD[why]):
            await self.hooks.tell(self._hook(_TOLD[why], upload, context))

    def publish(self, kind: type[UploadEvent], upload: Upload, context: RequestContext | None) -> None:
        """Publish an event that is no more than the upload; if nobody observes that kind, none is made."""
        if self.observers.wants(kind):
            self.observers.publish(kind(upload=upload, context=context, at=self._now()))

    def _publish_finished(self, upload: Upload, context: RequestContext | None) -> None:
        if upload.role is not Role.PARTIAL:
            self.publish(Finished, upload, context)

    async def _require_agreement(
        self, kind: HookType, upload: Upload, context: RequestContext | None
    ) -> UploadChanges | None:
        response = await self._ask(kind, upload, context)
        changes, refusal = response.changes, response.refusal
        del response
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal  # its traceback holds this frame
        return changes

    async def _ask(self, kind: HookType, upload: Upload, context: RequestContext | None) -> HookResponse:
        response = await self.hooks.ask(self._hook(kind, upload, context))
        if response.answer is not None and context is not None:
            context.set_answer(response.answer, response.refusal)
        return response

    def _hook(self, kind: HookType, upload: Upload, context: RequestContext | None) -> HookRequest:
        return HookRequest(type=kind, upload=upload, context=context, at=self._now())

    async def remove_note(self, part: UploadId) -> None:
        """Remove what is left of a part that was removed: the note by which its final upload was found."""
        try:
            await self._store.load(part)
        except UploadNotFound:
            await self._store.remove(part)


def must_propagate(error: BaseException) -> bool:
    """Whether this is no failure of an application, but the end of our own task or of the process."""
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
    return task is None or cancelled or isinstance(error, KeyboardInterrupt | SystemExit)
