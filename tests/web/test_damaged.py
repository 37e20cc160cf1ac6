"""Downloads of files and streams that do not have the size of their upload: never more bytes than it has, nor fewer."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.types import Message, Scope

from tests.support.tus import metadata
from tests.web.asking import Client, Exchange
from tests.web.conftest import Serve
from tusserver import FileStore, MemoryStore
from tusserver.protocol.errors import StoreUnavailable, TusError
from tusserver.protocol.messages import Content
from tusserver.protocol.upload import Upload

DATA = bytes(range(256)) * 10
GARBAGE = b"GARBAGE" * 1000
SIZE = len(DATA)


class Telling(FileStore):
    """Notes where the bytes of downloads are."""

    place: Path
    also: int = 0

    async def content(self, upload: Upload) -> Content:
        content = await super().content(upload)
        assert content.path is not None
        self.place = content.path
        return content


@pytest.fixture
def store(tmp_path: Path) -> Telling:
    return Telling(tmp_path / "data")


@pytest.fixture
async def url(client: Client) -> str:
    """A finished upload, and where it is kept is known."""
    url = await client.complete(DATA, {"Upload-Metadata": metadata(filetype="image/png")})
    assert (await client.get(url)).content == DATA
    return url


def each(body: bytes, boundary: str) -> Iterator[tuple[str, bytes]]:
    """Content-Range and bytes of each part of a multipart body."""
    for part in body.removeprefix(b"\r\n").split(b"--" + boundary.encode())[1:-1]:
        head, _, data = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        found = re.search(rb"Content-Range: (.*)", head)
        assert found is not None
        yield found[1].strip().decode(), data


# more ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def longer(url: str, store: Telling) -> str:
    """An upload with garbage behind its bytes."""
    with store.place.open("ab") as file:
        file.write(GARBAGE)
    return url


async def test_what_stands_behind_the_bytes_of_an_upload_is_not_sent(client: Client, longer: str) -> None:
    response = await client.get(longer)
    assert (response.status_code, response.headers["Content-Length"]) == (200, str(SIZE))
    assert response.content == DATA


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=2000-", 2000, SIZE),
        ("bytes=-100", SIZE - 100, SIZE),
        ("bytes=2500-9000", 2500, SIZE),
        (f"bytes=0-{SIZE + 5}", 0, SIZE),
        ("bytes=-999999", 0, SIZE),
    ],
)
async def test_ranges_are_of_the_upload_and_not_of_its_file(
    client: Client, longer: str, asked: str, start: int, stop: int
) -> None:
    etag = (await client.get(longer)).headers["ETag"]
    for condition in ({}, {"If-Range": etag}):
        response = await client.get(longer, {"Range": asked, **condition})
        assert (response.status_code, response.content) == (206, DATA[start:stop])
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    response = await client.get(longer, {"Range": asked, "If-Range": '"another"'})
    assert (response.status_code, response.content) == (200, DATA)


async def test_several_ranges_are_of_the_upload_too(client: Client, longer: str) -> None:
    response = await client.get(longer, {"Range": "bytes=0-9, 2000-2009, -5, 2550-99999"})
    assert (response.status_code, response.headers["Content-Length"]) == (206, str(len(response.content)))
    parts = list(each(response.content, response.headers["Content-Type"].partition("boundary=")[2]))
    assert parts == [
        (f"bytes 0-9/{SIZE}", DATA[:10]),
        (f"bytes 2000-2009/{SIZE}", DATA[2000:2010]),
        (f"bytes 2550-{SIZE - 1}/{SIZE}", DATA[2550:]),
    ]


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE + 10}-{SIZE + 20}", f"bytes={SIZE}-,{SIZE + 5}-"])
async def test_a_range_behind_the_upload_cannot_be_had(client: Client, longer: str, asked: str) -> None:
    response = await client.get(longer, {"Range": asked})
    assert (response.status_code, response.content) == (416, b"")
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"


async def test_a_server_that_sends_files_by_itself_is_told_where_the_upload_ends(client: Client, longer: str) -> None:
    path = longer.removeprefix("http://tus.test")
    scope: Scope = {"extensions": {"http.response.zerocopysend": {}, "http.response.pathsend": {}}}
    for headers, start, stop in (((), 0, SIZE), ([("Range", "bytes=2000-")], 2000, SIZE)):
        exchange = await Exchange(client.app, "GET", path, headers, scope=scope).run()
        (sent,) = exchange.sent[1:]
        assert (sent["type"], sent["offset"], sent["count"]) == ("http.response.zerocopysend", start, stop - start)


async def test_a_head_that_stands_for_a_get_has_no_body(client: Client, longer: str) -> None:
    path = longer.removeprefix("http://tus.test")
    exchange = await Exchange(client.app, "HEAD", path, [("X-HTTP-Method-Override", "GET")]).run()
    assert (exchange.status, exchange.header("Content-Length"), exchange.body) == (200, str(SIZE), b"")
    assert exchange.whole


# fewer ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shorter(url: str, store: Telling) -> str:
    """An upload whose last bytes are gone."""
    with store.place.open("r+b") as file:
        file.truncate(1000)
    return url


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-9"}, {"Range": "bytes=2000-"}, {"Range": "bytes=0-1,5-6"}])
async def test_an_upload_that_lost_bytes_is_not_sent_at_all(
    client: Client, shorter: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.get(shorter, headers)
    assert (response.status_code, response.headers["Tus-Resumable"]) == (500, "1.0.0")
    assert response.text == "ERR_INTERNAL_SERVER_ERROR: internal server error\n"
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    upload_id = shorter.rpartition("/")[2]
    assert line.getMessage().startswith(f"upload {upload_id} has {SIZE} bytes, but its file has 1000")


@pytest.mark.parametrize(
    "headers", [(), [("Range", "bytes=1-")], [("Range", "bytes=0-1,900-")]], ids=["all", "one", "two"]
)
async def test_an_answer_is_not_completed_when_the_bytes_end_in_the_middle(
    client: Client,
    url: str,
    store: Telling,
    headers: list[tuple[str, str | bytes]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Cutting(Exchange):
        async def _send(self, message: Message) -> None:
            await super()._send(message)
            if message["type"] == "http.response.start":
                with store.place.open("r+b") as file:
                    file.truncate(1000)

    exchange = Cutting(client.app, "GET", url.removeprefix("http://tus.test"), headers)
    with pytest.raises(EOFError):
        await exchange.run()
    assert exchange.sent[-1]["more_body"] is True
    assert "but its file has 1000" in caplog.text


# streams of a store --------------------------------------------------------------------------------------------------


class Yielding(MemoryStore):
    """Yields given chunks for whatever range is asked for, then fails with `error`, if there is one."""

    def __init__(self, chunks: Sequence[bytes], error: TusError | None = None) -> None:
        super().__init__()
        self.chunks = chunks
        self.error = error
        self.asked: list[tuple[int, int]] = []
        self.yielded = 0
        self.closed = 0

    async def content(self, upload: Upload) -> Content:
        async def read(start: int, stop: int) -> AsyncGenerator[bytes]:
            self.asked.append((start, stop))
            try:
                for chunk in self.chunks:
                    self.yielded += 1
                    yield chunk
                if self.error is not None:
                    raise self.error
            finally:
                self.closed += 1

        return replace(await super().content(upload), read=read)


async def finished(serve: Serve, store: Yielding, size: int) -> tuple[Client, str]:
    """A client of an app over a store, and a finished upload of `size` bytes in it."""
    client = await serve(store=store)
    return client, await client.complete(bytes(size))


async def test_a_stream_that_yields_more_than_the_upload_has_is_cut(serve: Serve) -> None:
    store = Yielding([b"01", b"", b"23456", b"789", b"more"])
    client, url = await finished(serve, store, 6)
    response = await client.get(url)
    assert (response.status_code, response.headers["Content-Length"], response.content) == (200, "6", b"012345")
    assert (store.yielded, store.closed) == (3, 1)


async def test_a_stream_is_asked_for_the_ranges_alone(serve: Serve) -> None:
    store = Yielding([b"abc"])
    client, url = await finished(serve, store, 1000)
    await client.get(url, {"Range": "bytes=7-9"})
    await client.get(url, {"Range": "bytes=-3, 100-102"})
    await client.get(url, {"Range": "bytes=1000-"})
    await client.ask("HEAD", url, tus=False)
    assert store.asked == [(7, 10), (100, 103), (997, 1000)]


async def test_a_chunk_is_read_when_the_one_before_was_sent(serve: Serve) -> None:
    """So a client that reads slowly holds one chunk in memory, and not its upload."""
    store = Yielding([b"abc"] * 5)
    client, url = await finished(serve, store, 15)
    yielded: list[int] = []

    class Noting(Exchange):
        async def _send(self, message: Message) -> None:
            await super()._send(message)
            if message["type"] == "http.response.body":
                yielded.append(store.yielded)

    await Noting(client.app, "GET", url.removeprefix("http://tus.test")).run()
    assert yielded == [1, 2, 3, 4, 5]


async def test_a_stream_that_cannot_be_read_is_refused(serve: Serve) -> None:
    client, url = await finished(serve, Yielding([], StoreUnavailable()), 10)
    response = await client.get(url)
    assert (response.status_code, response.headers["Tus-Resumable"]) == (503, "1.0.0")


async def test_a_stream_without_bytes_is_an_internal_error(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client, url = await finished(serve, Yielding([]), 10)
    response = await client.get(url)
    assert (response.status_code, response.headers["Tus-Resumable"]) == (500, "1.0.0")
    assert "its bytes from 0 to 10 ended at 0" in caplog.text


@pytest.mark.parametrize("error", [None, StoreUnavailable()])
async def test_an_answer_is_not_completed_when_a_stream_ends_in_the_middle(
    serve: Serve, error: TusError | None
) -> None:
    client, url = await finished(serve, Yielding([b"0123"], error), 10)
    exchange = Exchange(client.app, "GET", url.removeprefix("http://tus.test"))
    with pytest.raises(EOFError):
        await exchange.run()
    assert [message["type"] for message in exchange.sent] == ["http.response.start", "http.response.body"]
    assert exchange.sent[-1]["more_body"] is True
