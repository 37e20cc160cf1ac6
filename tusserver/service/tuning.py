"""Numbers of the service that follow from measurements and are no settings. Tests and experiments take others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """One set of them."""

    retry_delay: timedelta = timedelta(minutes=1)
    """After which a sweep tries again what failed."""
    group: int = 64
    """Expired uploads that are locked and removed together: their locks are held for some hundredths of a second."""
    most_left: int = 10_000
    """Uploads that are listed since they could not get a new deadline: with more it is the disk, not the uploads."""
    crowd: int = 1000
    """Entries at which a list without a limit on their number is checked, plus twice those that were left last time."""
    remembered: int = 10_000
    """Final uploads of which something is remembered."""
