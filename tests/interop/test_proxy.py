"""The proxy that the other tests trust: its faults strike where they are told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.support.proxy import Fault, Proxy


class Listener:
    """Takes one connection, reads until it ends, answers, and tells what it got."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.got: Future[tuple[bytes, str]] = pool.submit(self._listen)

    def _listen(self) -> tuple[bytes, str]:
        got = b""
        self._socket.settimeout(10)
        with self._socket, self._socket.accept()[0] as connection:
            connection.settimeout(10)
            try:
                while data := connection.recv(4096):
                    got += data
                connection.sendall(b"0123456789")
            except ConnectionResetError:
                return got, "reset"
            return got, "end"


@pytest.fixture
def listener(pool: ThreadPoolExecutor) -> Listener:
    return Listener(pool)


@pytest.fixture
def proxy(listener: Listener) -> Iterator[Proxy]:
    with Proxy(listener.host) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    host, port = proxy.host.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
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
    assert listener.got.result(10) == (b"abc", "end")
    assert proxy.sent == 3


def test_a_reset_strikes_both_sides_at_its_byte(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.RESET, after=5)
    client.sendall(b"abc")
    client.sendall(b"defgh")
    assert listener.got.result(10) == (b"abcde", "reset")
    with pytest.raises(ConnectionResetError):
        read_all(client)
    assert proxy.sent == 5


def test_an_orderly_end_strikes_at_its_byte(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.CLOSE, after=5)
    client.sendall(b"abcdefgh")
    assert listener.got.result(10) == (b"abcde", "end")


def test_a_half_close_lets_the_answer_through(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.HALF_CLOSE, after=5)
    client.sendall(b"abcdefgh")
    assert client.recv(10) == b"0123456789"
    assert listener.got.result(10) == (b"abcde", "end")


def test_a_stalled_connection_goes_on_when_released(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.STALL, after=5)
    client.sendall(b"abcdefgh")
    assert proxy.failed.wait(10)
    assert proxy.sent == 5
    proxy.release()
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"0123456789"
    assert listener.got.result(10) == (b"abcdefgh", "end")


def test_a_stalled_connection_ends_when_its_client_hangs_up(
    client: socket.socket, listener: Listener, proxy: Proxy
) -> None:
    proxy.fail(Fault.STALL, after=5)
    client.sendall(b"abcdefgh")
    assert proxy.failed.wait(10)
    client.close()
    assert listener.got.result(10) == (b"abcde", "end")


def test_a_spoiled_byte_is_the_only_one(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.SPOIL, after=2)
    client.sendall(b"abc")
    client.shutdown(socket.SHUT_WR)
    assert listener.got.result(10) == (bytes([ord("a"), ord("b") ^ 0xFF, ord("c")]), "end")


def test_an_answer_can_be_lost(client: socket.socket, listener: Listener, proxy: Proxy) -> None:
    proxy.fail(Fault.CLOSE, after=4, answers=True)
    client.sendall(b"abc")
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"0123"
    assert listener.got.result(10) == (b"abc", "end")


def test_a_stopped_proxy_cuts_what_it_carries_and_leaves_no_thread(
    client: socket.socket, listener: Listener, proxy: Proxy
) -> None:
    proxy.fail(Fault.STALL, after=3)
    client.sendall(b"abc")
    assert proxy.failed.wait(10)
    before = threading.active_count()
    proxy.stop()
    assert threading.active_count() < before
    assert read_all(client) == b""
    assert listener.got.result(10)[0] == b"abc"
