"""The use-cases. Each method reads as the story of one request: write, verify, commit, answer, always in this order."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import assert_never

import anyio

from tusserver.events import Terminated as TerminatedEvent
from tusserver.locks.base import Lease, Locker, Manner
from tusserver.protocol import rules
from tusserver.protocol.errors import (
    ClientGone,
    OutOfSpace,
    ShuttingDown,
    TusError,
    UploadLocked,
)
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
)
from tusserver.protocol.rules import AppendPlan, Expiry, Limits
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.service.concat import Joiner
from tusserver.service.intake import FLUSH, Cut, Intake
from tusserver.service.lifecycle import Lifecycle
from tusserver.service.pace import Pace
from tusserver.service.quota import Quota
from tusserver.stores.base import Store
from tusserver.streams import Body, Kept

logger = logging.getLogger("tusserver")

CHECKPOINT = FLUSH / 2
"""Seconds between commits while a body comes in. With `FLUSH`, a killed server loses at most the last second."""

BeforeCreate = Callable[[Upload], Awaitable[None]]


class UploadService:
    """Runs commands.

    `idle`: seconds a client may be silent; `speed`: bytes a second that a body brings on the average of that time;
    `patience`: seconds to wait for a writer that is alive.
    """

    def __init__(
        self,
        store: Store,
        locker: Locker,
        lifecycle: Lifecycle,
        joiner: Joiner,
        quota: Quota,
        *,
        limits: Limits,
        expiry: Expiry,
        idle: float,
        speed: float,
        patience: float,
        new_id: Callable[[], UploadId],
        before_create: BeforeCreate | None,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._locker = locker
        self._lifecycle = lifecycle
        self._joiner = joiner
        self.quota = quota
        self._limits = limits
        self._expiry = expiry
        self._idle = idle
        self._patience = patience
        self._new_id = new_id
        self._before_create = before_create
        self._now = now
        self._intakes: set[Intake] = set()
        self._pace = Pace(self._intakes, speed * idle, idle)
        self._closing = False

    def close(self) -> None:
        """Stop every body that is coming in, and take no more: bytes are kept, clients are told to come again.

        An upload can still be made, as that is short, and not every client asks for it twice (tuspy does not).
        """
        self._closing = True
        for intake in self._intakes:
            intake.stop(ShuttingDown())

    def open(self) -> None:
        """Take bodies, again if need be: an app may be started more than once."""
        self._closing = False

    async def run(self, command: Command, body: Body, client: str = "") -> Outcome:
        """Do what a command of `client` says; "" where nobody can tell who it is.

        Raises:
            TusError: it was refused.
            ClientGone: nobody is there to be answered.
        """
        match command:
            case Append():
                return await self.append(command, body)
            case Inspect():
                return await self.inspect(command)
            case Create():
                return await self.create(command, body, client)
            case Terminate():
                return await self.terminate(command)
            case Download():
                return await self.download(command)
            case Discover():
                return Discovered()
            case _:
                assert_never(command)

    # POST ------------------------------------------------------------------------------------------------------------

    async def create(self, create: Create, body: Body, client: str = "") -> Created:
        """Make an upload, with its first bytes if they came along."""
        rules.check_creation(create, self._limits)
        if create.role is Role.FINAL:
            if self._closing:  # to join parts may take long
                raise ShuttingDown
            create = replace(create, length=await self._joiner.measure(create.parts))
        upload = rules.begin(create, self._new_id(), self._expiry, self._now())
        if self._before_create is not None:
            await self._before_create(upload)
        async with self.quota.place(upload.id, client), self._locker.hold(upload.id) as lease:
            if create.role is Role.FINAL:
                return Created(upload=await self._joiner.begin(upload))
            await self._lifecycle.begin(upload)
            # Also without a first body: "The Client ... MAY set Upload-Length to 0", complete without any PATCH.
            first = create.first or Append(id=None, offset=0, body_length=0)
            return await self._receive_first(upload, first, body, lease)

    async def _receive_first(self, upload: Upload, first: Append, body: Body, lease: Lease) -> Created:
        """Take the bytes that came with the creation. The upload exists, so a body cut short still makes a Created."""
        try:
            plan = rules.plan_first(upload, first, self._limits)
            upload, cut = await self._receive(plan, first, body, lease)
            if isinstance(cut, ClientGone):
                raise cut
            return Created(upload=await self._settle(upload), closes=cut is not None)
        except (TusError, ClientGone):
            # A client that is told that it did wrong, or is gone, has no URL to resume at: leave nothing.
            await self._lifecycle.remove(upload, TerminatedEvent)
            raise

    # PATCH -----------------------------------------------------------------------------------------------------------

    async def append(self, append: Append, body: Body) -> Appended:
        """Write a body at the upload's offset."""
        assert append.id is not None
        if self._closing:
            raise ShuttingDown
        upload_id = append.id

        async def refuse_early() -> None:
            """Refuse by the record, if at all, before whoever is writing is disturbed."""
            self._plan(append, await self._store.load(upload_id))

        async with self._locker.hold(upload_id, Manner.RESUME, self._patience, refuse_early) as lease:
            upload, cut = await self._append(append, await self._store.load(upload_id), body, lease)
        if upload.role is Role.PARTIAL and upload.complete:
            for final in await self._store.awaiting(upload.id):
                await self._joiner.resume(final, self._patience)
        if cut is not None:
            raise cut
        return Appended(upload=upload)

    async def _append(self, append: Append, upload: Upload, body: Body, lease: Lease) -> tuple[Upload, Cut | None]:
        """Return the upload as it is now, and what cut the body short."""
        plan = self._plan(append, upload)
        declares = plan.upload is not upload
        if declares and not plan.upload.complete:
            await self._store.amend(plan.upload)  # the length stands even if the body does not arrive
        try:
            upload, cut = await self._receive(plan, append, body, lease)
        except TusError as error:
            _note_expiry(error, plan.upload)
            raise
        if declares and plan.upload.complete:
            await self._store.amend(upload)  # not sooner: a body that is refused completes nothing
        if isinstance(cut, TusError):
            _note_expiry(cut, upload)
        # Also after a cut: a client that sent the last byte, and not the end of its chunked body, has no more to send.
        return await self._settle(upload), cut

    def _plan(self, append: Append, upload: Upload) -> AppendPlan:
        try:
            return rules.plan_append(upload, append, self._limits, self._now())
        except TusError as error:
            _note_expiry(error, upload)
            raise

    async def _receive(self, plan: AppendPlan, append: Append, body: Body, lease: Lease) -> tuple[Upload, Cut | None]:
        """Write, verify, commit; return the upload as committed, and what cut the body short."""
        upload = plan.upload
        if append.body_length == 0 and append.checksum is None and not append.checksum_follows:
            return upload, None
        intake = Intake(
            body,
            room=plan.room,
            expected=append.body_length,
            idle=self._idle,
            beyond=plan.beyond,
            checksum=append.checksum,
            follows=append.checksum_follows,
        )
        lease.on_wanted(intake.leave)
        self._intakes.add(intake)
        self._pace.watch()
        if self._closing:  # it was waiting for something when the others were stopped
            intake.stop(ShuttingDown())
        try:
            added = await self._write(upload, intake)
            intake.verify()  # raises before anything is committed
            if added and (intake.cut is None or not intake.verifying):
                with anyio.CancelScope(shield=True):  # what is written shall be told
                    upload = await self._lifecycle.keep(rules.advance(upload, added, self._expiry, self._now()))
            return upload, intake.cut
        finally:
            self._intakes.discard(intake)

    async def _write(self, upload: Upload, intake: Intake) -> int:
        """Return the bytes written: on a disk that got full those before. Of one that fails nobody can tell."""
        try:
            return await self._store.write(upload, intake, self._checkpoints(upload, intake))
        except OutOfSpace as error:
            if not intake.written:
                raise
            intake.fail(error)
            return intake.written

    async def _settle(self, upload: Upload) -> Upload:
        if upload.complete and not upload.finished:
            return await self._lifecycle.finish(upload)
        return upload

    def _checkpoints(self, upload: Upload, intake: Intake) -> Kept:
        """Commit progress now and then, while that says nothing about the end."""
        last = time.monotonic()

        def kept(added: int) -> Awaitable[None] | None:
            nonlocal last
            intake.written = added
            now = time.monotonic()
            if intake.verifying or now - last < CHECKPOINT:
                return None
            reached = rules.advance(upload, added, self._expiry, self._now())
            if reached.complete:  # that is committed once it is certain that no byte too many follows
                return None
            last = now
            return self._store.checkpoint(reached)

        return kept

    # HEAD, GET, DELETE -----------------------------------------------------------------------------------------------

    async def inspect(self, inspect: Inspect) -> Inspected:
        """Tell how far an upload came. A stalled writer is stopped first, one that is alive is left alone."""
        try:
            async with self._locker.hold(inspect.id, Manner.RESUME):
                upload = await self._store.load(inspect.id)
        except UploadLocked:
            upload = await self._store.load(inspect.id)
        rules.require_unexpired(upload, self._now())
        if upload.pending:
            # A crash may have come between the last part and the joining. Who is at it already is not waited for.
            await self._joiner.resume(upload.id, patience=0.0)
            upload = await self._store.load(upload.id)
        return Inspected(upload=upload)

    async def download(self, download: Download) -> Content:
        """Give back a finished upload."""
        upload = await self._store.load(download.id)
        rules.require_download(upload, self._now())
        return await self._store.content(upload)

    async def terminate(self, terminate: Terminate) -> Terminated:
        """Remove an upload, also under the hands of whoever writes it."""
        async with self._locker.hold(terminate.id, Manner.INSIST, self._patience):
            upload = await self._store.load(terminate.id)
            await self._lifecycle.remove(upload, TerminatedEvent)
        return Terminated()


def _note_expiry(error: TusError, upload: Upload) -> None:
    """Let a refused PATCH tell when the upload expires: "in every PATCH response if the upload is going to expire"."""
    if not upload.complete:
        error.expires_at = upload.expires_at
