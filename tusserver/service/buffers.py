"""How many bytes of bodies may be held in memory while they wait to be written: one sum for all, shared fairly."""

from __future__ import annotations

from collections.abc import Sized

BUFFERS = 32 << 20
"""Bytes, if nobody says otherwise (`limits.buffers`)."""
LEAST = 32 << 10
"""Bytes that each body may hold however many there are: smaller writes cost more than they save."""


class Buffers:
    """`size` bytes for all `bodies` together. A body whose client is slow holds what came, and no more than a share."""

    def __init__(self, size: int = BUFFERS, bodies: Sized = ()) -> None:
        self._size = size
        self._bodies = bodies

    def share(self) -> int:
        """Return how many bytes one body may hold now. Then they are written, whether more come or not."""
        return max(LEAST, self._size // max(1, len(self._bodies)))
