"""Restarts while clients upload: their users notice nothing but the time.

The socket is handed over, as a service manager does, so that no connection is refused in between.
"""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tusclient.client import TusClient

from tests.interop.goods import KIB, MIB, assert_arrived, make_bytes
from tests.interop.node import Node
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually
from tests.support.wire import TIMEOUT

RESTARTS = 4
SIZE = 3 * MIB + 11
CHUNK = 64 * KIB

Restart = Callable[[], None]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """What a service manager holds."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield listening


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path, listener: socket.socket) -> Iterator[TusServer]:
    """A server on that socket."""
    options = ("--workers", str(request.param), "--durability", "none")
    with TusServer(tmp_path / "data", *options, listener=listener) as running:
        yield running


def ways(server: TusServer) -> list[Restart]:
    """How it is started again: all of it, and with several workers one by one too."""

    def whole() -> None:
        assert server.stop() == 0
        server.start()

    def rolling() -> None:
        done = sum("all workers are new" in line for line in server.output)
        os.kill(server.pid, signal.SIGHUP)
        assert eventually(lambda: sum("all workers are new" in line for line in server.output) > done)

    several = any("with 2 workers" in line for line in server.output)
    return [whole, rolling] if several else [whole]


def test_the_socket_that_is_handed_over_is_the_one_that_is_served(server: TusServer, listener: socket.socket) -> None:
    assert server.host == f"127.0.0.1:{listener.getsockname()[1]}"
    url = Tus(server.url).complete(b"hello")
    assert server.stop() == 0
    with Tus(server.url).connect() as waiting:  # nobody refuses it
        Tus(server.url).ask(waiting, "HEAD", url)
        server.start()
        assert waiting.answer().status == 200


def test_tuspy_does_not_notice_restarts(server: TusServer, pool: ThreadPoolExecutor) -> None:
    source = make_bytes(SIZE)
    client: Any = TusClient(server.url).uploader(
        file_stream=io.BytesIO(source), chunk_size=CHUNK, retries=50, retry_delay=0.05
    )
    upload = pool.submit(client.upload)
    restarts = ways(server)
    for number in range(RESTARTS):
        goal = SIZE * number // (RESTARTS + 1)
        assert eventually(lambda goal=goal: (client.offset or 0) >= goal or upload.done())  # type: ignore[misc]
        restarts[number % len(restarts)]()
    upload.result(TIMEOUT)
    assert_arrived(client.url, source)


@pytest.mark.node
def test_tus_js_client_does_not_notice_restarts(server: TusServer, node: Node, tmp_path: Path) -> None:
    path = tmp_path / "source.bin"
    path.write_bytes(make_bytes(SIZE))
    options = {"endpoint": server.url, "chunkSize": CHUNK, "retryDelays": [0, *[50] * 50]}
    restarts = ways(server)
    client = node.start(path, options=options)
    client.wait_for("url")
    for number in range(RESTARTS):
        while client.wait_for("chunk")["accepted"] < SIZE * number // (RESTARTS + 1):
            pass
        restarts[number % len(restarts)]()
    client.finish()
    assert client.all("error") == []
    assert_arrived(client.url, path.read_bytes())
