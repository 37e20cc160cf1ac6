"""Limits of connections in all and by address, and of the time of request heads, at a server in its own process."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.processes import children
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually, patching
from tests.support.wire import Answer, Connection
from tusserver.server.connections import MAX_REJECTED

OPTIONS = b"OPTIONS /files HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opens."""
    with ExitStack() as stack:
        yield stack


def asked(connection: Connection) -> Answer:
    connection.send(OPTIONS)
    return connection.answer()


def whether_served(url: str) -> bool:
    with Connection(url) as connection:
        return asked(connection).status == 204


# how many ------------------------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_get_503_until_others_are_closed(
    start_server: StartServer, stack: ExitStack
) -> None:
    server = start_server("--limits.connections", "3")
    inside = [stack.enter_context(Connection(server.url)) for _ in range(3)]
    assert [asked(connection).status for connection in inside] == [204] * 3
    with Connection(server.url) as late:
        answer = asked(late)
        assert (answer.status, answer["Retry-After"], answer["Connection"]) == (503, "5", "close")
        assert answer["Cache-Control"] == "no-store"
        assert answer.body.startswith(b"ERR_TOO_MANY_CONNECTIONS: ")
        assert late.closes()
    assert [asked(connection).status for connection in inside] == [204] * 3
    inside[0].close()
    assert eventually(lambda: whether_served(server.url))


@pytest.mark.parametrize(
    "pieces", [(b"HEAD /files/a HTTP/1.1\r\n",), (b"\r\n", b"\n", b"H", b"E", b"AD", b" ", b"/"), (b"HEAD ",)]
)
@pytest.mark.parametrize("limit", ["--limits.connections", "--limits.connections_per_address"])
def test_a_head_beyond_the_limit_is_one_that_a_client_asks_again(
    start_server: StartServer, stack: ExitStack, pieces: tuple[bytes, ...], limit: str
) -> None:
    """tus-js-client starts from the first byte on any status but 423."""
    server = start_server(limit, "1")
    asked(stack.enter_context(Connection(server.url)))
    with Connection(server.url) as late:
        for piece in pieces:
            late.send(piece)
        answer = late.answer()
        assert (answer.status, answer["Retry-After"], answer["Connection"]) == (423, "5", "close")
        assert (answer["Cache-Control"], answer.bodiless) == ("no-store", True)
        assert late.closes()


@pytest.mark.parametrize(
    "sent",
    [
        *(b"PATCH /files/a HTTP/1.1\r\n", b"HEADER / HTTP/1.1\r\n", b"head / HTTP/1.1\r\n", b"X", b"\x16\x03\x01"),
        *(b"\r\n" * 40, b"\r\nGET / HTTP/1.1\r\n", b"HX", b"HEAD\t/"),
    ],
)
def test_anything_else_beyond_the_limit_is_503(start_server: StartServer, stack: ExitStack, sent: bytes) -> None:
    server = start_server("--limits.connections", "1")
    asked(stack.enter_context(Connection(server.url)))
    with Connection(server.url) as late:
        late.send(sent)
        assert late.answer().status == 503
        assert late.closes()


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"HEA"])
def test_a_connection_beyond_the_limit_that_asks_nothing_is_closed(
    start_server: StartServer, stack: ExitStack, sent: bytes
) -> None:
    server = start_server("--limits.connections", "1", "--limits.head_timeout", "off")
    asked(stack.enter_context(Connection(server.url)))
    with Connection(server.url) as late:
        late.send(sent)
        assert late.ends() is None


def test_the_log_names_the_limit_once_and_not_for_each_of_a_flood(start_server: StartServer, stack: ExitStack) -> None:
    server = start_server("--limits.connections", "1")
    asked(stack.enter_context(Connection(server.url)))
    for _ in range(20):
        with Connection(server.url) as late:
            assert asked(late).status == 503
    server.wait_for_output("limits.connections is reached")
    server.stop()
    assert sum("limits.connections" in line for line in server.output) == 1


def test_more_rejected_connections_than_can_be_answered_are_closed(start_server: StartServer, stack: ExitStack) -> None:
    server = start_server("--limits.connections", "1")
    asked(stack.enter_context(Connection(server.url)))
    late = [stack.enter_context(Connection(server.url)) for _ in range(MAX_REJECTED + 20)]
    for connection in late:
        connection.send(OPTIONS)
    told = [connection.ends() for connection in late]
    assert told.count(503) >= MAX_REJECTED
    assert set(told) <= {503, None}


def test_one_address_cannot_use_up_the_connections_of_others(start_server: StartServer, stack: ExitStack) -> None:
    server = start_server("--limits.connections_per_address", "2")
    greedy = [stack.enter_context(Connection(server.url, source="127.0.0.2")) for _ in range(2)]
    assert [asked(connection).status for connection in greedy] == [204] * 2
    with Connection(server.url, source="127.0.0.2") as late:
        assert asked(late).status == 503
    with Connection(server.url, source="127.0.0.3") as other:
        assert asked(other).status == 204
    server.wait_for_output("127.0.0.2 has 2 connections")
    greedy[0].close()
    assert eventually(lambda: whether_served(server.url))


def test_connections_of_a_trusted_proxy_do_not_count_by_address(start_server: StartServer, stack: ExitStack) -> None:
    server = start_server("--limits.connections_per_address", "1", "--proxies.trusted", "127.0.0.0/8")
    several = [stack.enter_context(Connection(server.url)) for _ in range(4)]
    assert [asked(connection).status for connection in several] == [204] * 4


