"""Say where a Python of this machine is: `pythons.py lowest` (of those that pyproject.toml allows) or `newest`."""

# ruff: noqa: T201 - a script that tells a shell what it found

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LOWEST = (3, 11)
_SAY = "import sys, venv, ensurepip; print(*sys.version_info[:3], sys.version_info.releaselevel)"
"""Fails where it cannot make environments, and where the name is only a stand-in for something else."""


def candidates() -> set[Path]:
    """Whatever may be a Python: on the PATH, and where pyenv and uv keep theirs."""
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv"))
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python"))
    folders = [Path(folder) for folder in os.get_exec_path()]
    folders += [*pyenv.glob("versions/*/bin"), *uv.glob("cpython-*/bin"), *Path("/opt").glob("python*/bin")]
    return {path for folder in folders for path in folder.glob("python3*") if path.name[6:].replace(".", "").isdigit()}


def version(python: Path) -> tuple[int, ...] | None:
    """What it is; None if it is of no use."""
    done = subprocess.run([python, "-c", _SAY], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.endswith("final\n"):
        return None
    found = tuple(int(part) for part in done.stdout.split()[:3])
    return found if found >= LOWEST else None


def main(which: str) -> int:
    """Print the path of the one that is asked for."""
    known = {python: version(python) for python in sorted(candidates())}
    usable = {python: found for python, found in known.items() if found is not None}
    if not usable:
        print(f"no Python from {LOWEST[0]}.{LOWEST[1]} on is here that can make environments", file=sys.stderr)
        return 1
    choose = min if which == "lowest" else max
    print(choose(usable, key=lambda python: usable[python]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
