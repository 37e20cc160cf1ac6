"""What an app does with a complete upload, as it follows from the upload's name alone, and the log of what it did."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

SUCCEEDED = "succeeded"
FAILED = "failed"
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of an upload that an app is told of."""

    failures: int = 0
    """How often that fails first."""
    refused: bool = False


def fate_of(name: str) -> Fate:
    """Return what an app does with an upload of this name; of ten, six are taken at once."""
    match hashlib.sha256(name.encode()).digest()[0] % 10:
        case 0:
            return Fate(refused=True)
        case 1 | 2:
            return Fate(failures=1)
        case 3:
            return Fate(failures=2)
        case _:
            return Fate()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the app. `at` is on the monotonic clock, which all processes of a machine share."""

    at: float
    upload_id: str
    outcome: str


def note(log: Path, upload_id: str, outcome: str) -> None:
    """Add a call to the log, in one write: others add to it too."""
    with log.open("ab", buffering=0) as file:
        file.write(f"{time.monotonic():.6f} {upload_id} {outcome}\n".encode("ascii"))


def read_calls(log: Path) -> dict[str, list[Call]]:
    """Every call so far, by upload."""
    calls: dict[str, list[Call]] = {}
    if log.exists():
        for line in log.read_text("ascii").splitlines():
            at, upload_id, outcome = line.split(" ")
            calls.setdefault(upload_id, []).append(Call(float(at), upload_id, outcome))
    return calls
