"""What the wire says it can, what it mends in uvicorn, and what it must leave as it is."""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
import trustme
from starlette.types import Receive, Scope, Send

from tests.server.stage import Keep, Stage, answer, read_body, receive_into, wire_of
from tests.support.wire import LAST_CHUNK, TIMEOUT, Connection, chunk, render
from tusserver.protocol.errors import ClientDisconnected
from tusserver.server.wire import UvicornWire

HOST = ("Host", "stage")


class Gate:
    """Something on the server's loop waits until the test says go."""

    def __init__(self) -> None:
        self._go = threading.Event()
        self.reached = threading.Event()

    async def passed(self) -> None:
        """Wait."""
        self.reached.set()
        assert await asyncio.to_thread(self._go.wait, TIMEOUT)

    def open(self) -> None:
        """Say go, once somebody waits."""
        assert self.reached.wait(TIMEOUT)
        self._go.set()


# bodies into files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def said(stage: Stage) -> queue.Queue[tuple[bool, bool]]:
    """What the wire of each request says, before and after its body: can it go into a file, and past the parser."""
    said: queue.Queue[tuple[bool, bool]] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        wire = wire_of(scope)
        assert isinstance(wire, UvicornWire)
        said.put((wire.can_receive_into, wire.bypasses_parser))
        await read_body(receive)
        said.put((wire.can_receive_into, wire.bypasses_parser))
        await answer(send)

    stage.play(app)
    return said


def test_an_announced_body_goes_past_the_parser_unless_it_was_asked_for(
    client: Connection, said: queue.Queue[tuple[bool, bool]]
) -> None:
    client.ask("PATCH", "/", [HOST, ("Content-Length", "3")], b"abc")
    assert client.answer().status == 200
    assert [said.get(timeout=TIMEOUT) for _ in range(2)] == [(True, True), (False, True)]


def test_a_body_is_fully_received_once_all_of_it_has_arrived(stage: Stage, client: Connection) -> None:
    said: queue.Queue[bool] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        said.put(wire_of(scope).fully_received)
        body, _ = await read_body(receive)
        said.put(wire_of(scope).fully_received)
        await answer(send, 200, body)

    stage.play(app)
    client.send(render("PATCH", "/", [HOST, ("Content-Length", "6")]) + b"abc")
    assert said.get(timeout=TIMEOUT) is False
    client.send(b"def")
    assert client.answer().body == b"abcdef"
    assert said.get(timeout=TIMEOUT) is True
    client.ask("PATCH", "/", [HOST, ("Content-Length", "3")], b"abc")
    assert client.answer().body == b"abc"
    assert [said.get(timeout=TIMEOUT) for _ in range(2)] == [True, True]


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ([], b""),
        ([("Content-Length", "0")], b""),
        ([("Transfer-Encoding", "chunked")], chunk(b"abc") + LAST_CHUNK),
        ([("Content-Length", "3"), ("Connection", "Upgrade"), ("Upgrade", "h2c")], b"abc"),
    ],
    ids=["none", "empty", "chunked", "upgrade"],
)
def test_other_bodies_go_through_the_parser(
    client: Connection, said: queue.Queue[tuple[bool, bool]], fields: list[tuple[str, str]], body: bytes
) -> None:
    client.ask("POST", "/", [HOST, *fields], body)
    assert client.answer().status == 200
    assert said.get(timeout=TIMEOUT) == (True, False)


def test_a_body_that_goes_into_a_file_cannot_be_received_as_well(
    stage: Stage, client: Connection, tmp_path: Path
) -> None:
    said: queue.Queue[str] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        receiving = asyncio.ensure_future(receive_into(scope, fd))
        await asyncio.sleep(0)
        for misuse in (receive, lambda: receive_into(scope, fd)):
            try:
                await misuse()
            except RuntimeError as error:
                said.put(str(error))
        await receiving
        os.close(fd)
        said.put(repr(await receive()))
        await answer(send)

    stage.play(app)
    client.ask("PATCH", "/", [HOST, ("Content-Length", "6")], b"abc")
    assert said.get(timeout=TIMEOUT) == "the body is being received into a file"
    assert said.get(timeout=TIMEOUT) == "this body cannot be received into a file, or not any more"
    client.send(b"def")
    assert client.answer().status == 200
    assert said.get(timeout=TIMEOUT) == repr({"type": "http.request", "body": b"", "more_body": False})
    assert (tmp_path / "a").read_bytes() == b"abcdef"


