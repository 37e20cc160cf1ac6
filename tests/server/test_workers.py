"""Several workers behind one port: who is started, replaced and ended, and what clients notice of it."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.processes import children, holders, lives
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually
from tests.support.wire import TIMEOUT
from tusserver.locks.file import byte_of

ROOT = Path(__file__).parent.parent.parent
WAITS = ("--server.shutdown_timeout", "1h")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TusServer]:
    """Three workers, whose stop would wait longer than a test for a request that need not be waited for."""
    running = TusServer(tmp_path / "data", "--workers", "3", *WAITS)
    try:
        yield running.start()
    finally:
        if running.process is not None and running.process.poll() is None:
            running.kill()


def workers(server: TusServer) -> list[int]:
    """Processes that the server has started and that live."""
    return children(server.pid)


def stop(server: TusServer, *signals: signal.Signals) -> int:
    """Send signals, and return the exit code of a process that ended without a trace."""
    code = server.end(*signals, within=TIMEOUT)
    assert not any("Traceback" in line for line in server.output)
    return code


def told(server: TusServer, text: str) -> int:
    """Number of lines with a text."""
    return sum(text in line for line in server.output)


# start and stop ------------------------------------------------------------------------------------------------------


def test_the_start_is_told_once_and_all_workers_live(server: TusServer) -> None:
    assert len(workers(server)) == 3
    assert told(server, "with 3 workers") == 1
    assert told(server, "Listening on") == 1
    assert Tus(server.url).create(10).status == 201


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_them_cleanly(server: TusServer, number: signal.Signals) -> None:
    children = workers(server)
    assert stop(server, number) == 0
    assert server.output[-1] == "Stopped. Uploads are kept and can be resumed.\n"
    assert not any(map(lives, children))


def test_a_signal_to_the_whole_group_is_the_first_stage_alone(server: TusServer) -> None:
    tus = Tus(server.url)
    url = tus.upload(10)
    children = workers(server)
    with tus.begin_patch(url, 0, 10, headers={"Expect": "100-continue"}) as connection:
        assert eventually(connection.readable)
        connection.send(b"0123")
        for child in children:
            os.kill(child, signal.SIGTERM)
        assert stop(server, signal.SIGTERM) == 0
        assert connection.answer().status == 503
    with server:
        assert tus.offset(url) == 4
        assert tus.resume(url, b"0123456789")


def test_workers_stop_when_their_parent_is_killed_and_its_port_is_free_for_the_next(server: TusServer) -> None:
    tus = Tus(server.url)
    url = tus.upload(10)
    children = workers(server)
    with tus.begin_patch(url, 0, 10, headers={"Expect": "100-continue"}) as connection:
        assert eventually(connection.readable)
        connection.send(b"0123")
        server.kill()
        with server:
            assert connection.answer().status == 503
            assert tus.offset(url) == 4
            assert eventually(lambda: not any(map(lives, children)))
            assert tus.resume(url, b"0123456789")


# replacement ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_its_upload_goes_on(server: TusServer) -> None:
    tus = Tus(server.url)
    url = tus.upload(10, body=b"0123")
    before = workers(server)
    for child in before:
        os.kill(child, signal.SIGKILL)
    assert eventually(lambda: len(set(workers(server)) - set(before)) == 3)
    server.wait_for_output("was killed by SIGKILL; another one starts")
    assert tus.offset(url) == 4
    assert tus.resume(url, b"0123456789")


def test_hangup_replaces_each_worker_and_no_request_fails(server: TusServer) -> None:
    tus = Tus(server.url)
    before = workers(server)
    os.kill(server.pid, signal.SIGHUP)

    def are_new() -> bool:
        assert tus.create(10).status == 201
        return told(server, "all workers are new") == 1 and not set(workers(server)) & set(before)

    assert eventually(are_new)
    assert len(workers(server)) == 3
    assert stop(server, signal.SIGTERM) == 0


def test_hangup_reads_the_settings_again_and_wrong_ones_change_nothing(tmp_path: Path) -> None:
    config = tmp_path / "tusserver.toml"
    config.write_text('[limits]\nmax_size = "1KB"\n')
    with TusServer(tmp_path / "data", "--workers", "2", "--config", str(config)) as server:
        tus = Tus(server.url)
        assert tus.options()["Tus-Max-Size"] == "1000"
        config.write_text('[limits]\nmax_size = "2KB"\n')
        os.kill(server.pid, signal.SIGHUP)
        server.wait_for_output("all workers are new")
        assert eventually(lambda: len(workers(server)) == 2)
        assert tus.options()["Tus-Max-Size"] == "2000"
        before = workers(server)
        config.write_text('[limits]\nmax_size = "lots"\n')
        os.kill(server.pid, signal.SIGHUP)
        server.wait_for_output('the workers stay as they are: limits.max_size = "lots"')
        assert workers(server) == before


def test_one_worker_is_not_enough_reason_for_a_parent(tmp_path: Path) -> None:
    with TusServer(tmp_path / "data", "--workers", "1") as server:
        assert workers(server) == []


@pytest.mark.parametrize("again", range(3))
def test_a_worker_that_dies_with_a_lock_frees_it_at_once(server: TusServer, again: int) -> None:
    tus = Tus(server.url)
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, b"0123"):
        held = (server.storage / "locks" / "held", byte_of(url.rsplit("/", 1)[1]))
        assert eventually(lambda: len(holders(workers(server), *held)) == 1)
        (holder,) = holders(workers(server), *held)
        os.kill(holder, signal.SIGKILL)
        assert tus.resume(url, b"0123456789")
    assert tus.holds(url, b"0123456789")


def test_workers_that_die_while_they_join_parts_leave_them_to_be_joined_again(server: TusServer) -> None:
    tus = Tus(server.url)
    half = os.urandom(32 << 20)
    parts = [tus.part(half), tus.part(half[::-1])]
    before = len(server.files())
    with tus.connect() as connection:
        tus.ask(connection, "POST", headers={"Upload-Concat": f"final;{' '.join(parts)}"})
        assert eventually(lambda: len(server.files()) > before)
        for worker in workers(server):
            os.kill(worker, signal.SIGKILL)
    answer = tus.join(*parts)
    assert answer.status == 201
    assert hashlib.sha256(tus.get(answer["Location"] or "").body).digest() == hashlib.sha256(half + half[::-1]).digest()


def test_many_clients_at_the_same_uploads_write_each_byte_once(start_server: StartServer) -> None:
    server = start_server("--workers", "3", "--durability", "none", "--limits.lock_timeout", "0s")
    data = random.Random(5).randbytes(60_000)
    urls = [Tus(server.url).upload(len(data)) for _ in range(3)]

    def client(seed: int) -> dict[str, int]:
        """Write wherever there is something to write; return the bytes of each upload that were acknowledged."""
        tus, chance, written = Tus(server.url), random.Random(seed), dict.fromkeys(urls, 0)
        open_ones = list(urls)
        while open_ones:
            url = chance.choice(open_ones)
            offset = tus.offset(url)
            piece = data[offset : offset + chance.randrange(1, 4000)]
            if not piece:
                open_ones.remove(url)
                continue
            answer = tus.patch(url, offset, piece)
            assert answer.status in (204, 409, 423), answer
            if answer.status == 204:
                assert answer["Upload-Offset"] == str(offset + len(piece))
                written[url] += len(piece)
        return written

    with ThreadPoolExecutor(6) as pool:
        shares = list(pool.map(client, range(6)))
    for url in urls:
        assert sum(share[url] for share in shares) == len(data)
        assert Tus(server.url).get(url).body == data


@pytest.mark.timeout(600)  # a suite of its own
def test_several_workers_conform_as_one(server: TusServer) -> None:
    """The rows in which requests meet that may have come to different workers."""
    rows = [f"tests/conformance/test_{name}.py" for name in ("patch", "head", "termination", "concatenation")]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *rows]
    command += ["--tus-endpoint", server.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


# who sweeps ----------------------------------------------------------------------------------------------------------

SWEEPING = ("--expire-after", "1s", "--sweep-interval", "200ms")


def leaders(*servers: TusServer) -> list[int]:
    """Processes that sweep."""
    processes = [process for server in servers for process in (workers(server) or [server.pid])]
    return holders(processes, servers[0].storage / "locks" / "held", 0)


def sweeps(server: TusServer) -> bool:
    """Whether an upload that has expired is removed."""
    Tus(server.url).upload(10)
    return eventually(lambda: server.files() == [])


def test_one_worker_sweeps_and_when_it_dies_another_one(start_server: StartServer) -> None:
    server = start_server("--workers", "3", *SWEEPING)
    assert eventually(lambda: len(leaders(server)) == 1)
    (first,) = leaders(server)
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: len(found := leaders(server)) == 1 and found != [first])
    assert sweeps(server)


def test_one_of_two_servers_on_a_folder_sweeps_and_when_it_is_killed_the_other(
    start_server: StartServer, tmp_path: Path
) -> None:
    one = start_server(*SWEEPING, storage=tmp_path / "data")
    assert eventually(lambda: leaders(one) == [one.pid])
    two = start_server(*SWEEPING, storage=tmp_path / "data")
    assert sweeps(two)
    assert leaders(one, two) == [one.pid]
    one.kill()
    assert eventually(lambda: leaders(two) == [two.pid])
    assert sweeps(two)


# what a start lacks --------------------------------------------------------------------------------------------------


def test_too_few_open_files_for_a_worker_keep_the_others_serving(server: TusServer) -> None:
    tus = Tus(server.url)
    before = workers(server)
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(before[0], signal.SIGKILL)
    server.wait_for_output("no worker can be started now: Too many open files")
    assert all(tus.create(10).status == 201 for _ in range(4))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
    server.wait_for_output("workers can be started again")
    assert told(server, "no worker can be started now") == 1
    assert eventually(lambda: len(workers(server)) == 3, TIMEOUT)
    assert stop(server, signal.SIGTERM) == 0


def test_a_worker_that_is_killed_by_a_signal_without_a_name_is_replaced(server: TusServer) -> None:
    before = workers(server)
    os.kill(before[0], signal.SIGRTMIN + 5)
    server.wait_for_output(f"was killed by signal {signal.SIGRTMIN + 5}; another one starts")
    assert eventually(lambda: len(workers(server)) == 3, TIMEOUT)


# a reload that fails -------------------------------------------------------------------------------------------------

BROKEN = """
import os, sys
from tusserver import assembly
from tusserver.__main__ import main

