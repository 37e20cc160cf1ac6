"""The port of every locker: one request at a time holds an upload; it can be asked how far it is, and to release it.

The holder decides what it answers: it knows what was told of the upload.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from tusserver.protocol.upload import UploadId

RELEASE_TIMEOUT = 5.0
"""Seconds that a holder may take to release an upload once it has said that it does: it finishes a write."""


@dataclass(frozen=True, slots=True)
class Preempt:
    """How a newcomer preempts the holder of an upload: it requests the release."""

    at: int | None = None
    """Only if the upload was told to stand at this offset; None: in any case."""


OnReleaseRequest = Callable[[Preempt], bool]
"""Called on the event loop for each request of a release, and may come several times; returns whether the holder
releases the upload."""
OnReport = Callable[[], Awaitable[int | None]]
"""Asked how far the upload is; the offset that it returns is told from then on. None: there is nothing to tell."""


class Lease(Protocol):
    """A lock that is held. Where it depends on a service or on a clock, it can be lost while the holder still works."""

    @property
    def fence(self) -> int:
        """A number that rises from holder to holder of one upload, also if the locker has forgotten all earlier ones: a
        store refuses what an older holder commits. 0 where a holder loses its lock only with its process."""

    @property
    def lost(self) -> bool:
        """Whether the lease is lost by now: true as soon as somebody else may hold the upload, also if nobody was told
        yet because the process was stopped meanwhile."""

    def on_lost(self, call: Callable[[], None]) -> None:
        """Set what is called, once and on the event loop, as soon as it is known that the lease is lost; now if it is
        lost already. The holder ends what it does and commits nothing any more."""

    def on_release_request(self, call: OnReleaseRequest) -> None:
        """Set what is called when somebody requests the release. Without it the holder stays."""

    def on_report(self, call: OnReport | None) -> None:
        """Set what is called when somebody asks how far the upload is. Without it there is no answer."""


class Locker(Protocol):
    """Excludes requests from each other. The upload of a holder that lost its lease is free."""

    @property
    def domain(self) -> str:
        """Which lockers exclude each other: those of the same domain, in whatever process, and no others."""

    def hold(
        self,
        upload_id: UploadId,
        preempt: Preempt | None = None,
        timeout: float = 0.0,
        before_request: Callable[[], Awaitable[None]] | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold an upload for the length of the context; wait at most `timeout` seconds for a holder that stays.

        `preempt`: how the holder is asked to release it; None: nobody is disturbed. `before_request` is awaited each
        time before a holder is asked or waited for; what it raises ends the attempt.

        Raises:
            UploadLocked: the holder stayed longer.
        """

    async def report(self, upload_id: UploadId) -> int | None:
        """Return the offset that the holder of an upload tells; None if there is no holder, or none that answers."""

    async def is_leader(self) -> bool:
        """Whether this process does what only one of the domain shall do: the first that asks leads until it closes
        its locker or dies."""

    async def check(self) -> None:
        """Find out whether locks work.

        Raises:
            StoreUnavailable: with what is wrong, in words that anybody may read.
        """

    async def aclose(self) -> None:
        """Close what is open and stop leading; called after the last request. A later `hold` opens it again."""
