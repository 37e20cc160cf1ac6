"""A body goes to the file as it is parsed, in chunks or behind TLS: nothing of it is kept, and nothing else changes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import trustme
from starlette.types import Receive, Scope, Send

from tests.server.stage import Seen, Stage, answer, wire_of
from tests.support.wire import PATIENCE, Connection, chunk, render
from tusserver.lanes import Latency
from tusserver.protocol.errors import ClientDisconnected, SizeExceeded
from tusserver.server.recvfile_parsed import ParsedDrain

LAST = b"0\r\n\r\n"
KIB = 1 << 10


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Pour:
    """An app that pours each body into `<folder>/<path>` and says so in `seen` before it answers."""

    def __init__(self, folder: Path, *, room: int = 1 << 40, share: int = 1 << 20, hashed: str = "") -> None:
        self.folder = folder
        self.room = room
        self.share = share
        self.hashed = hashed
        self.seen: queue.Queue[Seen] = queue.Queue()
        self.total = 0
        self.changed = threading.Condition()
        self.drains: set[asyncio.Task[None]] = set()
        self.loop: asyncio.AbstractEventLoop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pour and answer 200, 413 where it is too much, 500 where the disk failed, 503 where it was stopped."""
        self.loop = asyncio.get_running_loop()
        wire = wire_of(scope)
        digest = hashlib.new(self.hashed, usedforsecurity=False) if self.hashed else None
        moved: list[int] = []

        def note(count: int) -> None:
            moved.append(count)
            with self.changed:
                self.total += count
                self.changed.notify_all()

        def admit(count: int) -> None:
            if sum(moved) + count > self.room:
                raise SizeExceeded

        fd = os.open(self.folder / scope["path"].strip("/"), os.O_RDWR | os.O_CREAT, 0o600)
        pour = asyncio.ensure_future(wire.pour(fd, 0, digest, note, admit=admit, share=lambda: self.share))
        self.drains.add(pour)
        status, how = 200, "whole"
        try:
            await pour
        except ClientDisconnected:
            how = "gone"
        except SizeExceeded:
            status, how = 413, "too much"
        except asyncio.CancelledError:
            status, how = 503, "cancelled"
        except OSError as error:
            status, how = 500, f"{type(error).__name__} {error.errno}"
        finally:
            os.close(fd)
            self.drains.discard(pour)
        self.seen.put(
            Seen(
                how=how,
                moved=tuple(moved),
                trailers=dict(wire.trailers or {}),
                digest=digest.hexdigest() if digest is not None else "",
            )
        )
        await answer(send, status, str(sum(moved)).encode())

    def wait(self, count: int) -> None:
        """Wait until so many bytes were reported."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.total >= count, PATIENCE), f"{self.total} of {count} bytes"

    def stop(self) -> None:
        def cancel() -> None:
            for pour in self.drains:
                pour.cancel()

        self.loop.call_soon_threadsafe(cancel)

    def next(self) -> Seen:
        return self.seen.get(timeout=PATIENCE)

    def stored(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture(params=["at-once", "slow-disk", "threads"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with writes that come back at once, with a disk that is slow, and as with a digest of much."""
    if request.param == "slow-disk":
        monkeypatch.setattr(Latency, "worth_a_try", lambda self: False)
    elif request.param == "threads":
        monkeypatch.setattr(ParsedDrain, "_wants_a_thread", lambda self: True)


@pytest.fixture
def pour(stage: Stage, tmp_path: Path) -> Pour:
    app = Pour(tmp_path)
    stage.play(app)
    return app


def head(name: str = "a", *more: tuple[str, str]) -> bytes:
    return render("PATCH", f"/{name}", [("Host", "stage"), ("Transfer-Encoding", "chunked"), *more])


# whole ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("sizes", [[1], [1] * 3000, [70_000, 1, 3], [3 << 20], [10] * 500 + [1 << 20]])
def test_a_chunked_body_is_stored_whole(pour: Pour, client: Connection, sizes: list[int]) -> None:
    body = noise(sum(sizes))
    at, pieces = 0, []
    for size in sizes:
        pieces.append(chunk(body[at : at + size]))
        at += size
    client.send(head() + b"".join(pieces) + LAST)
    assert client.answer().body == str(len(body)).encode()
    assert pour.next().how == "whole"
    assert pour.stored("a") == body


@pytest.mark.usefixtures("engine")
def test_a_chunked_body_sent_byte_by_byte_is_stored_whole_with_its_trailer(pour: Pour, client: Connection) -> None:
    for byte in head() + b"3;x=y\r\nabc\r\n" + chunk(b"defgh") + b"0\r\nUpload-Checksum: a\r\n\r\n":
        client.send(bytes([byte]))
    assert client.answer().status == 200
    seen = pour.next()
    assert (seen.how, seen.trailers, pour.stored("a")) == ("whole", {"upload-checksum": "a"}, b"abcdefgh")


@pytest.mark.usefixtures("engine")
def test_the_digest_sees_every_byte_in_order(pour: Pour, client: Connection) -> None:
    pour.hashed = "sha1"
    body = noise(900_000)
    client.send(head() + b"".join(chunk(body[at : at + 7_777]) for at in range(0, len(body), 7_777)) + LAST)
    assert client.answer().status == 200
    assert pour.next().digest == hashlib.sha1(body).hexdigest()


