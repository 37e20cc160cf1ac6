"""How many bytes of bodies may wait in memory to be written: one budget, shared equally."""

from __future__ import annotations

from collections.abc import Sized

MINIMUM_SHARE = 32 << 10
"""Bytes that each body may hold, however many there are: smaller writes cost more than they save."""


class Buffers:
    """A budget of `size` bytes for all `bodies` together."""

    def __init__(self, size: int, bodies: Sized) -> None:
        self._size = size
        self._bodies = bodies

    def share(self) -> int:
        """Return how many bytes one body may hold now; then they are to be written, whether more come or not."""
        return max(MINIMUM_SHARE, self._size // max(1, len(self._bodies)))
