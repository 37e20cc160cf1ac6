from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one: ./tusserver.toml is read from it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
