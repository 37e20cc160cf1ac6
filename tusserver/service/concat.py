"""Partial uploads become a final one: at once if they are complete, otherwise when the last of them is.

A copy runs in a task of its own, whatever becomes of the request that asked for it. A client that asks for the same
final upload again waits for the copy under way, and HEAD says when it is complete. If a stop or a crash interrupts a
copy, the sweeper resumes it where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime

from tusserver.events import Expired, Terminated
from tusserver.locks.base import Locker, Preempt
from tusserver.protocol import rules
from tusserver.protocol.dialect import RequestContext
from tusserver.protocol.errors import (
    ClientDisconnected,
    InvalidConcat,
    LeaseLost,
    PartsUnfinished,
    ShuttingDown,
    TusError,
    UploadInterrupted,
    UploadLocked,
    UploadNotFound,
)
from tusserver.protocol.limits import Expiry, Limits, Timeouts
from tusserver.protocol.upload import Upload, UploadId
from tusserver.service.finals import Finals
from tusserver.service.lifecycle import Lifecycle
from tusserver.service.parts import Parts, in_turns
from tusserver.stores.base import Store
from tusserver.streams import Body

logger = logging.getLogger("tusserver")

COPY_WAIT = 10.0
"""Seconds that a client waits for a copy, less than the timeouts of proxies."""
SHORT_WAIT = 0.1
"""Seconds that other requests wait for it."""
CHECKPOINT = 1.0
"""Seconds between commits of a copy."""
MAX_COPIES = 16
"""Copies under way beside which a sweep starts no further one; the next sweep does."""


_NOT_OURS = (UploadLocked, UploadNotFound, UploadInterrupted, LeaseLost, ShuttingDown)
"""Why a copy ends that somebody else goes on with, or nobody."""


class Concatenator:
    """Joins partial uploads. `unfinished`: whether a final upload may wait for its parts; `delete_parts`: whether they
    are removed once it is complete."""

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
        timeouts: Timeouts,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._locker = locker
        self._lifecycle = lifecycle
        self._limits = limits
        self._expiry = expiry
        self._unfinished = unfinished
        self._delete_parts = delete_parts
        self._lock_timeout = timeouts.lock_timeout.total_seconds()
        self._now = now
        self._parts = Parts(store, expiry, now, lifecycle.tuning.remembered)
        self._finals = Finals(store, limits.finals_per_part)
        self._copies: dict[UploadId, asyncio.Task[None]] = {}
        self._part_tasks: dict[UploadId, asyncio.Task[None]] = {}
        """By part that is complete: those that join what waited for it."""
        self._awaited: set[UploadId] = set()
        """Those whose client is there and waits, or has got its answer already."""
        self._closing = False

    # of the requests -------------------------------------------------------------------------------------------------

    async def total_length(self, ids: Sequence[UploadId]) -> int | None:
        """Check the parts of a final upload before it is created; return its length, None while that is unknown.

        Raises:
            InvalidConcat, PartsUnfinished, MaxSizeExceeded
        """
        parts = await self._parts.load(ids)
        length = rules.final_length(parts, self._limits, self._now())
        if not self._unfinished and not all(part.complete for part in parts):
            raise PartsUnfinished
        return length

    async def find_existing(self, parts: Sequence[UploadId], metadata: str | None = None) -> Upload | None:
        """Return the final upload that was made of the same parts in the same order, if it is still there.

        A client whose answer was lost asks for it again. `metadata`: those that it has; None: any.
        """
        async for final in self._finals.same(parts, metadata):
            final = await self.prolong(final)
            if not rules.is_expired(final, self._now()):
                return final
        return None

    async def create(self, final: Upload, context: RequestContext) -> tuple[Upload, bool]:
        """Create a final upload, or find the one that was made of the same parts; return it and whether it is new.

        Raises:
            InvalidConcat: one of the parts is in too many others; also what `Lifecycle.begin` raises.
        """
        name = hashlib.sha256(" ".join((*final.parts, final.metadata.text)).encode("utf-8", "surrogateescape"))
        async with self._locker.hold(UploadId(f"final-{name.hexdigest()}"), timeout=self._lock_timeout):
            if (found := await self.find_existing(final.parts, final.metadata.text)) is not None:
                return found, False
            await self._finals.require_room(final.parts)
            await self._lifecycle.begin(final, context)
            try:
                # It is noted with each part before it is checked whether all are complete: so the last one finds it.
                async for part in in_turns(final.parts):
                    await self._store.add_dependent(final.id, part)
                await self._finals.require_room(final.parts, final.id)  # many may have come at once
            except BaseException:
                await self.discard(final, context)
                raise
            return final, True

    async def concatenate(self, final: Upload, body: Body, context: RequestContext, *, new: bool) -> Upload:
        """Wait for the parts to be joined, but not too long; return the final upload as it is then.

        `new`: it was created for this request; if it cannot be joined, nothing is left of it.

        Raises:
            ClientDisconnected: the copy goes on; a client that asks again finds it.
            TusError: it cannot be joined, or not now.
        """
        joining = self._start_copy(final.id, context)
        self._awaited.add(final.id)
        gone = asyncio.ensure_future(body.disconnected())
        try:
            wait = COPY_WAIT if self._unfinished else None
            await asyncio.wait((joining, gone), timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            await asyncio.wait((gone,))
        if not joining.done() and not gone.cancelled():
            self._awaited.discard(final.id)
            raise ClientDisconnected
        try:
            if joining.done():
                joining.result()
        except (UploadLocked, ShuttingDown, UploadInterrupted):
            if not self._unfinished:
                raise
        except TusError:
            # Its client gets no URL to it; the parts are still there, to ask again.
            if new:
                await self.discard(final, context)
            raise
        return await self.claim(final.id)

    async def claim(self, final_id: UploadId) -> Upload:
        """Note that a client knows of a final upload, so that it is kept like any other; return it."""
        for _ in range(3):  # its record may be replaced by the copy just now
            final = await self._store.load(final_id)
            if not final.unclaimed:
                break
            await self._store.tell(replace(final, unclaimed=False))
            with contextlib.suppress(UploadLocked):
                async with self._locker.hold(final_id) as lease:
                    final = replace(await self._store.load(final_id, lease.fence), unclaimed=False)
                    return await self._lifecycle.commit_finished(final) if final.finished else final
        return final

    async def discard(self, final: Upload, context: RequestContext) -> None:
        """Remove a final upload that cannot be joined, if it is still there and not complete."""
        try:
            async with self._locker.hold(final.id, Preempt(), self._lock_timeout):
                found = await self._store.load(final.id)
                if not found.complete:
                    await self._lifecycle.remove(found, Terminated, context)
        except (UploadNotFound, UploadLocked):
            pass
        async for part in in_turns(final.parts):
            await self._lifecycle.remove_note(part)  # of a part that had just been removed: nothing else would

    async def schedule_look(self, part: UploadId) -> None:
        """Schedule a look at a part if final uploads wait for it; called before it is complete."""
        if await self._finals.noted(part):
            await self._store.schedule(part, self._now() + self._lifecycle.tuning.retry_delay)

    async def part_completed(self, part: UploadId, context: RequestContext) -> None:
        """Join the final uploads that waited for a part, and wait for them for `COPY_WAIT`. Never fails."""
        if (task := await self._start_part(part, context)) is not None:
            await asyncio.wait((task,), timeout=COPY_WAIT)

    async def resume_waiting(self, part: UploadId) -> None:
        """Join, for a sweep, what waited for a complete part and was not joined then, as after a crash.

        Raises:
            StoreUnavailable
        """
        late = False
        async for final in self._finals.of(part, lenient=True):
            if final.pending and await self._is_ready(final):
                await self._store.schedule(final.id, self._now() + self._lifecycle.tuning.retry_delay)
                late = True
        if late:
            await self._start_part(part, None)

    async def _is_ready(self, final: Upload) -> bool:
        try:
            return await self._parts.are_complete(final)
        except InvalidConcat:
            return False  # a part was removed: the final upload waits until it expires

    async def resume(self, final_id: UploadId, context: RequestContext | None) -> None:
        """Join the parts of a waiting final upload if they are all complete now. Never fails.

        Waits for `SHORT_WAIT`, as small ones are joined at once; not for a copy that is under way already.
        """
        if final_id not in self._copies:
            await asyncio.wait((self._start_copy(final_id, context),), timeout=SHORT_WAIT)

    async def sweep_final(self, final_id: UploadId) -> bool:
        """Join or remove a final upload that waits, for a sweep; return whether it was removed, as it had expired.

        Raises:
            UploadLocked, UploadNotFound
        """
        async with self._locker.hold(final_id) as lease:
            final = await self.prolong(await self._store.load(final_id, lease.fence))
            if not final.pending:
                return False
            if rules.is_expired(final, self._now()):
                await self._lifecycle.remove(final, Expired, None)
                return True
            if final.expires_at is not None:
                await self._store.schedule(final.id, final.expires_at)
        if await self._is_ready(final):
            await self._store.schedule(final_id, self._now() + self._lifecycle.tuning.retry_delay)
            if len(self._copies) < MAX_COPIES:
                self._start_copy(final_id, None)
        return False

    async def prolong(self, final: Upload) -> Upload:
        """See `Parts.prolong`."""
        return await self._parts.prolong(final)

    # the copies under way --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop copying, within a second; what is copied is kept, and the copy is resumed after the next start."""
        self._closing = True

    def open(self) -> None:
        """Copy, also after `close`: an app may be started more than once."""
        self._closing = False

    async def wait_for_copies(self) -> None:
        """Wait for the copies under way, and for those that follow from them."""
        while running := [*self._part_tasks.values(), *self._copies.values()]:
            await asyncio.wait(running)

    async def _start_part(self, part: UploadId, context: RequestContext | None) -> asyncio.Task[None] | None:
        """Start to join what waits for a part, if anything does; return the task."""
        task = self._part_tasks.get(part)
        if task is None and not self._closing and await self._finals.noted(part) and part not in self._part_tasks:
            task = asyncio.get_running_loop().create_task(
                self._concatenate_all(part, context), name=f"joins with {part}"
            )
            self._part_tasks[part] = task
            task.add_done_callback(lambda _: self._part_tasks.pop(part, None))
        return task

    async def _concatenate_all(self, part: UploadId, context: RequestContext | None) -> None:
        """Join one after the other: each copy holds the lock of the part, so that others would wait for it or fail."""
        try:
            async for final in self._finals.of(part, lenient=True):
                if self._closing:
                    return
                if final.pending and await self._is_ready(final):
                    await asyncio.wait((self._start_copy(final.id, context),))
        except TusError as error:  # a sweep does it
            logger.warning("joining what waited for a part failed: %s", error, extra={"upload_id": part})

    def _start_copy(self, final_id: UploadId, context: RequestContext | None) -> asyncio.Task[None]:
        joining = self._copies.get(final_id)
        if joining is None:
            joining = asyncio.get_running_loop().create_task(self._copy(final_id, context), name=f"join {final_id}")
            self._copies[final_id] = joining
            joining.add_done_callback(lambda task: self._copy_done(final_id, task))
        return joining

    def _copy_done(self, final_id: UploadId, joining: asyncio.Task[None]) -> None:
        self._copies.pop(final_id, None)
        self._awaited.discard(final_id)
        if joining.cancelled():
            return
        error = joining.exception()
        if isinstance(error, ShuttingDown):
            logger.info("joining is interrupted; it goes on after the next start", extra={"upload_id": final_id})
        if error is None or isinstance(error, _NOT_OURS):
            return
        if isinstance(error, TusError):
            logger.warning("joining failed: %s", error, extra={"upload_id": final_id})
        else:
            logger.error("joining failed", exc_info=error, extra={"upload_id": final_id})

    async def _copy(self, final_id: UploadId, context: RequestContext | None) -> None:
        if self._closing:
            raise ShuttingDown
        async with self._locker.hold(final_id, timeout=self._lock_timeout) as lease:
            preempted = False

            def release(preempt: Preempt) -> bool:
                nonlocal preempted
                preempted = True
                return True

            def raise_if_stopped() -> None:
                if lease.lost:
                    raise LeaseLost
                if self._closing:
                    raise ShuttingDown
                if preempted:
                    raise UploadInterrupted

            final = await self.prolong(await self._store.load(final_id, lease.fence))
            rules.require_unexpired(final, self._now())
            joined = final.pending
            if joined:
                # The second check is of all parts, as what is remembered of them is a hint only.
                if not await self._parts.are_complete(final) or not all(
                    part.complete for part in await self._parts.load(final.parts)
                ):
                    return
                lease.on_release_request(release)
                final = await self._concatenate(final, context, raise_if_stopped)
            if not final.finished:
                await self._lifecycle.finish(final, context)
            elif not joined:
                return
            if self._delete_parts:
                await self._remove_parts(final)

    async def _concatenate(
        self, final: Upload, context: RequestContext | None, raise_if_stopped: Callable[[], None]
    ) -> Upload:
        """Copy under the lock of the final upload; return it, complete. `raise_if_stopped`: called now and then."""
        # If it is interrupted, by whatever, a sweep resumes it.
        await self._store.schedule(final.id, self._now() + self._lifecycle.tuning.retry_delay)
        async with self._hold_all(final.parts):
            parts = await self._parts.load(final.parts)
            length = rules.final_length(parts, self._limits, self._now())
            if length != final.length:
                final = replace(final, length=length)
                await self._store.replace(final)
            committed_at = time.monotonic()

            async def on_progress(done: int) -> None:
                nonlocal committed_at
                stops: TusError | None = None
                try:
                    raise_if_stopped()
                except LeaseLost:
                    raise
                except TusError as error:
                    stops = error
                if done < (length or 0) and (stops is not None or time.monotonic() - committed_at >= CHECKPOINT):
                    committed_at = time.monotonic()
                    await self._store.commit(rules.advance(final, done - final.offset, self._expiry, self._now()))
                if stops is not None:
                    raise stops

            await self._store.concatenate(final, parts, on_progress)
            reached = rules.advance(final, (length or 0) - final.offset, self._expiry, self._now())
            if final.id in self._awaited:
                reached = replace(reached, unclaimed=False)
            return await self._lifecycle.commit(reached, context)

    async def _remove_parts(self, final: Upload) -> None:
        """Remove the parts. The first one's note stays for a while: the client may ask for the same final again."""
        async for part in in_turns(final.parts):
            try:
                await self._store.remove(part, notes=part != final.parts[0])
            except TusError as error:  # they are removed when they expire
                logger.warning("a part could not be removed: %s", error, extra={"upload_id": part})
        if not await self.is_noted(final.parts[0]):  # by a clock that was set
            await self._lifecycle.remove_note(final.parts[0])

    async def is_noted(self, part: UploadId) -> bool:
        """Whether a final upload is found by the note of a part that has gone: for as long as one expires in."""
        now = self._now()
        async for final in self._finals.of(part):
            end = self._expiry.from_creation(min(final.updated_at or now, now))
            if end is None or end > now:
                if end is not None:
                    await self._store.schedule(part, end)
                return True
        return False

    @asynccontextmanager
    async def _hold_all(self, ids: Sequence[UploadId]) -> AsyncIterator[None]:
        """Hold the lock of every distinct part, always in the same order, so that there is no deadlock."""
        async with AsyncExitStack() as held:
            async for upload_id in in_turns(sorted(set(ids))):
                await held.enter_async_context(self._locker.hold(upload_id, timeout=self._lock_timeout))
            yield
