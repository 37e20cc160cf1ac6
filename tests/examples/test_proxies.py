"""The proxies as the examples configure them: bodies stream through, URLs are right, lies are not believed."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import aiotus
import httpx
import pytest
from tusclient.client import TusClient

from tests.conftest import StartServer
from tests.examples.proxies import KINDS, RELOAD, STOP, Front, in_front
from tests.examples.recorder import Recorder
from tests.interop.goods import KIB, MIB, make_bytes
from tests.interop.node import Node
from tests.support.server import TusServer
from tests.support.tus import base64_of, checksum, eventually, patching
from tests.support.wire import TIMEOUT, Answer, Connection, chunk
from tusserver.web.pages import PATHS

pytestmark = pytest.mark.proxy

TUS = {"Tus-Resumable": "1.0.0"}

HTTP = [pytest.param(False, id="http/1.1"), pytest.param(True, id="http/2")]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if KINDS[name][0] is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def behind(start_server: StartServer, kind: str) -> TusServer:
    """A server that trusts a proxy on this machine, and knows whether trailers come through it."""
    passed = ("--proxies.trailers", "true") if kind == "haproxy" else ()
    return start_server("--proxies.trusted", "127.0.0.1", "--limits.uploads_per_client", "3", *passed)


@pytest.fixture
def front(kind: str, behind: TusServer, tmp_path: Path) -> Iterator[Front]:
    """A proxy that runs, in front of `behind`."""
    with in_front(kind, behind.host, tmp_path) as front:
        yield front


def client_of(front: Front, *, http2: bool = False, address: str | None = None) -> httpx.Client:
    """A client that trusts the proxy's certificate and speaks one version only."""
    trust = ssl.create_default_context(cafile=str(front.authority))
    transport = httpx.HTTPTransport(verify=trust, http1=not http2, http2=http2, local_address=address)
    return httpx.Client(transport=transport, headers=TUS, timeout=TIMEOUT)


def created(client: httpx.Client, front: Front, length: int, headers: dict[str, str] | None = None) -> str:
    answer = client.post(front.url, headers={"Upload-Length": str(length), **(headers or {})})
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


class Body:
    """A body of `data` that stops after `until` bytes till it is told to go on."""

    def __init__(self, data: bytes, until: int) -> None:
        self._data = data
        self._until = until
        self.go = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        step = 16 * KIB
        for at in range(0, self._until, step):
            yield self._data[at : min(at + step, self._until)]
        # A client that is slow but alive: a byte now and then, so that HEAD does not take it for one that stalls.
        at = self._until
        while not self.go.wait(0.05) and at < len(self._data) - 1:
            yield self._data[at : at + 1]
            at += 1
        yield self._data[at:]


@pytest.mark.parametrize("http2", HTTP)
def test_an_upload_streams_through(front: Front, http2: bool) -> None:
    """The server has bytes while the client still sends: the proxy does not take all of the body first."""
    source = make_bytes(3 * MIB)
    body = Body(source, until=2 * MIB)
    with client_of(front, http2=http2) as client, ThreadPoolExecutor(1) as pool:
        url = created(client, front, len(source))
        running = pool.submit(client.patch, url, headers=patching(0), content=body)
        try:
            with client_of(front) as other:
                arrived = eventually(lambda: int(other.head(url).headers["Upload-Offset"]) >= MIB)
            assert arrived, "nothing arrives before the body is whole"
            assert not running.done()
        finally:
            body.go.set()
        answer = running.result(TIMEOUT)
        assert (answer.status_code, answer.http_version) == (204, "HTTP/2" if http2 else "HTTP/1.1")
        assert client.get(url).content == source


@pytest.mark.parametrize("http2", HTTP)
def test_one_large_body_goes_through(front: Front, http2: bool) -> None:
    """nginx refuses more than 1 MiB if it is not told otherwise."""
    source = make_bytes(16 * MIB)
    with client_of(front, http2=http2) as client:
        url = created(client, front, len(source))
        assert client.patch(url, headers=patching(0), content=source).status_code == 204
        assert hashlib.sha256(client.get(url).content).digest() == hashlib.sha256(source).digest()


