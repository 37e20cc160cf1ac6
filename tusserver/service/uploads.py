"""The use-cases: one method for each kind of request. The order is always write, verify, commit, answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from tusserver.events import Refused
from tusserver.events import Terminated as TerminatedEvent
from tusserver.locks.base import Lease, Locker, Preempt
from tusserver.protocol import rules
from tusserver.protocol.dialect import RequestContext
from tusserver.protocol.errors import (
    ClientDisconnected,
    FinishFailed,
    FinishPending,
    LeaseLost,
    OffsetMismatch,
    ShuttingDown,
    TusError,
    UploadLocked,
    UploadNotFound,
)
from tusserver.protocol.limits import Expiry, Limits, Timeouts
from tusserver.protocol.messages import (
    Append,
    Appended,
    Command,
    Content,
    Create,
    Created,
    Discover,
    Discovered,
    Download,
    Inspect,
    Inspected,
    Outcome,
    Terminate,
    Terminated,
    Unfinished,
)
from tusserver.protocol.rules import AppendPlan
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.service.activity import Activity
from tusserver.service.concat import Concatenator
from tusserver.service.intake import StopReason, has_arrived
from tusserver.service.lifecycle import Lifecycle
from tusserver.service.quota import Quota
from tusserver.service.receive import Receiver
from tusserver.stores.base import Store
from tusserver.streams import Body

logger = logging.getLogger("tusserver")

HEAD_WAIT = 0.5
"""Seconds for which a HEAD waits for a lock whose holder reports no offset, or for an application."""

GIVEN_UP_RETRY = 60
"""Retry-After of an upload whose application failed so often that it is not called again."""


class UploadService:
    """Runs commands."""

    def __init__(
        self,
        store: Store,
        locker: Locker,
        lifecycle: Lifecycle,
        concatenator: Concatenator,
        quota: Quota,
        *,
        limits: Limits,
        expiry: Expiry,
        timeouts: Timeouts,
        new_id: Callable[[], UploadId],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._locker = locker
        self._lifecycle = lifecycle
        self._concatenator = concatenator
        self.quota = quota
        self._limits = limits
        self._expiry = expiry
        self._lock_timeout = timeouts.lock_timeout.total_seconds()
        self._new_id = new_id
        self._now = now
        self.activity = Activity(timeouts)
        self._receiver = Receiver(
            store, lifecycle, concatenator, self.activity, limits=limits, expiry=expiry, timeouts=timeouts, now=now
        )
        self._finishing: dict[UploadId, asyncio.Task[None]] = {}

    def close(self) -> None:
        """Stop every body that is coming in, and take no more: their bytes are kept, and clients get 503.

        An upload can still be created, as that is short, and not every client tries that again (tuspy does not).
        """
        self.activity.close()
        self._concatenator.close()

    def open(self) -> None:
        """Take bodies, also after `close`: an app may be started more than once."""
        self.activity.open()
        self._concatenator.open()

    async def wait_for_background(self) -> None:
        """Wait for what runs without a request; hooks that are being called are cancelled, and called again later."""
        for trying in list(self._finishing.values()):
            trying.cancel()
        if self._finishing:
            await asyncio.wait(list(self._finishing.values()))
        await self._concatenator.wait_for_copies()

    async def run(self, command: Command, body: Body, context: RequestContext) -> Outcome:
        """Do what a request asks for.

        Raises:
            TusError: it was refused.
            ClientDisconnected: there is no client to be answered.
        """
        self.activity.requests.add(context)
        try:
            match command:
                case Append():
                    return await self.append(command, body, context)
                case Inspect():
                    return await self.inspect(command, context)
                case Create():
                    return await self.create(command, body, context)
                case Terminate():
                    return await self.terminate(command, context)
                case Download():
                    return await self.download(command, context)
                case Discover():
                    return Discovered()
                case _:
                    assert_never(command)
        finally:
            self.activity.requests.discard(context)

    # POST ------------------------------------------------------------------------------------------------------------

    async def create(self, create: Create, body: Body, context: RequestContext) -> Created:
        """Create an upload, with its first bytes if they came along."""
        rules.check_creation(create, self._limits)
        if create.role is Role.FINAL:
            return await self._create_final(create, body, context)
        upload = await self._new_upload(create, context)
        async with self._reserve(upload, context), self._locker.hold(upload.id) as lease:
            if lease.fence:
                upload = replace(upload, fence=lease.fence)
            # Also without a first body: "The Client ... MAY set Upload-Length to 0", complete without any PATCH.
            first = create.first or Append(id=None, offset=0, body_length=0)
            return await self._receive_first(upload, first, body, lease, context)

    async def _new_upload(self, create: Create, context: RequestContext) -> Upload:
        owed = self._lifecycle.has_finish_hooks
        upload = rules.new_upload(create, self._new_id(), self._expiry, self._now(), owed=owed)
        if self._lifecycle.asks_to_create:
            upload = await self._lifecycle.ask_to_create(upload, context)
        return upload

    async def _create_final(self, create: Create, body: Body, context: RequestContext) -> Created:
        """Join partial uploads. The same parts asked for again give the same final upload, also when they are gone."""
        if self.activity.closing:  # joining parts may take long
            raise ShuttingDown
        found = await self._concatenator.find_existing(create.parts)
        length = await self._concatenator.total_length(create.parts) if found is None else found.length
        upload = await self._new_upload(replace(create, length=length), context)
        if found is not None and found.metadata != upload.metadata:  # of the record, which a hook may have changed
            found = await self._concatenator.find_existing(upload.parts, upload.metadata.text)
            if found is None:
                upload = replace(upload, length=await self._concatenator.total_length(upload.parts))
        # An upload that exists already is counted already.
        place = self._reserve(upload, context)
        async with place if found is None else contextlib.nullcontext():
            final, new = await self._concatenator.create(upload, context)
        return Created(upload=await self._concatenator.concatenate(final, body, context, new=new))

    async def _receive_first(
        self, upload: Upload, first: Append, body: Body, lease: Lease, context: RequestContext
    ) -> Created:
        """Create the upload with the bytes that came along; also if the server ends their body early."""
        plan = rules.plan_first(upload, first, self._limits)
        arrived = has_arrived(body, first.body_length) and not self._lifecycle.tells_of_creation
        stop_reason: StopReason | None = None
        located = False
        if arrived:
            upload = await self._receiver.create(plan, first, body, context)
        else:
            await self._lifecycle.begin(upload, context)
        try:
            if not arrived:
                if context.send_interim is not None and not (
                    first.body_length == 0 or has_arrived(body, first.body_length)
                ):
                    located = await context.send_interim(Created(upload=upload))
                async with self._receiver.trimming(upload, lease):
                    upload, stop_reason = await self._receiver.receive(plan, first, body, lease, context)
            if isinstance(stop_reason, ClientDisconnected):
                try:
                    raise stop_reason
                finally:
                    del stop_reason  # its traceback holds this frame
            return Created(
                upload=await self._commit_told(await self._finish_if_complete(upload, context)),
                closes=stop_reason is not None,
            )
        except (TusError, ClientDisconnected) as error:
            if located and (isinstance(error, ClientDisconnected) or error.status >= 500):
                raise  # it has the URL of an interim answer, and can resume
            # A client that is refused, or has disconnected, has no URL to resume at: leave nothing.
            # Unless it was refused by the application, and removed, or has a newer holder.
            with contextlib.suppress(UploadNotFound, LeaseLost):
                found = await self._store.load(upload.id, lease.fence)
                await self._lifecycle.remove(found, TerminatedEvent, context)
            raise

    def _reserve(self, upload: Upload, context: RequestContext) -> AbstractAsyncContextManager[None]:
        client = context.client.key if self.quota.by_client else ""
        return self.quota.reserve(upload.id, client, rules.lacking(upload))

    def publish_refusal(self, error: TusError, context: RequestContext) -> None:
        """Publish that a request was refused, or failed."""
        observers = self._lifecycle.observers
        if observers.wants(Refused):
            observers.publish(Refused(error=error, context=context, at=self._now()))

    # PATCH -----------------------------------------------------------------------------------------------------------

    async def append(self, append: Append, body: Body, context: RequestContext) -> Appended:
        """Write a body at the offset that was acknowledged, or at the current one if no other request writes."""
        assert append.id is not None
        for again in (True, False):
            if self.activity.closing:
                raise ShuttingDown
            try:
                upload, stop_reason, completes = await self._append(append, body, context)
                break
            except OffsetMismatch as error:
                upload = await self._confirm_offset(append.id)
                # The lock may have been held by a request that only asked for the offset.
                if not again or upload.offset != append.offset:
                    raise OffsetMismatch(expected=upload.offset, provided=append.offset).expiring(
                        rules.announced_deadline(upload)
                    ) from error  # not from a local: its traceback would hold this frame
        if completes and upload.role is Role.PARTIAL:
            await self._concatenator.part_completed(upload.id, context.apart())
        if stop_reason is not None:
            try:
                raise _with_deadline(stop_reason, upload)
            finally:
                del stop_reason  # its traceback holds this frame
        return Appended(upload=upload)

    async def _append(
        self, append: Append, body: Body, context: RequestContext
    ) -> tuple[Upload, StopReason | None, bool]:
        """Return the upload as it is now, why its body ended early, and whether this request finished the upload."""
        assert append.id is not None
        upload_id = append.id
        contended = False

        async def refuse_early() -> None:
            """Refuse by the record, if at all, before the request that is writing is disturbed."""
            nonlocal contended
            rules.plan_append(await self._store.load(upload_id), append, self._limits, self._now(), held=True)
            contended = True

        async with self._locker.hold(upload_id, Preempt(append.offset), self._lock_timeout, refuse_early) as lease:
            upload = before = await self._store.load(upload_id, lease.fence)
            plan = rules.plan_append(upload, append, self._limits, self._now())
            if contended:
                plan = replace(plan, upload=rules.take_over(plan.upload))
            try:
                async with self._receiver.trimming(upload, lease):
                    upload, stop_reason = await self._write_behind(upload, plan, append, body, lease, context)
            except TusError as error:  # of the body, the disk or a quota, which do not know the upload
                error.expiring(rules.announced_deadline(plan.upload))
                raise
            # Also if the body ended early: a client that sent the last byte, but not the end of its chunked body, has
            # no more to send.
            upload = await self._finish_if_complete(upload, context)
            if stop_reason is None:
                upload = await self._commit_told(upload)
            return upload, stop_reason, upload.finished and not before.finished

    async def _write_behind(
        self, before: Upload, plan: AppendPlan, append: Append, body: Body, lease: Lease, context: RequestContext
    ) -> tuple[Upload, StopReason | None]:
        declares = plan.upload.length != before.length
        place = self._reserve(plan.upload, context)
        async with place if declares else contextlib.nullcontext():
            await self._receiver.start_at(plan.upload, before)
        upload, stop_reason = await self._receiver.receive(plan, append, body, lease, context, before=before)
        if declares and plan.upload.complete:
            await self._receiver.declare_complete(upload)
        return upload, stop_reason

    async def _finish_if_complete(self, upload: Upload, context: RequestContext) -> Upload:
        if upload.complete and not upload.finished:
            return await self._lifecycle.finish(upload, context)
        return upload

    async def _commit_told(self, upload: Upload) -> Upload:
        """Commit that the current offset is acknowledged, as a client is told of it; with the lock of the upload."""
        if upload.told < upload.offset:
            upload = rules.tell(upload)
            await self._store.commit(upload)
        return upload

    # HEAD, GET, DELETE -----------------------------------------------------------------------------------------------

    async def inspect(self, inspect: Inspect, context: RequestContext) -> Inspected:
        """Return an upload and its offset. No request is interrupted for that: one that writes reports its offset.

        Raises:
            FinishPending: all bytes are here, and an application that has to be asked or told has not answered yet.
        """
        upload = await self._confirm_offset(inspect.id)
        if upload.role is Role.FINAL:
            upload = await self._check_final(upload, context)
        rules.require_unexpired(upload, self._now())
        if upload.withheld:
            upload = await self._finish_now(upload, context)
        return Inspected(upload=upload)

    async def _confirm_offset(self, upload_id: UploadId) -> Upload:
        """Return an upload at an offset that is binding from now on."""
        upload = await self._store.load(upload_id)
        if upload.complete or upload.pending:  # what is complete counts as acknowledged
            return upload
        for timeout in (0.0, HEAD_WAIT):
            try:
                async with self._locker.hold(upload_id, timeout=timeout) as lease:
                    upload = await self._store.load(upload_id)
                    if lease.fence and upload.told < upload.offset:
                        upload = await self._store.load(upload_id, lease.fence)
                    return await self._commit_told(upload)
            except UploadLocked:
                offset = await self._locker.report(upload_id)
                if offset is not None:
                    break
        # An offset that was acknowledged stays so, whatever the holder does.
        upload = await self._store.load(upload_id)
        if upload.complete:
            return upload
        return upload.with_progress(max(upload.told, offset or 0), expires_at=upload.expires_at, finished=False)

    async def _check_final(self, final: Upload, context: RequestContext) -> Upload:
        """Resume the joining of a final upload that a crash or a full disk interrupted, without waiting for it."""
        if final.unclaimed:
            final = await self._concatenator.claim(final.id)
        if final.pending:
            final = await self._concatenator.prolong(final)
            rules.require_unexpired(final, self._now())
            await self._concatenator.resume(final.id, context.apart())
            final = await self._store.load(final.id)
            final = await self._concatenator.prolong(final)
        return final

    async def _finish_now(self, upload: Upload, context: RequestContext) -> Upload:
        """Call the hooks of the end again, if it is time; otherwise the client has to ask again later.

        Raises:
            FinishPending
        """
        now = self._now()
        if rules.gave_up(upload):
            raise FinishPending(retry_after=GIVEN_UP_RETRY)
        if not rules.is_time_to_finish(upload, now):
            assert upload.retry_at is not None
            raise FinishPending(retry_after=max(1, round((upload.retry_at - now).total_seconds())))
        trying = self._finishing.get(upload.id)
        if trying is None:
            trying = self._finishing[upload.id] = asyncio.get_running_loop().create_task(
                self._try_to_finish(upload.id, context.apart())
            )
            trying.add_done_callback(lambda _: self._finishing.pop(upload.id, None))
        # Not longer: a proxy would time out.
        await asyncio.wait((trying,), timeout=HEAD_WAIT)
        upload = await self._store.load(upload.id)  # if it was refused it is gone
        if upload.withheld:
            raise FinishPending
        return upload

    async def _try_to_finish(self, upload_id: UploadId, context: RequestContext) -> None:
        try:
            async with self._locker.hold(upload_id) as lease:
                await self._finish_if_complete(await self._store.load(upload_id, lease.fence), context)
        except (UploadLocked, FinishFailed, FinishPending, UploadNotFound):
            pass  # another request does it, or it is tried again later
        except TusError as error:
            logger.info("finishing an upload: %s", error, extra={"upload_id": upload_id})

    async def download(self, download: Download, context: RequestContext) -> Content | Unfinished:
        """Return the content of a finished upload; of another one the offset, as HEAD does."""
        upload = await self._store.load(download.id)
        if upload.pending or not rules.may_download(upload, self._now()):
            upload = (await self.inspect(Inspect(id=download.id), context)).upload
            if not upload.complete:
                return Unfinished(upload=upload)
        return await self._store.content(upload)

    async def terminate(self, terminate: Terminate, context: RequestContext) -> Terminated:
        """Remove an upload, also while another request writes it."""
        if self._lifecycle.asks_to_terminate:  # before a request that writes is interrupted
            await self._lifecycle.ask_to_terminate(await self._store.load(terminate.id), context)
        async with self._locker.hold(terminate.id, Preempt(), self._lock_timeout) as lease:
            upload = await self._store.load(terminate.id, lease.fence)
            await self._lifecycle.remove(upload, TerminatedEvent, context)
        return Terminated()


def _with_deadline(reason: StopReason, upload: Upload) -> StopReason:
    """Return why a body ended early, with the deadline of its upload as it is after what was committed of it."""
    return reason.expiring(rules.announced_deadline(upload)) if isinstance(reason, TusError) else reason
