"""State of uploads and downloads that were not finished, for the next run of the command: one small file for each."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tusserver.cli.client import Failed


def state_folder(kind: str) -> Path:
    """Return the folder of `uploads` or `downloads`, below XDG_STATE_HOME/tusserver."""
    home = os.environ.get("XDG_STATE_HOME", "")
    # XDG: "All paths set in these environment variables must be absolute."
    return (Path(home) if os.path.isabs(home) else Path.home() / ".local/state") / "tusserver" / kind


def key_of(endpoint: str, path: Path, status: os.stat_result) -> str:
    """Return the key of a file as it is now and a server. A changed file has another key, so it starts again."""
    return key_from(endpoint, os.fspath(path.absolute()), status.st_size, status.st_mtime_ns)


def key_from(*facts: str | int) -> str:
    """Return a key that is the same for the same facts only."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


class ResumeState:
    """What is stored of one transfer. tuspy's FileStorage writes one JSON file for all, whole, from every command."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._file = folder / f"{key}.json"
        self._lock = folder / f"{key}.lock"

    @contextlib.contextmanager
    def alone(self, otherwise: str) -> Iterator[None]:
        """Exclude other commands from this transfer; `otherwise` is the error if one is running it.

        Raises:
            Failed
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise Failed(otherwise) from None
            # The process that held it before may have removed the file that we locked.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._lock.stat()):
                    break
            os.close(descriptor)
        try:
            yield
        finally:
            self._lock.unlink(missing_ok=True)
            os.close(descriptor)

    def recall(self, fact: str) -> str | None:
        """Return a stored fact; None if there is none that can be read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(self._file.read_text())[fact])
        return None

    def keep(self, **facts: str) -> None:
        """Store them: all or none."""
        with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".tmp", delete=False) as file:
            json.dump(facts, file)
        os.replace(file.name, self._file)

    def forget(self) -> None:
        """Remove what was stored: nothing is left to resume."""
        self._file.unlink(missing_ok=True)
