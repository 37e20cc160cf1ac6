"""Bodies under each ASGI server, with a length and without: the rows of the conformance suite that send any."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from tests.asgi.servers import KINDS, ROOT, Kind, Running
from tests.support.tus import OCTETS, VERSION, Tus, patching
from tests.support.wire import TIMEOUT, chunk

BODIES = ("patch", "creation_with_upload", "checksum", "deferred_length", "concatenation", "creation")
"""Parts of the suite whose requests have bodies."""

WITHOUT_LENGTH = {
    "C19": "a body that is no upload's and has no length may have no end, so the connection is closed behind it",
}
"""Rows that fail with chunked bodies under every server, and why."""


def failing_rows(running: Running, *options: str) -> tuple[set[str], str]:
    """Run the suite against a server; return the rows that failed, and all that was printed."""
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    if "D11" in running.kind.differs:  # it is waited for in vain
        environment["TUS_TIMEOUT"] = "20"
    if running.kind.tls:
        environment["SSL_CERT_FILE"] = str(running.certificate)
    command = [sys.executable, "-m", "pytest", *(f"tests/conformance/test_{part}.py" for part in BODIES)]
    command += ["-q", "-p", "no:cacheprovider"]
    command += ["--tus-endpoint", running.url, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=850, check=False)
    counted = re.search(r"(\d+) rows pass, (\d+) fail", done.stdout)
    assert counted, f"the suite came to no end:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{running.log()[-2000:]}"
    assert int(counted[1]) > 60, done.stdout[-3000:]
    return set(re.findall(r"^ +([A-Z]\d+) \(", done.stdout, re.MULTILINE)), done.stdout


def check(kind: Kind, folder: Path, *options: str, differs: Iterable[str]) -> None:
    with Running(kind, folder) as running:
        failing, printed = failing_rows(running, *options)
    assert failing - set(kind.may_differ) == set(differs), printed[-6000:]


@pytest.mark.timeout(900)  # a suite of its own
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bodies_arrive_under_every_server(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path, differs=kind.differs)


@pytest.mark.timeout(900)  # a suite of its own
@pytest.mark.parametrize("kind", KINDS[::2], ids=lambda kind: kind.name)
def test_bodies_without_a_length_arrive_too(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path, "--tus-chunked", differs={*kind.differs, *WITHOUT_LENGTH})


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if not kind.name.startswith("wire")], ids=lambda kind: kind.name
)
def test_a_checksum_that_the_server_drops_is_not_taken_for_right(kind: Kind, tmp_path: Path) -> None:
    with Running(kind, tmp_path) as running:
        tus = Tus(running.url)
        assert "checksum-trailer" not in tus.options().listed("Tus-Extension")
        url = tus.upload(5)
        with tus.connect(url) as connection:
            announced = {**patching(0), "Transfer-Encoding": "chunked", "Trailer": "Upload-Checksum"}
            connection.ask("PATCH", tus.target(url), tus.fields(announced), chunk(b"hello"))
            assert connection.answer().status == 400
        assert tus.offset(url) == 0


SMALL_HEADS = ("uvicorn-h11", "hypercorn")
"""Servers that by themselves refuse a head that our limits let in: see docs/embedding.md."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name not in SMALL_HEADS], ids=lambda kind: kind.name)
def test_a_final_upload_may_name_as_many_parts_as_the_limit_says(kind: Kind, tmp_path: Path) -> None:
    host = "uploads." + "department-of-storage." * 3 + "example.org"
    usual = {"Tus-Resumable": VERSION, "Host": host}
    with Running(kind, tmp_path) as running:
        trust = ssl.create_default_context(cafile=running.certificate) if kind.tls else True
        with httpx.Client(headers=usual, verify=trust, timeout=TIMEOUT) as client:
            part = {"Upload-Concat": "partial", "Upload-Length": "1", "Content-Type": OCTETS}
            url = client.post(running.url, headers=part, content=b"x").headers["Location"]
            assert len(url) > 120
            final = client.post(running.url, headers={"Upload-Concat": "final;" + " ".join([url] * 1000)})
            assert final.status_code == 201, final.text
            path = urlsplit(final.headers["Location"]).path
            assert client.get(urljoin(running.url, path)).content == b"x" * 1000


def test_bodies_arrive_over_http_2(tmp_path: Path) -> None:
    """Which frames them in its own way."""
    body = bytes(range(256)) * 1000
    hypercorn = next(kind for kind in KINDS if kind.name == "hypercorn")
    usual = {"Tus-Resumable": VERSION}
    with (
        Running(hypercorn, tmp_path) as running,
        httpx.Client(http1=False, http2=True, headers=usual, timeout=TIMEOUT) as client,
    ):
        made = client.post(running.url, headers={"Upload-Length": str(len(body))})
        assert (made.http_version, made.status_code) == ("HTTP/2", 201)
        url = made.headers["Location"]
        for at in range(0, len(body), 100_000):
            piece = body[at : at + 100_000]
            content = iter([piece[:5], piece[5:]]) if at else piece  # with a length, then without
            patched = client.patch(url, headers=patching(at), content=content)
            assert (patched.status_code, patched.headers["Upload-Offset"]) == (204, str(at + len(piece)))
        assert client.get(url).content == body
        # Last, as hypercorn ends the connection when it hears bytes of a stream that is answered.
        assert client.patch(url, headers=patching(7), content=b"x").status_code == 409
