"""`tusserver download`: the right bytes under a safe name, and from where an earlier try was cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.cli.conftest import Run
from tests.support.proxy import Fault, Proxy
from tests.support.served import Served
from tests.support.server import TusServer
from tests.support.wire import TIMEOUT
from tusserver.cli.download import local_name

BYTES = os.urandom(2_000_000)

Download = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TusServer]:
    """One server for all tests of this file."""
    with TusServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def url(server: TusServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished upload."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "a b.bin").write_bytes(BYTES)
    done = command(folder, "upload", "a b.bin", server.url)
    assert done.returncode == 0
    return done.stdout.decode().strip()


def command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run `tusserver` in its own process, in a folder that also holds its state."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUSSERVER_")}
    return subprocess.run(
        [sys.executable, "-m", "tusserver", *map(str, arguments)],
        cwd=folder,
        env={**kept, "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture
def download(tmp_path: Path) -> Download:
    """Run the command."""
    return lambda *arguments: command(tmp_path, "download", *arguments)


@pytest.fixture
def proxy(server: TusServer) -> Iterator[Proxy]:
    """A bad network in front of the server."""
    with Proxy(server.host) as proxy:
        yield proxy


def events(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    """The lines of --json."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_file_gets_the_name_it_was_uploaded_with(download: Download, url: str, tmp_path: Path) -> None:
    done = download(url)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a b.bin\n", b"")
    assert (tmp_path / "a b.bin").read_bytes() == BYTES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b.bin", "state"]
    assert list((tmp_path / "state/tusserver/downloads").iterdir()) == []


def test_a_file_that_is_there_is_replaced_only_when_told(download: Download, url: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    done = download(url, "-o", "mine")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"tusserver: mine is there already; name another with -o, or add --overwrite\n"
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert download(url, "-o", "mine", "--overwrite").returncode == 0
    assert (tmp_path / "mine").read_bytes() == BYTES


def test_standard_output_gets_the_bytes_and_nothing_else(
    download: Download, url: str, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.fail(Fault.RESET, after=700_000, answers=True)
    done = download(proxy.through(url), "-o", "-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == BYTES


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
def test_after_a_cut_only_the_rest_is_asked_for(
    download: Download, url: str, proxy: Proxy, tmp_path: Path, fault: Fault
) -> None:
    proxy.fail(fault, after=700_000, answers=True)
    done = download(proxy.through(url), "--json", "-o", "x")
    assert [event["event"] for event in events(done)] == ["started", "waiting", "started", "done"]
    assert events(done)[2]["offset"] > 0
    assert (tmp_path / "x").read_bytes() == BYTES


def test_the_same_command_goes_on_after_it_gave_up(download: Download, url: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.fail(Fault.CLOSE, after=700_000, answers=True)
    given_up = download(proxy.through(url), "-o", "x", "--retries", "0")
    assert given_up.returncode == 1
    assert b"gave up after one try" in given_up.stderr
    assert not (tmp_path / "x").exists()
    arrived = (tmp_path / "x.part").stat().st_size
    assert arrived > 0
    again = events(download(proxy.through(url), "-o", "x", "--json"))
    assert [event["event"] for event in again] == ["started", "done"]
    assert again[0]["offset"] == arrived
    assert (tmp_path / "x").read_bytes() == BYTES


def test_an_unknown_upload_is_told_in_one_line(download: Download, server: TusServer, tmp_path: Path) -> None:
    done = download(f"{server.url}/nobody")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"tusserver: the server refuses: 404")
    assert done.stderr.count(b"\n") == 1


def test_a_file_that_changed_is_not_stitched_together(download: Download, tmp_path: Path) -> None:
    versions = [(b"old" * 300_000, '"1"'), (b"new" * 300_000, '"2"')]
    asked: list[tuple[str | None, str | None]] = []

    async def file(request: Request) -> Response:
        asked.append((request.headers.get("range"), request.headers.get("if-range")))
        body, etag = versions[min(len(asked), 2) - 1]
        return Response(body, headers={"ETag": etag})  # ranges are ignored, as they are for another version

    with Served(Starlette(routes=[Route("/f", file)])) as served, Proxy(served.url.split("/")[2]) as proxy:
        proxy.fail(Fault.CLOSE, after=500_000, answers=True)
        done = download(proxy.through(f"{served.url}/f"), "--json")
    assert done.returncode == 0
    assert (tmp_path / "f").read_bytes() == b"new" * 300_000
    assert asked[0] == (None, None)
    assert asked[1][0] is not None
    assert asked[1][1] == '"1"'


def test_a_redirect_is_told_and_not_followed(download: Download) -> None:
    async def moved(request: Request) -> Response:
        return PlainTextResponse("", 302, {"Location": "https://elsewhere.invalid/f"})

    with Served(Starlette(routes=[Route("/f", moved)])) as served:
        done = download(f"{served.url}/f")
    assert done.returncode == 1
    assert done.stderr == b"tusserver: the server points to https://elsewhere.invalid/f; use that address\n"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.raw", "photo.raw"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\y.txt", "y.txt"),
        (".bashrc", "bashrc"),
        ("..", ""),
        ("a\x1b[2J\nb", "a[2Jb"),
        ("\u00e9" * 300, "\u00e9" * 100),
    ],
)
def test_a_name_from_a_server_stays_in_the_folder(name: str, safe: str) -> None:
    assert local_name(name) == safe


def test_wrong_usage_is_one_line(run: Run) -> None:
    done = run("download", "file:///etc/passwd")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
