"""Nothing of a connection that has ended waits for the garbage collector: that comes seldom, and memory would grow."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from tusserver import FileStore, Timeouts, Tus
from tusserver.server.connections import ConnectionLimiter
from tusserver.server.protocol import WireProtocol, limited_protocol
from tusserver.service.intake import Intake

TIMEOUT = 120.0
HEAD = "Host: x\r\nTus-Resumable: 1.0.0\r\n"
LOOK = f"HEAD /files/{'0' * 32} HTTP/1.1\r\n{HEAD}"
CREATE = f"POST /files HTTP/1.1\r\n{HEAD}Content-Type: application/offset+octet-stream\r\n"
BODY = f"{CREATE}Upload-Length: 50\r\nContent-Length: 50\r\n"
SHA1 = "Upload-Checksum: sha1 " + "A" * 27 + "=\r\n"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[Any]:
    """Every connection, body and intake that is alive."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    for kind in (WireProtocol, Intake):
        init = kind.__init__

        def noted(self: Any, *args: Any, init: Any = init, **options: Any) -> None:
            init(self, *args, **options)
            alive.add(self)

        monkeypatch.setattr(kind, "__init__", noted)
    return alive


@pytest.fixture
async def port(tmp_path: Path, seen: weakref.WeakSet[Any]) -> AsyncIterator[int]:
    """The port of a server in this process."""
    tus = Tus(FileStore(tmp_path, durability="none"), timeouts=Timeouts(idle_timeout=timedelta(seconds=0.5)))
    app = Starlette(routes=[tus.route("/files")], lifespan=tus.lifespan)
    config = uvicorn.Config(
        app,
        http=limited_protocol(ConnectionLimiter()),
        log_config=None,
        access_log=False,
        port=0,
        loop="asyncio",
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("aborts", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        pytest.param("", 0, id="nothing"),
        pytest.param("HEAD /fi", 0, id="half-a-head"),
        pytest.param("NONSENSE\r\n\r\n", 1, id="nonsense"),
        pytest.param(f"{LOOK}\r\n", 1, id="answered"),
        pytest.param(f"{LOOK}Connection: close\r\n\r\n", 1, id="asked-to-close"),
        pytest.param(f"{LOOK}\r\n" * 20, 20, id="pipelined"),
        pytest.param(f"{LOOK}\r\n" * 20, 0, id="pipelined-and-gone"),
        pytest.param(f"{LOOK}\r\n" * 100, 0, id="too-many-pipelined"),
        pytest.param(f"{BODY}\r\n{'x' * 50}", 1, id="a-small-body"),
        pytest.param(f"{BODY}{SHA1}\r\n{'x' * 50}", 1, id="a-wrong-checksum"),
        pytest.param(f"{BODY}\r\nhello", 0, id="a-cut-body"),
        pytest.param(f"{BODY}{SHA1}\r\nhello", 0, id="a-cut-body-with-a-checksum"),
        pytest.param(f"{BODY}\r\nhello", 1, id="a-silent-body"),
        pytest.param(
            f"{CREATE}Upload-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 0, id="a-cut-chunked-body"
        ),
        pytest.param(
            f"{CREATE}Upload-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            1,
            id="a-body-that-runs-over",
        ),
    ],
)
@pytest.mark.usefixtures("uncollected")
async def test_nothing_of_a_connection_waits_for_the_garbage_collector(
    port: int, seen: weakref.WeakSet[Any], sent: str, answers: int, aborts: bool
) -> None:
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent.encode())
        await writer.drain()
        for _ in range(answers):
            await reader.readuntil(b"\r\n\r\n")
        if aborts:
            writer.transport.abort()
        else:
            writer.close()
    async with asyncio.timeout(TIMEOUT):
        while list(seen):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
