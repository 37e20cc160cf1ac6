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
class _Torment:
    deadly: bool
    end: float = float("inf")


class Ledger:
    """Used by all threads of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        self._torments: list[_Torment] = []

    def count(self, what: str, number: int = 1) -> None:
        """Add to a figure of the report."""
        with self._lock:
            self.counts[what] += number

    def accuse(self, what: str) -> None:
        """Note a broken promise."""
        with self._lock:
            self.broken.append(what)

    @contextmanager
    def torment(self, *, deadly: bool) -> Iterator[None]:
        """Note that the server suffers meanwhile; if it is deadly, processes end."""
        torment = _Torment(deadly)
        with self._lock:
            self._torments.append(torment)
        try:
            yield
        finally:
            torment.end = time.monotonic() + AFTERWARDS

    def tormented(self, since: float, *, deadly: bool = False) -> bool:
        """Whether the server suffered since a moment."""
        with self._lock:
            return any(torment.end >= since and (torment.deadly or not deadly) for torment in self._torments)
