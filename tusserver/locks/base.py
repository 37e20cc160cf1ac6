"""The port of every locker: one request at a time holds an upload; it can be asked how far it is, and to leave.

What is asked of a holder it decides itself: it knows what was told of the upload.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from tusserver.protocol.upload import UploadId

LEAVING = 5.0
"""Seconds for a holder that said it leaves to be gone: it finishes a write."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """Asks a holder to leave."""

    at: int | None = None
    """Only if the upload was told to stand at this offset; None: in any case."""


Leave = Callable[[Takeover], bool]
"""Asks a holder to leave; returns whether it does."""
Report = Callable[[], Awaitable[int | None]]
"""Asks a holder how far it is; what it returns is told from then on. None: it has nothing to say."""


class Lease(Protocol):
    """A lock that is held."""

    def on_wanted(self, leave: Leave) -> None:
        """Set whom to ask when somebody else wants the upload. Without it the holder stays."""

    def on_report(self, report: Report | None) -> None:
        """Set whom to ask how far the upload is. Without it there is no answer."""


class Locker(Protocol):
    """Excludes requests from each other."""

    @property
    def scope(self) -> str:
        """Whom it excludes: all lockers that name the same scope, in whatever process, and nobody else."""

    def hold(
        self,
        upload_id: UploadId,
        takeover: Takeover | None = None,
        patience: float = 0.0,
        before_asking: Callable[[], Awaitable[None]] | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold an upload for the length of the context; wait at most `patience` seconds for a holder that stays.

        `takeover`: what the holder is asked; without it nobody is disturbed. `before_asking` is awaited each time
        before a holder is asked or waited for; what it raises ends the attempt.

        Raises:
            UploadLocked: the holder stayed longer.
        """

    async def report(self, upload_id: UploadId) -> int | None:
        """Return what the holder of an upload says of how far it is; None if there is none, or none that answers."""

    def leads(self) -> bool:
        """Whether this process is the one that does what only one shall do: from the first that asks until it closes
        its locker or dies."""

    def check(self) -> None:
        """Find out whether locks work.

        Raises:
            StoreUnavailable: with what is wrong, in words that anybody may read.
        """

    def close(self) -> None:
        """Give back what is open, the lead too; called after the last request. A later `hold` opens it again."""
