"""Lines that the command line prints for people."""

from __future__ import annotations

import contextlib
import os
import sys


def echo(line: str) -> None:
    """Print a line and flush. A closed standard output is no error: a server goes on."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process


def error(line: str) -> None:
    """Print an error to standard error, in one line; a closed one is ignored."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"tusserver: {line}\n")
        sys.stderr.flush()