def test_a_body_of_any_size_is_let_in(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = str(1 << 40)
    with Recorder(204) as behind, in_front(kind, behind.host, tmp_path) as front:
        monkeypatch.setenv("SSL_CERT_FILE", str(front.authority))
        with Connection(front.url) as connection:
            fields = {**TUS, **patching(0), "Host": "localhost", "Content-Length": size}
            connection.ask("PATCH", "/files/1", fields.items(), bytes(64 * KIB))
            assert eventually(lambda: bool(behind.heads))
    assert behind.heads[0]["content-length"] == size


def test_a_download_keeps_its_length_and_its_etag(front: Front, behind: TusServer) -> None:
    """Text is not compressed on its way: Apache httpd as Debian sets it up does so."""
    text = b"0123456789" * KIB
    with client_of(front) as client:
        url = created(client, front, len(text), {"Upload-Metadata": f"filetype {base64_of('text/plain')}"})
        assert client.patch(url, headers=patching(0), content=text).status_code == 204
        direct = httpx.get(f"{behind.url}/{url.rsplit('/', 1)[1]}", timeout=TIMEOUT)
        through = client.get(url, headers={"Accept-Encoding": "gzip, br"})
        part = client.get(url, headers={"Range": "bytes=5-9", "If-Range": direct.headers["ETag"]})
    assert through.headers["Content-Type"].startswith("text/plain")
    for name in ("ETag", "Content-Length", "Content-Encoding"):
        assert through.headers.get(name) == direct.headers.get(name)
    assert (part.status_code, part.content) == (206, b"56789")


@pytest.mark.parametrize("http2", HTTP)
def test_a_location_is_the_address_that_the_client_knows(front: Front, http2: bool) -> None:
    with client_of(front, http2=http2) as client:
        assert re.fullmatch(re.escape(front.url) + "/[0-9a-f]{32}", created(client, front, 5))


def test_nothing_that_a_client_makes_up_is_believed(front: Front) -> None:
    made_up = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Port": "1",
        "X-Forwarded-Prefix": "/evil",
        "Forwarded": "for=192.0.2.1;host=evil.example;proto=http",
    }
    with client_of(front) as client:
        assert created(client, front, 5, made_up).startswith(front.url + "/")


def test_only_what_the_proxy_says_reaches_the_server(kind: str, tmp_path: Path) -> None:
    names = [f"x-forwarded-{name}" for name in ("for", "host", "proto", "port", "prefix")]
    with (
        Recorder(201) as behind,
        in_front(kind, behind.host, tmp_path) as front,
        client_of(front) as client,
    ):
        client.post(front.url, headers=dict.fromkeys([*names, "forwarded"], "evil.example"))
    told = behind.heads[0]
    host = front.url.removeprefix("https://").removesuffix("/files")
    assert [told.get(name) for name in names] == ["127.0.0.1", host, "https", None, None]
    assert "forwarded" not in told
    assert told["host"] == host


def test_a_client_cannot_take_away_what_the_proxy_says(front: Front) -> None:
    """A field that Connection names goes no further than the next machine."""
    with client_of(front) as client:
        fields = "X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto"
        assert created(client, front, 5, {"Connection": fields}).startswith(front.url + "/")


def test_a_client_cannot_hide_behind_an_address_it_makes_up(front: Front) -> None:
    """The server allows three unfinished uploads of one client."""
    with client_of(front, address="127.0.0.2") as client:
        for number in range(3):
            created(client, front, 5, {"X-Forwarded-For": f"192.0.2.{number}"})
        refused = client.post(front.url, headers={"Upload-Length": "5", "X-Forwarded-For": "192.0.2.9"})
    assert refused.status_code == 429
    with client_of(front, address="127.0.0.3") as another:
        created(another, front, 5)


@pytest.mark.parametrize("http2", HTTP)
def test_the_longest_metadata_goes_in_and_comes_back(front: Front, http2: bool) -> None:
    longest = "note " + "A" * (16 * KIB - 8)
    with client_of(front, http2=http2) as client:
        url = created(client, front, 5, {"Upload-Metadata": longest})
        assert client.head(url).headers["Upload-Metadata"] == longest


def test_an_upload_goes_on_after_the_proxy_was_restarted(front: Front, kind: str) -> None:
    source = make_bytes(3 * MIB)
    body = Body(source, until=2 * MIB)
    with client_of(front) as client, ThreadPoolExecutor(1) as pool:
        url = created(client, front, len(source))
        running = pool.submit(client.patch, url, headers=patching(0), content=body)
        with client_of(front) as other:
            assert eventually(lambda: int(other.head(url).headers["Upload-Offset"]) >= MIB)
        front.program.stop(STOP[kind])
        body.go.set()
        assert isinstance(running.exception(30), httpx.TransportError)
    front.program.start()
    with client_of(front) as client:
        offset = int(client.head(url).headers["Upload-Offset"])
        assert MIB <= offset < len(source)
        assert client.patch(url, headers=patching(offset), content=source[offset:]).status_code == 204
        assert client.get(url).content == source


