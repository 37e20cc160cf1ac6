"""Caches in front of the server: they ask GET where a client asked HEAD, and must not keep what changes.

Nobody would set them up for uploads, but they stand in front of whole sites.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer
from tests.examples.proxies import FOLDERS, NGINX
from tests.examples.recorder import Recorder
from tests.examples.running import Program, listens
from tests.support.ports import free_port
from tests.support.tus import patching
from tests.support.wire import TIMEOUT

pytestmark = pytest.mark.proxy

VARNISH = shutil.which("varnishd", path=FOLDERS)

TUS = {"Tus-Resumable": "1.0.0"}


def nginx(folder: Path, port: int, upstream: str) -> list[str | Path]:
    """Write its configuration; return its command. It keeps every answer that no Cache-Control forbids to keep."""
    assert NGINX is not None
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"    {kind}_temp_path {folder}/{kind};" for kind in kinds)
    main = folder / "nginx.conf"
    main.write_text(
        f"""\
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
{paths}
    proxy_cache_path {folder}/cache keys_zone=answers:1m max_size=8m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_cache answers;
            proxy_cache_valid any 10m;
        }}
    }}
}}
"""
    )
    return [NGINX, "-e", folder / "error.log", "-p", folder, "-c", main]


def varnish(folder: Path, port: int, upstream: str) -> list[str | Path]:
    """Return its command. Its own rules keep an answer for two minutes if nothing forbids it."""
    assert VARNISH is not None
    jail = ("-j", "none")  # as the user who runs the tests
    return [
        VARNISH,
        *jail,
        "-F",
        "-n",
        folder / "varnish",
        "-a",
        f"127.0.0.1:{port}",
        "-b",
        upstream,
        "-s",
        "malloc,8m",
    ]


CACHES: dict[str, tuple[str | None, Callable[[Path, int, str], list[str | Path]]]] = {
    "nginx": (NGINX, nginx),
    "varnish": (VARNISH, varnish),
}
"""Where each is installed, and what starts it."""


Cache = Callable[[str], AbstractContextManager[str]]


@pytest.fixture(params=CACHES)
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    """Runs a cache in front of the server at host:port; gives the URL of uploads as it is seen through it."""
    installed, command = CACHES[request.param]
    if installed is None:
        pytest.skip(f"{request.param} is not installed")

    @contextmanager
    def in_front(upstream: str) -> Iterator[str]:
        port = free_port()
        with Program(
            command(tmp_path, port, upstream), ready=lambda: listens(port), log=tmp_path / "output.log", cwd=tmp_path
        ):
            yield f"http://127.0.0.1:{port}/files"

    return in_front


@pytest.fixture
def cached(cache: Cache, start_server: StartServer) -> Iterator[str]:
    """URL of a server's uploads, as it is seen through a cache."""
    with cache(start_server().host) as url:
        yield url


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(headers=TUS, timeout=TIMEOUT) as client:
        yield client


def created(client: httpx.Client, endpoint: str, length: int) -> str:
    answer = client.post(endpoint, headers={"Upload-Length": str(length)})
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


def test_these_caches_ask_get_for_head_and_keep_the_answer(cache: Cache, client: httpx.Client) -> None:
    """Unless the answer forbids it, which is what the other tests are about."""
    with Recorder(200) as behind, cache(behind.host) as url:
        assert [client.head(url).status_code for _ in range(3)] == [200, 200, 200]
    assert behind.methods == ["GET"]


def test_head_through_a_cache_tells_how_far_an_unfinished_upload_is(cached: str, client: httpx.Client) -> None:
    """As 423 says, it is to be asked for again; a 404 would make clients forget the upload."""
    url = created(client, cached, 10)
    told = []
    for offset in (0, 3, 6):
        told += [client.head(url) for _ in range(2)]
        assert (
            client.patch(url, headers=patching(offset), content=b"0123456789"[offset : offset + 3]).status_code == 204
        )
    assert {answer.status_code for answer in told} <= {200, 423}
    assert [answer.headers.get("Upload-Offset") for answer in told] == ["0", "0", "3", "3", "6", "6"]
    assert {answer.headers.get("Upload-Length") for answer in told} == {"10"}


def test_head_through_a_cache_tells_that_an_upload_has_become_whole(cached: str, client: httpx.Client) -> None:
    """What was asked before does not stay."""
    url = created(client, cached, 5)
    client.head(url)
    client.get(url)
    assert client.patch(url, headers=patching(0), content=b"01234").status_code == 204
    told = client.head(url)
    assert (told.status_code, told.headers.get("Upload-Offset"), told.headers.get("Upload-Length")) == (200, "5", "5")
    assert client.get(url).content == b"01234"


def test_head_after_a_download_through_a_cache_still_speaks_tus(cached: str, client: httpx.Client) -> None:
    url = created(client, cached, 5)
    assert client.patch(url, headers=patching(0), content=b"01234").status_code == 204
    assert client.get(url).content == b"01234"
    told = client.head(url)
    assert (told.status_code, told.headers.get("Upload-Offset"), told.headers.get("Upload-Length")) == (200, "5", "5")


def test_a_deleted_upload_is_gone_through_a_cache_too(cached: str, client: httpx.Client) -> None:
    url = created(client, cached, 5)
    assert client.patch(url, headers=patching(0), content=b"01234").status_code == 204
    assert client.get(url).content == b"01234"
    assert client.delete(url).status_code == 204
    assert client.get(url).status_code == 404
    assert client.head(url).status_code == 404
