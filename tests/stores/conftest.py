from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import tests.contracts.stores as contract
from tests.support.wire import TIMEOUT
from tusserver.disk import files

Mount = Callable[[str, int], Path]
"""`mount(kind, size)`: a new file system of so many bytes, ext4 or tmpfs."""


@pytest.fixture(autouse=True)
def _now_is_now(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores ask the machine for the time, and what the contract takes for it was read when the tests were loaded."""
    loaded, now = contract.NOW, datetime.now(UTC).replace(microsecond=0)
    for module in (contract, request.module):
        if getattr(module, "NOW", None) is loaded:
            monkeypatch.setattr(module, "NOW", now)


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync nothing: no power is cut in these tests, and disks take their time."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, os.fstat)  # which knows a wrong descriptor too
    monkeypatch.setattr(files, "sync_file_system", os.stat)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount file systems of one's own, for as long as the test runs."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount file systems")
    mounted: list[Path] = []

    def run(*command: str) -> None:
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")

    def mount(kind: str, size: int) -> Path:
        target = tmp_path / f"mount{len(mounted)}"
        target.mkdir()
        if kind == "tmpfs":
            run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(target))
        else:
            image = tmp_path / f"image{len(mounted)}"
            with open(image, "wb") as file:
                file.truncate(size)
            run(f"mkfs.{kind}", "-q", "-F", str(image))
            run("mount", "-o", "loop", str(image), str(target))
        mounted.append(target)
        return target

    yield mount
    for target in reversed(mounted):
        # Lazily: a store may still have a file open.
        subprocess.run(["umount", "--lazy", str(target)], check=True, timeout=TIMEOUT)
