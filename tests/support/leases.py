"""A locker whose leases expire, as those of a service on the network do: in memory, by the clock of the loop."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType

from tusserver.locks.base import RELEASE_TIMEOUT, OnReleaseRequest, OnReport, Preempt
from tusserver.protocol.errors import UploadLocked
from tusserver.protocol.upload import UploadId

TERM = 3.0
"""Seconds for which a lease holds if it is not renewed."""
PAUSE = 0.05
"""Seconds between two attempts."""


class LeaseServer:
    """What all nodes share: the holder of each upload, and a counter for the fences."""

    def __init__(self) -> None:
        self.domain = f"leases {secrets.token_hex(8)}"
        self.holders: dict[UploadId, ExpiringLease] = {}
        self.leader: ExpiringLocker | None = None
        self._fence = 0

    def next_fence(self) -> int:
        """Return a fence above all others."""
        self._fence += 1
        return self._fence

    def holder(self, upload_id: UploadId) -> ExpiringLease | None:
        """Return the lease that holds an upload, if it has not expired."""
        lease = self.holders.get(upload_id)
        return None if lease is None or lease.expired else lease


class ExpiringLease:
    """A lease of `TERM` seconds that is renewed while its node is not frozen."""

    def __init__(self, server: LeaseServer, upload_id: UploadId) -> None:
        self._server = server
        self._id = upload_id
        self._loop = asyncio.get_running_loop()
        self._taken = False
        self._on_lost: Callable[[], None] | None = None
        self._on_release_request: OnReleaseRequest | None = None
        self.reporting: OnReport | None = None
        """What its holder answers who asks how far it is."""
        self.fence = server.next_fence()
        self.frozen = False
        """Whether its node is frozen: then nothing is renewed, nothing is called and nobody is answered."""
        self.unaware = False
        """Whether its node takes it for held whatever happens, as one does whose clock is wrong."""
        self.renew()

    def renew(self) -> None:
        """Let the lease last from now on for `TERM` seconds, and renew it in time."""
        self._until = self._loop.time() + TERM
        self._timer = self._loop.call_later(TERM / 3, self._tick)

    def _tick(self) -> None:
        if not self.frozen:
            self.renew()

    @property
    def expired(self) -> bool:
        """Whether somebody else may have the upload."""
        return self._taken or self._loop.time() >= self._until

    @property
    def lost(self) -> bool:
        """See `Lease.lost`."""
        return self.expired and not self.unaware

    def lose(self) -> None:
        """Let the lease be lost at this moment."""
        self._taken = True
        self._timer.cancel()
        if not self.frozen and not self.unaware and self._on_lost is not None:
            self._on_lost()

    def thaw(self) -> None:
        """Let the node run again: it finds out what became of its lease."""
        self.frozen = False
        if self.lost:
            self.lose()
        else:
            self._tick()

    def on_lost(self, call: Callable[[], None]) -> None:
        """See `Lease.on_lost`."""
        self._on_lost = call
        if self.lost and not self.frozen:
            call()

    def on_release_request(self, call: OnReleaseRequest) -> None:
        """See `Lease.on_release_request`."""
        self._on_release_request = call

    def on_report(self, call: OnReport | None) -> None:
        """See `Lease.on_report`."""
        self.reporting = call

    def ask(self, preempt: Preempt) -> bool:
        """Ask the holder to release the upload."""
        return not self.frozen and self._on_release_request is not None and self._on_release_request(preempt)

    async def report(self) -> int | None:
        """Ask the holder how far it is."""
        return None if self.frozen or self.reporting is None else await self.reporting()

    def release(self) -> None:
        """End the lease; of one that was lost nothing is left to release."""
        self._timer.cancel()
        self._on_lost = self._on_release_request = self.reporting = None
        if self._server.holders.get(self._id) is self:
            del self._server.holders[self._id]


class ExpiringLocker:
    """The locker of one node."""

    def __init__(self, server: LeaseServer) -> None:
        self._server = server

    @property
    def domain(self) -> str:
        """See `Locker.domain`: all nodes of one server."""
        return self._server.domain

    def hold(
        self,
        upload_id: UploadId,
        preempt: Preempt | None = None,
        timeout: float = 0.0,
        before_request: Callable[[], Awaitable[None]] | None = None,
    ) -> _Hold:
        """See `Locker.hold`."""
        return _Hold(self._server, upload_id, preempt, timeout, before_request)

    async def report(self, upload_id: UploadId) -> int | None:
        """See `Locker.report`."""
        holder = self._server.holder(upload_id)
        return None if holder is None else await holder.report()

    async def is_leader(self) -> bool:
        """See `Locker.is_leader`."""
        self._server.leader = self._server.leader or self
        return self._server.leader is self

    async def check(self) -> None:
        """See `Locker.check`: leases always work."""

    async def aclose(self) -> None:
        """See `Locker.aclose`."""
        if self._server.leader is self:
            self._server.leader = None

    def lease(self, upload_id: UploadId) -> ExpiringLease:
        """Return the lease of whoever holds the upload now."""
        return self._server.holders[upload_id]


class _Hold:
    def __init__(
        self,
        server: LeaseServer,
        upload_id: UploadId,
        preempt: Preempt | None,
        timeout: float,
        before_request: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._server = server
        self._id = upload_id
        self._preempt = preempt
        self._timeout = timeout
        self._before_request = before_request
        self._lease: ExpiringLease | None = None

    async def __aenter__(self) -> ExpiringLease:
        await asyncio.sleep(0)  # a round trip
        if self._server.holder(self._id) is not None:
            await self._wait()
        self._lease = self._server.holders[self._id] = ExpiringLease(self._server, self._id)
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lease is not None
        self._lease.release()

    async def _wait(self) -> None:
        if self._preempt is None and not self._timeout:
            raise UploadLocked
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self._server.holder(self._id) is not None:
            if self._before_request is not None:
                await self._before_request()
            holder = self._server.holder(self._id)
            if holder is None:
                return
            releases = self._preempt is not None and holder.ask(self._preempt)
            if loop.time() >= began + max(RELEASE_TIMEOUT if releases else 0.0, self._timeout):
                raise UploadLocked
            await asyncio.sleep(PAUSE)
