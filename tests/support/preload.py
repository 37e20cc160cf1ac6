"""Libraries in C that are preloaded into a server, and change what the system does for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.wire import TIMEOUT


def build(source: Path, folder: Path) -> Path | None:
    """Make the library of a source in `folder`; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / source.with_suffix(".so").name
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=TIMEOUT)
    return library
