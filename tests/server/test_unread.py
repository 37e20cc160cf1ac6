"""Servers whose output is not read: they continue, lose nothing, and end when they should."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.tus import Tus, eventually

ENOUGH = 120.0
"""Seconds for what should take a blink."""
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


@contextmanager
def serving(folder: Path, shell: str, workers: str, *fds: int) -> Iterator[tuple[Tus, subprocess.Popen[bytes]]]:
    """A server that a shell starts with its output redirected as `shell` says; its log has a line for each request."""
    port = free_port()
    command = f"{sys.executable} -m tusserver serve --port {port} --storage {folder} --workers {workers}"
    process = subprocess.Popen(["bash", "-c", f"exec {command} --log.level debug {shell}"], pass_fds=fds)
    tus = Tus(f"http://127.0.0.1:{port}/files")

    def answers() -> bool:
        try:
            return tus.options().status == 204
        except OSError:
            return False

    try:
        assert eventually(answers, 30)
        yield tus, process
    finally:
        process.kill()
        process.wait()


def uploads_go_through(tus: Tus) -> None:
    """Make uploads whose log does not fit into a pipe, and look at what was kept."""
    for number in range(60):
        body = b"%010d" % number
        url = tus.upload(10, body=body[:4])
        assert tus.patch(url, 3, b"x").status == 409
        assert tus.resume(url, body)
        assert tus.get(url).body == body


@WORKERS
def test_a_full_pipe_stops_nothing(tmp_path: Path, workers: str) -> None:
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
    os.write(into, b"." * fcntl.fcntl(into, fcntl.F_GETPIPE_SZ))
    try:
        with serving(tmp_path / "data", f">&{into} 2>&1", workers, into) as (tus, process):
            uploads_go_through(tus)
            process.send_signal(signal.SIGTERM)
            assert process.wait(ENOUGH) == 0
    finally:
        os.close(out)
        os.close(into)


@WORKERS
def test_a_reader_that_has_gone_stops_nothing(tmp_path: Path, workers: str) -> None:
    out, into = os.pipe()
    with serving(tmp_path / "data", f">&{into} 2>&1", workers, into) as (tus, process):
        os.close(into)
        os.close(out)
        uploads_go_through(tus)
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENOUGH) == 0


@WORKERS
@pytest.mark.parametrize("shell", [">/dev/full 2>&1", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_that_is_full_or_closed_stops_nothing_and_gets_into_no_file(
    tmp_path: Path, workers: str, shell: str
) -> None:
    with serving(tmp_path / "data", shell, workers) as (tus, process):
        uploads_go_through(tus)
        if "&-" in shell:
            assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENOUGH) == 0
    logged = [
        path for path in (tmp_path / "data").rglob("*") if path.is_file() and b"upload finished" in path.read_bytes()
    ]
    assert logged == []


def test_a_refusal_that_cannot_be_read_has_its_exit_code(tmp_path: Path) -> None:
    for shell in ("2>&-", "2>/dev/full"):
        command = f"exec {sys.executable} -m tusserver serve --max-size lots {shell}"
        assert subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=30, check=False).returncode == 2
