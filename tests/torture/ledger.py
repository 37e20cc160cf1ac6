"""What a run has seen: the counts of its report, and every promise that was broken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

AFTERWARDS = 0.3
"""Seconds after which no connection of a process that has ended is left."""


@dataclass(slots=True)
class _Death:
    begin: float
    end: float = float("inf")


class Ledger:
    """Used by all threads of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        self._deaths: list[_Death] = []

    def count(self, what: str, number: int = 1) -> None:
        """Add to a figure of the report."""
        with self._lock:
            self.counts[what] += number

    def accuse(self, what: str) -> None:
        """Note a broken promise."""
        with self._lock:
            self.broken.append(what)

    @contextmanager
    def death(self) -> Iterator[None]:
        """Note that processes end meanwhile, so that nobody is owed an answer."""
        death = _Death(time.monotonic())
        with self._lock:
            self._deaths.append(death)
        try:
            yield
        finally:
            death.end = time.monotonic() + AFTERWARDS

    def died(self, since: float) -> bool:
        """Whether a process ended since a moment."""
        with self._lock:
            return any(death.end >= since for death in self._deaths)