@pytest.mark.parametrize("kind", RELOAD, indirect=True)
def test_a_reload_cuts_nothing(front: Front, kind: str) -> None:
    source = make_bytes(3 * MIB)
    body = Body(source, until=2 * MIB)
    with client_of(front) as client, ThreadPoolExecutor(1) as pool:
        url = created(client, front, len(source))
        running = pool.submit(client.patch, url, headers=patching(0), content=body)
        with client_of(front) as other:
            assert eventually(lambda: int(other.head(url).headers["Upload-Offset"]) >= MIB)
            os.kill(front.program.pid, RELOAD[kind])
        # New workers serve at once, while the old one brings its request to the end. Idle connections it closes.
        with client_of(front) as another:
            assert another.head(url).status_code == 200
        body.go.set()
        assert running.result(TIMEOUT).status_code == 204
    with client_of(front) as client:
        assert client.get(url).content == source


@pytest.mark.parametrize("http2", HTTP)
def test_the_upload_page_is_there_whole(front: Front, http2: bool) -> None:
    origin = front.url.removesuffix("/files")
    with client_of(front, http2=http2) as client:
        answers = {path: client.get(origin + path) for path in PATHS}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(PATHS, 200)
    assert "connect-src 'self'" in answers["/"].headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/%6civez"])
def test_the_health_of_the_server_is_nobodys_business(front: Front, behind: TusServer, path: str) -> None:
    with client_of(front) as client:
        assert client.get(front.url.removesuffix("/files") + path).status_code == 404
    assert httpx.get(behind.url.removesuffix("/files") + path, timeout=TIMEOUT).status_code == 200


@pytest.mark.parametrize("kind", ["haproxy"], indirect=True)
@pytest.mark.parametrize(("told", "status"), [(b"01234", 204), (b"56789", 460)], ids=["right", "wrong"])
def test_a_checksum_in_a_trailer_goes_through_haproxy(
    front: Front, monkeypatch: pytest.MonkeyPatch, told: bytes, status: int
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(front.authority))
    with client_of(front) as client:
        url = created(client, front, 5)
    fields = {**TUS, **patching(0), "Host": "localhost", "Transfer-Encoding": "chunked", "Trailer": "Upload-Checksum"}
    with Connection(front.url) as connection:
        connection.ask("PATCH", urlsplit(url).path, fields.items(), chunk(b"01234"))
        connection.send(b"0\r\nUpload-Checksum: " + checksum(told).encode() + b"\r\n\r\n")
        assert connection.answer().status == status


# large heads ---------------------------------------------------------------------------------------------------------

PARTS = "final;" + " ".join(f"https://uploads.example.com/files/{number:065x}" for number in range(1000))
"""The largest Upload-Concat that clients send: 1000 parts, 100 KB."""
LARGEST = "final;" + "A" * (190 * KIB)
"""With the other fields 192 KiB: the largest head that the server takes."""


