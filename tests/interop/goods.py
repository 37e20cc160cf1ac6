"""The goods: bytes to send through a foreign client, and the check of what arrived."""

from __future__ import annotations

import hashlib
import random
import time

import requests

from tests.support.wire import TIMEOUT

KIB = 1024
MIB = 1024 * KIB

HEADERS = 16 * KIB
"""More than the heads of all requests of one upload together, in a test that counts what was sent."""

_TUS = {"Tus-Resumable": "1.0.0"}


def make_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes without a pattern, so that a shifted, lost or doubled piece shows. Always the same for the same seed."""
    return random.Random(seed).randbytes(size)


def head(url: str) -> requests.structures.CaseInsensitiveDict[str]:
    """What the server tells of the upload at `url`, which has to be there."""
    answer = requests.head(url, headers=_TUS, timeout=TIMEOUT)
    assert answer.status_code == 200
    return answer.headers


def wait_for_offset(url: str, least: int) -> None:
    """Ask until the upload has come as far as `least`.

    For the moment after a cut: until its bytes in hand are written, or it was silent for a while, the writer counts as
    alive, and HEAD tells what was committed before.
    """
    until = time.monotonic() + 10
    while (offset := int(head(url)["Upload-Offset"])) < least:
        assert time.monotonic() < until, f"it stays at {offset}, {least} bytes were sent"


def assert_arrived(url: str | None, source: bytes) -> None:
    """The upload at `url` is finished and holds the bytes of `source`."""
    assert url is not None, "the client gave up"
    told = head(url)
    assert (told["Upload-Offset"], told["Upload-Length"]) == (str(len(source)), str(len(source)))
    answer = requests.get(url, timeout=TIMEOUT)
    assert answer.status_code == 200
    # Digests: pytest takes minutes to explain a difference between megabytes.
    assert len(answer.content) == len(source)
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(source).digest()


def terminate(url: str) -> None:
    """Delete the upload at `url`, which has to be there."""
    assert requests.delete(url, headers=_TUS, timeout=TIMEOUT).status_code == 204


def assert_gone(url: str) -> None:
    """The server does not know the upload at `url` any more."""
    assert requests.head(url, headers=_TUS, timeout=TIMEOUT).status_code in (404, 410)
