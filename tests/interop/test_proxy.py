"""The proxy that the other tests trust: its faults strike where they are told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.support.exchanges import Conversation, Exchange
from tests.support.proxy import Fault, Proxy
from tests.support.tus import eventually
from tests.support.wire import TIMEOUT


class Listener:
    """Takes one connection, reads until it ends, answers, and tells what it got."""

    def __init__(self, pool: ThreadPoolExecutor, says: bytes) -> None:
        self._says = says
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.got: Future[tuple[bytes, str]] = pool.submit(self._listen)

    def _listen(self) -> tuple[bytes, str]:
        got = b""
        self._socket.settimeout(TIMEOUT)
        with self._socket, self._socket.accept()[0] as connection:
            connection.settimeout(TIMEOUT)
            try:
                while data := connection.recv(4096):
                    got += data
                connection.sendall(self._says)
            except ConnectionResetError:
                return got, "reset"
            return got, "end"


@pytest.fixture
def says() -> bytes:
    """What the server answers."""
    return b"0123456789"


@pytest.fixture
def listener(pool: ThreadPoolExecutor, says: bytes) -> Listener:
    return Listener(pool, says)


@pytest.fixture
def exchanges() -> list[Exchange]:
    """What the proxy notes."""
    return []


@pytest.fixture
def proxy(listener: Listener, exchanges: list[Exchange]) -> Iterator[Proxy]:
    with Proxy(listener.host, exchanges=exchanges) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    host, port = proxy.host.split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as client:
        yield client


def read_all(client: socket.socket) -> bytes:
    got = b""
    while data := client.recv(4096):
        got += data
    return got


def test_what_both_sides_send_passes(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    client.sendall(b"abc")
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"0123456789"
    assert listener.got.result(TIMEOUT) == (b"abc", "end")
    assert proxy.sent == 3


def test_a_reset_strikes_both_sides_at_its_byte(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.RESET, after=5)
    client.sendall(b"abc")
    client.sendall(b"defgh")
    assert listener.got.result(TIMEOUT) == (b"abcde", "reset")
    with pytest.raises(ConnectionResetError):
        read_all(client)
    assert proxy.sent == 5


def test_an_orderly_end_strikes_at_its_byte(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.CLOSE, after=5)
    client.sendall(b"abcdefgh")
    assert listener.got.result(TIMEOUT) == (b"abcde", "end")


def test_a_half_close_lets_the_answer_through(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.HALF_CLOSE, after=5)
    client.sendall(b"abcdefgh")
    assert client.recv(10) == b"0123456789"
    assert listener.got.result(TIMEOUT) == (b"abcde", "end")


def test_a_stalled_connection_goes_on_when_released(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.STALL, after=5)
    client.sendall(b"abcdefgh")
    assert proxy.failed.wait(TIMEOUT)
    assert proxy.sent == 5
    proxy.release()
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"0123456789"
    assert listener.got.result(TIMEOUT) == (b"abcdefgh", "end")


def test_a_stalled_connection_ends_when_its_client_hangs_up(
    client: socket.socket, listener: Listener, proxy: Proxy
) -> None:
    proxy.fail(Fault.STALL, after=5)
    client.sendall(b"abcdefgh")
    assert proxy.failed.wait(TIMEOUT)
    client.close()
    assert listener.got.result(TIMEOUT) == (b"abcde", "end")


def test_a_spoiled_byte_is_the_only_one(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.SPOIL, after=2)
    client.sendall(b"abc")
    client.shutdown(socket.SHUT_WR)
    assert listener.got.result(TIMEOUT) == (bytes([ord("a"), ord("b") ^ 0xFF, ord("c")]), "end")


def test_a_link_that_pauses_goes_on_by_itself(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.PAUSE, after=2, times=2, pauses=(0.01, 0.02))
    client.sendall(b"abcdefgh")
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"0123456789"
    assert proxy.failed.is_set()
    assert listener.got.result(TIMEOUT) == (b"abcdefgh", "end")


def test_what_a_dead_client_had_sent_arrives_late(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.linger(held=3, piece=1, pause=0.01)
    proxy.fail(Fault.LINGER, after=2)
    client.sendall(b"abcdefgh")
    with pytest.raises(ConnectionResetError):
        read_all(client)
    assert not listener.got.done(), "the server sees no end"
    assert eventually(lambda: proxy.sent == 5)
    proxy.stop()
    assert listener.got.result(TIMEOUT)[0] == b"abcde"


@pytest.mark.parametrize("says", [b"HTTP/1.1 204 No Content\r\n\r\n"])
def test_an_answer_can_be_lost_by_its_request(
    client: socket.socket, listener: Listener, proxy: Proxy, exchanges: list[Exchange]
) -> None:
    proxy.lose("GET")
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        read_all(client)
    assert listener.got.result(TIMEOUT)[1] == "end"
    assert [str(exchange) for exchange in exchanges] == ["#1 GET (0 bytes) -> 204 (lost on the way)"]


def test_requests_and_answers_are_told_apart_however_they_are_cut() -> None:
    asked = (
        b"POST /files HTTP/1.1\r\nUpload-Length: 9\r\n\r\n"
        b"PATCH /files/a HTTP/1.1\r\nUpload-Offset: 0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nGET "
        b"POST /files/a HTTP/1.1\r\nX-HTTP-Method-Override: PATCH\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\n\r\n\r\r\n2;x=y\r\nab\r\n0\r\nTrailer: 1\r\n\r\n"
        b"HEAD /files/a HTTP/1.1\r\n\r\n"
    )
    answered = (
        b"HTTP/1.1 201 Created\r\nLocation: /files/a\r\nContent-Length: 0\r\n\r\n"
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nUpload-Offset: 4\r\n\r\n"
        b"HTTP/1.1 423 Locked\r\nRetry-After: 1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nHTTP\r\n0\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nUpload-Offset: 9\r\nContent-Length: 7\r\n\r\n"
    )
    for step in (1, 2, 3, 1000):
        exchanges: list[Exchange] = []
        talk = Conversation(1, exchanges)
        for at in range(0, len(asked), step):
            talk.ask(asked[at : at + step])
        began = [exchange for at in range(0, len(answered), step) for exchange in talk.answer(answered[at : at + step])]
        assert began == exchanges
        assert [str(exchange) for exchange in exchanges] == [
            "#1 POST upload-length=9 (0 bytes) -> 201",
            "#1 PATCH upload-offset=0 (4 bytes) -> 204 upload-offset=4",
            "#1 PATCH (5 bytes) -> 423 retry-after=1",
            "#1 HEAD (0 bytes) -> 200 upload-offset=9",
        ]


def test_an_answer_can_be_lost(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.CLOSE, after=4, answers=True)
    client.sendall(b"abc")
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"0123"
    assert listener.got.result(TIMEOUT) == (b"abc", "end")


def test_a_stopped_proxy_cuts_what_it_carries_and_leaves_no_thread(
    client: socket.socket, listener: Listener, proxy: Proxy
) -> None:
    proxy.fail(Fault.STALL, after=3)
    client.sendall(b"abc")
    assert proxy.failed.wait(TIMEOUT)
    before = threading.active_count()
    proxy.stop()
    assert threading.active_count() < before
    assert read_all(client) == b""
    assert listener.got.result(TIMEOUT)[0] == b"abc"
