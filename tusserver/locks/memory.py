"""Locks within one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from tusserver.locks.base import LEAVING, Manner, Wanted
from tusserver.protocol.errors import UploadLocked
from tusserver.protocol.upload import UploadId

_ASK_AGAIN = 0.05
"""Seconds: a holder that is alive now may fall silent."""


class _Lease:
    __slots__ = ("_ask", "_released")

    def __init__(self) -> None:
        self._ask: Wanted | None = None
        self._released: anyio.Event | None = None

    def on_wanted(self, ask: Wanted) -> None:
        self._ask = ask

    def ask(self, manner: Manner) -> bool:
        return self._ask is not None and self._ask(manner)

    async def wait(self, seconds: float) -> None:
        """Wait for the release, but not longer."""
        if self._released is None:
            self._released = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._released.wait()

    def release(self) -> None:
        if self._released is not None:
            self._released.set()


class MemoryLocker:
    """One dictionary of leases."""

    def __init__(self) -> None:
        self._leases: dict[UploadId, _Lease] = {}

    @asynccontextmanager
    async def hold(
        self, upload_id: UploadId, manner: Manner = Manner.POLITE, patience: float = 0.0
    ) -> AsyncIterator[_Lease]:
        """See `Locker.hold`."""
        if upload_id in self._leases:
            await self._wait(upload_id, manner, patience)
        lease = self._leases[upload_id] = _Lease()
        try:
            yield lease
        finally:
            del self._leases[upload_id]
            lease.release()

    async def _wait(self, upload_id: UploadId, manner: Manner, patience: float) -> None:
        if manner is Manner.POLITE:
            raise UploadLocked
        began = anyio.current_time()
        while (holder := self._leases.get(upload_id)) is not None:
            allowed = LEAVING if holder.ask(manner) else patience
            left = began + max(allowed, patience) - anyio.current_time()
            if left <= 0:
                raise UploadLocked
            await holder.wait(min(left, _ASK_AGAIN))
