"""How many connections all workers have together, and from whom: so that limits hold for the server and not for each.

Each process writes numbers of its own into memory that they share, and reads those of the others, without a lock. Who
comes is written down before the others are looked at: of two who come at once to two workers none goes uncounted.
Numbers of a process that died are cleared by the parent.

Addresses are counted by two hashes. So others with the same hashes, of which there is one pair in a thousand million,
may count as one; which those are nobody can find out, as the key is random.
"""

from __future__ import annotations

import hashlib
import mmap
import secrets

_BUCKETS = 1 << 15
_WIDTH = 4
"""Bytes of a number."""


class Census:
    """Memory for `processes`. To be made by their parent."""

    def __init__(self, processes: int, workers: int) -> None:
        self.workers = workers
        """How many of them take connections, but for a moment when one takes the place of another."""
        self.processes = processes
        self.key = secrets.token_bytes(16)
        memory = memoryview(mmap.mmap(-1, processes * (1 + 2 * _BUCKETS) * _WIDTH)).cast("I")
        self.totals = memory[:processes]
        self.buckets = memory[processes:]

    def clear(self, number: int) -> None:
        """Forget what a process had that is gone."""
        self.totals[number] = 0
        begin = number * 2 * _BUCKETS
        self.buckets[begin : begin + 2 * _BUCKETS] = memoryview(bytes(2 * _BUCKETS * _WIDTH)).cast("I")


class Row:
    """What the process `number` writes and reads."""

    def __init__(self, census: Census, number: int) -> None:
        self._census = census
        self._number = number
        self.workers = census.workers

    def put(self, connections: int) -> None:
        """Write how many connections this process has."""
        self._census.totals[self._number] = connections

    def others(self) -> int:
        """Return how many the others have."""
        totals = self._census.totals
        return sum(totals) - totals[self._number]

    def move(self, key: str, by: int) -> None:
        """Write that `by` more connections are of one client (see `addresses.client_key`)."""
        for place in self._places(key):
            self._census.buckets[self._number * 2 * _BUCKETS + place] += by

    def others_of(self, key: str) -> int:
        """Return how many of a client the others have."""
        begins = [number * 2 * _BUCKETS for number in range(self._census.processes) if number != self._number]
        buckets = self._census.buckets
        return min(sum(buckets[begin + place] for begin in begins) for place in self._places(key))

    def _places(self, key: str) -> tuple[int, int]:
        digest = hashlib.blake2b(key.encode("ascii"), digest_size=8, key=self._census.key).digest()
        one, two = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")
        return one % _BUCKETS, _BUCKETS + two % _BUCKETS