assemble = assembly.assemble

def broken(configured):
    global made
    made += 1
    if {when}:
        raise ImportError("cannot import name 'other' from 'tusserver.protocol'")
    return assemble(configured)

made, parent, assembly.assemble = 0, os.getpid(), broken
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("os.getpid() == parent and made > 1", "the workers stay as they are"),
        ("os.getpid() != parent and made > 2", "before it was ready: the old workers stay"),
    ],
)
def test_a_reload_of_a_half_installed_version_changes_nothing_and_says_so(tmp_path: Path, when: str, told: str) -> None:
    """Its files do not fit together: in the parent, or in a new worker."""
    (tmp_path / "broken.py").write_text(BROKEN.format(when=when))
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with TusServer(tmp_path / "data", "--workers", "2", module="broken", env=env) as server:
        tus = Tus(server.url)
        before = workers(server)
        os.kill(server.pid, signal.SIGHUP)
        server.wait_for_output("ImportError: cannot import name 'other' from 'tusserver.protocol'")
        server.wait_for_output(told)
        assert eventually(lambda: workers(server) == before, TIMEOUT)
        assert all(tus.create(10).status == 201 for _ in range(4))
        assert stop(server, signal.SIGTERM) == 0


def test_workers_import_nothing_that_their_parent_has_not(tmp_path: Path) -> None:
    with TusServer(tmp_path / "data", "--workers", "2", module="tests.support.imports") as server:
        tus = Tus(server.url)
        for _ in range(4):
            url = tus.upload(10, body=b"0123")
            assert tus.offset(url) == 4
            assert tus.resume(url, b"0123456789")
            assert tus.get(url).body == b"0123456789"
            assert tus.options().status == 204
            assert tus.join(tus.part(b"abc"), tus.part(b"def")).status == 201
            assert tus.get(tus.complete(bytes(9 << 20))).status == 200
            for path in ("/", "/livez", "/readyz", "/files/nothing"):
                tus.request("GET", path)
            digest = "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="
            headers = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
            body = b"hello world"
            sent = tus.request("PATCH", tus.upload(11), {**headers, "Upload-Checksum": digest}, body)
            assert sent.status == 204
            assert tus.request("DELETE", url).status == 204
        assert stop(server, signal.SIGTERM) == 0
    assert [line for line in server.output if line.startswith("imported ")] == []
