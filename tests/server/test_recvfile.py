"""The body goes from the socket to the file, whole and in place, however it comes and whatever happens on the way."""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.types import Receive, Scope, Send

from tests.server.stage import Keep, Stage, answer, receive_into, wire_of
from tests.support.wire import TIMEOUT, Connection, render
from tusserver.server.recvfile import SMALL_READS
from tusserver.server.recvfile_shared import THREADS, LoopShare

MIB = 1 << 20

engines = pytest.mark.parametrize("engine", ["loop", "threads"], indirect=True)
"""Runs a test with bodies that never leave the loop, and with bodies that go to a thread after each read."""


@pytest.fixture
def engine(request: pytest.FixtureRequest, stage: Stage) -> str:
    """The engine that `engines` names."""
    name: str = request.param
    if name == "threads":
        stage.share(LoopShare(big_read=1, relief_bytes=1, slow_write=-1.0))
    else:
        stage.share(LoopShare(relief_bytes=1 << 62))
    return name


@pytest.fixture(autouse=True)
def defaults(stage: Stage) -> Iterator[None]:
    """What a test lets bodies share does not stay for the next."""
    yield
    stage.share(None)


@pytest.fixture
def reported(keep: Keep) -> Callable[[int], None]:
    """`reported(n)` waits until `n` bytes of the body under way were reported."""
    total = 0
    changed = threading.Condition()

    def written(count: int) -> None:
        nonlocal total
        with changed:
            total += count
            changed.notify_all()

    def wait(count: int) -> None:
        with changed:
            assert changed.wait_for(lambda: total >= count, TIMEOUT), f"{total} of {count} bytes were reported"

    keep.written = written
    return wait


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes among which a misplaced one shows."""
    return random.Random(seed).randbytes(size)


def head(name: str, length: int, *more: tuple[str, str]) -> bytes:
    """Head of a request that announces a body."""
    return render("PATCH", f"/{name}", [("Host", "stage"), ("Content-Length", str(length)), *more])


# whole ---------------------------------------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("size", [1, 100, 70_000, 3 * MIB + 17])
def test_a_body_is_stored_whole(keep: Keep, client: Connection, engine: str, size: int) -> None:
    body = noise(size)
    client.send(head("a", size) + body)
    assert client.answer().status == 200
    seen = keep.next()
    assert (seen.how, seen.total) == ("whole", size)
    assert keep.stored("a") == body


@engines
def test_a_body_sent_after_its_head_is_stored_whole(keep: Keep, client: Connection, engine: str) -> None:
    body = noise(2 * MIB)
    client.send(head("a", len(body)))
    assert keep.started.wait(TIMEOUT)
    client.send(body)
    assert client.answer().status == 200
    assert keep.stored("a") == body


def test_a_body_sent_byte_by_byte_is_stored_whole(keep: Keep, stage: Stage, client: Connection) -> None:
    stage.share(LoopShare(coalesce_seconds=3600.0))  # the kernel must wake us by itself at the end
    body = noise(300)
    client.send(head("a", len(body)))
    for at in range(len(body)):
        client.send(body[at : at + 1])
    assert client.answer().status == 200
    assert keep.stored("a") == body


def test_a_trickle_that_the_kernel_holds_back_is_reported_all_the_same(
    keep: Keep, stage: Stage, client: Connection, reported: Callable[[int], None]
) -> None:
    stage.share(LoopShare(coalesce_seconds=0.1))
    body = noise(30_000)
    client.send(head("a", len(body)))
    for at in range(SMALL_READS + 2):  # the last ones are too few for the kernel to wake us
        client.send(body[at : at + 1])
        reported(at + 1)
    client.send(body[SMALL_READS + 2 :])
    assert client.answer().status == 200
    assert keep.stored("a") == body
    client.send(head("b", 1) + b"x")  # too few as well, if the kernel still held them back
    assert client.answer().status == 200


@engines
def test_many_bodies_at_once_do_not_mix(keep: Keep, stage: Stage, engine: str) -> None:
    def upload(number: int) -> None:
        with stage.connect() as client:
            for part in range(3):
                name = f"f{number}-{part}"
                body = noise(700_000 + number * 1000 + part, number * 10 + part)
                client.send(head(name, len(body)) + body)
                assert client.answer().status == 200
                assert keep.stored(name) == body

    with ThreadPoolExecutor(16) as clients:
        for done in [clients.submit(upload, number) for number in range(16)]:
            done.result()


@engines
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_the_digest_is_that_of_the_body(
    tmp_path: Path, stage: Stage, client: Connection, engine: str, algorithm: str
) -> None:
    keep = Keep(tmp_path, hashed=algorithm)
    stage.play(keep)
    body = noise(3 * MIB)
    client.send(head("a", len(body)) + body)
    assert client.answer().status == 200
    assert keep.next().digest == hashlib.new(algorithm, body).hexdigest()


def test_the_body_goes_where_the_app_says(tmp_path: Path, stage: Stage, client: Connection) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"." * 1000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fd = os.open(path, os.O_RDWR)
        await receive_into(scope, fd, offset=400)
        os.close(fd)
        await answer(send)

    stage.play(app)
    client.send(head("a", 200) + b"x" * 150)
    client.send(b"x" * 50)
    assert client.answer().status == 200
    assert path.read_bytes() == b"." * 400 + b"x" * 200 + b"." * 400


def test_a_heavy_digest_runs_in_a_thread(tmp_path: Path, stage: Stage, client: Connection) -> None:
    names: set[str] = set()

    class Sha1:
        name = "sha1"

        def update(self, data: bytes | bytearray | memoryview, /) -> None:
            names.add(threading.current_thread().name)

        def digest(self) -> bytes:
            return b""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        await receive_into(scope, fd, digest=Sha1())
        os.close(fd)
        await answer(send)

    stage.play(app)
    body = noise(4 * MIB)
    for _ in range(THREADS + 1):  # none of them keeps its thread
        names.clear()
        client.send(head("a", len(body)) + body)
        assert client.answer().status == 200
        assert any(name.startswith("tusserver-receive") for name in names)
    assert (tmp_path / "a").read_bytes() == body


# what comes next on the connection -----------------------------------------------------------------------------------


@engines
def test_a_connection_carries_256_bodies_one_after_the_other(keep: Keep, client: Connection, engine: str) -> None:
    for number in range(256):
        body = noise(20_000 + number, number)
        client.send(head("a", len(body)))
        client.send(body)
        assert client.answer().status == 200
        assert keep.stored("a")[: len(body)] == body


@pytest.mark.parametrize("size", [1000, 50_000, MIB])
def test_requests_sent_at_once_are_answered_in_order(keep: Keep, client: Connection, size: int) -> None:
    bodies = [noise(size + number, number) for number in range(5)]
    client.send(b"".join(head(f"f{number}", len(body)) + body for number, body in enumerate(bodies)))
    assert [client.answer().body for _ in bodies] == [str(len(body)).encode() for body in bodies]
    assert [keep.stored(f"f{number}") for number in range(5)] == bodies


@engines
def test_the_next_request_may_begin_in_the_packet_that_ends_the_body(
    keep: Keep, client: Connection, engine: str
) -> None:
    first, second = noise(200_000, 1), noise(3000, 2)
    follows = head("b", len(second)) + second
    client.send(head("a", len(first)))
    assert keep.started.wait(TIMEOUT)
    client.send(first + follows[:30])
    assert client.answer().body == b"200000"
    client.send(follows[30:])
    assert client.answer().body == b"3000"
    assert (keep.stored("a"), keep.stored("b")) == (first, second)


def test_the_next_request_may_begin_in_the_packet_of_the_whole_request(keep: Keep, client: Connection) -> None:
    first, second = noise(500, 1), noise(3000, 2)
    follows = head("b", len(second)) + second
    client.send(head("a", len(first)) + first + follows[:30])
    assert client.answer().body == b"500"
    client.send(follows[30:])
    assert client.answer().body == b"3000"
    assert (keep.stored("a"), keep.stored("b")) == (first, second)


def test_other_connections_are_served_while_a_body_is_under_way(
    keep: Keep, stage: Stage, client: Connection, reported: Callable[[int], None]
) -> None:
    client.send(head("a", MIB) + noise(1000))
    reported(1000)
    with stage.connect() as other:
        other.send(head("b", 3) + b"abc")
        assert other.answer().body == b"3"


# expecting 100 -------------------------------------------------------------------------------------------------------


def test_a_client_that_waits_for_100_gets_it_when_its_body_is_received(keep: Keep, stage: Stage) -> None:
    parts = urlsplit(stage.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT) as raw:
        raw.sendall(head("a", 5, ("Expect", "100-continue")))
        assert raw.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b"hello")
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert keep.stored("a") == b"hello"


def test_a_client_that_waits_for_100_and_is_refused_gets_none(stage: Stage, client: Connection) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert wire_of(scope).can_receive_into
        await answer(send, 409)

    stage.play(app)
    client.send(head("a", 5, ("Expect", "100-continue")))
    assert (seen := client.answer()).status == 409
    assert seen.interim == ()


# cut short -----------------------------------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("leave", [Connection.close, Connection.cut])
@pytest.mark.parametrize("started", [True, False])
def test_what_a_client_had_sent_that_disconnects_is_stored(
    keep: Keep, client: Connection, engine: str, leave: Callable[[Connection], None], started: bool
) -> None:
    sent = noise(30_000)  # as much as reaches the server at once; what a client has not sent, a reset drops
    client.send(head("a", MIB))
    if started:
        assert keep.started.wait(TIMEOUT)
    client.send(sent)
    leave(client)
    seen = keep.next()
    assert (seen.how, seen.total) == ("gone", len(sent))
    assert keep.stored("a") == sent


@engines
def test_a_client_that_disconnects_after_a_few_bytes_is_noticed(
    keep: Keep, client: Connection, engine: str, reported: Callable[[int], None]
) -> None:
    client.send(head("a", MIB) + b"abc")
    reported(3)
    client.cut()
    assert keep.next().how == "gone"
    assert keep.stored("a") == b"abc"


@engines
def test_a_cancelled_body_keeps_what_came_and_ends_the_connection(
    keep: Keep, client: Connection, engine: str, reported: Callable[[int], None]
) -> None:
    sent = noise(100_000)
    client.send(head("a", MIB))
    assert keep.started.wait(TIMEOUT)
    client.send(sent)
    reported(len(sent))
    keep.stop()
    ended = client.answer()
    assert (ended.status, ended["Connection"]) == (503, "close")
    assert client.closes()
    seen = keep.next()
    assert (seen.how, seen.total) == ("cancelled", len(sent))
    assert keep.stored("a") == sent


def test_a_cancelled_body_keeps_what_the_kernel_held_back(
    keep: Keep, client: Connection, reported: Callable[[int], None]
) -> None:
    client.send(head("a", MIB))
    for at in range(SMALL_READS):
        client.send(b"x")
        reported(at + 1)
    client.send(b"y" * 10)
    keep.stop()
    assert client.answer().status == 503
    assert keep.stored("a") == b"x" * SMALL_READS + b"y" * 10


@pytest.mark.parametrize("engine", ["threads"], indirect=True)
def test_a_body_that_is_cancelled_while_a_thread_writes_waits_for_the_thread(
    stage: Stage, tmp_path: Path, client: Connection, engine: str
) -> None:
    at_work, go_on, seen = threading.Event(), threading.Event(), queue.Queue[tuple[int, bool]]()

    class Slow:
        """A digest that takes its time once it is in a thread."""

        def update(self, data: bytes | bytearray | memoryview, /) -> None:
            if threading.current_thread().name.startswith("tusserver-receive"):
                at_work.set()
                assert go_on.wait(TIMEOUT)

        def digest(self) -> bytes:
            return b""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        written: list[int] = []
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        work = asyncio.ensure_future(receive_into(scope, fd, digest=Slow(), on_written=written.append))
        assert await asyncio.to_thread(at_work.wait, TIMEOUT)
        work.cancel()
        for _ in range(3):  # turns of the loop in which it could end, and must not
            await asyncio.sleep(0)
        assert not work.done()
        go_on.set()
        await asyncio.wait([work])
        os.close(fd)
        seen.put((sum(written), work.cancelled()))
        await answer(send, 503)

    stage.play(app)
    body = noise(MIB)
    client.send(head("a", 2 * MIB) + body)
    assert client.answer().status == 503
    count, cancelled = seen.get(timeout=TIMEOUT)
    assert cancelled
    assert (tmp_path / "a").read_bytes() == body[:count]


@engines
def test_a_cancelled_body_that_had_all_its_bytes_leaves_a_connection_to_use(
    stage: Stage, tmp_path: Path, client: Connection, engine: str
) -> None:
    keep = Keep(tmp_path)
    keep.written = lambda count: keep.stop()  # comes to pass when the last byte was written
    stage.play(keep)
    client.send(head("a", 10))
    assert keep.started.wait(TIMEOUT)
    client.send(b"0123456789")
    assert client.answer()["Connection"] is None
    keep.written = lambda count: None
    client.send(head("b", 3) + b"abc")
    assert client.answer().body == b"3"


@engines
def test_a_disk_that_fails_is_told_and_ends_the_connection(
    tmp_path: Path, stage: Stage, client: Connection, engine: str
) -> None:
    keep = Keep(tmp_path, flags=os.O_RDONLY | os.O_CREAT)
    stage.play(keep)
    client.send(head("a", MIB))
    assert keep.started.wait(TIMEOUT)
    client.send(b"x" * 100)
    ended = client.answer()
    assert (ended.status, ended["Connection"]) == (500, "close")
    assert client.closes()
    assert (seen := keep.next()).how == "OSError 9"
    assert seen.total == 0


@pytest.mark.parametrize("engine", ["threads"], indirect=True)
def test_nothing_of_a_body_that_the_disk_refused_gets_into_the_next(tmp_path: Path, stage: Stage, engine: str) -> None:
    for round_ in range(2 * THREADS):
        for flags in (os.O_RDONLY | os.O_CREAT, os.O_RDWR | os.O_CREAT):
            keep = Keep(tmp_path, flags=flags)
            stage.play(keep)
            body = noise(60_000, round_)
            with stage.connect() as client:
                client.send(head("a", len(body)))
                assert keep.started.wait(TIMEOUT)
                client.send(body)
                how = keep.next().how
        assert how == "whole"
        assert keep.stored("a") == body


@pytest.mark.parametrize("engine", ["threads"], indirect=True)
def test_a_file_that_takes_no_splice_is_written_all_the_same(
    tmp_path: Path, stage: Stage, client: Connection, engine: str
) -> None:
    keep = Keep(tmp_path, flags=os.O_RDWR | os.O_CREAT | os.O_APPEND)
    stage.play(keep)
    body = noise(2 * MIB)
    client.send(head("a", len(body)) + body)
    assert client.answer().status == 200
    assert keep.stored("a") == body


@engines
def test_a_report_that_raises_ends_the_body(keep: Keep, client: Connection, engine: str) -> None:
    def full(count: int) -> None:
        raise OSError(28, "said the app")

    keep.written = full
    client.send(head("a", MIB))
    assert keep.started.wait(TIMEOUT)
    client.send(b"x" * 100)
    assert client.answer().status == 500
    assert keep.next().how == "OSError 28"


# shared by the receivers of a loop -----------------------------------------------------------------------------------


class Waiting:
    """A receiver whose bytes the kernel holds back for ever."""

    def __init__(self) -> None:
        self.polled = asyncio.Event()

    def poll(self, now: float) -> bool:
        self.polled.set()
        return True


def test_receivers_are_polled_also_on_the_next_loop_of_a_thread() -> None:
    """A server that reloads goes on in another loop, and may leave receivers behind that still waited."""
    share = LoopShare(coalesce_seconds=0.001)

    async def run() -> None:
        waiting = Waiting()
        share.poll_later(waiting)
        await asyncio.wait_for(waiting.polled.wait(), TIMEOUT)

    asyncio.run(run())
    asyncio.run(run())


def test_as_many_threads_receive_as_are_declared() -> None:
    share = LoopShare(threads=1)
    share.free_threads -= 1  # as the first receiver does that takes one
    with share.pool as pool:
        assert pool.submit(int, "7").result() == 7
