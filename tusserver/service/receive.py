"""The body of one request into the store: write, verify, commit, always in this order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from functools import partial

import anyio

from tusserver.events import Interrupted, Progressed, Terminated
from tusserver.locks.base import Lease
from tusserver.protocol import rules
from tusserver.protocol.dialect import RequestContext
from tusserver.protocol.errors import ChecksumMismatch, LeaseLost, OutOfSpace, TusError, UploadInterrupted
from tusserver.protocol.limits import Expiry, Limits, Timeouts
from tusserver.protocol.messages import Append
from tusserver.protocol.rules import AppendPlan
from tusserver.protocol.upload import Role, Upload
from tusserver.service.activity import Activity
from tusserver.service.buffers import Buffers
from tusserver.service.concat import Concatenator
from tusserver.service.intake import Intake, StopReason, has_arrived
from tusserver.service.lifecycle import Lifecycle
from tusserver.service.post_receive import PostReceive
from tusserver.service.progress import BodyProgress
from tusserver.stores.base import Store
from tusserver.streams import Body


class Receiver:
    """Receives bodies."""

    def __init__(
        self,
        store: Store,
        lifecycle: Lifecycle,
        concatenator: Concatenator,
        activity: Activity,
        *,
        limits: Limits,
        expiry: Expiry,
        timeouts: Timeouts,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._concatenator = concatenator
        self._activity = activity
        self._expiry = expiry
        self._idle_timeout = timeouts.idle_timeout.total_seconds()
        self._now = now
        self._buffers = Buffers(limits.buffers, activity.bodies)

    @contextlib.asynccontextmanager
    async def trimming(self, before: Upload, lease: Lease) -> AsyncIterator[None]:
        """Give back the space behind the offset of an upload that had no length, however its request ends.

        Not when its lease is lost: the bytes behind the offset may be those of a newer holder.
        """
        lost = False
        try:
            yield
        except LeaseLost:
            lost = True
            raise
        finally:
            if before.length is None and not lost and not lease.lost:
                # If that fails a sweep does it.
                with anyio.CancelScope(shield=True), contextlib.suppress(TusError):
                    await self._store.trim(before.id)

    async def start_at(self, start: Upload, upload: Upload) -> None:
        """Record where a body starts, and the length that it declares: it stays even if the body does not arrive.

        Raises:
            OutOfSpace, MaxSizeExceeded: that length does not fit, and nothing has changed.
        """
        declares = start.length != upload.length and not start.complete
        if declares:
            await self._store.reserve(start)
        if start.offset < upload.offset:
            await self._store.revert(rules.undeclared(start, upload))
        elif start.takeovers != upload.takeovers and not declares:
            await self._store.commit(rules.undeclared(start, upload))
        if declares:
            await self._store.replace(start)

    async def create(self, plan: AppendPlan, first: Append, body: Body, context: RequestContext) -> Upload:
        """Create an upload together with a body that `has_arrived`, in one commit."""
        data = await self._intake(plan, first, body).read_all()
        upload = rules.advance(plan.upload, len(data), self._expiry, self._now(), told=True, completes=first.completes)
        with anyio.CancelScope(shield=True):
            upload = await self._lifecycle.begin_with_body(upload, data, context)
        return upload

    async def receive(
        self,
        plan: AppendPlan,
        append: Append,
        body: Body,
        lease: Lease,
        context: RequestContext,
        *,
        before: Upload | None = None,
    ) -> tuple[Upload, StopReason | None]:
        """Write, verify, commit; return the upload as committed, and why the body ended early.

        `before`: the upload as it was before the body declared a length; None while it is created.
        """
        upload = plan.upload
        if append.body_length == 0 and append.checksum is None and not append.checksum_in_trailer:
            return await self._complete(upload, context) if append.completes else upload, None
        intake = self._intake(plan, append, body)
        if has_arrived(body, append.body_length):
            return await self._receive_small(upload, append, intake, lease, context, before), None
        hook = PostReceive(self._lifecycle, intake, context) if self._lifecycle.asks_while_receiving else None
        on_commit = self._on_commit(hook, context)
        progress = BodyProgress(
            self._store, upload, intake, lease, self._expiry, self._now, on_commit, context.send_interim
        )
        lease.on_release_request(progress.release_requested)
        lease.on_report(progress.report)
        lease.on_lost(partial(intake.stop, LeaseLost()))
        self._activity.add(intake, context)
        try:
            try:
                added = await self._write(upload, intake, progress)
            finally:
                with anyio.CancelScope(shield=True):
                    await progress.end()
                    if hook is not None:
                        await hook.end()
            if lease.lost:
                raise LeaseLost
            try:
                await self._verify(upload, intake, added)  # raises before anything is acknowledged
            except TusError:
                with anyio.CancelScope(shield=True):
                    await self._undo(upload, progress.upload, before)
                raise
            upload = await self._commit(upload, progress.upload, append, intake, added, context)
            if intake.stop_reason is not None:
                self._publish_interruption(upload, intake.stop_reason, context)
                if hook is not None and hook.stopped:
                    await self._lifecycle.remove(upload, Terminated, context)
                    hook.raise_refusal()
            return upload, intake.stop_reason
        finally:
            self._activity.remove(intake)

    def _on_commit(self, hook: PostReceive | None, context: RequestContext) -> Callable[[Upload], None] | None:
        """Return what is to be called after each checkpoint of a body; None if nobody wants to know."""
        if hook is None and not self._lifecycle.observers.wants(Progressed):
            return None

        def committed(upload: Upload) -> None:
            self._lifecycle.publish(Progressed, upload, context)
            if hook is not None:
                hook.committed(upload)

        return committed

    def _publish_interruption(self, upload: Upload, reason: StopReason, context: RequestContext) -> None:
        observers = self._lifecycle.observers
        if observers.wants(Interrupted):
            observers.publish(Interrupted(upload=upload, context=context, at=self._now(), reason=reason))

    def _intake(self, plan: AppendPlan, append: Append, body: Body) -> Intake:
        return Intake(
            body,
            limit=plan.limit,
            expected=append.body_length,
            idle_timeout=self._idle_timeout,
            overflow=plan.overflow,
            checksum=append.checksum,
            checksum_in_trailer=append.checksum_in_trailer,
            buffers=self._buffers,
        )

    async def _complete(self, upload: Upload, context: RequestContext) -> Upload:
        """Commit that an upload is complete, as a request without a body says."""
        upload = rules.advance(upload, 0, self._expiry, self._now(), told=True, completes=True)
        with anyio.CancelScope(shield=True):
            upload = await self._lifecycle.commit(upload, context)
        return upload

    async def _receive_small(
        self,
        start: Upload,
        append: Append,
        intake: Intake,
        lease: Lease,
        context: RequestContext,
        before: Upload | None,
    ) -> Upload:
        """Verify a body that has arrived, then write and commit it in one step."""
        try:
            data = await intake.read_all()
        except TusError:
            with anyio.CancelScope(shield=True):
                await self._undo(start, start, before)
            raise
        if lease.lost:
            raise LeaseLost
        upload = rules.advance(start, len(data), self._expiry, self._now(), told=True, completes=append.completes)
        with anyio.CancelScope(shield=True):  # what is written is to be committed
            await self._schedule_waiting_finals(upload)
            upload = await self._lifecycle.commit(upload, context, partial(self._store.put, data=data))
        return upload

    async def _write(self, upload: Upload, intake: Intake, progress: BodyProgress) -> int:
        """Return the bytes written; if the disk gets full, those before that. On other errors the number is unknown."""
        try:
            return await self._store.write(upload, intake, progress.on_progress)
        except OutOfSpace as error:
            if not intake.written:
                raise
            intake.end_early(error)
            return intake.written

    async def _verify(self, upload: Upload, intake: Intake, added: int) -> None:
        if (checksum := intake.verify()) is not None:
            digest = checksum.digest()
            await self._store.digest(upload, upload.offset, upload.offset + added, digest)
            if not checksum.matches(digest):
                raise ChecksumMismatch

    async def _undo(self, start: Upload, reached: Upload, before: Upload | None) -> None:
        """Leave nothing of a body that is refused as a whole, nor of the length that it declared."""
        if before is None:
            return  # the upload itself is removed
        undone = rules.undeclared(start, before)
        if reached.offset > start.offset:
            await self._store.revert(undone)
        elif reached.expires_at != start.expires_at:  # it got the deadline of an upload that got bytes
            await self._store.commit(undone)
        if start.length != before.length and not start.complete:
            await self._store.replace(undone)

    async def _commit(
        self,
        start: Upload,
        reached: Upload,
        append: Append,
        intake: Intake,
        added: int,
        context: RequestContext,
    ) -> Upload:
        """Commit what a body brought; return the upload as it is committed."""
        stop_reason = intake.stop_reason
        if isinstance(stop_reason, UploadInterrupted) and reached.offset > reached.told:
            # Here, and not only by the new holder: a HEAD in between would acknowledge the rest.
            reached = reached.with_progress(reached.told, expires_at=reached.expires_at, finished=False)
            with anyio.CancelScope(shield=True):
                await self._store.revert(reached)
        completes = append.completes and stop_reason is None
        if (
            isinstance(stop_reason, UploadInterrupted)
            or (stop_reason is not None and intake.all_or_nothing)
            or not (added or completes)
        ):
            return reached
        start = start.with_progress(start.offset, expires_at=start.expires_at, finished=False, told=reached.told)
        upload = rules.advance(start, added, self._expiry, self._now(), told=stop_reason is None, completes=completes)
        with anyio.CancelScope(shield=True):  # what is written is to be committed
            await self._schedule_waiting_finals(upload)
            upload = await self._lifecycle.commit(upload, context)
            if upload.length != start.length:  # it follows from the end of the body
                await self._store.replace(upload)
        return upload

    async def declare_complete(self, upload: Upload) -> None:
        """Record a length that came with the last bytes; not sooner, as a body that is refused completes nothing."""
        await self._schedule_waiting_finals(upload)
        await self._store.replace(upload)

    async def _schedule_waiting_finals(self, upload: Upload) -> None:
        """Schedule a look at a part before it is complete: a crash may come before what waits for it is joined."""
        if upload.complete and upload.role is Role.PARTIAL:
            await self._concatenator.schedule_look(upload.id)
