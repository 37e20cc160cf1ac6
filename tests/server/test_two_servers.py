"""Two servers on one data folder are as one: who may interrupt whom holds between them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.server import TusServer
from tests.support.tus import Tus


@pytest.fixture
def servers(start_server: StartServer, tmp_path: Path) -> tuple[TusServer, TusServer]:
    """Two of them."""
    return start_server(storage=tmp_path / "data"), start_server(storage=tmp_path / "data")


def tus_of(servers: tuple[TusServer, TusServer]) -> tuple[Tus, Tus, str, str]:
    """Return a client of each, and the URL of an upload of 10 bytes at each."""
    one, two = (Tus(server.url) for server in servers)
    url = one.upload(10)
    return one, two, url, two.child(url.rsplit("/", 1)[1])


def test_a_head_at_the_other_server_stops_a_stalled_body_and_keeps_its_bytes(
    servers: tuple[TusServer, TusServer],
) -> None:
    one, two, url, there = tus_of(servers)
    with one.begin_patch(url, 0, 10, b"abc") as stalled:
        assert two.reaches(there, 3)
        assert stalled.answer().status == 423
    assert two.patch(there, 3, b"defghij").status == 204
    assert two.holds(there, b"abcdefghij")


def test_a_delete_at_the_other_server_ends_a_body(servers: tuple[TusServer, TusServer]) -> None:
    one, two, url, there = tus_of(servers)
    with one.begin_patch(url, 0, 10, b"abc") as stalled:
        assert two.delete(there).status == 204
        assert stalled.answer().status in (404, 423)
    assert one.head(url).status == 404
    assert servers[0].files() == []


def test_an_upload_is_removed_from_the_command_line_while_it_is_written(servers: tuple[TusServer, TusServer]) -> None:
    one, _, url, _ = tus_of(servers)
    command = [sys.executable, "-m", "tusserver", "remove", "--storage", str(servers[0].storage), url.rsplit("/", 1)[1]]
    with one.begin_patch(url, 0, 10, b"abc") as stalled:
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith("Removed ")
        assert stalled.answer().status in (404, 423)
    assert servers[0].files() == []


def test_a_server_that_is_killed_leaves_no_lock(servers: tuple[TusServer, TusServer]) -> None:
    one, two, url, there = tus_of(servers)
    with one.begin_patch(url, 0, 10, b"abc"):
        servers[0].kill()
        assert two.resume(there, b"abcdefghij")
    assert two.holds(there, b"abcdefghij")
