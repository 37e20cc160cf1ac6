"""Crowds of hostile clients at a server in its own process: its memory stays bounded, others are served meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually, patching
from tests.support.wire import Connection, Field, render

MIB = 1 << 20
CROWD = 400
"""Connections of an attack; a test process may often have no more than 1,024 open files."""
MANY = 2000


class Crowd:
    """Many connections that never wait for the server, and note what it says to each."""

    def __init__(self, server: TusServer, count: int) -> None:
        host, port = server.host.split(":")
        self.members: list[socket.socket] = []
        self.heard = [b""] * count
        self._gone: set[int] = set()
        for _ in range(count):
            self.members.append(socket.create_connection((host, int(port)), 10))
            self.members[-1].setblocking(False)

    def say(self, *words: bytes) -> None:
        """Send as much of the words as the kernel takes: the same to all, or to each its own."""
        for number, member in enumerate(self.members):
            try:
                member.send(words[number % len(words)])
            except BlockingIOError:
                continue
            except OSError:
                self._gone.add(number)

    def listen(self) -> Crowd:
        """Take what the server has said; return the crowd, so that one can ask on."""
        for number, member in enumerate(self.members):
            with contextlib.suppress(BlockingIOError):
                try:
                    while data := member.recv(65536):
                        self.heard[number] += data
                    self._gone.add(number)
                except ConnectionError:
                    self._gone.add(number)
        return self

    @property
    def left(self) -> int:
        """Connections that the server has not ended, as far as is known."""
        return len(self.members) - len(self._gone)

    def statuses(self) -> Counter[int]:
        """Every status that was heard."""
        found = Counter[int]()
        for heard in self.heard:
            found.update(int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", heard))
        return found

    def disconnect(self) -> None:
        """Stop answering, as crashed machines do."""
        for member in self.members:
            with contextlib.suppress(OSError):
                member.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            member.close()


@pytest.fixture
def crowds() -> Iterator[ExitStack]:
    """Sends crowds home after the test, and lets this process have more open files meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 4096), hard))
    with ExitStack() as stack:
        yield stack


def gather(crowds: ExitStack, server: TusServer, count: int) -> Crowd:
    crowd = Crowd(server, count)
    crowds.callback(crowd.disconnect)
    return crowd


def serves_others(server: TusServer) -> None:
    """Upload, look, download and delete, as a client that means well; a failure is one of the test."""
    tus, data = Tus(server.url), os.urandom(100_000)
    url = tus.complete(data)
    assert tus.offset(url) == len(data)
    assert tus.holds(url, data)
    assert tus.delete(url).status == 204


