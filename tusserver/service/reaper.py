"""Looks at many uploads together: those whose time is over are removed at once, the others get the look they want.

To remove one after the other took longer than to create them, so that a client that only creates would win.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime

import anyio
import anyio.lowlevel

from tusserver.events import Expired
from tusserver.locks.base import Lease, Locker
from tusserver.protocol import rules
from tusserver.protocol.errors import LeaseLost, UploadLocked
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.service.lifecycle import Lifecycle, must_propagate
from tusserver.stores.base import Reaped, Store

_TURN = 16
"""Uploads after which others have their turn, where the disk has no part."""
LANES = 2
"""Groups that are on their way at once: one waits for the disk while the other is judged. With more, their threads
would take the interpreter from the loop."""

Look = Callable[[UploadId], Awaitable[bool]]
"""Looks at one upload; returns whether it was removed. It raises nothing of what may go wrong."""
Failed = Callable[[UploadId, BaseException], Awaitable[None]]
"""Told of an upload that could not be looked at."""


class Reaper:
    """`look` gets the uploads whose time is not over, `failed` those that could not be removed."""

    def __init__(
        self,
        store: Store,
        locker: Locker,
        lifecycle: Lifecycle,
        *,
        now: Callable[[], datetime],
        look: Look,
        failed: Failed,
    ) -> None:
        self._store = store
        self._locker = locker
        self._lifecycle = lifecycle
        self._now = now
        self._look = look
        self._failed = failed

    async def look_at(self, ids: Sequence[UploadId]) -> int:
        """Look at all of them; return how many were removed."""
        removed = 0
        groups = _in_groups(list(dict.fromkeys(ids)), self._lifecycle.tuning.group)

        async def walk() -> None:
            nonlocal removed
            for group in groups:
                try:
                    count = await self._look_at_group(group)
                except BaseException as error:  # an application may await a task that somebody has cancelled
                    if must_propagate(error):
                        raise
                    for upload_id in group:
                        await self._failed(upload_id, error)
                else:
                    removed += count  # not in one step: the other lanes count while we wait
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as lanes:
            for _ in range(min(LANES, 1 + len(ids) // self._lifecycle.tuning.group)):
                lanes.start_soon(walk)
        return removed

    async def _look_at_group(self, ids: Sequence[UploadId]) -> int:
        reaped, held = await self._reap(ids)
        for number, upload in enumerate(reaped.removed, 1):
            await _let_others(number)
            try:
                await self._lifecycle.publish_removed(upload, Expired, None)
            except Exception as error:
                await self._failed(upload.id, error)
        for upload_id, why in reaped.failed.items():
            await self._failed(upload_id, why)
        removed = len(reaped.removed)
        gone = {upload.id for upload in reaped.removed}
        for upload_id in held:
            if upload_id not in gone and upload_id not in reaped.failed:
                removed += await self._look(upload_id)
        return removed

    async def _reap(self, ids: Sequence[UploadId]) -> tuple[Reaped, list[UploadId]]:
        """Remove what has expired of those that nobody else holds; return what became of them, and which that were."""
        now = self._now()

        def is_over(upload: Upload) -> bool:
            return (upload.role is not Role.FINAL or upload.finished) and rules.is_expired(upload, now)

        held: list[UploadId] = []
        leases: list[Lease] = []
        try:
            async with contextlib.AsyncExitStack() as locks:
                for number, upload_id in enumerate(ids, 1):
                    await _let_others(number)
                    try:
                        leases.append(await locks.enter_async_context(self._locker.hold(upload_id)))
                    except UploadLocked:
                        # "Expiring never touches an upload that is being written": its writer may move the deadline.
                        await self._store.schedule(upload_id, self._now() + self._lifecycle.tuning.retry_delay)
                    else:
                        held.append(upload_id)
                if any(lease.lost for lease in leases):
                    raise LeaseLost
                return await self._store.reap(held, is_over), held
        except Exception as error:  # neither locks nor the store: nobody can be looked at
            return Reaped((), dict.fromkeys(ids, error)), held


async def _let_others(number: int) -> None:
    if number % _TURN == 0:
        await anyio.lowlevel.checkpoint()


def _in_groups(ids: Sequence[UploadId], size: int) -> Iterator[Sequence[UploadId]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