@pytest.mark.usefixtures("engine")
def test_requests_behind_a_chunked_body_are_answered_each(pour: Pour, client: Connection) -> None:
    bodies = {f"f{number}": noise(50_000 * number + 1, number) for number in range(6)}
    client.send(b"".join(head(name) + chunk(body) + LAST for name, body in bodies.items()))
    assert [client.answer().status for _ in bodies] == [200] * len(bodies)
    assert {name: pour.stored(name) for name in bodies} == bodies


def test_a_client_that_waits_for_100_is_asked_to_go_on(stage: Stage, pour: Pour) -> None:
    address = urlsplit(stage.url)
    with socket.create_connection((address.hostname, address.port), PATIENCE) as raw:
        raw.sendall(head("a", ("Expect", "100-continue")))
        assert raw.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(chunk(b"abc") + LAST)
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert pour.stored("a") == b"abc"


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_behind_tls_is_stored_whole(
    loop: Literal["uvloop", "asyncio"], framing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    body = noise(700_000)
    with Stage(loop, ssl_certfile=tmp_path / "server.pem") as stage:
        app = Pour(tmp_path)
        stage.play(app)
        with Connection(stage.url.replace("http:", "https:")) as client:
            for name in ("a", "b"):
                if framing == "chunked":
                    client.send(head(name) + chunk(body[:300_000]) + chunk(body[300_000:]) + LAST)
                else:
                    fields = [("Host", "stage"), ("Content-Length", str(len(body)))]
                    client.send(render("PATCH", f"/{name}", fields) + body)
                assert client.answer().status == 200
                assert app.stored(name) == body


# cut short -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("leave", [Connection.close, Connection.cut])
def test_what_came_of_a_client_that_vanishes_is_kept(
    pour: Pour, client: Connection, leave: Callable[[Connection], None]
) -> None:
    body = noise(400_000)
    client.send(head() + b"%x\r\n" % (1 << 20) + body)
    pour.wait(len(body))
    leave(client)
    seen = pour.next()
    assert (seen.how, seen.total, pour.stored("a")) == ("gone", len(body), body)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "wrong", [b"x\r\n", b"-1\r\n", b"0x3\r\nabc\r\n", b"\r\n", b"1\r\nab\r\n", b"f" * 20 + b"\r\n"]
)
def test_a_chunk_that_is_none_is_refused_and_what_came_before_it_is_kept(
    pour: Pour, client: Connection, wrong: bytes
) -> None:
    client.send(head())
    client.send(chunk(b"hello"))
    pour.wait(5)
    client.send(chunk(b" world") + wrong)
    assert client.answer().status == 400
    assert client.closes()
    seen = pour.next()
    assert (seen.how, pour.stored("a")[:11]) == ("gone", b"hello world")


@pytest.mark.parametrize("flood", [b"3;" + b"x" * 600_000, b"0\r\nUpload-Checksum: " + b"x" * 600_000])
def test_what_is_neither_chunk_nor_head_has_a_bound(pour: Pour, client: Connection, flood: bytes) -> None:
    client.send(head() + chunk(b"hello") + flood)
    assert client.answer().status == 400
    assert client.closes()
    assert (pour.next().how, pour.stored("a")) == ("gone", b"hello")


@pytest.mark.usefixtures("engine")
def test_a_body_that_is_stopped_keeps_what_came_and_is_answered(pour: Pour, client: Connection) -> None:
    client.send(head() + chunk(b"hello"))
    pour.wait(5)
    pour.stop()
    stopped = client.answer()
    assert (stopped.status, stopped.body, pour.stored("a")) == (503, b"5", b"hello")
    assert pour.next().how == "cancelled"


@pytest.mark.usefixtures("engine")
def test_bytes_that_may_not_come_are_not_written(pour: Pour, client: Connection) -> None:
    pour.room = 7
    client.send(head() + chunk(b"hello"))
    pour.wait(5)
    client.send(chunk(b"you"))
    refused = client.answer()
    assert (refused.status, pour.next().how, pour.stored("a")) == (413, "too much", b"hello")


def test_a_disk_that_fails_ends_the_body(stage: Stage, tmp_path: Path, client: Connection) -> None:
    (tmp_path / "a").symlink_to("/dev/full")
    app = Pour(tmp_path)
    stage.play(app)
    client.send(head() + chunk(b"hello"))
    assert client.answer().status == 500
    assert app.next().how == "OSError 28"


def test_a_body_that_is_poured_cannot_be_received_or_poured_as_well(
    stage: Stage, client: Connection, tmp_path: Path
) -> None:
    said: queue.Queue[str] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        wire = wire_of(scope)
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)

        def pour() -> Any:
            return wire.pour(fd, 0, None, lambda count: None, admit=lambda count: None, share=lambda: 1)

        pouring = asyncio.ensure_future(pour())
        await asyncio.sleep(0)
        for misuse in (receive, pour):
            try:
                await misuse()
            except RuntimeError as error:
                said.put(str(error))
        await pouring
        os.close(fd)
        await answer(send)

    stage.play(app)
    client.send(head())
    assert [said.get(timeout=PATIENCE) for _ in range(2)] == [
        "the body is being drained",
        "this body cannot be poured, or not any more",
    ]
    client.send(LAST)
    assert client.answer().status == 200


# what is held --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
def test_no_more_is_read_at_once_than_the_share_of_the_buffers(pour: Pour, client: Connection) -> None:
    pour.share = 10_000
    body = noise(500_000)
    client.send(head())
    client.send(chunk(body[:1]))
    pour.wait(1)
    client.send(chunk(body[1:]) + LAST)
    assert client.answer().status == 200
    assert max(pour.next().moved) <= pour.share
    assert pour.stored("a") == body
