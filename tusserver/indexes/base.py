"""The ports of indexes: pointers to uploads, which can be lost and made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tusserver.protocol.upload import UploadId


class Listed(NamedTuple):
    """An upload on a list."""

    id: UploadId
    reserved: int = 0
    """Bytes that it was said to lack when it was put there."""


class Sums(NamedTuple):
    """What a list comes to."""

    uploads: int
    reserved: int


class OpenUploads(Protocol):
    """Lists of uploads by name. An upload on one may be done long ago; a reader finds that out, and removes it.

    Every method may raise `StoreUnavailable` or `OutOfSpace`.
    """

    async def add(self, name: str, upload: Listed) -> Sums:
        """Put an upload at the end of a list; return what it comes to then."""

    async def read(self, name: str) -> Sequence[Listed]:
        """Return a list; one that was never begun is empty."""

    async def replace(self, name: str, known: Sequence[Listed], kept: Sequence[Listed]) -> int:
        """Put `kept` in the place of `known`, with which the list began when it was read; return its length then.

        If somebody else has done that meanwhile, nothing is changed.
        """

    async def names(self, idle: float) -> Sequence[str]:
        """Name the lists that were not changed for `idle` seconds, as far as that is known."""
