"""Locks within one process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType

import anyio

from tusserver.locks.base import LEAVING, Leave, Report, Takeover
from tusserver.protocol.errors import UploadLocked
from tusserver.protocol.upload import UploadId

_ASK_AGAIN = 0.05
"""Seconds: a holder that stays now may leave later."""


class _Lease:
    __slots__ = ("_leave", "_released", "_report")

    def __init__(self) -> None:
        self._leave: Leave | None = None
        self._report: Report | None = None
        self._released: anyio.Event | None = None

    def on_wanted(self, leave: Leave) -> None:
        self._leave = leave

    def on_report(self, report: Report | None) -> None:
        self._report = report

    def ask(self, takeover: Takeover) -> bool:
        return self._leave is not None and self._leave(takeover)

    async def report(self) -> int | None:
        return None if self._report is None else await self._report()

    async def wait(self, seconds: float) -> None:
        """Wait for the release, but not longer."""
        if self._released is None:
            self._released = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._released.wait()

    def release(self) -> None:
        self._leave = self._report = None  # they lead to a body, and from what ended it back to us
        if self._released is not None:
            self._released.set()


class MemoryLocker:
    """One dictionary of leases."""

    def __init__(self) -> None:
        self._leases: dict[UploadId, _Lease] = {}
        self._name = secrets.token_hex(8)

    def hold(
        self,
        upload_id: UploadId,
        takeover: Takeover | None = None,
        patience: float = 0.0,
        before_asking: Callable[[], Awaitable[None]] | None = None,
    ) -> _Hold:
        """See `Locker.hold`."""
        return _Hold(self._leases, upload_id, takeover, patience, before_asking)

    @property
    def scope(self) -> str:
        """See `Locker.scope`: itself. A forked child is another one."""
        return f"memory of process {os.getpid()}, {self._name}"

    def check(self) -> None:
        """See `Locker.check`: they do."""

    def close(self) -> None:
        """See `Locker.close`: there is nothing."""

    def leads(self) -> bool:
        """See `Locker.leads`."""
        return True

    def ask(self, upload_id: UploadId, takeover: Takeover) -> bool | None:
        """Ask a holder to leave; return whether it does, None if nobody holds the upload."""
        holder = self._leases.get(upload_id)
        return None if holder is None else holder.ask(takeover)

    def holds(self, upload_id: UploadId) -> bool:
        """Whether somebody does."""
        return upload_id in self._leases

    async def report(self, upload_id: UploadId) -> int | None:
        """See `Locker.report`."""
        holder = self._leases.get(upload_id)
        return None if holder is None else await holder.report()


class _Hold:
    """The context of one lease. A class: a generator costs more than the lock."""

    __slots__ = ("_before_asking", "_id", "_leases", "_patience", "_takeover")

    def __init__(
        self,
        leases: dict[UploadId, _Lease],
        upload_id: UploadId,
        takeover: Takeover | None,
        patience: float,
        before_asking: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._leases = leases
        self._before_asking = before_asking
        self._id = upload_id
        self._takeover = takeover
        self._patience = patience

    async def __aenter__(self) -> _Lease:
        if self._id in self._leases:
            await self._wait()
        lease = self._leases[self._id] = _Lease()
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leases.pop(self._id).release()

    async def _wait(self) -> None:
        if self._takeover is None and not self._patience:
            raise UploadLocked
        began = anyio.current_time()
        while (holder := self._leases.get(self._id)) is not None:
            if self._before_asking is not None:
                await self._before_asking()
                holder = self._leases.get(self._id)
                if holder is None:
                    return
            leaves = self._takeover is not None and holder.ask(self._takeover)
            left = began + max(LEAVING if leaves else 0.0, self._patience) - anyio.current_time()
            if left <= 0:
                raise UploadLocked
            await holder.wait(min(left, _ASK_AGAIN))
