"""Descriptors: who is let in finds those that its request needs, and who finds none comes again later."""

from __future__ import annotations

import errno
import os
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.descriptors import open_files
from tests.support.faults import Faults
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually, patching
from tests.support.wire import Connection
from tusserver.clock import boot_id
from tusserver.server import descriptors
from tusserver.server.connections import MAX_REJECTED
from tusserver.server.options import ConnectionLimits
from tusserver.stores.file import record

FEW = 64
"""As `ulimit -n` says."""
DATA = os.urandom(100_000)


# the sum -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [20, 64, 128, 256, 1024, 4096])
def test_all_that_are_admitted_and_all_that_are_rejected_fit(files: int) -> None:
    fitted = descriptors.fit(ConnectionLimits(connections=100_000), 2048, files, 10)
    connections, rejected = fitted.limits.connections, fitted.max_rejected
    assert connections is not None
    assert connections >= 1
    if files >= FEW:
        assert 10 + connections * descriptors.PER_CONNECTION + rejected + fitted.backlog < files
        assert connections > files // 12


def test_the_log_says_that_fewer_are_admitted_and_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    assert descriptors.fit(ConnectionLimits(connections=10_000), 2048, 1024, 10).limits.connections == 268
    assert "1024 open files" in caplog.text
    assert "accepts 268 connections" in caplog.text
    assert "limits.connections = 10000" in caplog.text


def test_what_fits_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    limits = ConnectionLimits(connections=8000)
    assert descriptors.fit(limits, 2048, 65_536, 10) == descriptors.FittedLimits(
        limits=limits, per_process=None, max_rejected=MAX_REJECTED, backlog=2048
    )
    assert caplog.text == ""


def test_several_workers_may_have_more_together_than_one_of_them(caplog: pytest.LogCaptureFixture) -> None:
    limits = ConnectionLimits(connections=1000)
    fitted = descriptors.fit(limits, 2048, 1024, 10, 4)
    assert (fitted.limits, fitted.per_process, fitted.max_rejected) == (limits, 268, 48)
    assert caplog.text == ""


def test_without_a_limit_the_descriptors_are_one(caplog: pytest.LogCaptureFixture) -> None:
    limits = ConnectionLimits()
    fitted = descriptors.fit(limits, 2048, 1024, 10)
    assert (fitted.limits, fitted.max_rejected) == (replace(limits, connections=268), 48)
    assert caplog.text == ""


# a server with few of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["ack", "finish", "none"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_upload_that_is_admitted_gets_to_its_end(tmp_path: Path, durability: str, workers: str) -> None:
    options = ("--store.durability", durability, "--server.workers", workers)
    with TusServer(tmp_path, *options, files=FEW) as server, ExitStack() as stack:
        tus = Tus(server.url)
        urls = [tus.upload(len(DATA)) for _ in range(FEW // 2)]
        bodies = [stack.enter_context(tus.connect()) for _ in urls]
        for body, url in zip(bodies, urls, strict=True):
            body.ask("PATCH", tus.target(url), tus.fields({**patching(0), "Content-Length": str(len(DATA))}))
            body.send(DATA[:1000])
        # Rejected ones are answered at once; of the others a part is committed within a second.
        assert eventually(lambda: records(server.storage) >= 5, 20)
        for body in bodies:
            body.send(DATA[1000:])
        told = Counter(body.ends() for body in bodies)
        assert told[204] >= 5
        assert set(told) <= {204, 503, None}
        for body in bodies:
            body.close()
        assert eventually(lambda: tus.holds(tus.complete(DATA), DATA))
    complaints = [line for line in server.output if "Too many open files" in line or "Traceback" in line]
    assert not complaints
    assert any("limits.connections = 8000" in line for line in server.output)


def records(storage: Path) -> int:
    """How many uploads have bytes that are committed."""
    return sum(
        record.unpack(path.read_bytes(), boot_id())[0].offset > 0 for path in (storage / "uploads").rglob("*.record")
    )


# none is left --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module", params=["ack", "none"])
def server(
    faults: Faults, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[TusServer]:
    storage = tmp_path_factory.mktemp("storage")
    with TusServer(storage, "--store.durability", request.param, env=faults.env) as running:
        yield running


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_who_finds_none_is_told_to_come_again_and_nothing_is_broken(
    server: TusServer, faults: Faults, code: int
) -> None:
    tus = Tus(server.url)
    whole, begun, deferred = tus.complete(DATA), tus.upload(len(DATA), None, DATA[:10]), tus.upload()
    parts = [tus.part(DATA), tus.part(DATA)]
    assert server.process is not None
    before = set(open_files(server.process.pid).values())
    faults.begin(*(f"{call} {server.storage}" for call in ("open", "create", "change")), code=code)
    answers = {
        "creation": tus.create(10),
        "deferred": tus.create(None, {"Upload-Defer-Length": "1"}),
        "append": tus.patch(begun, 10, DATA[10:]),
        "chunked": tus.patch(begun, 10, [DATA[10:]]),
        "declared": tus.patch(deferred, 0, DATA, {"Upload-Length": str(len(DATA))}),
        "download": tus.get(whole),
        "join": tus.join(*parts),
        "removal": tus.delete(begun),
    }
    asked = tus.head(begun)
    faults.end()
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(answers, 503)
    assert all(answer["Retry-After"] is not None for answer in answers.values())
    assert (asked.status, asked["Retry-After"] is not None) == (423, True)
    assert {name for name in set(open_files(server.process.pid).values()) - before if "/uploads/" in name} == set()
    assert tus.patch(begun, 10, DATA[10:]).status == 204
    assert tus.get(begun).body == DATA
    assert tus.join(*parts).status == 201
    assert not [line for line in server.output if "Traceback" in line]


def test_a_server_that_has_none_left_takes_connections_again_later(tmp_path: Path) -> None:
    """Without our limiter in between: the limit shrinks below what is open."""
    with TusServer(tmp_path, "--server.workers", "2") as server:
        tus = Tus(server.url)
        url = tus.complete(DATA)
        assert server.process is not None
        workers = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        before = {int(pid): resource.prlimit(int(pid), resource.RLIMIT_NOFILE) for pid in workers}
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
        with Connection(server.url) as waiting:
            waiting.send(b"GET /nothing HTTP/1.1\r\nHost: here\r\n\r\n")
            server.wait_for_output("no connection can be accepted")
            for pid, limits in before.items():
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            assert waiting.answer().status == 404
        assert tus.get(url).body == DATA
