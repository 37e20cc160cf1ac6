"""`python -m tusserver` and the `tusserver` command."""

from __future__ import annotations

import io
import sys

_EXTRA = {"pydantic", "uvicorn", "httptools", "rich"}


def main() -> int:
    """Run the command line, if what it needs is installed; the exit code is returned."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name must not fail on the terminal's encoding
    try:
        from tusserver.cli.main import main as run

        return run()
    except ModuleNotFoundError as missing:
        if missing.name not in _EXTRA:
            raise
        sys.stderr.write(f"tusserver: {missing.name} is not installed; run: pip install 'tusserver[server]'\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
