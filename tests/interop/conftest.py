"""What the tests with foreign clients share: a proxy that does harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.node import Node
from tests.support.proxy import Proxy
from tests.support.server import TusServer


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for clients that block."""
    with ThreadPoolExecutor(16) as threads:
        yield threads


@pytest.fixture
def open_proxy(pool: ThreadPoolExecutor) -> Iterator[Callable[[TusServer], Proxy]]:
    """A factory of proxies in front of a server. They stop before `pool` does, so that no client waits for ever."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(Proxy(server.host))


@pytest.fixture
def node(node_packages: Path, open_proxy: object) -> Iterator[Node]:
    """Starts uploads in Node.js. Its clients end before the proxies do."""
    node = Node(node_packages)
    yield node
    node.close()
