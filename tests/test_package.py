"""What is built of this repository: a wheel that works alone, and an sdist with all that its tests read."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tusserver
from tests.support.wire import TIMEOUT

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built by the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def package() -> set[str]:
    """Every file of the package, data too."""
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tusserver").rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


def test_the_wheel_holds_the_whole_package_typed_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.name == f"tusserver-{tusserver.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "tusserver/py.typed" in names
    assert {name for name in names if ".dist-info/" not in name} == package()


def test_the_sdist_holds_what_its_tests_read(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    read = {
        "Makefile",
        "pyproject.toml",
        "requirements.lock",
        "requirements-lowest.lock",
        ".ci/run",
        "docs/architecture.md",
        "tests/test_architecture.py",
    }
    assert read <= names
    assert package() <= names


def test_the_wheel_runs_away_from_the_repository(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import tusserver; print(tusserver.__file__); from tusserver.__main__ import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.stdout.splitlines() == [
        str(tmp_path / "site/tusserver/__init__.py"),
        f"tusserver {tusserver.__version__}",
    ]
