"""Connections of all workers, in all and by client, so that limits hold for the server and not for each worker.

Each process writes its own numbers into shared memory and reads those of the others, without a lock. A new connection
is written before the others' numbers are read: of two workers that get one at once, at least one sees both. When a
process dies, the parent clears its numbers.

Clients are counted by two hashes. A client may be counted with others that have the same two (one pair in a thousand
million has); nobody can find out which those are, as the hash has a random key.
"""

from __future__ import annotations

import hashlib
import mmap
import secrets

_BUCKETS = 1 << 15
"""For each of the two hashes."""
_WIDTH = 4
"""Bytes of a number."""


class SharedCounts:
    """Memory for the numbers of so many `processes`, of which `workers` accept connections; made by their parent."""

    def __init__(self, processes: int, workers: int) -> None:
        self.workers = workers
        """How many accept connections; for a moment one more, when one replaces another."""
        self.processes = processes
        self.key = secrets.token_bytes(16)
        memory = memoryview(mmap.mmap(-1, processes * (1 + 2 * _BUCKETS) * _WIDTH)).cast("I")
        self.totals = memory[:processes]
        self.buckets = memory[processes:]

    def clear(self, process: int) -> None:
        """Clear the numbers of a process that ended."""
        self.totals[process] = 0
        start = process * 2 * _BUCKETS
        self.buckets[start : start + 2 * _BUCKETS] = memoryview(bytes(2 * _BUCKETS * _WIDTH)).cast("I")


class ProcessCounts:
    """The numbers that one process writes, and sums of those of the others. `process`: from 0 on."""

    def __init__(self, shared: SharedCounts, process: int) -> None:
        self._shared = shared
        self._process = process
        self.workers = shared.workers

    def put(self, connections: int) -> None:
        """Write how many connections this process has."""
        self._shared.totals[self._process] = connections

    def others(self) -> int:
        """Return how many connections the others have."""
        totals = self._shared.totals
        return sum(totals) - totals[self._process]

    def add(self, key: str, connections: int) -> None:
        """Add to the connections that this process has of one client; `key`: see `addresses.client_key`."""
        for bucket in self._buckets_of(key):
            self._shared.buckets[self._process * 2 * _BUCKETS + bucket] += connections

    def others_of(self, key: str) -> int:
        """Return how many connections the others have of one client."""
        starts = [process * 2 * _BUCKETS for process in range(self._shared.processes) if process != self._process]
        numbers = self._shared.buckets
        return min(sum(numbers[start + bucket] for start in starts) for bucket in self._buckets_of(key))

    def _buckets_of(self, key: str) -> tuple[int, int]:
        digest = hashlib.blake2b(key.encode("ascii"), digest_size=8, key=self._shared.key).digest()
        one, two = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")
        return one % _BUCKETS, _BUCKETS + two % _BUCKETS
