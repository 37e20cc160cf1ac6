"""`python -m tusserver` and the `tusserver` command."""

from __future__ import annotations

import io
import sys

_EXTRAS = {
    **dict.fromkeys(("pydantic", "uvicorn", "httptools", "rich"), "server"),
    **dict.fromkeys(("requests", "tusclient"), "client"),
}
"""Modules that the commands need beyond what an app embeds, and the extra that has them."""


def main() -> int:
    """Run the command line, if what it needs is installed; the exit code is returned."""
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


if __name__ == "__main__":
    sys.exit(main())
