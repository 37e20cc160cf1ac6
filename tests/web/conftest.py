from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from starlette.routing import Router

from tests.support.loop import JumpingLoop
from tests.web.asking import Client
from tusserver import FileStore, MemoryStore, Store, Tus


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test of this folder on a loop whose clock jumps."""
    return {"jumping": JumpingLoop}


class Serve(Protocol):
    """`serve(max_size=…, …)`: a client of a Tus with these arguments at /files."""

    async def __call__(self, **options: Any) -> Client: ...


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return FileStore(tmp_path / "data") if request.param == "file" else MemoryStore()


@pytest.fixture
async def serve(store: Store) -> AsyncIterator[Serve]:
    """Serve Tus apps over the store of this test, as long as it lasts."""
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Client:
            tus = Tus(options.pop("store", store), **options)
            await stack.enter_async_context(tus.lifespan())
            router = Router(routes=[tus.route("/files")], redirect_slashes=False)
            return await stack.enter_async_context(Client(router, tus))

        yield make


@pytest.fixture
async def client(serve: Serve) -> Client:
    """A client of a Tus with its defaults."""
    return await serve()
