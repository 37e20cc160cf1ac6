"""Trailers reach the app by the wire, and by no other way. Where they cannot arrive, none is believed to have."""

from __future__ import annotations

import queue
from dataclasses import dataclass

import pytest
from starlette.types import Receive, Scope, Send

from tests.conftest import StartServer
from tests.server.stage import Stage, answer, wire_of
from tests.support.tus import Tus, checksum, patching
from tests.support.wire import TIMEOUT, Answer, Connection, chunk
from tusserver.server import wire

HEAD = [("Host", "stage"), ("Transfer-Encoding", "chunked"), ("Trailer", "Upload-Checksum")]
BODY = chunk(b"hello") + chunk(b" world")


@dataclass(frozen=True, slots=True)
class Took:
    """What the app had of one request."""

    body: bytes
    trailers: dict[str, str]
    headers: list[bytes]


@pytest.fixture
def took(stage: Stage) -> queue.Queue[Took]:
    """What the app had of each request."""
    seen: queue.Queue[Took] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        trailers = wire_of(scope).trailers
        assert trailers is not None
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        seen.put(Took(body, dict(trailers), [name for name, _ in scope["headers"]]))
        await answer(send)

    stage.play(app)
    return seen


def test_a_trailer_is_there_at_the_end_of_the_body(client: Connection, took: queue.Queue[Took]) -> None:
    client.ask("PATCH", "/", HEAD, BODY + b"0\r\nUpload-Checksum: sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=\r\n\r\n")
    assert client.answer().status == 200
    seen = took.get(timeout=TIMEOUT)
    assert (seen.body, seen.trailers) == (b"hello world", {"upload-checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="})


def test_no_trailer_gets_among_the_headers(client: Connection, took: queue.Queue[Took]) -> None:
    client.ask("PATCH", "/", HEAD, BODY + b"0\r\nAuthorization: smuggled\r\nUpload-Checksum: a\r\nX-Other: b\r\n\r\n")
    assert client.answer().status == 200
    seen = took.get(timeout=TIMEOUT)
    assert seen.headers == [b"host", b"transfer-encoding", b"trailer"]
    assert seen.trailers == {"upload-checksum": "a"}


def test_a_trailer_that_comes_byte_by_byte_is_whole(client: Connection, took: queue.Queue[Took]) -> None:
    client.ask("PATCH", "/", HEAD)
    for byte in BODY + b"0\r\nRepr-Digest: sha-256=:abc=:\r\n\r\n":
        client.send(bytes([byte]))
    assert client.answer().status == 200
    seen = took.get(timeout=TIMEOUT)
    assert (seen.body, seen.trailers) == (b"hello world", {"repr-digest": "sha-256=:abc=:"})


def test_a_trailer_said_twice_is_one_value(client: Connection, took: queue.Queue[Took]) -> None:
    client.ask("PATCH", "/", HEAD, BODY + b"0\r\nUpload-Checksum: a\r\nUpload-Checksum: b\r\n\r\n")
    assert client.answer().status == 200
    assert took.get(timeout=TIMEOUT).trailers == {"upload-checksum": "a, b"}


def test_trailers_belong_to_their_own_request(client: Connection, took: queue.Queue[Took]) -> None:
    client.ask("PATCH", "/", HEAD, BODY + b"0\r\nUpload-Checksum: a\r\n\r\n")
    client.ask("PATCH", "/", HEAD, BODY + b"0\r\nUpload-Checksum: b\r\n\r\n")
    client.ask("PATCH", "/", HEAD, BODY + b"0\r\n\r\n")
    assert [client.answer().status for _ in range(3)] == [200] * 3
    trailers = [took.get(timeout=TIMEOUT).trailers for _ in range(3)]
    assert trailers == [{"upload-checksum": "a"}, {"upload-checksum": "b"}, {}]


def test_a_request_without_body_has_a_wire_that_delivers_trailers(client: Connection, took: queue.Queue[Took]) -> None:
    client.ask("OPTIONS", "/", HEAD[:1])
    assert client.answer().status == 200
    assert took.get(timeout=TIMEOUT).trailers == {}


@pytest.mark.parametrize(
    "trailers",
    [
        b"Upload-Checksum: a\r\n" * (wire.TRAILER_FIELDS + 1),
        b"X-Other: a\r\n" * 2000,
        b"Upload-Checksum: " + b"a" * wire.TRAILER_BYTES + b"\r\n",
        b"Content-Length: 3\r\n",
    ],
    ids=["fields", "2000 fields", "bytes", "framing"],
)
@pytest.mark.usefixtures("took")
def test_too_much_in_the_trailers_is_refused(client: Connection, trailers: bytes) -> None:
    client.ask("PATCH", "/", HEAD, BODY + b"0\r\n" + trailers + b"\r\n")
    assert client.answer().status == 400
    assert client.closes()


# in the whole server -------------------------------------------------------------------------------------------------


def offered(tus: Tus) -> bool:
    return "checksum-trailer" in tus.options().listed("Tus-Extension")


def patched(tus: Tus, url: str, trailer: str) -> Answer:
    """PATCH of "hello" in one chunk, with a checksum that is announced as a trailer."""
    headers = {**patching(0), "Transfer-Encoding": "chunked", "Trailer": "Upload-Checksum"}
    with tus.connect(url) as connection:
        connection.ask("PATCH", tus.target(url), tus.fields(headers), chunk(b"hello") + b"0\r\n")
        connection.send(f"Upload-Checksum: {trailer}\r\n\r\n".encode())
        return connection.answer()


@pytest.mark.parametrize(
    "options",
    [(), ("--proxies.trusted", "10.0.0.1"), ("--proxies.trusted", "127.0.0.1", "--proxies.trailers", "true")],
    ids=["no proxy", "another peer", "a proxy that passes them on"],
)
def test_a_trailer_counts_where_it_arrives(start_server: StartServer, options: tuple[str, ...]) -> None:
    tus = Tus(start_server(*options).url)
    assert offered(tus)
    url = tus.upload(5)
    assert patched(tus, url, checksum(b"other")).status == 460
    assert patched(tus, url, checksum(b"hello")).status == 204


def test_a_trailer_is_neither_offered_nor_taken_through_a_proxy_that_drops_them(start_server: StartServer) -> None:
    tus = Tus(start_server("--proxies.trusted", "127.0.0.1").url)
    assert not offered(tus)
    url = tus.upload(5)
    refused = patched(tus, url, checksum(b"hello"))
    assert (refused.status, refused.body.split(b":")[0]) == (400, b"ERR_INVALID_CHECKSUM")
    assert tus.offset(url) == 0


def test_a_trailer_of_a_body_with_a_length_is_refused_before_the_body(start_server: StartServer) -> None:
    tus = Tus(start_server().url)
    url = tus.upload(5)
    with tus.begin_patch(url, 0, 5, headers={"Trailer": "Upload-Checksum"}) as connection:
        refused = connection.answer()
    assert (refused.status, refused.body.split(b":")[0]) == (400, b"ERR_INVALID_CHECKSUM")
    assert tus.offset(url) == 0
