"""`python -m tusserver` and the `tusserver` command."""

from __future__ import annotations

import io
import os
import sys

_EXTRAS = {
    **dict.fromkeys(("pydantic", "uvicorn", "httptools", "rich"), "server"),
    **dict.fromkeys(("requests", "tusclient"), "client"),
}
"""Modules that the commands need beyond what an app embeds, and the extra that has them."""


def main() -> int:
    """Run the command line, if what it needs is installed; the exit code is returned."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name must not fail on the terminal's encoding
    try:
        from tusserver.cli.main import main as run

        return run()
    except ModuleNotFoundError as missing:
        module = (missing.name or "").partition(".")[0]
        if module not in _EXTRAS:
            raise
        extra = _EXTRAS[module]
        sys.stderr.write(f"tusserver: {module} is not installed; run: pip install 'tusserver[{extra}]'\n")
        return 2
    except KeyboardInterrupt:  # before there was a command
        return 130


def _open_standard_streams() -> None:
    """Open what the caller has closed (`2>&-`): else the next file that is opened has its number, and gets the log."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(fd, True)
            if getattr(sys, name) is None:
                setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays


if __name__ == "__main__":
    sys.exit(main())
