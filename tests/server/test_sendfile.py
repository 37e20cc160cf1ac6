"""Files that the kernel sends: all of it, in its place, and nothing of it as if it were the whole."""

from __future__ import annotations

import os
import queue
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from tests.server.stage import Stage, answer
from tests.support.wire import TIMEOUT, Connection, render

HOST = ("Host", "stage")
SIZES = [0, 1, 64 << 10, (64 << 10) + 1, 5_000_003]


class Give:
    """An app that sends a range of a file. `errors` has what sending raised, or None."""

    def __init__(self, path: Path, at: int, count: int, promised: int | None = None, before: bytes = b"") -> None:
        self.errors: queue.Queue[Exception | None] = queue.Queue()
        self._path = path
        self._at = at
        self._count = count
        self._before = before
        self._promised = len(before) + count if promised is None else promised

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        assert "http.response.zerocopysend" in scope["extensions"]
        headers = [(b"content-length", str(self._promised).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if self._before:
            await send({"type": "http.response.body", "body": self._before, "more_body": True})
        error: Exception | None = None
        with open(self._path, "rb") as file:  # noqa: ASYNC230 - opened at once, and the loop is the test's own
            try:
                await send(
                    {"type": "http.response.zerocopysend", "file": file, "offset": self._at, "count": self._count}
                )
            except Exception as raised:
                error = raised
        self.errors.put(error)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of random bytes."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(SIZES[-1]))
    return path


@pytest.mark.parametrize("size", SIZES)
def test_a_range_arrives_as_it_is(stage: Stage, client: Connection, source: Path, size: int) -> None:
    at = (SIZES[-1] - size) // 2
    stage.play(Give(source, at, size))
    client.send(render("GET", "/", [HOST]))
    assert client.answer().body == source.read_bytes()[at : at + size]


def test_what_was_sent_before_comes_first(stage: Stage, client: Connection, source: Path) -> None:
    # More than a socket takes at once, so that the transport has to keep some of it.
    before = os.urandom(8 << 20)
    stage.play(Give(source, 0, SIZES[-1], before=before))
    client.send(render("GET", "/", [HOST]))
    assert client.answer().body == before + source.read_bytes()


def test_the_connection_goes_on_afterwards(stage: Stage, client: Connection, source: Path) -> None:
    for size in (SIZES[-1], 10, SIZES[-1]):
        stage.play(Give(source, 0, size))
        client.send(render("GET", "/", [HOST]))
        assert client.answer().body == source.read_bytes()[:size]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, body=b"still here")

    stage.play(app)
    client.send(render("GET", "/", [HOST]))
    assert client.answer().body == b"still here"


def test_a_client_that_goes_away_is_no_error(stage: Stage, source: Path) -> None:
    app = Give(source, 0, SIZES[-1])
    stage.play(app)
    with stage.connect() as client:
        client.send(render("GET", "/", [HOST]))
        client.cut()
        assert app.errors.get(timeout=TIMEOUT) is None


def test_a_client_that_has_gone_away_before_the_answer_is_no_error(stage: Stage, source: Path) -> None:
    give = Give(source, 0, SIZES[-1])

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await give(scope, receive, send)

    stage.play(late)
    with stage.connect() as client:
        client.send(render("GET", "/", [HOST]))
        client.cut()
    assert give.errors.get(timeout=TIMEOUT) is None


def test_a_file_that_became_shorter_ends_the_connection(stage: Stage, client: Connection, source: Path) -> None:
    app = Give(source, SIZES[-1] - 10, 100_000)
    stage.play(app)
    client.send(render("GET", "/", [HOST]))
    assert isinstance(app.errors.get(timeout=TIMEOUT), EOFError)
    assert client.closes()


def test_more_than_was_promised_is_not_sent(stage: Stage, client: Connection, source: Path) -> None:
    app = Give(source, 0, 100, promised=50)
    stage.play(app)
    client.send(render("GET", "/", [HOST]))
    assert isinstance(app.errors.get(timeout=TIMEOUT), RuntimeError)
