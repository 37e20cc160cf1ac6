"""Locks within one process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType

import anyio

from tusserver.locks.base import RELEASE_TIMEOUT, OnReleaseRequest, OnReport, Preempt
from tusserver.protocol.errors import UploadLocked
from tusserver.protocol.upload import UploadId

_RETRY = 0.05
"""Seconds after which a holder that stays is asked again: it may release the upload later."""


class _Lease:
    __slots__ = ("_on_release_request", "_on_report", "_released")

    fence = 0
    lost = False

    def __init__(self) -> None:
        self._on_release_request: OnReleaseRequest | None = None
        self._on_report: OnReport | None = None
        self._released: anyio.Event | None = None

    def on_lost(self, call: Callable[[], None]) -> None:
        """See `Lease.on_lost`: it lasts as long as the process."""

    def on_release_request(self, call: OnReleaseRequest) -> None:
        self._on_release_request = call

    def on_report(self, call: OnReport | None) -> None:
        self._on_report = call

    def ask(self, preempt: Preempt) -> bool:
        return self._on_release_request is not None and self._on_release_request(preempt)

    async def report(self) -> int | None:
        return None if self._on_report is None else await self._on_report()

    async def wait(self, seconds: float) -> None:
        """Wait for the release, but not longer."""
        if self._released is None:
            self._released = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._released.wait()

    def release(self) -> None:
        self._on_release_request = self._on_report = None  # they refer to a body, and what ended that refers to us
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
        preempt: Preempt | None = None,
        timeout: float = 0.0,
        before_request: Callable[[], Awaitable[None]] | None = None,
    ) -> _Hold:
        """See `Locker.hold`."""
        return _Hold(self._leases, upload_id, preempt, timeout, before_request)

    @property
    def domain(self) -> str:
        """See `Locker.domain`: this locker alone. That of a forked child is another one."""
        return f"memory of process {os.getpid()}, {self._name}"

    async def check(self) -> None:
        """See `Locker.check`: they always work."""

    async def aclose(self) -> None:
        """See `Locker.aclose`: nothing is open."""

    async def is_leader(self) -> bool:
        """See `Locker.is_leader`."""
        return True

    def ask(self, upload_id: UploadId, preempt: Preempt) -> bool | None:
        """Ask the holder to release an upload; return whether it does, None if there is no holder."""
        holder = self._leases.get(upload_id)
        return None if holder is None else holder.ask(preempt)

    def holds(self, upload_id: UploadId) -> bool:
        """Whether the upload is held."""
        return upload_id in self._leases

    async def report(self, upload_id: UploadId) -> int | None:
        """See `Locker.report`."""
        holder = self._leases.get(upload_id)
        return None if holder is None else await holder.report()


class _Hold:
    """The context of one lease. A class: a generator costs more than the lock."""

    __slots__ = ("_before_request", "_id", "_leases", "_preempt", "_timeout")

    def __init__(
        self,
        leases: dict[UploadId, _Lease],
        upload_id: UploadId,
        preempt: Preempt | None,
        timeout: float,
        before_request: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._leases = leases
        self._before_request = before_request
        self._id = upload_id
        self._preempt = preempt
        self._timeout = timeout

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
        if self._preempt is None and not self._timeout:
            raise UploadLocked
        began = anyio.current_time()
        while (holder := self._leases.get(self._id)) is not None:
            if self._before_request is not None:
                await self._before_request()
                holder = self._leases.get(self._id)
                if holder is None:
                    return
            releases = self._preempt is not None and holder.ask(self._preempt)
            left = began + max(RELEASE_TIMEOUT if releases else 0.0, self._timeout) - anyio.current_time()
            if left <= 0:
                raise UploadLocked
            await holder.wait(min(left, _RETRY))
