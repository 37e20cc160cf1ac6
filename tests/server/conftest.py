"""The stage, once on each event loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.server.stage import Keep, Stage
from tests.support.wire import Connection


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A server of the module on one event loop."""
    loop: Literal["uvloop", "asyncio"] = request.param
    with Stage(loop) as running:
        yield running


@pytest.fixture
def keep(stage: Stage, tmp_path: Path) -> Keep:
    """An app that stores what comes, playing."""
    app = Keep(tmp_path)
    stage.play(app)
    return app


@pytest.fixture
def client(stage: Stage) -> Iterator[Connection]:
    """A connection to the stage."""
    with stage.connect() as connection:
        yield connection
