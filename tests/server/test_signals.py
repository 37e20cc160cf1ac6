"""Signals: which stop a server, which make it read its settings, which mean nothing; none loses what was told."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import children
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually
from tests.support.wire import Connection

ROOT = Path(__file__).parent.parent.parent
ENOUGH = 120.0
"""Seconds for what should take a blink; far fewer than a stop may wait here."""
WAITS = ("--server.shutdown_timeout", "1h")
STOPPED = "Stopped. Uploads are kept and can be resumed.\n"
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


def ended(server: TusServer, *signals: signal.Signals) -> bool:
    """Whether signals end a server cleanly."""
    code = server.end(*signals, within=ENOUGH)
    return code == 0 and server.output[-1] == STOPPED and not any("Traceback" in line for line in server.output)


@contextmanager
def halfway(tus: Tus) -> Iterator[tuple[str, Connection]]:
    """An upload of ten bytes of which four are on their way."""
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, headers={"Expect": "100-continue"}) as connection:
        assert eventually(connection.readable)
        connection.send(b"0123")
        yield url, connection


# to stop -------------------------------------------------------------------------------------------------------------


@WORKERS
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGQUIT", "SIGPWR", "SIGXCPU"])
def test_signals_to_stop_keep_what_has_arrived(tmp_path: Path, name: str, workers: str) -> None:
    with TusServer(tmp_path / "data", *WAITS, "--workers", workers) as server:
        tus = Tus(server.url)
        with halfway(tus) as (url, connection):
            assert ended(server, signal.Signals[name])
            assert connection.answer().status == 503
    with server:
        assert tus.offset(url) == 4
        assert tus.resume(url, b"0123456789")


STARTING = """
import os, signal, sys
from tusserver import assembly
from tusserver.__main__ import main

assemble = assembly.assemble

def interrupted(configured):
    os.kill(os.getpid(), signal.{name})
    return assemble(configured)

assembly.assemble = interrupted
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGQUIT"])
def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", STARTING.format(name=name), "serve", "--port", "0", "--storage", "data"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, STOPPED, "")


@WORKERS
def test_signals_that_mean_nothing_change_nothing(tmp_path: Path, workers: str) -> None:
    with TusServer(tmp_path / "data", *WAITS, "--workers", workers) as server:
        tus = Tus(server.url)
        before = children(server.pid)
        with halfway(tus) as (url, connection):
            for name in ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGPIPE", "SIGIO"):
                for process in (server.pid, *before):
                    os.kill(process, signal.Signals[name])
            connection.send(b"456789")
            assert connection.answer().status == 204
        assert tus.get(url).body == b"0123456789"
        assert children(server.pid) == before
        assert ended(server, signal.SIGTERM)


COPYING = """
import sys, threading
from tusserver.__main__ import main
from tusserver.disk import files

def stuck(*_):
    print("the copy hangs", flush=True)
    threading.Event().wait()

files.copy = stuck
sys.exit(main())
"""


@WORKERS
def test_a_second_signal_ends_a_copy_that_does_not_end(tmp_path: Path, workers: str) -> None:
    (tmp_path / "stuck.py").write_text(COPYING)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with TusServer(tmp_path / "data", *WAITS, "--workers", workers, module="stuck", env=env) as server:
        tus = Tus(server.url)
        parts = [tus.part(b"abc"), tus.part(b"def")]
        with tus.connect() as connection, halfway(tus) as (url, patch):
            tus.ask(connection, "POST", headers={"Upload-Concat": f"final;{' '.join(parts)}"})
            server.wait_for_output("the copy hangs")
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            assert patch.answer().status == 503
            assert ended(server, signal.SIGTERM)
    assert not any("is killed" in line for line in server.output)
    again = TusServer(tmp_path / "data", port=int(server.host.rsplit(":", 1)[1]))
    with again:
        assert tus.offset(url) == 4
        final = tus.join(*parts)
        assert final.status == 201
        assert tus.get(final["Location"] or "").body == b"abcdef"


# hangups -------------------------------------------------------------------------------------------------------------


def test_hangup_of_one_process_reads_the_settings_again_and_loses_nothing(tmp_path: Path) -> None:
    config = tmp_path / "tusserver.toml"
    config.write_text('[limits]\nmax_size = "1KB"\n')
    with TusServer(tmp_path / "data", *WAITS, "--config", str(config)) as server:
        tus = Tus(server.url)
        for size in (2000, 3000):
            config.write_text(f'[limits]\nmax_size = "{size // 1000}KB"\n')
            with halfway(tus) as (url, connection):
                os.kill(server.pid, signal.SIGHUP)
                assert connection.answer().status == 503
                server.wait_for_output("serving again")
                server.output = [line for line in server.output if "serving again" not in line]
                assert tus.options()["Tus-Max-Size"] == str(size)
            assert tus.offset(url) == 4
            assert tus.resume(url, b"0123456789")
        assert sum("Listening" in line for line in server.output) == 1
        assert ended(server, signal.SIGTERM)


def test_hangup_of_one_process_with_wrong_settings_disturbs_nobody(tmp_path: Path) -> None:
    config = tmp_path / "tusserver.toml"
    config.write_text("")
    with TusServer(tmp_path / "data", *WAITS, "--config", str(config)) as server:
        tus = Tus(server.url)
        config.write_text('[limits]\nmax_size = "lots"\n')
        with halfway(tus) as (url, connection):
            os.kill(server.pid, signal.SIGHUP)
            server.wait_for_output('the settings stay as they are: limits.max_size = "lots"')
            connection.send(b"456789")
            assert connection.answer().status == 204
        assert tus.get(url).body == b"0123456789"
        assert ended(server, signal.SIGTERM)


def test_a_stop_during_a_reload_is_a_stop(tmp_path: Path) -> None:
    with TusServer(tmp_path / "data") as server:
        tus = Tus(server.url)
        url = tus.complete(bytes(32 << 20))
        with tus.connect(url) as connection:
            tus.ask(connection, "GET", url)
            assert eventually(connection.readable)
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_output("Waiting for running requests (1)")
            assert ended(server, signal.SIGTERM, signal.SIGINT)


class Terminal:
    """A terminal with a server in it."""

    def __init__(self, folder: Path, workers: str) -> None:
        self._master, slave = pty.openpty()

        def enter() -> None:
            os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # if we were started by nohup
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        command = [sys.executable, "-m", "tusserver", "serve", "--port", "0", "--storage", str(folder)]
        self.process = subprocess.Popen(
            [*command, *WAITS, "--workers", workers],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=slave,
            preexec_fn=enter,
            text=True,
        )
        os.close(slave)
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.url = next(line for line in self.output if line.startswith("Listening")).split()[-1]

    def close(self) -> None:
        """Close it, as its window is closed."""
        os.close(self._master)


@WORKERS
def test_the_end_of_its_terminal_is_a_stop(tmp_path: Path, workers: str) -> None:
    terminal = Terminal(tmp_path / "data", workers)
    try:
        with halfway(Tus(terminal.url)) as (url, connection):
            terminal.close()
            assert connection.answer().status == 503
        assert terminal.process.wait(ENOUGH) == 0
        assert terminal.output.read() == STOPPED
    finally:
        terminal.process.kill()
        terminal.process.wait()
        terminal.output.close()
    with TusServer(tmp_path / "data") as server:
        assert Tus(server.url).offset(f"{server.url}/{url.rsplit('/', 1)[1]}") == 4