def test_a_body_that_is_not_asked_for_does_not_hinder_the_next_request(stage: Stage, client: Connection) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 409)

    stage.play(app)
    for _ in range(3):
        client.ask("PATCH", "/", [HOST, ("Content-Length", "300000")], b"x" * 100)
        assert client.answer().status == 409
        client.send(b"x" * 299_900)


def test_bodies_of_an_app_without_interest_in_the_wire_arrive(stage: Stage, client: Connection) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, _ = await read_body(receive)
        await answer(send, 200, body)

    stage.play(app)
    for size in (0, 10, 70_000, 3_000_000):
        client.ask("PUT", "/", [HOST, ("Content-Length", str(size))], b"x" * size)
        assert client.answer().body == b"x" * size


def test_what_follows_a_head_waits_in_the_kernel_until_the_app_says_where_it_goes(
    stage: Stage, client: Connection, tmp_path: Path
) -> None:
    gate, written = Gate(), queue.Queue[int]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.passed()
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        await receive_into(scope, fd, on_written=written.put)
        os.close(fd)
        await answer(send)

    stage.play(app)
    client.ask("PATCH", "/", [HOST, ("Content-Length", "1010")], b"x" * 10)
    assert gate.reached.wait(TIMEOUT)
    client.send(b"x" * 1000)
    gate.open()
    assert client.answer().status == 200
    assert [written.get(timeout=TIMEOUT) for _ in range(2)] == [10, 1000]


def test_a_body_over_http_1_0_goes_into_the_file(keep: Keep, client: Connection) -> None:
    client.ask("PATCH", "/a", [HOST, ("Content-Length", "3")], b"abc", "HTTP/1.0")
    assert client.answer().body == b"3"
    assert client.closes()


