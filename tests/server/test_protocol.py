"""What the protocol refuses of heads and framing, and what it does when the server stops."""

from __future__ import annotations

from typing import Literal

import pytest
from starlette.types import Receive, Scope, Send

from tests.server.stage import Stage, answer, read_body
from tests.support.wire import TIMEOUT, Connection, chunk, render
from tusserver.server.connections import ConnectionLimiter
from tusserver.server.options import HEAD_SIZE
from tusserver.server.protocol import limited_protocol

HOST = ("Host", "stage")


@pytest.mark.usefixtures("keep")
@pytest.mark.parametrize(
    "framing",
    [
        [("Content-Length", "3"), ("Content-Length", "4")],
        [("Content-Length", "3"), ("Transfer-Encoding", "chunked")],
        [("Content-Length", "+3")],
        [("Content-Length", "18446744073709551616")],
    ],
    ids=["two lengths", "length and chunks", "signed", "endless"],
)
def test_a_body_of_doubtful_length_is_refused(client: Connection, framing: list[tuple[str, str]]) -> None:
    client.ask("PATCH", "/a", [HOST, *framing], b"3\r\nabc\r\n0\r\n\r\n")
    assert client.answer().status == 400
    assert client.closes()


# heads ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo(stage: Stage) -> None:
    """An app that answers with the number of header fields."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, _ = await read_body(receive)
        await answer(send, 200, f"{len(scope['headers'])} {len(body)}".encode())

    stage.play(app)


@pytest.mark.usefixtures("echo")
def test_a_head_below_the_limit_is_read(client: Connection) -> None:
    client.ask("GET", "/", [HOST, ("A", "x" * (HEAD_SIZE - 100))])
    assert client.answer().body == b"2 0"


@pytest.mark.usefixtures("echo")
def test_a_head_below_the_limit_is_read_in_pieces_too(client: Connection) -> None:
    sent = render("GET", "/", [HOST, *[("A", "x" * 50_000)] * 3, ("B", "y" * 40_000)])
    for at in range(0, len(sent), 1000):
        client.send(sent[at : at + 1000])
    assert client.answer().body == b"5 0"


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize(
    ("flood", "named"),
    [
        (render("GET", "/", [HOST, ("Upload-Concat", "x" * HEAD_SIZE)]), b"Upload-Concat"),
        (render("GET", "/", [HOST, ("B", "x" * 150_000), *[("A", "x" * 100)] * 700]), b"B"),
        (render("GET", "/", [HOST, *[("A", "x" * 100)] * 2000]), b"A"),
        (render("GET", "/" + "x" * HEAD_SIZE, [HOST]), b"the request target"),
        (b"GET / HTTP/1.1\r\nUpload-Metadata: " + b"x" * 600_000, b"Upload-Metadata"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 100 + b"\r\nUpload-Metadata:" + b"x" * 600_000,
            b"Upload-Metadata",
        ),
        (b"GET / HTTP/1.1\r\n" + b"x" * 600_000, None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 100_000, b"Host"),
    ],
    ids=["value", "and fields", "fields", "target", "endless value", "behind others", "endless name", "endless fields"],
)
def test_a_head_above_the_limit_is_refused_by_name(
    client: Connection, flood: bytes, named: bytes | None, pieces: int
) -> None:
    step = -(-len(flood) // pieces)
    for at in range(0, len(flood), step):
        client.send(flood[at : at + step])
    refused = client.answer()
    assert (refused.status, refused["Connection"], refused["Cache-Control"]) == (431, "close", "no-store")
    assert refused.body.startswith(b"ERR_HEADER_TOO_LARGE: ")
    limit = f"limits.head_size is {HEAD_SIZE} bytes for a whole request head".encode()
    longest = b"" if named is None else b"; the longest part of it is " + named
    assert refused.body.rstrip().endswith(limit + longest)
    assert client.closes()


@pytest.mark.usefixtures("echo")
def test_a_head_behind_a_large_body_counts_for_itself(client: Connection) -> None:
    size = 200_000
    client.send(render("PUT", "/", [HOST, ("Content-Length", str(size))], b"x" * size) + render("GET", "/", [HOST]))
    assert [client.answer().body for _ in range(2)] == [b"2 200000", b"1 0"]


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize(
    "flood",
    [
        b"3;" + b"x" * 600_000,
        chunk(b"abc") + b"0\r\nUpload-Checksum: " + b"x" * 600_000,
    ],
    ids=["chunk extension", "trailer"],
)
def test_overhead_without_end_in_a_chunked_body_is_refused(client: Connection, flood: bytes) -> None:
    client.ask("PUT", "/", [HOST, ("Transfer-Encoding", "chunked")])
    client.send(flood)
    assert client.closes()


@pytest.mark.usefixtures("echo")
def test_what_is_no_http_is_refused_as_uvicorn_does(client: Connection) -> None:
    client.send(b"hello\r\n\r\n")
    refused = client.answer()
    assert (refused.status, refused["Connection"], refused["Cache-Control"]) == (400, "close", "no-store")
    assert client.closes()


# at the stop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_request_on_its_way_when_the_server_stops_is_answered_and_is_the_last_one(
    loop: Literal["uvloop", "asyncio"],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, body=b"here")

    with Stage(loop, http=limited_protocol(ConnectionLimiter(), last_request=TIMEOUT)) as stage:
        stage.play(app)
        with stage.connect() as client, stage.connect() as fresh:
            client.ask("GET", "/", [HOST])
            assert client.answer().body == b"here"
            assert stage.start_to_stop(2) == 2
            for connection in (client, fresh):
                connection.ask("GET", "/", [HOST])
                last = connection.answer()
                assert (last.status, last["connection"]) == (200, "close")
                assert connection.closes()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_an_idle_connection_is_closed_when_the_server_stops(loop: Literal["uvloop", "asyncio"]) -> None:
    with Stage(loop, http=limited_protocol(ConnectionLimiter(), last_request=0.01)) as stage, stage.connect() as client:
        assert stage.start_to_stop(1) == 1
        assert client.closes()