# several workers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["--limits.connections", "--limits.connections_per_address"])
def test_all_workers_together_have_no_more_connections_than_the_limit_and_those_of_killed_ones_do_not_count(
    start_server: StartServer, stack: ExitStack, limit: str
) -> None:
    server = start_server("--server.workers", "4", limit, "6")
    inside = [stack.enter_context(Connection(server.url)) for _ in range(6)]
    assert [asked(connection).status for connection in inside] == [204] * 6
    late = [stack.enter_context(Connection(server.url)) for _ in range(8)]
    assert [asked(connection).status for connection in late] == [503] * 8
    for worker in children(server.pid):
        os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: whether_served_again(server.url))
    for _ in range(6):
        assert eventually(lambda: whether_admitted(server.url, stack))
    with Connection(server.url) as late_again:
        assert asked(late_again).status == 503


def whether_served_again(url: str) -> bool:
    try:
        return whether_served(url)
    except (OSError, AssertionError):  # taken by a worker that died
        return False


def whether_admitted(url: str, stack: ExitStack) -> bool:
    """Keep a connection if it is admitted: one that was closed a moment ago may still count."""
    connection = Connection(url)
    if asked(connection).status == 204:
        stack.enter_context(connection)
        return True
    connection.close()
    return False


# how long ------------------------------------------------------------------------------------------------------------

SHORT = ("--limits.head_timeout", "400ms")


def test_a_connection_that_asks_nothing_is_closed(start_server: StartServer) -> None:
    server = start_server(*SHORT)
    with Connection(server.url) as silent:
        assert silent.ends() is None


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (b"OPTIONS /files HTTP/1.1\r\nHost: here\r\nX: ", b"x"),
        (b"OPTIONS /files", b"/x"),
        (b"", b"\r\n"),
        (OPTIONS + b"\r\n", b"\r\n"),
        (OPTIONS + b"OPTIONS /files HTTP/1.1\r\nX: ", b"x"),
        (b"DELETE /files/nothing HTTP/1.1\r\nHost: here\r\nContent-Length: 10000\r\n\r\n", b"x"),
    ],
    ids=["a field", "a target", "empty lines", "empty lines after", "a second head", "a body that nobody reads"],
)
def test_a_head_that_trickles_is_closed_however_lively_it_is(
    start_server: StartServer, before: bytes, piece: bytes
) -> None:
    server = start_server(*SHORT)
    with Connection(server.url) as slow:
        slow.send(before)
        assert eventually(lambda: not slow.send(piece))


def test_the_timeout_of_heads_does_not_hold_for_an_idle_connection_or_a_slow_body(start_server: StartServer) -> None:
    server = start_server(*SHORT)
    tus = Tus(server.url)
    url = tus.upload(10)
    with Connection(server.url) as idle, tus.begin_patch(url, 0, 10, b"hello") as slow:
        assert asked(idle).status == 204
        for _ in range(3):  # each takes as long as a head may
            with Connection(server.url) as silent:
                assert silent.ends() is None
        assert asked(idle).status == 204
        slow.send(b"world")
        assert slow.answer().status == 204


def test_a_head_in_many_pieces_is_answered_if_it_comes_in_time(start_server: StartServer) -> None:
    server = start_server("--limits.head_timeout", "1h")
    with Connection(server.url) as connection:
        for _ in range(2):
            for byte in OPTIONS:
                connection.send(bytes([byte]))
            assert connection.answer().status == 204


def test_without_a_limit_connections_stay_open(start_server: StartServer, stack: ExitStack) -> None:
    server = start_server("--limits.head_timeout", "off", "--limits.connections", "off")
    several = [stack.enter_context(Connection(server.url)) for _ in range(20)]
    assert [asked(connection).status for connection in several] == [204] * 20


# clients that do not read --------------------------------------------------------------------------------------------


def test_the_connection_of_a_client_that_does_not_read_its_download_is_closed(start_server: StartServer) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("this kernel has no such time limit")
    server = start_server("--limits.idle_timeout", "1s")
    tus = Tus(server.url)
    url = tus.complete(bytes(32 << 20))
    with Connection(server.url) as deaf:
        deaf.ask("GET", tus.target(url), [("Host", "here")])
        assert eventually(lambda: sockets_of(server) == 1)
        assert eventually(lambda: sockets_of(server) == 0)


def sockets_of(server: TusServer) -> int:
    """Count the connections of a server."""
    port = int(server.host.split(":")[1])
    lines = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    local = f":{port:04X}"
    established = "01"
    return sum(line.split()[1].endswith(local) and line.split()[3] == established for line in lines)


def test_a_patch_on_a_rejected_connection_writes_nothing(start_server: StartServer, stack: ExitStack) -> None:
    server = start_server("--limits.connections", "1")
    tus = Tus(server.url)
    url = tus.upload(5)
    assert eventually(lambda: asked(stack.enter_context(Connection(server.url))).status == 204)
    with Connection(server.url) as late:
        late.ask("PATCH", tus.target(url), tus.fields({**patching(0), "Content-Length": "5"}), b"hello")
        assert late.ends() == 503
    stack.close()
    assert eventually(lambda: whether_served(server.url))
    assert tus.offset(url) == 0