def test_the_largest_head_goes_in_and_comes_back(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(PARTS) == 100_005
    with Recorder(200, {"Upload-Concat": LARGEST}) as behind, in_front(kind, behind.host, tmp_path) as front:
        monkeypatch.setenv("SSL_CERT_FILE", str(front.authority))
        answers: list[Answer] = []
        for field in (PARTS, LARGEST):
            with Connection(front.url) as connection:
                connection.ask(
                    "POST", "/files", [("Host", "localhost"), ("Upload-Concat", field), ("Content-Length", "0")]
                )
                answers.append(connection.answer())
    assert [answer.status for answer in answers] == [200, 200]
    assert [head["upload-concat"] for head in behind.heads] == [PARTS, LARGEST]
    assert {answer["Upload-Concat"] for answer in answers} == {LARGEST}


def test_a_large_head_goes_in_over_http2(kind: str, tmp_path: Path) -> None:
    # As the example says, Apache httpd takes no larger field.
    fields = [PARTS, LARGEST] if kind != "httpd" else [PARTS[: 60 * KIB]]
    with (
        Recorder(201) as behind,
        in_front(kind, behind.host, tmp_path) as front,
        client_of(front, http2=True) as client,
    ):
        statuses = [client.post(front.url, headers={"Upload-Concat": field}).status_code for field in fields]
    assert statuses == [201] * len(fields)
    assert [head["upload-concat"] for head in behind.heads] == fields


# while the server is away --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("http2", HTTP)
def test_while_the_server_restarts_clients_keep_their_uploads(front: Front, behind: TusServer, http2: bool) -> None:
    """On any other status of a HEAD tus-js-client forgets the upload and starts again."""
    with client_of(front, http2=http2) as client:
        url = created(client, front, 10)
        assert client.patch(url, headers=patching(0), content=b"01234").status_code == 204
        behind.stop()
        asked = client.head(url)
        assert (asked.status_code, asked.headers["Retry-After"]) == (423, "1")
        assert client.patch(url, headers=patching(5), content=b"56789").status_code in (502, 503, 504)
        assert client.get(url).status_code in (502, 503, 504)
        behind.start()
        asked = client.head(url)
        assert (asked.status_code, asked.headers["Upload-Offset"]) == (200, "5")
        assert client.patch(url, headers=patching(5), content=b"56789").status_code == 204


def test_a_server_that_dies_over_a_head_is_away_too(kind: str, tmp_path: Path) -> None:
    with Recorder(0) as behind, in_front(kind, behind.host, tmp_path) as front:
        # On connections that were used before, some proxies leave it to the client to ask again.
        with client_of(front) as client:
            asked = client.head(front.url + "/1")
        with client_of(front) as client:
            deleted = client.delete(front.url + "/1")
    assert (asked.status_code, asked.headers["Retry-After"]) == (423, "1")
    assert deleted.status_code in (502, 503, 504)
    assert behind.heads


@pytest.mark.parametrize("status", [404, 502, 503, 504])
def test_what_the_server_answers_passes_unchanged(kind: str, tmp_path: Path, status: int) -> None:
    with (
        Recorder(status, {"Retry-After": "7"}) as behind,
        in_front(kind, behind.host, tmp_path) as front,
        client_of(front) as client,
    ):
        answers = [client.request(method, front.url + "/1") for method in ("HEAD", "GET")]
    assert [(answer.status_code, answer.headers["Retry-After"]) for answer in answers] == [(status, "7")] * 2


# foreign clients, as they go through ---------------------------------------------------------------------------------


def test_tuspy_sends_chunks_with_checksums_through(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(front.authority))
    source = make_bytes(3 * MIB + 1)
    client = TusClient(front.url).uploader(
        file_stream=BytesIO(source), chunk_size=MIB, upload_checksum=True, metadata={"filename": "photo.raw"}
    )
    client.upload()
    with client_of(front) as other:
        assert other.get(str(client.url)).content == source


async def test_aiotus_joins_parts_through_a_proxy(front: Front) -> None:
    """It names the parts as the server named them, which is behind HTTPS and not where the server listens."""
    sources = [make_bytes(MIB + number, seed=number) for number in range(4)]
    trust = ssl.create_default_context(cafile=str(front.authority))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
        whole = await aiotus.upload_multiple(
            front.url, map(BytesIO, sources), client_session=session, chunksize=500_000
        )
        assert str(whole).startswith(front.url + "/")
        async with session.get(str(whole)) as answer:
            assert await answer.read() == b"".join(sources)


@pytest.mark.node
def test_tus_js_client_sends_parallel_parts_through(front: Front, node_packages: Path, tmp_path: Path) -> None:
    source = tmp_path / "photo.raw"
    source.write_bytes(make_bytes(3 * MIB + 1))
    node = Node(node_packages, {"NODE_EXTRA_CA_CERTS": str(front.authority)})
    try:
        client = node.run(source, options={"endpoint": front.url, "parallelUploads": 3})
        with client_of(front) as other:
            assert other.get(client.url).content == source.read_bytes()
    finally:
        node.close()


@pytest.mark.node
def test_tus_js_client_goes_on_where_it_was_when_the_server_restarts(
    front: Front, behind: TusServer, node_packages: Path, tmp_path: Path
) -> None:
    source = tmp_path / "photo.raw"
    source.write_bytes(make_bytes(8 * MIB))
    node = Node(node_packages, {"NODE_EXTRA_CA_CERTS": str(front.authority)})
    options = {"endpoint": front.url, "chunkSize": 64 * KIB, "retryDelays": [0, *[100] * 50]}
    try:
        client = node.start(source, options=options)
        client.wait_for("chunk")
        behind.stop()
        # Those before came in before the server was gone.
        while client.wait_for("response") != {"event": "response", "method": "HEAD", "status": 423}:
            pass
        behind.start()
        client.finish()
        assert client.methods.count("POST") == 1
        with client_of(front) as other:
            assert other.get(client.url).content == source.read_bytes()
    finally:
        node.close()
