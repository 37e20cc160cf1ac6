"""A real server whose system calls fail: what its clients hear, what is kept, and that it goes on by itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import Faults
from tests.support.server import TusServer
from tests.support.tus import OCTETS, Tus, eventually, patching
from tests.support.wire import Answer, chunk

FULL = [errno.ENOSPC, errno.EDQUOT]
WRITES = [*FULL, errno.EIO]
"""What a call on an open file may say."""
NAMES = [*WRITES, errno.EROFS, errno.EACCES]
"""What a call on a name may say."""
DATA = os.urandom(3 << 20)
KEPT = 1 << 20
"""Bytes that are acknowledged before the fault."""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def server(faults: Faults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TusServer]:
    storage = tmp_path_factory.mktemp("storage")
    options = ("--store.finished_folder", str(storage / "finished"))
    with TusServer(storage, *options, env=faults.env) as running:
        yield running


@pytest.fixture
def tus(server: TusServer, faults: Faults) -> Iterator[Tus]:
    """A client; after each test the server works as ever, and has told no trace."""
    yield Tus(server.url)
    faults.end()
    assert server.process is not None
    assert server.process.poll() is None
    client = Tus(server.url)
    assert client.holds(client.complete(b"it goes on"), b"it goes on")
    assert not [line for line in server.output if "Traceback" in line]


def asks_to_retry(answer: Answer, code: int) -> bool:
    """Whether an answer says that the trouble passes, and when to come again."""
    return answer.status == (507 if code in FULL else 503) and answer["Retry-After"] is not None


@pytest.mark.parametrize(
    ("call", "code"),
    [
        *((call, code) for call in ("write /calendar/", "pwritev .record", "fallocate /uploads/") for code in WRITES),
        *((call, code) for call in ("create /uploads/", "create .record") for code in NAMES),
        ("fsync .record", errno.EIO),
    ],
)
def test_a_creation_is_refused_as_a_whole_and_works_afterwards(
    tus: Tus, server: TusServer, faults: Faults, call: str, code: int
) -> None:
    before = server.files()
    faults.begin(call, code=code)
    answer = tus.create(len(DATA))
    faults.end()
    assert faults.hits
    assert asks_to_retry(answer, code)
    assert server.files() == before
    assert tus.holds(tus.complete(DATA), DATA)


SMALL = 4096
LARGE = len(DATA) - KEPT


@pytest.mark.parametrize("chunked", [False, True], ids=["drained", "read"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("calls", "code"),
    [
        *((("pwrite /uploads/", "pwritev /uploads/", "splice /uploads/"), code) for code in WRITES),
        *((("change /uploads/",), code) for code in NAMES),
        *((("change .record",), code) for code in NAMES),
        *((("pwrite .record",), code) for code in WRITES),
        (("fdatasync .record",), errno.EIO),
        (("fdatasync /uploads/",), errno.EIO),
    ],
)
def test_an_append_is_refused_loses_nothing_and_goes_on_afterwards(
    tus: Tus, faults: Faults, chunked: bool, size: int, calls: tuple[str, ...], code: int
) -> None:
    url = tus.upload(len(DATA), None, DATA[:KEPT])
    body = DATA[KEPT : KEPT + size]
    faults.begin(*calls, code=code)
    answer = tus.patch(url, KEPT, [body] if chunked else body)
    faults.end()
    assert faults.hits
    assert asks_to_retry(answer, code)
    offset = tus.offset(url)
    assert KEPT <= offset < len(DATA)
    assert tus.patch(url, offset, DATA[offset:]).status == 204
    assert tus.get(url).body == DATA


@pytest.mark.parametrize("chunked", [False, True], ids=["drained", "read"])
def test_a_disk_that_gets_full_during_a_body_keeps_what_had_come(
    tus: Tus, server: TusServer, faults: Faults, chunked: bool
) -> None:
    url = tus.upload(len(DATA), None, DATA[:KEPT])
    written = server.storage / "uploads" / url.rsplit("/", 1)[1][:2] / url.rsplit("/", 1)[1]
    half = KEPT + LARGE // 2
    framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(LARGE)}
    pieces = [DATA[KEPT:half], DATA[half:]]
    with tus.connect(url) as connection:
        connection.ask("PATCH", tus.target(url), tus.fields({**patching(KEPT), **framing}))
        connection.send(chunk(pieces[0]) if chunked else pieces[0])
        assert eventually(lambda: written.read_bytes()[:half] == DATA[:half])
        faults.begin(*(f"{call} {written.name}$" for call in ("pwrite", "pwritev", "splice")), code=errno.ENOSPC)
        # The rest reaches the disk as a failure; the record is written in place, which needs no room.
        connection.send(chunk(pieces[1]) if chunked else pieces[1])
        answer = connection.answer()
    faults.end()
    assert faults.hits
    assert asks_to_retry(answer, errno.ENOSPC)
    assert half <= tus.offset(url) < len(DATA)
    assert tus.patch(url, tus.offset(url), DATA[tus.offset(url) :]).status == 204
    assert tus.get(url).body == DATA


@pytest.mark.parametrize("call", ["link /uploads/", "create .record.new", "rename .record.new"])
@pytest.mark.parametrize("code", NAMES)
def test_an_end_that_fails_is_made_good_by_an_empty_append(tus: Tus, faults: Faults, call: str, code: int) -> None:
    url = tus.upload(len(DATA), None, DATA[:KEPT])
    faults.begin(call, code=code)
    answer = tus.patch(url, KEPT, DATA[KEPT:])
    faults.end()
    assert faults.hits
    assert asks_to_retry(answer, code)
    assert tus.offset(url) == len(DATA)
    assert tus.patch(url, len(DATA)).status == 204
    assert tus.get(url).body == DATA


@pytest.mark.parametrize("call", ["create .record.new", "rename .record.new", "pwritev .record.new"])
@pytest.mark.parametrize("code", WRITES)
def test_a_length_that_cannot_be_noted_can_be_told_again(tus: Tus, faults: Faults, call: str, code: int) -> None:
    url = tus.upload(None, None, DATA[:KEPT])
    headers = {"Upload-Length": str(len(DATA))}
    faults.begin(call, code=code)
    answer = tus.patch(url, KEPT, DATA[KEPT : KEPT + SMALL], headers)
    faults.end()
    assert faults.hits
    assert asks_to_retry(answer, code)
    assert tus.offset(url) == KEPT
    assert tus.patch(url, KEPT, DATA[KEPT:], headers).status == 204
    assert tus.get(url).body == DATA


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EACCES])
def test_a_deletion_that_fails_can_be_asked_for_again(tus: Tus, faults: Faults, code: int) -> None:
    url = tus.upload(len(DATA), None, DATA[:KEPT])
    faults.begin("unlink /uploads/", code=code)
    answer = tus.delete(url)
    faults.end()
    assert faults.hits
    assert asks_to_retry(answer, code)
    assert tus.delete(url).status == 204
    assert tus.head(url).status == 404


def test_on_a_full_disk_uploads_can_be_asked_for_had_back_and_deleted(tus: Tus, faults: Faults) -> None:
    whole, half = tus.complete(DATA), tus.upload(len(DATA), None, DATA[:KEPT])
    everything = ("write", "pwrite", "pwritev", "splice", "fallocate", "truncate", "create", "mkdir", "link", "rename")
    faults.begin(*(f"{call} storage" for call in everything), code=errno.ENOSPC)
    assert tus.offset(half) == KEPT
    assert tus.get(whole).body == DATA
    assert tus.delete(half).status == 204
    assert tus.create(10).status == 507
    faults.end()


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_a_record_that_cannot_be_read_is_not_taken_for_a_missing_one(tus: Tus, faults: Faults, code: int) -> None:
    url = tus.complete(DATA)
    faults.begin("open .record", code=code)
    answers = [tus.head(url), tus.get(url), tus.delete(url)]
    faults.end()
    assert faults.hits
    assert (answers[0].status, answers[0]["Retry-After"] is not None) == (423, True)
    assert all(asks_to_retry(answer, code) for answer in answers[1:])
    assert tus.holds(url, DATA)


def test_a_first_body_that_finds_no_room_leaves_an_upload_that_goes_on_or_none(tus: Tus, faults: Faults) -> None:
    faults.begin("pwrite /uploads/", "pwritev /uploads/", "splice /uploads/", code=errno.ENOSPC)
    answer = tus.create(len(DATA), {"Content-Type": OCTETS}, DATA)
    faults.end()
    assert asks_to_retry(answer, errno.ENOSPC)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_the_server_is_not_ready_while_its_disk_fails(tus: Tus, server: TusServer, faults: Faults, code: int) -> None:
    url = f"http://{server.host}/readyz"
    assert eventually(lambda: tus.get(url).status == 200)
    faults.begin(*(f"{call} {server.storage}" for call in ("create", "write", "pwrite", "pwritev")), code=code)
    assert eventually(lambda: tus.get(url).status == 503)
    faults.end()
    assert eventually(lambda: tus.get(url).status == 200)


def test_a_server_whose_locks_have_no_room_for_a_socket_works(faults: Faults, tmp_path: Path) -> None:
    faults.begin("bind .sock", code=errno.ENOSPC)
    with TusServer(tmp_path, env=faults.env) as running:
        tus = Tus(running.url)
        assert tus.holds(tus.complete(DATA), DATA)
        assert faults.hits
        faults.end()
        told = [line for line in running.output if "other processes cannot ask for locks now" in line]
    assert len(told) == 1


def test_a_flood_of_requests_to_a_full_disk_is_one_line_of_trouble(faults: Faults, tmp_path: Path) -> None:
    with TusServer(tmp_path, env=faults.env) as running:
        tus = Tus(running.url)
        faults.begin("write /calendar/", code=errno.ENOSPC)
        assert {tus.create(10).status for _ in range(50)} == {507}
        faults.end()
        assert tus.create(10).status == 201
    assert len([line for line in running.output if "storage is full while creating an upload" in line]) == 1
