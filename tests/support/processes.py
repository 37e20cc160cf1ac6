"""What /proc tells of the processes of a server: its workers, who lives, and who holds which lock."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def children(process: int) -> list[int]:
    """The processes that it has started and that live, oldest first."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text("ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in found if lives(int(child))]


def lives(process: int) -> bool:
    """Whether a process is there, and more than its exit code."""
    try:
        return Path(f"/proc/{process}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def holders(processes: Iterable[int], path: Path, byte: int) -> list[int]:
    """Those of some processes that hold a byte of a file (an open file description lock)."""
    return [process for process in processes if _holds(process, path, byte)]


def _holds(process: int, path: Path, byte: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{process}/fd"):
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/{process}/fd/{name}") == str(path):
                    told = Path(f"/proc/{process}/fdinfo/{name}").read_text("ascii").splitlines()
                    if any("OFDLCK" in line and line.split()[-2:] == [str(byte), str(byte)] for line in told):
                        return True
    return False
