"""What request heads cost in memory, and a bound of that over all connections of a process.

A head of the usual size is nobody's concern. Beyond that a connection counts with what its heads cost: the one that
comes in, those that wait for the answer to the one before, and the one that is being answered. When all of them
together cost too much, those who hold more than a fair part are given up, the oldest first: who sends a large head in
good faith has it complete in a moment, and an answer soon.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

FIELD: Final = 170
"""Bytes that a field costs beside those of its name and value, measured: a tuple that the garbage collector knows, two
strings, and their place in a list."""
REQUEST: Final = 3 << 10
"""Bytes that a request costs while it waits for the answer to the one before, beside its head, measured."""
USUAL: Final = 8 << 10
"""Bytes of one connection's heads that are not counted."""

Holder = TypeVar("Holder")


class Heads(Generic[Holder]):
    """What connections hold, up to `size` bytes in all."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[Holder, int] = {}
        """In the order in which they began to hold that much."""
        self.total = 0
        """Bytes that all of them hold."""

    def hold(self, holder: Holder, cost: int) -> list[Holder]:
        """Note what the heads of a connection cost now; return those who must be given up for that."""
        more = max(0, cost - USUAL)
        before = self._held.get(holder, 0)
        if more == before:
            return []
        self.total += more - before
        if more:
            self._held[holder] = more
        else:
            del self._held[holder]
        return self._make_room() if self.total > self._size else []

    def _make_room(self) -> list[Holder]:
        fair = self._size // len(self._held)
        given_up = []
        for holder, held in list(self._held.items()):
            if held > fair:
                del self._held[holder]
                self.total -= held
                given_up.append(holder)
            if self.total <= self._size:
                break
        return given_up
