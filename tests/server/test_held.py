"""What a server holds in memory of clients that have fallen silent: of their bodies nothing, of their heads a sum."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

import tusserver
from tests.server.stage import Stage
from tests.support.tus import Tus, eventually, patching
from tests.support.wire import render
from tusserver.server.connections import ConnectionLimiter
from tusserver.server.heads import FIELD_COST, REQUEST_COST, USUAL_BYTES, HeadBudget
from tusserver.server.options import ConnectionLimits
from tusserver.server.protocol import PIPELINED, TusHttpProtocol, limited_protocol
from tusserver.stores.file.store import FileStore

KIB = 1 << 10
CLIENTS = 12
SENT = 300 * KIB


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Yields what tells the bytes that were allocated within and are not freed."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield lambda: tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", [TusHttpProtocol, "httptools", "h11"], ids=["wire", "httptools", "h11"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_nothing_is_held_of_the_bodies_of_clients_that_have_stopped_sending(
    tmp_path: Path, protocol: Any, framing: str
) -> None:
    mounted = tusserver.Tus(FileStore(tmp_path))
    app = Starlette(routes=[mounted.route("/files")])
    with Stage("uvloop", http=protocol) as stage, ExitStack() as stack:
        stage.play(app)
        tus = Tus(stage.url + "/files")
        urls = [tus.upload(1 << 20) for _ in range(CLIENTS)]
        clients = [stack.enter_context(tus.connect(url)) for url in urls]
        with traced() as held:
            for url, client in zip(urls, clients, strict=True):
                chunked = framing == "chunked"
                framed = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(1 << 20)}
                client.send(render("PATCH", tus.target(url), tus.fields({**patching(0), **framed})))
                client.send((b"100000\r\n" if chunked else b"") + b"x" * SENT)
            files = [tmp_path / "uploads" / name[:2] / name for name in (url.rpartition("/")[2] for url in urls)]
            files = [next((tmp_path / "uploads").rglob(file.name)) for file in files]
            assert eventually(lambda: all(file.read_bytes()[:SENT] == b"x" * SENT for file in files))
            assert eventually(lambda: held() < CLIENTS * 48 * KIB), held() // CLIENTS


# heads ---------------------------------------------------------------------------------------------------------------


def test_heads_of_the_usual_size_are_not_counted() -> None:
    heads: HeadBudget[str] = HeadBudget(100)
    assert [heads.hold(name, USUAL_BYTES) for name in "abc"] == [[]] * 3
    assert heads.total == 0


def test_the_oldest_of_those_that_hold_more_than_a_fair_part_are_given_up() -> None:
    heads: HeadBudget[str] = HeadBudget(1000)
    for name, size in (("small", 10), ("old", 400), ("older than most", 400), ("new", 100)):
        assert heads.hold(name, USUAL_BYTES + size) == []
    assert heads.hold("newest", USUAL_BYTES + 300) == ["old"]
    assert heads.total == 10 + 400 + 100 + 300
    assert heads.hold("older than most", 0) == []
    assert heads.total == 410


def test_one_that_is_too_much_by_itself_is_given_up() -> None:
    heads: HeadBudget[str] = HeadBudget(1000)
    assert heads.hold("a", USUAL_BYTES + 1001) == ["a"]
    assert heads.total == 0


def short_fields(count: int) -> bytes:
    return b"".join(b"%x:%x\r\n" % (number + 16, number + 16) for number in range(count))


UNFINISHED = {
    "short fields": b"GET / HTTP/1.1\r\nHost: a\r\n" + short_fields(400),
    "a long value": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 60_000,
    "a long target": b"GET /" + b"x" * 60_000,
    "a trailer": b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 60_000,
    "requests that wait": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n" + b"x" + b"GET / HTTP/1.1\r\nHost: a\r\n"
    )
    + short_fields(400),
}


@pytest.mark.parametrize("unfinished", UNFINISHED.values(), ids=UNFINISHED)
def test_unfinished_heads_cost_no_more_than_their_sum_and_a_new_client_is_served(unfinished: bytes) -> None:
    limiter = ConnectionLimiter(ConnectionLimits(buffers=200_000))
    with Stage("uvloop", http=limited_protocol(limiter)) as stage, ExitStack() as stack:
        stage.play(echo)
        clients = [stack.enter_context(stage.connect()) for _ in range(12)]
        for client in clients:
            client.send(unfinished)
        assert eventually(lambda: sum(client.closes(0.01) for client in clients[:8]) == 8)
        with stage.connect() as client:
            client.ask("GET", "/", [("Host", "a"), ("X-Large", "x" * 50_000)])
            assert client.answer().status == 200


async def echo(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def test_a_request_that_waits_counts_with_what_it_costs() -> None:
    """A HEAD of 34 bytes is 3 KB in memory."""
    limiter = ConnectionLimiter(ConnectionLimits(buffers=4 << 20))
    heads = limiter.heads
    assert heads is not None
    let_go = threading.Event()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        while not let_go.is_set():  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.01)
        await echo(scope, receive, send)

    with Stage("uvloop", http=limited_protocol(limiter)) as stage, stage.connect() as client, traced() as held:
        stage.play(late)
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" * (1 + PIPELINED))
        assert eventually(lambda: heads.total > REQUEST_COST)
        cost = held()
        let_go.set()
        assert cost / 2 < heads.total + USUAL_BYTES < cost * 2


def test_a_field_counts_with_what_it_costs() -> None:
    """4,000 short fields are 40 KB on the wire, and 700 KB in memory."""
    limiter = ConnectionLimiter(ConnectionLimits(buffers=1 << 20))
    with traced() as held:
        fields = [(name.lower(), value) for name, value in ((b"%x" % n, b"%x" % n) for n in range(16, 2016))]
        cost = held() / len(fields)
    data = sum(len(name) + len(value) for name, value in fields) / len(fields)
    assert cost - data < FIELD_COST
    assert limiter.heads is not None
    with Stage("uvloop", http=limited_protocol(limiter)) as stage, stage.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + short_fields(4000))
        heads = limiter.heads
        assert eventually(lambda: heads.total > 4000 * cost - USUAL_BYTES)
