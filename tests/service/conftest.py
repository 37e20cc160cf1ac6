from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pytest

from tests.service.world import World
from tests.support.loop import JumpingLoop
from tusserver.service import concat, intake, progress, quota
from tusserver.stores.base import Store
from tusserver.stores.file.store import FileStore
from tusserver.stores.memory import MemoryStore


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test of this folder on a loop whose clock jumps."""
    return {"jumping": JumpingLoop}


@contextmanager
def timed_by_the_loop() -> Iterator[None]:
    """Let the loop's clock time what is timed by the machine's."""
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    with pytest.MonkeyPatch.context() as patch:
        for module in (concat, intake, progress, quota):
            patch.setattr(module, "time", clock)
        yield


@pytest.fixture(autouse=True)
def _one_clock() -> Iterator[None]:
    with timed_by_the_loop():
        yield


class MakeWorld(Protocol):
    """`make_world(expiry=…, …)`"""

    def __call__(self, **options: Any) -> World: ...


@pytest.fixture(params=["memory", "file"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Open the store of this test: a file store is opened again on its folder, a memory store stays."""
    if request.param == "file":
        return lambda: FileStore(tmp_path / "data")
    store = MemoryStore()
    return lambda: store


@pytest.fixture
def make_world(open_store: Callable[[], Store]) -> MakeWorld:
    """Make the service over the store of this test, with options of one's own."""
    return lambda **options: World(open_store, **options)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """The service with its defaults."""
    return make_world()