def test_a_request_that_is_done_leaves_nothing_for_the_garbage_collector(stage: Stage, client: Connection) -> None:
    class Mark:
        """Lives as long as its scope."""

    marks: queue.Queue[weakref.ref[Mark]] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["mark"] = Mark()
        marks.put(weakref.ref(scope["mark"]))
        await read_body(receive)
        await answer(send)

    stage.play(app)
    gc.disable()
    try:
        for _ in range(2):  # the connection remembers its newest request
            client.ask("PATCH", "/", [HOST, ("Content-Length", "3")], b"abc")
            assert client.answer().status == 200
        assert marks.get(timeout=TIMEOUT)() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_over_tls_nothing_goes_past_the_parser_and_everything_arrives(
    loop: Literal["uvloop", "asyncio"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        wire = wire_of(scope)
        assert isinstance(wire, UvicornWire)
        body, _ = await read_body(receive)
        await answer(send, 200, f"{wire.bypasses_parser} {len(body)} {wire.trailers}".encode())

    with Stage(loop, ssl_certfile=tmp_path / "server.pem") as stage:
        stage.play(app)
        with Connection(stage.url.replace("http:", "https:")) as client:
            client.ask("PUT", "/", [HOST, ("Content-Length", "500000")], b"x" * 500_000)
            assert client.answer().body == b"False 500000 {}"
            trailer = b"0\r\nUpload-Checksum: a\r\n\r\n"
            client.ask("PUT", "/", [HOST, ("Transfer-Encoding", "chunked")], chunk(b"abc") + trailer)
            assert client.answer().body == b"False 3 {'upload-checksum': 'a'}"


# cut short -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [Connection.close, Connection.cut])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_what_had_arrived_when_the_client_disconnected_is_received(
    stage: Stage, client: Connection, leave: type, framing: str
) -> None:
    gate, seen = Gate(), queue.Queue[tuple[bytes, str]]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.passed()
        seen.put(await read_body(receive))

    stage.play(app)
    body = b"x" * 60_000
    if framing == "length":
        client.ask("PATCH", "/", [HOST, ("Content-Length", "1000000")], body)
    else:
        client.ask("PATCH", "/", [HOST, ("Transfer-Encoding", "chunked")], chunk(body))
    leave(client)
    gate.open()
    assert seen.get(timeout=TIMEOUT) == (body, "gone")


def test_the_end_of_a_body_is_received_though_the_client_disconnected(stage: Stage, client: Connection) -> None:
    gate, seen = Gate(), queue.Queue[tuple[bytes, str]]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        start = (await receive())["body"]
        await gate.passed()
        rest, how = await read_body(receive)
        seen.put((start + rest, how))
        assert (await receive())["type"] == "http.disconnect"

    stage.play(app)
    client.ask("PATCH", "/", [HOST, ("Transfer-Encoding", "chunked")], chunk(b"abc"))
    assert gate.reached.wait(TIMEOUT)
    client.send(LAST_CHUNK)
    client.close()
    gate.open()
    assert seen.get(timeout=TIMEOUT) == (b"abc", "whole")


def test_the_rest_of_a_cancelled_body_can_be_received_and_is_no_request(
    stage: Stage, client: Connection, tmp_path: Path
) -> None:
    gate, asked = Gate(), queue.Queue[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.put(scope["path"])
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        receiving = asyncio.ensure_future(receive_into(scope, fd))
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        os.close(fd)
        await gate.passed()
        body, how = await read_body(receive)
        await answer(send, 423, f"{len(body)} {how}".encode())

    stage.play(app)
    smuggled = render("PATCH", "/smuggled", [HOST])
    client.ask("PATCH", "/", [HOST, ("Content-Length", str(3 + len(smuggled)))], b"abc")
    assert gate.reached.wait(TIMEOUT)
    client.send(smuggled + smuggled)
    gate.open()
    ended = client.answer()
    assert (ended.status, ended["Connection"], ended.body) == (423, "close", b"0 whole")
    assert client.closes()
    assert [asked.get(timeout=TIMEOUT), asked.empty()] == ["/", True]


def test_a_client_that_disconnects_after_its_body_is_noticed(stage: Stage, client: Connection, tmp_path: Path) -> None:
    received, seen = threading.Event(), queue.Queue[list[str]]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        await receive_into(scope, fd)
        os.close(fd)
        received.set()
        seen.put([(await receive())["type"] for _ in range(2)])

    stage.play(app)
    client.ask("PATCH", "/", [HOST, ("Content-Length", "6")], b"abc")
    client.send(b"def")
    assert received.wait(TIMEOUT)
    client.close()
    assert seen.get(timeout=TIMEOUT) == ["http.request", "http.disconnect"]


def test_an_answer_in_the_middle_of_a_body_ends_the_connection(
    stage: Stage, client: Connection, tmp_path: Path
) -> None:
    seen: queue.Queue[BaseException | None] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        receiving = asyncio.ensure_future(receive_into(scope, fd))
        await asyncio.sleep(0)
        await answer(send, 400)
        await asyncio.wait([receiving])
        os.close(fd)
        seen.put(receiving.exception())

    stage.play(app)
    client.ask("PATCH", "/", [HOST, ("Content-Length", "6")], b"abc")
    ended = client.answer()
    assert (ended.status, ended["Connection"]) == (400, "close")
    assert client.closes()
    assert isinstance(seen.get(timeout=TIMEOUT), ClientDisconnected)


# 1xx -----------------------------------------------------------------------------------------------------------------


def play_interim(stage: Stage, status: int = 104, name: str = "Location", value: str = "/files/1") -> Gate:
    """Play an app that sends a 1xx response, waits, and answers with what went wrong."""
    gate = Gate()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        problem = b""
        try:
            await wire_of(scope).send_interim(status, {name: value})
        except ValueError as error:
            problem = str(error).encode()
        await gate.passed()
        body, _ = await read_body(receive)
        await answer(send, 201, problem + body)
        await wire_of(scope).send_interim(status, {name: value})  # too late, and no harm

    stage.play(app)
    return gate


def test_an_interim_response_is_sent_at_once(stage: Stage) -> None:
    gate = play_interim(stage)
    parts = urlsplit(stage.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT) as raw:
        raw.sendall(render("POST", "/", [HOST, ("Content-Length", "3")]))
        assert raw.recv(1000) == b"HTTP/1.1 104 Upload Resumption Supported\r\nLocation: /files/1\r\n\r\n"
        gate.open()
        raw.sendall(b"abc")
        assert raw.recv(1000).startswith(b"HTTP/1.1 201 ")


def test_an_interim_response_waits_for_no_client_that_does_not_read(stage: Stage) -> None:
    skipped = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sent = [await wire_of(scope).send_interim(104, {"Location": "/" + "a" * 60_000}) for _ in range(300)]
        if sent[0] and not sent[-1]:
            skipped.set()
        await answer(send, 201)

    stage.play(app)
    parts = urlsplit(stage.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT) as raw:
        raw.sendall(render("POST", "/", [HOST, ("Content-Length", "3")]))
        assert skipped.wait(TIMEOUT)


def test_an_interim_response_does_not_stand_in_for_the_one_the_client_waits_for(
    stage: Stage, client: Connection
) -> None:
    gate = play_interim(stage)
    client.ask("POST", "/", [HOST, ("Content-Length", "3"), ("Expect", "100-continue")], b"abc")
    gate.open()
    assert client.answer().interim == (104, 100)


def test_a_client_of_http_1_0_gets_no_interim_response(stage: Stage, client: Connection) -> None:
    gate = play_interim(stage)
    client.ask("POST", "/", [HOST, ("Content-Length", "3")], b"abc", "HTTP/1.0")
    gate.open()
    created = client.answer()
    assert (created.status, created.interim) == (201, ())


@pytest.mark.parametrize(
    ("status", "name", "value"),
    [
        (200, "Location", "/"),
        (101, "Location", "/"),
        (104, "Content-Length", "3"),
        (104, "transfer-encoding", "chunked"),
        (104, "Location", "/\r\nSet-Cookie: a"),
        (104, "Loca tion", "/"),
    ],
)
def test_what_is_no_interim_response_is_not_sent(
    stage: Stage, client: Connection, status: int, name: str, value: str
) -> None:
    gate = play_interim(stage, status, name, value)
    client.ask("POST", "/", [HOST])
    gate.open()
    created = client.answer()
    assert created.interim == ()
    assert b"interim response" in created.body


# answers -------------------------------------------------------------------------------------------------------------


class Written:
    """Stands before a transport and notes each write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.writes: list[bytes] = []
        self._transport = transport

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


@pytest.mark.parametrize("closes", [False, True])
def test_a_head_and_what_follows_it_leave_in_one_piece(stage: Stage, client: Connection, closes: bool) -> None:
    """Where a connection dies between the two, tus-js-client in Node.js waits for ever."""
    seen: queue.Queue[list[bytes]] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = wire_of(scope)._cycle()  # type: ignore[attr-defined]  # to stand before its transport
        cycle.transport = written = Written(cycle.transport)
        headers = [(b"content-length", b"5"), *([(b"connection", b"close")] if closes else [])]
        await send({"type": "http.response.start", "status": 409, "headers": headers})
        await asyncio.sleep(0)
        before = list(written.writes)
        await send({"type": "http.response.body", "body": b"words"})
        seen.put(before)
        seen.put([data for data in written.writes if data])

    stage.play(app)
    client.send(render("GET", "/", [HOST]))
    assert client.answer().body == b"words"
    assert seen.get(timeout=TIMEOUT) == []
    (written,) = seen.get(timeout=TIMEOUT)
    assert written.startswith(b"HTTP/1.1 409")
    assert written.endswith(b"\r\n\r\nwords")
    assert client.closes() if closes else not client.readable()


def test_an_app_that_fails_behind_its_head_is_answered_for(stage: Stage, client: Connection) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        raise ZeroDivisionError

    stage.play(app)
    client.send(render("GET", "/", [HOST]))
    assert client.answer().status == 500


def test_a_body_that_comes_in_pieces_is_sent_as_it_comes(stage: Stage, client: Connection) -> None:
    gate = Gate()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await gate.passed()
        await send({"type": "http.response.body", "body": b"def"})

    stage.play(app)
    client.send(render("GET", "/", [HOST]))
    assert gate.reached.wait(TIMEOUT)
    assert client._read_until(b"abc", TIMEOUT + time.monotonic()).endswith(b"\r\n\r\nabc")
    gate.open()
    assert client._read_until(b"def", TIMEOUT + time.monotonic()) == b"def"
