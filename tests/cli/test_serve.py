"""`tusserver serve` in its own process: what it says, and how it starts and stops."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.server import HAND_OVER, TusServer
from tests.support.tus import Tus, eventually
from tests.support.wire import TIMEOUT, Connection
from tusserver import __version__

WAITS = ("--server.shutdown_timeout", "1h")
"""A stop that waits for what it need not wait for is seen to hang."""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[TusServer]:
    """A server of this test's own."""
    server = TusServer(tmp_path / "data", *WAITS)
    try:
        yield server.start()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


def refused(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The one line of a start that is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "tusserver", "serve", *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr.rstrip("\n")


def traceless(server: TusServer) -> bool:
    """Whether it left without a traceback."""
    return not any("Traceback" in line or "Exception" in line for line in server.output)


# the start -----------------------------------------------------------------------------------------------------------


def test_the_start_says_where_it_listens_where_it_stores_and_what_is_on(server: TusServer) -> None:
    lines = [line.rstrip("\n") for line in server.output if not line.startswith("20")]  # but for the log
    assert lines == [
        f"tusserver {__version__}",
        f"Storing in {server.storage} (durability: ack)",
        f"Extensions: {', '.join(Tus(server.url).options().listed('Tus-Extension'))}",
        f"Upload page: {server.url.removesuffix('/files')}/",
        f"Listening on {server.url}",
    ]


def test_uploads_are_served_with_and_without_a_slash_but_not_below_a_longer_name(server: TusServer) -> None:
    tus = Tus(server.url)
    assert tus.create(10).status == 201
    assert Tus(f"{server.url}/").create(10).status == 201
    assert tus.request("GET", "/elsewhere").status == 404
    assert tus.request("OPTIONS", f"{server.url}x").status == 404


def test_no_answer_tells_what_software_serves(server: TusServer) -> None:
    assert Tus(server.url).options()["Server"] is None


def test_settings_reach_the_server(tmp_path: Path) -> None:
    options = ("--path", "/up", "--max-size", "1KB", "--tus.disable", "termination", "--log.format", "json")
    with TusServer(tmp_path / "data", *options, env={"TUSSERVER_EXPIRE_AFTER": "off"}) as server:
        answer = Tus(server.url).options()
        assert server.url.endswith("/up")
        assert answer["Tus-Max-Size"] == "1000"
        assert not {"termination", "expiration"} & set(answer.listed("Tus-Extension"))
        assert Tus(server.url).create(1001).status == 413
        server.wait_for_output("refused")
        told = next(line for line in server.output if "refused" in line)
        assert json.loads(told)["status"] == 413


def test_a_setting_given_by_an_old_name_is_logged_once_at_the_start(tmp_path: Path) -> None:
    with TusServer(tmp_path / "data", "--limits.lock_patience", "2s", "--workers", "2") as server:
        server.wait_for_output("limits.lock_patience")
        assert Tus(server.url).create(10).status == 201
    lines = [line for line in server.output if "lock_patience" in line]
    assert len(lines) == 1
    assert "limits.lock_patience (flag --limits.lock_patience) is called limits.lock_timeout now" in lines[0]


def test_many_slow_clients_do_not_run_out_of_files(server: TusServer) -> None:
    with open(f"/proc/{server.pid}/limits", encoding="ascii") as limits:
        soft, hard = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))
    assert int(soft) == min(int(hard), 65536)


