"""What a run has seen: the counts of its report, and every promise that was broken."""

from __future__ import annotations

import threading
from collections import Counter


class Ledger:
    """Used by all threads of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []

    def count(self, what: str, number: int = 1) -> None:
        """Add to a figure of the report."""
        with self._lock:
            self.counts[what] += number

    def accuse(self, what: str) -> None:
        """Note a broken promise."""
        with self._lock:
            self.broken.append(what)
