"""A body goes to the file as it is parsed, in chunks or behind TLS: nothing of it is kept, and nothing else changes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import trustme
from starlette.types import Receive, Scope, Send

from tests.server.stage import Seen, Stage, answer, receive_into, wire_of
from tests.support.wire import TIMEOUT, Connection, chunk, render
from tusserver.protocol.errors import ClientDisconnected, SizeExceeded
from tusserver.server.recvfile_shared import LoopShare
from tusserver.streams import Disk
from tusserver.threads import Threads

LAST = b"0\r\n\r\n"
KIB = 1 << 10


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Keep:
    """An app that receives each body into `<folder>/<path>` and says so in `seen` before it answers."""

    def __init__(self, folder: Path, *, room: int = 1 << 40, share: int = 1 << 20) -> None:
        self.folder = folder
        self.room = room
        self.share = share
        self.hashed = ""
        self.disk: Disk | None = None
        self.seen: queue.Queue[Seen] = queue.Queue()
        self.total = 0
        self.changed = threading.Condition()
        self.receiving: set[asyncio.Task[None]] = set()
        self.loop: asyncio.AbstractEventLoop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive and answer 200, 413 where it is too much, 500 where the disk failed, 503 where it was stopped."""
        self.loop = asyncio.get_running_loop()
        wire = wire_of(scope)
        digest = hashlib.new(self.hashed, usedforsecurity=False) if self.hashed else None
        written: list[int] = []

        def note(count: int) -> None:
            written.append(count)
            with self.changed:
                self.total += count
                self.changed.notify_all()

        def admit(count: int) -> None:
            if sum(written) + count > self.room:
                raise SizeExceeded

        fd = os.open(self.folder / scope["path"].strip("/"), os.O_RDWR | os.O_CREAT, 0o600)
        receiving = asyncio.ensure_future(
            receive_into(
                scope, fd, on_written=note, admit=admit, share=lambda: self.share, digest=digest, disk=self.disk
            )
        )
        self.receiving.add(receiving)
        status, how = 200, "whole"
        try:
            await receiving
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
            self.receiving.discard(receiving)
        self.seen.put(
            Seen(
                how=how,
                written=tuple(written),
                trailers=dict(wire.trailers or {}),
                digest=digest.hexdigest() if digest is not None else "",
            )
        )
        await answer(send, status, str(sum(written)).encode())

    def wait(self, count: int) -> None:
        """Wait until so many bytes were reported."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.total >= count, TIMEOUT), f"{self.total} of {count} bytes"

    def stop(self) -> None:
        def cancel() -> None:
            for receiving in self.receiving:
                receiving.cancel()

        self.loop.call_soon_threadsafe(cancel)

    def next(self) -> Seen:
        return self.seen.get(timeout=TIMEOUT)

    def stored(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture
def keep(stage: Stage, tmp_path: Path) -> Keep:
    app = Keep(tmp_path)
    stage.play(app)
    return app


class SlowDisk:
    """A disk whose writes do not come back at once."""

    slow = True

    def __init__(self) -> None:
        self._threads = Threads(1, "slow-disk")

    def attempt(self, call: Callable[..., None], *args: object) -> Awaitable[None]:
        return self._threads.run(call, *args)


@pytest.fixture(params=["at-once", "slow-disk", "threads"])
def engine(request: pytest.FixtureRequest, stage: Stage, keep: Keep) -> Iterator[None]:
    """Runs a test with writes that come back at once, with a disk that is slow, and with a digest that is."""
    if request.param == "slow-disk":
        keep.disk = SlowDisk()
    elif request.param == "threads":
        keep.hashed = "sha1"
        stage.share(LoopShare(big_read=1))
    yield
    stage.share(None)


def head(name: str = "a", *more: tuple[str, str]) -> bytes:
    return render("PATCH", f"/{name}", [("Host", "stage"), ("Transfer-Encoding", "chunked"), *more])


# whole ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("sizes", [[1], [1] * 3000, [70_000, 1, 3], [3 << 20], [10] * 500 + [1 << 20]])
def test_a_chunked_body_is_stored_whole(keep: Keep, client: Connection, sizes: list[int]) -> None:
    body = noise(sum(sizes))
    at, pieces = 0, []
    for size in sizes:
        pieces.append(chunk(body[at : at + size]))
        at += size
    client.send(head() + b"".join(pieces) + LAST)
    assert client.answer().body == str(len(body)).encode()
    assert keep.next().how == "whole"
    assert keep.stored("a") == body


@pytest.mark.usefixtures("engine")
def test_a_chunked_body_sent_byte_by_byte_is_stored_whole_with_its_trailer(keep: Keep, client: Connection) -> None:
    for byte in head() + b"3;x=y\r\nabc\r\n" + chunk(b"defgh") + b"0\r\nUpload-Checksum: a\r\n\r\n":
        client.send(bytes([byte]))
    assert client.answer().status == 200
    seen = keep.next()
    assert (seen.how, seen.trailers, keep.stored("a")) == ("whole", {"upload-checksum": "a"}, b"abcdefgh")


@pytest.mark.usefixtures("engine")
def test_the_digest_sees_every_byte_in_order(keep: Keep, client: Connection) -> None:
    keep.hashed = "sha1"
    body = noise(900_000)
    client.send(head() + b"".join(chunk(body[at : at + 7_777]) for at in range(0, len(body), 7_777)) + LAST)
    assert client.answer().status == 200
    assert keep.next().digest == hashlib.sha1(body).hexdigest()


@pytest.mark.usefixtures("engine")
def test_requests_behind_a_chunked_body_are_answered_each(keep: Keep, client: Connection) -> None:
    bodies = {f"f{number}": noise(50_000 * number + 1, number) for number in range(6)}
    client.send(b"".join(head(name) + chunk(body) + LAST for name, body in bodies.items()))
    assert [client.answer().status for _ in bodies] == [200] * len(bodies)
    assert {name: keep.stored(name) for name in bodies} == bodies


def test_a_client_that_waits_for_100_is_asked_to_go_on(stage: Stage, keep: Keep) -> None:
    address = urlsplit(stage.url)
    with socket.create_connection((address.hostname, address.port), TIMEOUT) as raw:
        raw.sendall(head("a", ("Expect", "100-continue")))
        assert raw.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(chunk(b"abc") + LAST)
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert keep.stored("a") == b"abc"


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
        app = Keep(tmp_path)
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
def test_what_came_of_a_client_that_disconnects_is_kept(
    keep: Keep, client: Connection, leave: Callable[[Connection], None]
) -> None:
    body = noise(400_000)
    client.send(head() + b"%x\r\n" % (1 << 20) + body)
    keep.wait(len(body))
    leave(client)
    seen = keep.next()
    assert (seen.how, seen.total, keep.stored("a")) == ("gone", len(body), body)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "wrong", [b"x\r\n", b"-1\r\n", b"0x3\r\nabc\r\n", b"\r\n", b"1\r\nab\r\n", b"f" * 20 + b"\r\n"]
)
def test_a_chunk_that_is_none_is_refused_and_what_came_before_it_is_kept(
    keep: Keep, client: Connection, wrong: bytes
) -> None:
    client.send(head())
    client.send(chunk(b"hello"))
    keep.wait(5)
    client.send(chunk(b" world") + wrong)
    assert client.answer().status == 400
    assert client.closes()
    seen = keep.next()
    assert (seen.how, keep.stored("a")[:11]) == ("gone", b"hello world")


@pytest.mark.parametrize("flood", [b"3;" + b"x" * 600_000, b"0\r\nUpload-Checksum: " + b"x" * 600_000])
def test_what_is_neither_chunk_nor_head_has_a_bound(keep: Keep, client: Connection, flood: bytes) -> None:
    client.send(head() + chunk(b"hello") + flood)
    assert client.answer().status == 400
    assert client.closes()
    assert (keep.next().how, keep.stored("a")) == ("gone", b"hello")


@pytest.mark.usefixtures("engine")
def test_a_body_that_is_stopped_keeps_what_came_and_is_answered(keep: Keep, client: Connection) -> None:
    client.send(head() + chunk(b"hello"))
    keep.wait(5)
    keep.stop()
    stopped = client.answer()
    assert (stopped.status, stopped.body, keep.stored("a")) == (503, b"5", b"hello")
    assert keep.next().how == "cancelled"


@pytest.mark.usefixtures("engine")
def test_bytes_that_may_not_come_are_not_written(keep: Keep, client: Connection) -> None:
    keep.room = 7
    client.send(head() + chunk(b"hello"))
    keep.wait(5)
    client.send(chunk(b"you"))
    refused = client.answer()
    assert (refused.status, keep.next().how, keep.stored("a")) == (413, "too much", b"hello")


def test_a_disk_that_fails_ends_the_body(stage: Stage, tmp_path: Path, client: Connection) -> None:
    (tmp_path / "a").symlink_to("/dev/full")
    app = Keep(tmp_path)
    stage.play(app)
    client.send(head() + chunk(b"hello"))
    assert client.answer().status == 500
    assert app.next().how == "OSError 28"


def test_a_body_that_goes_into_a_file_cannot_be_received_as_well(
    stage: Stage, client: Connection, tmp_path: Path
) -> None:
    said: queue.Queue[str] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)

        def again() -> Any:
            return receive_into(scope, fd)

        receiving = asyncio.ensure_future(receive_into(scope, fd))
        await asyncio.sleep(0)
        for misuse in (receive, again):
            try:
                await misuse()
            except RuntimeError as error:
                said.put(str(error))
        await receiving
        os.close(fd)
        await answer(send)

    stage.play(app)
    client.send(head())
    assert [said.get(timeout=TIMEOUT) for _ in range(2)] == [
        "the body is being received into a file",
        "this body cannot be received into a file, or not any more",
    ]
    client.send(LAST)
    assert client.answer().status == 200


# what is held --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
def test_no_more_is_read_at_once_than_the_share_of_the_buffers(keep: Keep, client: Connection) -> None:
    keep.share = 10_000
    body = noise(500_000)
    client.send(head())
    client.send(chunk(body[:1]))
    keep.wait(1)
    client.send(chunk(body[1:]) + LAST)
    assert client.answer().status == 200
    assert max(keep.next().written) <= keep.share
    assert keep.stored("a") == body