def test_it_listens_on_ipv6_too(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with TusServer(tmp_path / "data", "--host", "::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert Tus(server.url).create(10).status == 201


def test_a_port_in_use_is_told_with_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refused("--port", str(port), cwd=tmp_path)
    assert line == (
        f'tusserver: server.port = "{port}" (flag --port) is in use on 127.0.0.1; '
        "stop the other program or choose another, 0 picks a free one"
    )
    assert not (tmp_path / "storage").exists()


def test_an_address_of_another_machine_is_told_with_the_remedy(tmp_path: Path) -> None:
    line = refused(cwd=tmp_path, env={"TUSSERVER_HOST": "192.0.2.1"})
    assert line.startswith('tusserver: server.host = "192.0.2.1" (environment TUSSERVER_HOST) cannot be listened on')


def test_a_wrong_setting_stops_the_start_before_anything_is_made(tmp_path: Path) -> None:
    line = refused("--max-size", "lots", cwd=tmp_path)
    assert (
        line
        == 'tusserver: limits.max_size = "lots" (flag --max-size) is not a size; write one like 500MB, 2GB or 16KiB'
    )
    assert not (tmp_path / "storage").exists()


def test_a_data_folder_that_is_a_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    line = refused("--port", "0", "--storage", "data", cwd=tmp_path)
    assert line.startswith('tusserver: store.root = "data" (flag --storage) cannot be used: ')


def test_a_socket_handed_over_that_is_none_stops_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tusserver", "serve", "--storage", str(tmp_path / "data")]
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as other:
        done = subprocess.run(
            ["bash", "-c", HAND_OVER, "bash", str(other.fileno()), *command],
            pass_fds=(other.fileno(),),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("tusserver: environment LISTEN_FDS: descriptor 3 is no TCP socket that listens;")


@pytest.mark.parametrize(
    ("function", "error", "line"),
    [
        (
            "getaddrinfo",
            socket.gaierror(-2, "Name or service not known"),
            "server.host = 127.0.0.1 (default) is not known here (Name or service not known); write an address",
        ),
        (
            "create_server",
            PermissionError(errno.EACCES, "Permission denied"),
            "server.port = 8080 (default) needs more rights than this user has; choose one above 1023",
        ),
    ],
)
def test_what_the_system_refuses_is_told_with_the_remedy(
    run: Run, monkeypatch: pytest.MonkeyPatch, function: str, error: OSError, line: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"socket.{function}", fail)
    done = run("serve")
    assert (done.code, done.out, done.err) == (2, "", f"tusserver: {line}\n")


# the stop ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_and_it_says_so(started: TusServer, number: signal.Signals) -> None:
    assert started.end(number, within=TIMEOUT) == 0
    assert started.output[-1] == "Stopped. Uploads are kept and can be resumed.\n"
    assert traceless(started)


def test_ctrl_c_ends_it_while_idle_connections_are_open(started: TusServer) -> None:
    tus = Tus(started.url)
    with tus.connect() as connection:
        tus.ask(connection, "OPTIONS")
        assert connection.answer().status == 204
        assert started.end(signal.SIGINT, within=TIMEOUT) == 0
    assert traceless(started)


def test_ctrl_c_cuts_a_running_upload_keeps_its_bytes_and_lets_it_resume(started: TusServer) -> None:
    tus = Tus(started.url)
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, headers={"Expect": "100-continue"}) as connection:
        assert eventually(connection.readable)  # 100: the body is being waited for
        connection.send(b"0123")
        assert started.end(signal.SIGINT, within=TIMEOUT) == 0
        answer = connection.answer()
    assert answer.status == 503
    assert started.output[-1] == "Stopped. Uploads are kept and can be resumed.\n"
    assert traceless(started)
    with started:
        assert tus.offset(url) == 4
        assert tus.resume(url, b"0123456789")
        assert tus.get(url).body == b"0123456789"


def slow_download(server: TusServer) -> Connection:
    """Ask for more than the buffers between hold, and read none of it."""
    tus = Tus(server.url)
    url = tus.complete(bytes(32 << 20))
    connection = tus.connect(url)
    tus.ask(connection, "GET", url)
    assert eventually(connection.readable)
    return connection


def test_a_second_ctrl_c_ends_what_the_first_one_waits_for(started: TusServer) -> None:
    assert started.process is not None
    with slow_download(started):
        started.process.send_signal(signal.SIGINT)
        started.wait_for_output("Waiting for running requests (1), 1h at most. Ctrl-C again ends them.")
        assert started.process.poll() is None
        assert started.end(signal.SIGINT, within=TIMEOUT) == 0
    assert started.output[-1] == "Stopped. Uploads are kept and can be resumed.\n"
    assert traceless(started)


def test_the_wait_for_running_requests_has_an_end(tmp_path: Path) -> None:
    with TusServer(tmp_path / "data", "--server.shutdown_timeout", "700ms") as server, slow_download(server):
        assert server.end(signal.SIGINT, within=TIMEOUT) == 0
    assert server.output[-1] == "Stopped. Uploads are kept and can be resumed.\n"
    assert traceless(server)


def test_two_signals_at_once_end_it_as_well_and_lose_nothing(started: TusServer) -> None:
    tus = Tus(started.url)
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, headers={"Expect": "100-continue"}) as connection:
        assert eventually(connection.readable)
        connection.send(b"0123")
        assert started.end(signal.SIGINT, signal.SIGTERM, within=TIMEOUT) == 0
    assert traceless(started)
    with started:
        assert tus.offset(url) == 4


def test_it_ends_although_nobody_reads_its_output_any_more(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tusserver", "serve", "--port", "0", "--storage", str(tmp_path / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        while not process.stdout.readline().startswith("Listening"):
            pass
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_data_folder_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "format").write_text("tusserver data folder, format 999\n")
    line = refused("--port", "0", "--storage", "data", cwd=tmp_path)
    assert "store.root" in line
    assert line.endswith("run the newer version that wrote it")
    assert os.listdir(tmp_path / "data") == ["format"]
