"""Removes what has expired and what a crash left half-made, for ever. Looks at what is due, not at what is stored.

It goes through all uploads only when the rules have changed by which they get their deadlines.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import anyio
import anyio.lowlevel

from tusserver.clock import NOTE
from tusserver.events import Expired
from tusserver.locks.base import Locker
from tusserver.protocol import rules
from tusserver.protocol.errors import FinishFailed, FinishPending, TusError, UploadLocked, UploadNotFound
from tusserver.protocol.limits import Expiry
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.service.concat import Concatenator
from tusserver.service.lifecycle import Lifecycle
from tusserver.service.quota import Quota
from tusserver.service.reaper import Reaper
from tusserver.stores.base import Store

logger = logging.getLogger("tusserver.sweeper")

SLACK = timedelta(hours=1)
"""By so much a deadline may be farther away than the rules allow: clocks of workers differ a little."""
_DRIFT = 60.0
"""Seconds by which the clocks may drift apart until that is noted."""
_POLICY = "policy"
_STEP = 20
"""Uploads that get new deadlines before others have their turn."""


class Sweeper:
    """Sweeps, again and again."""

    def __init__(
        self,
        store: Store,
        locker: Locker,
        lifecycle: Lifecycle,
        concatenator: Concatenator,
        quota: Quota,
        *,
        expiry: Expiry,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._locker = locker
        self._lifecycle = lifecycle
        self._concatenator = concatenator
        self._quota = quota
        self._expiry = expiry
        self._interval = expiry.sweep_interval.total_seconds()
        self._now = now
        self._reaper = Reaper(store, locker, lifecycle, now=now, look=self._look, failed=self._note_unswept)
        self._failed: set[UploadId] = set()
        self._noted: float | None = None
        self._policy_holds = False
        self._renewing = False
        self._wrong_since: datetime | None = None
        """Uploads that got bytes since then have deadlines from a clock that was wrong."""
        self._left: set[UploadId] | None = None
        """Uploads that were busy when all others got new deadlines."""

    async def run(self) -> None:
        """Sweep for ever, where several processes share the store one of them. A sweep that fails is logged; the next
        one tries again.
        """
        while True:
            try:
                if await self._locker.is_leader():
                    await self.sweep()
                else:
                    # Who sweeps says when a clock that was set is believed: uploads have new deadlines then.
                    if not self._store.clock.jump or self._store.clock.follow(await self._store.read_note(NOTE) or ""):
                        await self._tell_applications()
                    await self._store.flush()  # what this process wrote, nobody else knows
            except TusError as error:
                logger.error("a sweep failed: %s", error)
            except Exception:
                logger.exception("a sweep failed")
            await anyio.sleep(self._interval)

    async def sweep(self) -> int:
        """Look at everything that is due; return the number of uploads removed."""
        removed = 0
        self._failed.clear()
        try:
            if await self._clock_holds():
                await self._apply_policy()
                await self._note_clock()
                removed = await self._look_at_all()
                await self._tell_applications()
        finally:
            await self._flush()
        await self._quota.prune()
        if len(self._failed) > 1:
            logger.warning("%d uploads in all could not be swept; they are tried again", len(self._failed))
        if removed:
            logger.info("sweep removed %d expired uploads", removed)
        return removed

    async def _flush(self) -> None:
        try:
            await self._store.flush()
        except TusError as error:
            logger.warning("the store could not be synced: %s; it is tried again", error)

    async def _look_at_all(self) -> int:
        removed = 0
        now = self._now()
        async for ids in self._store.due_batches(now, now + self._expiry.longest + SLACK):
            removed += await self._reaper.look_at(ids)
        return removed

    async def _note_unswept(self, upload_id: UploadId, error: BaseException) -> None:
        self._note_failure("swept", upload_id, error)
        await self._store.schedule(upload_id, self._now() + self._lifecycle.tuning.retry_delay)

    async def _tell_applications(self) -> None:
        """Tell applications of this process what others, which have none, have found to be owed to them."""
        if self._lifecycle.has_finish_hooks:
            async for upload_id in self._store.due(self._now(), owed=True):
                await self._look(upload_id)

    # clocks and rules ------------------------------------------------------------------------------------------------

    async def _clock_holds(self) -> bool:
        """Whether the wall clock is to be believed. If it was set nothing is removed until it has stayed there."""
        clock = self._store.clock
        jump = clock.jump
        holds = clock.confirm()
        if not holds:
            logger.warning(
                "the clock is off by %+.0f s from the time that went by: nothing is removed until it has stayed there",
                jump,
            )
            await self._note_clock(force=True)
        elif (since := clock.take_step()) is not None:
            logger.warning("the clock was set: uploads that got a deadline from it while it was wrong get a new one")
            self._policy_holds, self._wrong_since = False, since
        return holds

    async def _note_clock(self, *, force: bool = False) -> None:
        """Let other processes know; not each time, as the clocks drift apart by milliseconds all the time."""
        clock = self._store.clock
        if force or self._noted is None or abs(clock.believed - self._noted) > _DRIFT:
            with contextlib.suppress(TusError):
                await self._store.write_note(NOTE, clock.dump())
                self._noted = clock.believed

    async def _apply_policy(self) -> None:
        """Give all uploads new deadlines if the rules are others than those that they got theirs by."""
        if self._policy_holds or self._renewing:
            return
        self._renewing = True  # a sweep by hand may come meanwhile
        try:
            if await self._locker.is_leader():
                await self._renew_all(repr(self._expiry))
        finally:
            self._renewing = False

    async def _renew_all(self, policy: str) -> None:
        noted = await self._store.read_note(_POLICY)
        anew = noted not in (None, policy)
        if (self._wrong_since is not None or noted != policy) and self._left is None:
            if anew:
                logger.info("the settings of expiry have changed: uploads get new deadlines")
            self._left = set()
            await self._renew_each(anew)
        for upload_id in list(self._left or ()):
            await self._renew(upload_id, anew=anew)
        if not self._left:
            if noted != policy:
                try:
                    await self._store.write_note(_POLICY, policy)
                except TusError:
                    return  # the next sweep tries again
            self._policy_holds, self._wrong_since, self._left = True, None, None
        elif len(self._left) >= self._lifecycle.tuning.most_left:
            self._left = None  # the next sweep goes through all of them again

    async def _renew_each(self, anew: bool) -> None:
        assert self._left is not None
        number = 0
        async for upload in self._store.uploads():
            # Whoever commits meanwhile does so by the rules of today.
            if self._wants_deadline(upload, anew):
                await self._renew(upload.id, anew=anew)
            if (number := number + 1) % _STEP == 0:
                await anyio.lowlevel.checkpoint()
            if len(self._left) >= self._lifecycle.tuning.most_left:
                return

    def _wants_deadline(self, upload: Upload, anew: bool) -> bool:
        ends = upload.finished or not upload.complete or rules.gave_up(upload)
        wrong = self._wrong_since is not None and (upload.updated_at or self._wrong_since) >= self._wrong_since
        return ends and self._deadline_differs(upload, anew or wrong)

    async def _renew(self, upload_id: UploadId, *, anew: bool) -> None:
        """Give an upload the deadline that it should have; not `anew`: only if it has none, or should not have one."""
        assert self._left is not None
        self._left.add(upload_id)
        try:
            async with self._locker.hold(upload_id) as lease:
                upload = await self._store.load(upload_id, lease.fence)
                if self._wants_deadline(upload, anew):
                    await self._lifecycle.give_deadline(upload)
        except UploadLocked:
            return
        except TusError as error:
            self._note_failure("given a new deadline", upload_id, error)
        self._left.discard(upload_id)

    def _deadline_differs(self, upload: Upload, anew: bool) -> bool:
        expected = self._expiry.of(upload, self._now())
        if upload.expires_at is None or expected is None:
            return upload.expires_at is not expected
        return anew and abs(expected - upload.expires_at) >= timedelta(seconds=1)

    # one upload ------------------------------------------------------------------------------------------------------

    async def _look(self, upload_id: UploadId) -> bool:
        try:
            async with self._locker.hold(upload_id) as lease:
                try:
                    upload = await self._store.load(upload_id, lease.fence)
                except UploadNotFound:
                    if not await self._concatenator.is_noted(upload_id) and await self._store.remove(upload_id):
                        logger.info("removed what was left of an upload", extra={"upload_id": upload_id})
                    return False
                if (upload.role is not Role.FINAL or upload.finished) and await self._look_at(upload):
                    return True
            if upload.role is Role.PARTIAL and upload.complete:
                await self._concatenator.resume_waiting(upload.id)
            if upload.role is not Role.FINAL or upload.finished:
                return False
            return await self._look_at_final(upload)
        except UploadLocked:
            # "Expiring never touches an upload that is being written": its writer may move the deadline.
            await self._store.schedule(upload_id, self._now() + self._lifecycle.tuning.retry_delay)
        except Exception as error:
            await self._note_unswept(upload_id, error)
        return False

    async def _look_at(self, upload: Upload) -> bool:
        now = self._now()
        ours = self._policy_holds  # a sweep by hand may not know the rules of the server beside it
        if ours and upload.expires_at is not None and upload.expires_at > now + self._expiry.longest + SLACK:
            upload = await self._lifecycle.give_deadline(upload)  # a clock was wrong when it got its own
        if rules.is_expired(upload, now):
            await self._lifecycle.remove(upload, Expired, None)
            return True
        if upload.length is None:
            await self._store.trim(upload.id)  # a process may have died while it wrote it
        if upload.complete and not upload.finished and not rules.gave_up(upload):
            await self._finish(upload)
        elif upload.expires_at is None and not upload.finished:
            if ours:
                await self._lifecycle.give_deadline(
                    upload, now=True
                )  # a power cut may have undone that it was finished
            else:
                await self._store.schedule(upload.id, now + self._lifecycle.tuning.retry_delay)
        elif upload.expires_at is not None:
            # Its deadline moved, or this was its first look.
            await self._store.schedule(upload.id, upload.expires_at)
        return False

    async def _look_at_final(self, upload: Upload) -> bool:
        if upload.pending:
            return await self._concatenator.sweep_final(upload.id)
        if upload.withheld and not self._lifecycle.has_finish_hooks and not rules.gave_up(upload):
            await self._leave_to_others(upload)
            return False
        if rules.gave_up(upload) or not rules.is_time_to_finish(upload, self._now()):
            async with self._locker.hold(upload.id) as lease:
                return await self._look_at(await self._store.load(upload.id, lease.fence))
        await self._store.schedule(upload.id, self._now() + self._lifecycle.tuning.retry_delay)
        await self._concatenator.resume(upload.id, None)
        return False

    async def _leave_to_others(self, upload: Upload) -> None:
        """Another process has the application that wants to know of an upload, and looks after it."""
        await self._store.schedule(upload.id, self._now(), owed=True)

    async def _finish(self, upload: Upload) -> None:
        if not rules.is_time_to_finish(upload, self._now()):
            assert upload.retry_at is not None
            await self._store.schedule(upload.id, upload.retry_at)
            return
        try:
            await self._lifecycle.finish(upload, None)
        except FinishPending:
            await self._leave_to_others(upload)
        except FinishFailed:
            pass  # logged, and noted for another look
        except TusError as error:
            self._note_failure("finished", upload.id, error)

    def _note_failure(self, what: str, upload_id: UploadId, error: BaseException) -> None:
        """Log a failure; of refusals the first one in a sweep, as the disk may refuse all, and there may be many."""
        self._failed.add(upload_id)
        trace = None if isinstance(error, TusError) else error
        level = (
            logging.ERROR if trace is not None else logging.WARNING if self._failed == {upload_id} else logging.DEBUG
        )
        logger.log(level, "an upload could not be %s: %s", what, error, exc_info=trace, extra={"upload_id": upload_id})
