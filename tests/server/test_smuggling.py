"""Requests that two servers may read in two ways, at a server in its own process: refused, with nothing done.

What a server takes for the body of one request and another for a second request lets the second one past whoever guards
the first. So each case ends in a DELETE that is not to be seen: the upload that it names is there afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.support.server import TusServer
from tests.support.tus import Tus, checksum, patching
from tests.support.wire import LAST_CHUNK, Field, chunk, render

CHUNKED = ("Transfer-Encoding", "chunked")
FIVE = ("Content-Length", "5")


@pytest.fixture
def tus(server: TusServer) -> Tus:
    return Tus(server.url)


@pytest.fixture
def victim(tus: Tus) -> Iterator[str]:
    """An upload of 100 bytes, 5 of which are there; after the test as before it."""
    url = tus.upload(100)
    assert tus.patch(url, 0, b"hello").status == 204
    yield url
    assert tus.offset(url) == 5


def delete(url: str) -> bytes:
    path = "/" + url.split("/", 3)[3]
    return f"DELETE {path} HTTP/1.1\r\nHost: here\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()


# framing -------------------------------------------------------------------------------------------------------------

FRAMED: dict[str, tuple[list[Field], bytes]] = {
    "the same length twice": ([FIVE, FIVE], b"world"),
    "two lengths": ([FIVE, ("Content-Length", "0")], b"world"),
    "two lengths, the short one first": ([("Content-Length", "0"), FIVE], b"world"),
    "a list of lengths": ([("Content-Length", "5, 5")], b"world"),
    "a signed length": ([("Content-Length", "+5")], b"world"),
    "a negative length": ([("Content-Length", "-5")], b"world"),
    "a hexadecimal length": ([("Content-Length", "0x5")], b"world"),
    "a length in two words": ([("Content-Length", "1 0")], b"world"),
    "no length in the field for it": ([("Content-Length", "")], b"world"),
    "a length beyond 64 bits": ([("Content-Length", "18446744073709551621")], b"world"),
    "a blank before the colon of a length": ([("Content-Length ", "5")], b"world"),
    "a length and chunks": ([FIVE, CHUNKED], LAST_CHUNK),
    "chunks and a length": ([CHUNKED, FIVE], LAST_CHUNK),
    "another coding than chunks": ([("Transfer-Encoding", "xchunked")], LAST_CHUNK),
    "no coding": ([("Transfer-Encoding", "identity")], b"world"),
    "chunks within another coding": ([("Transfer-Encoding", "chunked, identity")], LAST_CHUNK),
    "another coding within chunks": ([("Transfer-Encoding", "gzip, chunked")], LAST_CHUNK),
    "another coding after chunks": ([CHUNKED, ("Transfer-Encoding", "identity")], LAST_CHUNK),
    "chunks twice": ([CHUNKED, CHUNKED], LAST_CHUNK),
    "chunks after nothing": ([("Transfer-Encoding", ",chunked")], LAST_CHUNK),
    "chunks in quotes": ([("Transfer-Encoding", '"chunked"')], LAST_CHUNK),
    "chunks with a parameter": ([("Transfer-Encoding", "chunked;q=1")], LAST_CHUNK),
    "chunks behind a vertical tab": ([("Transfer-Encoding", "\x0bchunked")], LAST_CHUNK),
    "a blank before the colon of a coding": ([("Transfer-Encoding ", "chunked")], LAST_CHUNK),
    "a coding on a line of its own": ([("Transfer-Encoding", "\r\n chunked")], LAST_CHUNK),
}


@pytest.mark.parametrize("case", FRAMED)
def test_a_body_that_servers_may_frame_in_two_ways_is_refused(tus: Tus, victim: str, case: str) -> None:
    framing, body = FRAMED[case]
    with tus.connect() as connection:
        connection.ask("PATCH", tus.target(victim), [*tus.fields(patching(5)), *framing], body + delete(victim))
        assert connection.answer().status == 400
        assert connection.closes()


CHUNKS = {
    "a hexadecimal sign": b"0x5\r\nworld\r\n",
    "a plus": b"+5\r\nworld\r\n",
    "a minus": b"-5\r\nworld\r\n",
    "a blank before": b" 5\r\nworld\r\n",
    "a blank behind": b"5 \r\nworld\r\n",
    "a tab behind": b"5\t\r\nworld\r\n",
    "no size": b"\r\nworld\r\n",
    "an underscore": b"0_5\r\nworld\r\n",
    "no digit": b"g\r\nworld\r\n",
    "64 bits and more": b"10000000000000005\r\nworld\r\n",
    "line feeds alone": b"5\nworld\n",
    "a carriage return alone": b"5\rworld\r\n",
    "a line feed in its extension": b"5;a\nworld\r\n",
    "no end of the chunk": b"5\r\nworld",
    "a line feed at the end of the chunk": b"5\r\nworld\n",
    "more than its size": b"5\r\nworld!!\r\n",
}


@pytest.mark.parametrize("case", CHUNKS)
def test_a_chunk_that_servers_may_read_in_two_ways_ends_the_connection(tus: Tus, victim: str, case: str) -> None:
    with tus.connect() as connection:
        head = [*tus.fields({**patching(0), "Upload-Checksum": checksum(b"world")}), CHUNKED]
        url = tus.upload(100)
        connection.ask("PATCH", tus.target(url), head, CHUNKS[case] + LAST_CHUNK + delete(victim))
        assert connection.ends() in (400, None)
        assert connection.closes()
    assert tus.offset(url) == 0


@pytest.mark.parametrize(
    "trailer", [b"Content-Length: 50", b"Transfer-Encoding: chunked", b"nothing", b" folded: yes", b"Host: a\nX: b"]
)
def test_a_trailer_frames_nothing(tus: Tus, victim: str, trailer: bytes) -> None:
    with tus.connect() as connection:
        body = chunk(b"world") + b"0\r\n" + trailer + b"\r\n\r\n" + delete(victim)
        connection.ask("PATCH", tus.target(tus.upload(100)), [*tus.fields(patching(0)), CHUNKED], body)
        assert connection.ends() in (400, None)
        assert connection.closes()


# heads ---------------------------------------------------------------------------------------------------------------

HEADS = {
    "no host": b"OPTIONS /files HTTP/1.1\r\n\r\n",
    "two hosts": b"OPTIONS /files HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "line feeds alone": b"OPTIONS /files HTTP/1.1\nHost: a\n\n",
    "one line feed alone": b"OPTIONS /files HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "a carriage return alone": b"OPTIONS /files HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    "a NUL": b"OPTIONS /files HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "a folded line": b"OPTIONS /files HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
    "a folded first line": b"OPTIONS /files HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n",
    "no name": b"OPTIONS /files HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "no colon": b"OPTIONS /files HTTP/1.1\r\nHost: a\r\nabc\r\n\r\n",
    "an odd name": b"OPTIONS /files HTTP/1.1\r\nHost: a\r\nX@: b\r\n\r\n",
    "a method unheard of": b"FOO /files HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in small letters": b"options /files HTTP/1.1\r\nHost: a\r\n\r\n",
    "another protocol": b"OPTIONS /files ICE/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /files\r\n\r\n",
    "version 1.2": b"OPTIONS /files HTTP/1.2\r\nHost: a\r\n\r\n",
    "version 2.0": b"OPTIONS /files HTTP/2.0\r\nHost: a\r\n\r\n",
    "version 2 with its preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a target in two words": b"OPTIONS /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target with a byte above 127": b"OPTIONS /files\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target with a NUL": b"OPTIONS /files\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunks in version 1.0": b"POST /files HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "the hello of TLS": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "the handshake of SOCKS": b"\x05\x01\x00",
    "a line of a mail server's": b"EHLO example.org\r\n",
    "what is no text": bytes(range(256)),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_that_servers_may_read_in_two_ways_is_refused(tus: Tus, victim: str, case: str) -> None:
    with tus.connect() as connection:
        connection.send(HEADS[case] + delete(victim))
        assert connection.ends() == 400
        assert connection.closes()


def test_what_follows_a_request_that_closes_is_not_read(tus: Tus, victim: str) -> None:
    with tus.connect() as connection:
        connection.ask("OPTIONS", tus.path, [*tus.fields(), ("Connection", "close")], delete(victim))
        assert connection.answer().status == 204
        assert connection.closes()


def test_a_request_that_cannot_be_read_does_not_take_the_answer_of_the_one_before(tus: Tus, victim: str) -> None:
    with tus.connect() as connection:
        connection.ask("HEAD", tus.target(victim), tus.fields(), b"nonsense\r\n\r\n" + delete(victim))
        answer = connection.answer()
        assert (answer.status, answer["Upload-Offset"], answer["Connection"]) == (200, "5", "close")
        assert connection.closes()


def test_a_refusal_of_a_head_request_has_no_body(tus: Tus, victim: str) -> None:
    with tus.connect() as connection:
        connection.ask("HEAD", tus.target(victim), [*tus.fields(), CHUNKED], b"nonsense\r\n" + delete(victim))
        assert connection.answer().status in (200, 400)
        assert connection.rest() == b""


def test_nonsense_behind_several_requests_is_answered_by_none_of_their_answers(tus: Tus, victim: str) -> None:
    with tus.connect() as connection:
        for _ in range(3):
            connection.ask("HEAD", tus.target(victim), tus.fields())
        connection.send(b"nonsense\r\n\r\n" + delete(victim))
        statuses = [connection.ends() for _ in range(5)]
        assert statuses[statuses.index(None) :].count(None) == statuses.count(None)
        assert set(statuses) <= {200, 400, None}
        assert statuses.count(400) <= 1  # once all three were answered, it may have one of its own


# what is odd and can be read in one way only -------------------------------------------------------------------------

BODIES: dict[str, tuple[list[Field], bytes]] = {
    "a length with zeros before it": ([("Content-Length", "0005")], b"world"),
    "a length with blanks around it": ([("Content-Length", "  5\t ")], b"world"),
    "chunks in capitals": ([("Transfer-Encoding", "CHUNKED")], chunk(b"world") + LAST_CHUNK),
    "chunks of a byte": ([CHUNKED], b"".join(chunk(bytes([byte])) for byte in b"world") + LAST_CHUNK),
    "a size with zeros before it": ([CHUNKED], b"00000000000000000005\r\nworld\r\n" + LAST_CHUNK),
    "extensions": ([CHUNKED], b'5;a=b;c="d;e"\r\nworld\r\n0;last\r\n\r\n'),
    "a trailer that is not asked for": ([CHUNKED], chunk(b"world") + b"0\r\nX-Whatever: 1\r\n\r\n"),
    "a wish for HTTP/2": ([FIVE, ("Connection", "Upgrade"), ("Upgrade", "h2c")], b"world"),
    "chunks and a wish for HTTP/2": (
        [CHUNKED, ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")],
        chunk(b"wor") + chunk(b"ld") + LAST_CHUNK,
    ),
    "a wish for a WebSocket": ([FIVE, ("Connection", "Upgrade"), ("Upgrade", "websocket")], b"world"),
}


@pytest.mark.parametrize("step", [1, 7, 100_000], ids=["byte by byte", "in sevens", "whole"])
@pytest.mark.parametrize("case", BODIES)
def test_an_odd_body_arrives_and_so_does_the_request_behind_it(tus: Tus, case: str, step: int) -> None:
    framing, body = BODIES[case]
    url = tus.upload(5)
    requests = render("PATCH", tus.target(url), [*tus.fields(patching(0)), *framing], body)
    requests += render("OPTIONS", tus.path, tus.fields())
    with tus.connect() as connection:
        for at in range(0, len(requests), step):
            connection.send(requests[at : at + step])
        answer = connection.answer()
        assert (answer.status, answer["Upload-Offset"]) == (204, "5")
        assert connection.answer()["Tus-Version"] == "1.0.0"
    assert tus.holds(url, b"world")


def test_a_whole_upload_byte_by_byte_is_as_one_in_a_piece(tus: Tus) -> None:
    data = hashlib.sha512(b"tus").digest()
    fields = tus.fields({**patching(0), "Upload-Length": str(len(data)), "Content-Length": str(len(data))})
    with tus.connect() as connection:
        for _ in "once", "and again on the same connection":
            for byte in render("POST", tus.path, fields, data):
                connection.send(bytes([byte]))
            answer = connection.answer()
            assert (answer.status, answer["Upload-Offset"]) == (201, str(len(data)))
            assert tus.holds(tus.located(answer), data)