def peak(server: TusServer) -> int:
    """Most bytes of memory that the server has had."""
    status = Path(f"/proc/{server.pid}/status").read_text("ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def open_files(server: TusServer) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def has_no_trouble(server: TusServer) -> bool:
    """Whether nothing went wrong that an operator would have to look into."""
    return not [line for line in server.output if "Traceback" in line or "ERROR" in line]


@pytest.fixture
def start(start_server: StartServer) -> Iterator[StartServer]:
    """Start servers that must have had no trouble at the end."""
    started: list[TusServer] = []

    def start(*options: str) -> TusServer:
        server = start_server("--store.durability", "none", *options)
        started.append(server)
        serves_others(server)  # what is loaded late is loaded now
        return server

    yield start
    for server in started:
        serves_others(server)
        assert has_no_trouble(server), "".join(server.output)


def patches(tus: Tus, urls: list[str], announced: int, body: bytes) -> list[bytes]:
    """The start of a PATCH for each upload."""
    fields: list[Field] = tus.fields({**patching(0), "Content-Length": str(announced)})
    return [render("PATCH", tus.target(url), fields, body) for url in urls]


# slowly --------------------------------------------------------------------------------------------------------------


def test_heads_that_trickle_are_closed_while_others_are_served(start: StartServer, crowds: ExitStack) -> None:
    server = start("--limits.head_timeout", "1s")
    before, files = peak(server), open_files(server)
    crowd = gather(crowds, server, CROWD)
    head = b"POST /files HTTP/1.1\r\nHost: here\r\nX-Slow: " + b"x" * 10_000
    for at in range(len(head)):
        crowd.say(head[at : at + 1])
        if at % 20 == 0:
            serves_others(server)
        crowd.listen()
        if not crowd.left:
            break
    assert crowd.left == 0
    assert crowd.statuses() == {}
    assert peak(server) - before < CROWD * 40_000
    assert eventually(lambda: open_files(server) <= files)


def test_bodies_that_trickle_are_cut_off_and_kept_while_others_are_served(
    start: StartServer, crowds: ExitStack
) -> None:
    server = start("--limits.min_speed", "1KB", "--limits.idle_timeout", "2s")
    tus = Tus(server.url)
    urls = [tus.upload(100_000) for _ in range(CROWD)]
    before = peak(server)
    crowd = gather(crowds, server, CROWD)
    crowd.say(*patches(tus, urls, 100_000, b"x"))
    rounds = 0
    while crowd.left and rounds < 10_000:
        crowd.say(b"x")
        crowd.listen()
        rounds += 1
        if rounds % 10 == 0:
            serves_others(server)
    assert crowd.statuses() == {503: CROWD}
    assert peak(server) - before < CROWD * 40_000
    assert all(0 < tus.offset(url) < 100_000 for url in urls[::40])


def test_half_open_patches_delay_no_other_and_are_kept_when_their_clients_disconnect(
    start: StartServer, crowds: ExitStack
) -> None:
    server = start()
    tus, files = Tus(server.url), open_files(server)
    count = CROWD if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * MANY else MANY
    urls = [tus.upload(100_000) for _ in range(count)]
    before = peak(server)
    crowd = gather(crowds, server, count)
    crowd.say(*patches(tus, urls, 100_000, b"x" * 1000))
    for _ in range(5):
        serves_others(server)
    assert eventually(lambda: open_files(server) >= files + 2 * count)
    assert peak(server) - before < count * 40_000
    assert tus.offset(urls[0]) == 1000  # who resumes takes over from the stalled
    crowd.disconnect()
    assert eventually(lambda: open_files(server) <= files)
    assert all(tus.offset(url) == 1000 for url in urls[::100])


def test_who_connects_and_resets_leaves_nothing_behind(start: StartServer, crowds: ExitStack) -> None:
    server = start()
    files = open_files(server)
    for opening in (b"", b"P", b"POST /files HTTP/1.1\r\n", b"DELETE /files/x HTTP/1.1\r\nHost: here\r\n\r\n"):
        crowd = gather(crowds, server, CROWD)
        crowd.say(opening)
        serves_others(server)
        crowd.disconnect()
    assert eventually(lambda: open_files(server) <= files)


# quickly -------------------------------------------------------------------------------------------------------------


def creations(tus: Tus, count: int) -> bytes:
    return render("POST", tus.path, tus.fields({"Upload-Length": "1000", "Content-Length": "0"})) * count


def test_a_flood_of_creations_ends_at_the_limit_while_others_are_served(start: StartServer, crowds: ExitStack) -> None:
    server = start("--limits.uploads_per_client", "100", "--proxies.trusted", "127.0.0.1")
    tus = Tus(server.url)
    flood = creations(tus, 10).replace(b"Host:", b"X-Forwarded-For: 1.2.3.4\r\nHost:")
    crowd = gather(crowds, server, 20)
    for _ in range(10):
        crowd.say(flood)
        serves_others(server)
    assert eventually(lambda: crowd.listen().statuses().total() == 2000)
    assert set(crowd.statuses()) == {201, 429}
    assert 100 <= crowd.statuses()[201] <= 113


def test_a_flood_of_creations_without_a_limit_is_answered_in_bounded_memory(
    start: StartServer, crowds: ExitStack
) -> None:
    server = start()
    before = peak(server)
    crowd = gather(crowds, server, 20)
    for _ in range(5):
        crowd.say(creations(Tus(server.url), 20))
        serves_others(server)
    assert eventually(lambda: crowd.listen().statuses() == {201: 2000})
    assert peak(server) - before < 20 * MIB


def test_requests_without_end_in_one_piece_do_not_fill_the_memory(start: StartServer, crowds: ExitStack) -> None:
    server = start()
    before = peak(server)
    crowd = gather(crowds, server, 20)
    crowd.say(b"GET /files/x HTTP/1.1\r\nHost: a\r\n\r\n" * 50_000)
    serves_others(server)
    assert eventually(lambda: crowd.listen().left == 0)
    assert peak(server) - before < 30 * MIB


@pytest.mark.parametrize(
    ("opening", "piece", "each"),
    [
        (b"OPTIONS /files HTTP/1.1\r\nHost: a\r\n", b"a:\r\n" * 5000, 800_000),
        (b"OPTIONS /files HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 1800, b"", 800_000),
        (b"OPTIONS /files HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 60_000, b"", 300_000),
        (b"OPTIONS /" + b"x" * 60_000, b"", 300_000),
        (b"POST /files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x" * 40_000, 300_000),
        (b"POST /files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 9000, 300_000),
        (b"", b"\r\n" * 20_000, 200_000),
    ],
    ids=[
        "fields without end",
        "as many fields as may be",
        "a field as long as may be",
        "a target as long as may be",
        "an extension without end",
        "trailers without end",
        "empty lines without end",
    ],
)
def test_heads_and_framing_without_end_hold_little_memory(
    start: StartServer, crowds: ExitStack, opening: bytes, piece: bytes, each: int
) -> None:
    server = start()
    before = peak(server)
    crowd = gather(crowds, server, 50)
    crowd.say(opening)
    for _ in range(5):
        crowd.say(piece)
        serves_others(server)
    crowd.listen()
    assert set(crowd.statuses()) <= {400, 412, 431}
    assert peak(server) - before < 50 * each


def test_bodies_that_are_not_wanted_hold_little_memory(start: StartServer, crowds: ExitStack) -> None:
    server = start()
    before = peak(server)
    crowd = gather(crowds, server, 100)
    crowd.say(
        *[
            f"{method} /files/nothing HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\n{framing}\r\n\r\n".encode()
            for method in ("PATCH", "POST", "DELETE", "GET", "PUT")
            for framing in ("Content-Length: 1000000000", "Transfer-Encoding: chunked")
        ]
    )
    for _ in range(20):
        crowd.say(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
    serves_others(server)
    assert eventually(lambda: crowd.listen().left == 0)
    assert set(crowd.statuses()) <= {400, 404, 405, 412, 415}
    assert peak(server) - before < 30 * MIB


def test_a_body_in_chunks_of_one_byte_arrives(start: StartServer) -> None:
    server = start()
    tus, data = Tus(server.url), os.urandom(50_000)
    url = tus.upload(len(data))
    before = peak(server)
    fields = [*tus.fields(patching(0)), ("Transfer-Encoding", "chunked")]
    with Connection(server.url) as connection:
        connection.ask("PATCH", tus.target(url), fields)
        connection.send(b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n")
        assert connection.answer()["Upload-Offset"] == str(len(data))
    assert tus.holds(url, data)
    assert peak(server) - before < 20 * MIB
