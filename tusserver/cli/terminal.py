"""What the command line says to people."""

from __future__ import annotations

import contextlib
import os
import sys


def say(line: str) -> None:
    """Print at once. That nobody reads any more is no reason to stop a server."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process


def complain(line: str) -> None:
    """Say in one line what went wrong, if anybody is there to hear it."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"tusserver: {line}\n")
        sys.stderr.flush()
