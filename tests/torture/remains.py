"""What is left in a data folder once everything in it has expired."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOUR = 3600
KEPT = {"format", "in-use", "settled", "untouched"}
"""Files of the folder as a whole."""
OTHER_ROOMS = {"calendar", "locks"}
"""Folders that hold no uploads."""


def pass_time(folder: Path) -> None:
    """Let two hours pass for the calendar: half-made uploads get their first look an hour after they were made."""
    for path in sorted((folder / "calendar").iterdir(), key=lambda path: path.name):
        if path.name.isdigit():
            path.rename(path.with_name(str(int(path.name) - 2 * HOUR)))


def sweep(folder: Path, *options: str) -> None:
    """Sweep as an operator does."""
    command = [sys.executable, "-m", "tusserver", "sweep", "--storage", str(folder), *options]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def remains(folder: Path) -> list[Path]:
    """Files that should not be there any more."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        path
        for path in files
        if path.relative_to(folder).parts[0] not in OTHER_ROOMS and str(path.relative_to(folder)) not in KEPT
    )
