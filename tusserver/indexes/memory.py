"""Indexes in memory: they are gone with the process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tusserver.indexes.base import Listed, Sums


class MemoryOpenUploads:
    """Lists in a dictionary; they are gone with the process."""

    def __init__(self) -> None:
        self._lists: dict[str, list[Listed]] = {}
        self._reserved: Counter[str] = Counter()

    async def add(self, name: str, upload: Listed) -> Sums:
        """See `OpenUploads.add`."""
        entries = self._lists.setdefault(name, [])
        entries.append(upload)
        self._reserved[name] += upload.reserved
        return Sums(len(entries), self._reserved[name])

    async def read(self, name: str) -> Sequence[Listed]:
        """See `OpenUploads.read`."""
        return tuple(self._lists.get(name, ()))

    async def replace(self, name: str, known: Sequence[Listed], kept: Sequence[Listed]) -> int:
        """See `OpenUploads.replace`."""
        entries = self._lists.get(name, [])
        if tuple(entries[: len(known)]) == tuple(known):
            entries[: len(known)] = kept
            self._reserved[name] = sum(entry.reserved for entry in entries)
        if not entries:
            self._lists.pop(name, None)
            del self._reserved[name]
        return len(entries)

    async def names(self, idle: float) -> Sequence[str]:
        """See `OpenUploads.names`. Memory does not know since when: all."""
        return tuple(self._lists)
