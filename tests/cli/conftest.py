from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tusserver.cli.main import main


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command of `tusserver` in an empty working folder, without settings from the outside."""
    root, ours = logging.getLogger(), logging.getLogger("tusserver")
    handlers, level, our_level = root.handlers, root.level, ours.level
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TUSSERVER_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield run
    root.handlers = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
