"""Downloads of damaged files under each ASGI server: garbage is not sent, and what is missing is noticed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.asgi.servers import KINDS, Kind, Running
from tests.support.tus import OCTETS, VERSION, eventually
from tests.support.wire import TIMEOUT

SIZE = 32 << 20
"""Bytes of an upload: more than sockets and servers keep for a client that does not read."""
EACH_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@contextmanager
def uploaded(kind: Kind, folder: Path, data: bytes) -> Iterator[tuple[Running, httpx.Client, str, Path]]:
    """A finished upload under a server; yields its URL and file too."""
    with Running(kind, folder) as running:
        trust = ssl.create_default_context(cafile=running.certificate) if kind.tls else True
        with httpx.Client(headers={"Tus-Resumable": VERSION}, verify=trust, timeout=TIMEOUT) as client:
            creating = {"Upload-Length": str(len(data)), "Content-Type": OCTETS}
            url = client.post(running.url, headers=creating, content=data).headers["Location"]
            (file,) = (path for path in (folder / "storage").rglob("*") if path.is_file() and path.read_bytes() == data)
            yield running, client, url, file


@EACH_KIND
def test_garbage_behind_an_upload_is_not_sent(kind: Kind, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    with uploaded(kind, tmp_path, data) as (_, client, url, file):
        with file.open("ab") as opened:
            opened.write(b"garbage")
        assert client.get(url).content == data
        assert client.get(url, headers={"Range": "bytes=99990-200000"}).content == data[99990:]
        several = client.get(url, headers={"Range": "bytes=0-9,99990-"}).content
        assert (data[:10] in several, data[99990:] in several, b"garbage" in several) == (True, True, False)


@EACH_KIND
def test_an_upload_that_lost_bytes_is_an_error_that_the_log_names(kind: Kind, tmp_path: Path) -> None:
    with uploaded(kind, tmp_path, b"0123456789") as (running, client, url, file):
        os.truncate(file, 7)
        answer = client.get(url)
        assert (answer.status_code, answer.text.split(":")[0]) == (500, "ERR_INTERNAL_SERVER_ERROR")
        told = f"upload {url.rpartition('/')[2]} has 10 bytes, but its file has 7"
        assert eventually(lambda: told in running.log())


@EACH_KIND
def test_a_download_that_cannot_be_completed_is_cut_off(kind: Kind, tmp_path: Path) -> None:
    with uploaded(kind, tmp_path, os.urandom(SIZE)) as (running, client, url, file):
        with client.stream("GET", url) as answer:
            assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(SIZE))
            os.truncate(file, 100)
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
        assert eventually(lambda: "but its file has 100" in running.log())
