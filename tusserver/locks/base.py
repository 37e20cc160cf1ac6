"""The port of every locker: one request at a time holds an upload, and can be asked to leave.

Who may interrupt whom is decided by the holder: it is asked, and says whether it goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Protocol

from tusserver.protocol.upload import UploadId

LEAVING = 5.0
"""Seconds for a holder that said it goes to be gone: it finishes a write and commits."""


class Manner(Enum):
    """How a newcomer treats the holder."""

    POLITE = "polite"
    """Takes a free lock or none."""
    RESUME = "resume"
    """Asks a holder whose client is silent to leave; waits for one that is alive."""
    INSIST = "insist"
    """Asks any holder to leave."""


Wanted = Callable[[Manner], bool]
"""Asks a holder to leave; returns whether it does."""


class Lease(Protocol):
    """A lock that is held."""

    def on_wanted(self, ask: Wanted) -> None:
        """Set whom to ask when somebody else wants the upload. Without it the holder stays."""


class Locker(Protocol):
    """Excludes requests from each other."""

    @property
    def scope(self) -> str:
        """Whom it excludes: all lockers that name the same scope, in whatever process, and nobody else."""

    def hold(
        self,
        upload_id: UploadId,
        manner: Manner = Manner.POLITE,
        patience: float = 0.0,
        before_asking: Callable[[], Awaitable[None]] | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold an upload for the length of the context; wait at most `patience` seconds for a holder that stays.

        `before_asking` is awaited once if there is a holder, before it is disturbed; what it raises ends the attempt.

        Raises:
            UploadLocked: the holder stayed longer.
        """

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
