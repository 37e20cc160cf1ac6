"""Interim answers of a dialect reach its clients, and those of no other."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.draft import DraftDialect
from tests.support.served import Served
from tests.support.tus import eventually
from tests.support.wire import TIMEOUT, Answer, Connection, render
from tusserver import FileStore, Tus
from tusserver.protocol.tus import TusDialect
from tusserver.server.protocol import TusHttpProtocol

DRAFT = [("Host", "tus.test"), ("Upload-Draft-Interop-Version", "6")]
TUS = [("Host", "tus.test"), ("Tus-Resumable", "1.0.0")]
CREATION = [*DRAFT, ("Upload-Complete", "?1"), ("Content-Length", "10")]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server of both dialects."""
    app = Tus(FileStore(tmp_path / "data"), dialects=(TusDialect, DraftDialect))
    with Served(app, http=TusHttpProtocol) as served:
        yield served.url


def located(raw: socket.socket) -> str:
    """Read the interim answer, and return the path of the URL in it."""
    interim = raw.recv(1000)
    assert interim.startswith(b"HTTP/1.1 104 ")
    assert b"Upload-Draft-Interop-Version: 6\r\n" in interim
    found = re.search(rb"Location: http://tus\.test(/\w+)\r\n", interim)
    assert found is not None
    return found[1].decode()


def head(url: str, path: str) -> Answer:
    with Connection(url) as connection:
        connection.ask("HEAD", path, DRAFT)
        return connection.answer()


def test_a_client_knows_the_url_before_it_sends_the_body(url: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT) as raw:
        raw.sendall(render("POST", "/", CREATION))
        path = located(raw)
        raw.sendall(b"0123456789")
        assert raw.recv(1000).startswith(b"HTTP/1.1 201 ")
    assert head(url, path)["Upload-Complete"] == "?1"


def test_a_client_that_lost_its_connection_can_resume(url: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT) as raw:
        raw.sendall(render("POST", "/", CREATION))
        path = located(raw)
        raw.sendall(b"01234")
    assert eventually(lambda: head(url, path)["Upload-Offset"] == "5")
    assert head(url, path)["Upload-Complete"] == "?0"


def test_a_client_of_tus_gets_none(url: str) -> None:
    headers = [*TUS, ("Upload-Length", "10"), ("Content-Type", "application/offset+octet-stream")]
    with Connection(url) as connection:
        connection.ask("POST", "/", [*headers, ("Content-Length", "10")])
        connection.send(b"0123456789")
        answer = connection.answer()
    assert (answer.status, answer.interim, answer["Upload-Offset"]) == (201, (), "10")
