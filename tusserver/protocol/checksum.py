"""Checksums: the algorithms that are offered, the checksum of a request, and running digests.

tus 1.0.0, Checksum: "The Tus-Checksum-Algorithm header MUST be a comma-separated list"; a server "MUST support at
least the SHA1 checksum algorithm identified by sha1". crc32 is sent as its four bytes, most significant first.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tusserver.protocol.errors import InvalidChecksum
from tusserver.protocol.fields import base64_bytes


class Digest(Protocol):
    """A running hash."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add the next bytes."""

    def digest(self) -> bytes:
        """Return the value so far."""


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _algorithms() -> dict[str, tuple[int, Callable[[], Digest]]]:
    """Name → digest size in bytes, and a function that returns a new digest."""
    known: dict[str, tuple[int, Callable[[], Digest]]] = {
        "sha1": (20, lambda: hashlib.sha1(usedforsecurity=False)),
        "md5": (16, lambda: hashlib.md5(usedforsecurity=False)),
        "crc32": (4, _Crc32),
        "sha256": (32, lambda: hashlib.sha256(usedforsecurity=False)),
        "sha512": (64, lambda: hashlib.sha512(usedforsecurity=False)),
    }
    for name, size, package, factory in (
        ("blake3", 32, "blake3", "blake3"),
        ("xxh3", 8, "xxhash", "xxh3_64"),
        ("xxh128", 16, "xxhash", "xxh3_128"),
    ):
        try:
            known[name] = (size, getattr(importlib.import_module(package), factory))
        except ImportError:  # an optional package: pip install 'tusserver[checksums]'
            continue
    return known


ALGORITHMS = _algorithms()
"""Algorithms of this installation, sha1 first."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """The checksum that a client gives for the body of one request."""

    algorithm: str
    value: bytes

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Read `<algorithm> <Base64>`.

        Raises:
            InvalidChecksum: malformed, an algorithm we do not have ("MAY respond with 400"), or a value of wrong size.
        """
        algorithm, _, encoded = text.partition(" ")
        if algorithm not in ALGORITHMS:
            raise InvalidChecksum(f"the algorithm must be one of {', '.join(ALGORITHMS)}")
        try:
            value = base64_bytes(encoded)
        except ValueError:
            raise InvalidChecksum("the value is not Base64 with padding") from None
        size = ALGORITHMS[algorithm][0]
        if len(value) != size:
            raise InvalidChecksum(f"a {algorithm} value has {size} bytes, this one {len(value)}")
        return cls(algorithm, value)

    def digest(self) -> Digest:
        """Return a new digest of the algorithm."""
        return ALGORITHMS[self.algorithm][1]()

    def matches(self, digest: Digest) -> bool:
        """Whether the digest has the value of the checksum."""
        return hmac.compare_digest(self.value, digest.digest())
