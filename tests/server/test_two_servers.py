"""Two servers on one data folder are as one: who may interrupt whom holds between them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tusserver
from tests.conftest import StartServer
from tests.support.served import Served
from tests.support.server import TusServer
from tests.support.tus import Tus
from tests.support.wire import TIMEOUT
from tusserver import FileStore, MemoryLocker


@pytest.fixture
def servers(start_server: StartServer, tmp_path: Path) -> tuple[TusServer, TusServer]:
    """Two of them."""
    return start_server(storage=tmp_path / "data"), start_server(storage=tmp_path / "data")


def tus_of(servers: tuple[TusServer, TusServer]) -> tuple[Tus, Tus, str, str]:
    """Return a client of each, and the URL of an upload of 10 bytes at each."""
    one, two = (Tus(server.url) for server in servers)
    url = one.upload(10)
    return one, two, url, two.child(url.rsplit("/", 1)[1])


def test_a_head_at_the_other_server_tells_what_has_come_and_interrupts_nobody(
    servers: tuple[TusServer, TusServer],
) -> None:
    one, two, url, there = tus_of(servers)
    with one.begin_patch(url, 0, 10, b"abc") as writer:
        assert two.reaches(there, 3)
        assert two.patch(there, 5, b"fghij").status == 409
        assert writer.send(b"defghij")
        assert writer.answer().status == 204
    assert two.holds(there, b"abcdefghij")


def test_a_patch_at_the_other_server_takes_over_at_the_told_offset(servers: tuple[TusServer, TusServer]) -> None:
    one, two, url, there = tus_of(servers)
    with one.begin_patch(url, 0, 10, b"abc") as old:
        assert two.reaches(there, 3)
        assert old.send(b"??")
        assert two.patch(there, 3, b"defghij").status == 204
        assert old.answer().status == 423
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


# an app that embeds Tus is a server like any other -------------------------------------------------------------------


def test_an_app_on_the_folder_of_a_server_shares_its_locks(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(storage=tmp_path / "data")
    one = Tus(server.url)
    url = one.upload(10)
    with Served(tusserver.Tus(FileStore(tmp_path / "data"))) as app, one.begin_patch(url, 0, 10, b"abc") as stalled:
        two = Tus(app.url)
        there = two.child(url.rsplit("/", 1)[1])
        assert two.reaches(there, 3)
        assert two.patch(there, 3, b"defghij").status == 204
        assert stalled.answer().status == 423
    assert one.holds(url, b"abcdefghij")


APP = """
from tusserver import FileStore, MemoryLocker, Tus

app = Tus(FileStore("data"), locker=MemoryLocker())
"""


def test_an_app_with_locks_of_its_own_does_not_start_on_the_folder_of_a_server(
    start_server: StartServer, tmp_path: Path
) -> None:
    start_server(storage=tmp_path / "data")
    (tmp_path / "embedding.py").write_text(APP)
    command = [sys.executable, "-m", "uvicorn", "--port", "0", "embedding:app"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode != 0
    assert "is in use with other locks" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["remove", "abc"], ["sweep"]])
def test_a_folder_of_an_app_with_locks_of_its_own_is_refused_until_that_stops(
    command: list[str], tmp_path: Path
) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "tusserver", *command, "--storage", str(tmp_path / "data")]
        return subprocess.run(words, check=False, capture_output=True, text=True, timeout=TIMEOUT)

    with Served(tusserver.Tus(FileStore(tmp_path / "data"), locker=MemoryLocker())):
        refused = run()
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "store.root" in refused.stderr
    assert "is in use with other locks" in refused.stderr
    if command[0] != "serve":
        assert "in use" not in run().stderr
