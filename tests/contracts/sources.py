"""Bytes for stores, and a way to read what they kept."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from tusserver.protocol.messages import Content
from tusserver.streams import FileTarget, OnProgress


class Chunks:
    """A Source that hands over one batch after the other."""

    can_receive_into = False

    def __init__(self, *batches: bytes | list[bytes], expected: int | None = None, limit: int | None = None) -> None:
        self.expected = expected
        self.limit = limit
        self._batches = [[batch] if isinstance(batch, bytes) else batch for batch in batches if batch]

    async def read(self, most: int) -> list[bytes]:
        return self._batches.pop(0) if self._batches else []

    async def receive_into(self, target: FileTarget, on_progress: OnProgress) -> int:
        raise AssertionError("this source cannot write to a file")


class Direct:
    """A Source that writes to the file itself, in steps of so many bytes; `fails` comes when all is written."""

    can_receive_into = True

    def __init__(self, data: bytes, *, step: int = 1 << 16, fails: OSError | None = None) -> None:
        self.expected: int | None = len(data)
        self.limit: int | None = None
        self._data = data
        self._step = step
        self._fails = fails

    async def read(self, most: int) -> list[bytes]:
        raise AssertionError("this source writes to the file itself")

    async def receive_into(self, target: FileTarget, on_progress: OnProgress) -> int:
        for start in range(0, len(self._data), self._step):
            piece = self._data[start : start + self._step]
            if target.reserve is not None:
                target.reserve(target.offset + start, len(piece))
            os.pwrite(target.fd, piece, target.offset + start)
            if (telling := on_progress(start + len(piece))) is not None:
                await telling
        if self._fails is not None:
            raise self._fails
        return len(self._data)


def noting(told: list[int]) -> Callable[[int], Awaitable[None]]:
    """Make a `on_progress` that notes what it is told."""

    async def on_progress(count: int) -> None:
        told.append(count)

    return on_progress


async def unheard(count: int) -> None:
    """A `on_progress` that does nothing."""


async def read(content: Content, start: int = 0, stop: int | None = None) -> bytes:
    """Read a range of what a store kept."""
    stop = content.size if stop is None else stop
    if content.path is not None:
        return content.path.read_bytes()[start:stop]
    assert content.read is not None
    return b"".join([chunk async for chunk in content.read(start, stop)])
