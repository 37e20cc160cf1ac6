"""Locks across processes: the contract, and what only a second process can show."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.contracts.locks import ALWAYS, AT_FIVE, ID, LONG, Holder, LockerContract, take
from tusserver.locks import names
from tusserver.locks.base import Preempt
from tusserver.locks.file import FileLocker, byte_of
from tusserver.locks.peers import ANSWER_TIMEOUT, PEERS_PER_TURN
from tusserver.protocol.errors import OffsetMismatch, UploadLocked
from tusserver.protocol.upload import UploadId

T = TypeVar("T")

HOLDING = """
import asyncio, sys
from tusserver.locks.file import FileLocker

async def main(folder, name, answer):
    leave = asyncio.Event()
    async def report():
        return 12345
    def ask(preempt):
        print("asked", preempt.at, flush=True)
        if answer == "leave":
            leave.set()
        return answer == "leave"
    async with FileLocker(folder).hold(name) as lease:
        lease.on_release_request(ask)
        lease.on_report(report)
        print("holds", flush=True)
        await leave.wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def locker(tmp_path: Path) -> AsyncIterator[FileLocker]:
    """A locker on a folder of the test."""
    made = FileLocker(tmp_path / "locks")
    yield made
    await made.aclose()


class TestFileLocker(LockerContract):
    """Within one process."""

    @pytest.fixture
    async def locker(self, tmp_path: Path) -> AsyncIterator[FileLocker]:
        made = FileLocker(tmp_path / "locks")
        yield made
        await made.aclose()


class Elsewhere:
    """Another process that holds an upload."""

    def __init__(self, folder: Path, answer: str = "stay") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(folder / "locks"), ID, answer], stdout=subprocess.PIPE, text=True
        )
        assert self.line() == "holds"

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def staying(tmp_path: Path) -> Iterator[Elsewhere]:
    """A holder in another process that never leaves."""
    (tmp_path / "locks").mkdir(exist_ok=True)
    elsewhere = Elsewhere(tmp_path)
    yield elsewhere
    elsewhere.end()


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[Elsewhere]:
    """A holder in another process that leaves when asked."""
    (tmp_path / "locks").mkdir(exist_ok=True)
    elsewhere = Elsewhere(tmp_path, "leave")
    yield elsewhere
    elsewhere.end()


@pytest.mark.parametrize("preempt", [ALWAYS, AT_FIVE])
async def test_a_holder_elsewhere_is_asked_and_leaves(locker: FileLocker, leaving: Elsewhere, preempt: Preempt) -> None:
    await take(locker, preempt, LONG)
    assert leaving.line() == f"asked {preempt.at}"


async def in_real_time(asked: Coroutine[Any, Any, T]) -> T:
    """Await what another process answers: while a thread is at work this loop's clock does not jump."""
    answered = threading.Event()
    waiting = asyncio.get_running_loop().run_in_executor(None, answered.wait, 30)
    try:
        return await asked
    finally:
        answered.set()
        await waiting


async def test_a_holder_elsewhere_tells_how_far_it_is(locker: FileLocker, staying: Elsewhere) -> None:
    assert await in_real_time(locker.report(ID)) == 12345


async def test_a_holder_elsewhere_that_is_frozen_tells_nothing(locker: FileLocker, staying: Elsewhere) -> None:
    os.kill(staying.process.pid, signal.SIGSTOP)
    assert await locker.report(ID) is None


async def test_a_holder_elsewhere_that_stays_keeps_its_lock(locker: FileLocker, staying: Elsewhere) -> None:
    with pytest.raises(UploadLocked):
        await take(locker, ALWAYS, 0)
    assert staying.line() == "asked None"
    with pytest.raises(UploadLocked):
        await take(locker, None, 0)


async def test_who_is_refused_elsewhere_leaves_no_lock_within(locker: FileLocker, staying: Elsewhere) -> None:
    with pytest.raises(UploadLocked):
        await take(locker, ALWAYS, 0)
    staying.end()
    await take(locker, None, 0)


async def test_a_holder_that_is_killed_leaves_its_lock_at_once(locker: FileLocker, staying: Elsewhere) -> None:
    waiting = asyncio.create_task(take(locker, ALWAYS, LONG))
    assert await asyncio.to_thread(staying.line) == "asked None"
    os.kill(staying.process.pid, signal.SIGKILL)
    await asyncio.to_thread(staying.process.wait, 10)  # this loop's clock would not leave it the time to die
    await waiting


async def test_what_is_refused_by_the_record_disturbs_nobody_elsewhere(locker: FileLocker, staying: Elsewhere) -> None:
    async def refuse() -> None:
        raise OffsetMismatch(expected=1, provided=0)

    with pytest.raises(OffsetMismatch):
        async with locker.hold(ID, ALWAYS, LONG, refuse):
            pass
    staying.process.kill()
    assert staying.line() == ""  # it was never asked


async def test_a_process_that_died_leaves_nothing_behind(
    locker: FileLocker, staying: Elsewhere, tmp_path: Path
) -> None:
    staying.end()
    async with other(tmp_path) as second, second.hold(ID):
        with pytest.raises(UploadLocked):
            await take(locker, ALWAYS, 0)
        # One file of bytes, and the sockets of those who live.
        assert len(list((tmp_path / "locks").iterdir())) == 3


@asynccontextmanager
async def other(
    tmp_path: Path, *, answer_timeout: float = ANSWER_TIMEOUT, peers_per_turn: int = PEERS_PER_TURN
) -> AsyncIterator[FileLocker]:
    """A second locker of this process: its open files exclude ours as another process's do."""
    made = FileLocker(tmp_path / "locks", answer_timeout=answer_timeout, peers_per_turn=peers_per_turn)
    yield made
    await made.aclose()


async def test_two_lockers_ask_each_other(locker: FileLocker, tmp_path: Path) -> None:
    holder = Holder(False)
    async with other(tmp_path) as second, second.hold(ID) as lease:
        lease.on_release_request(holder.ask)
        with pytest.raises(UploadLocked):
            await take(locker, ALWAYS, 0)
    assert holder.asked == [ALWAYS]
    await take(locker, None, 0)


async def test_however_many_ask_at_once_all_are_told(locker: FileLocker, tmp_path: Path) -> None:
    """The kernel keeps ten datagrams for a process that has not read them yet, and refuses the next ones."""

    async def report() -> int:
        return 5

    async with other(tmp_path) as second, second.hold(ID) as lease:
        lease.on_report(report)
        told = await asyncio.gather(*(locker.report(ID) for _ in range(100)))
    assert told == [5] * 100


async def test_however_many_ask_at_once_one_socket_is_opened(
    locker: FileLocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    bind = names.bind
    monkeypatch.setattr(names, "bind", lambda *args: opened.append(bind(*args)) or opened[-1])  # type: ignore[func-returns-value]
    impatient = asyncio.create_task(locker.listen())
    await asyncio.sleep(0)
    asking = asyncio.gather(*(locker.listen() for _ in range(100)))
    impatient.cancel()
    assert await asking == [True] * 100
    assert sorted(os.listdir(tmp_path / "locks")) == sorted(["held", *opened])
    assert len(opened) == 1


def test_threads_that_list_the_names_at_once_miss_none(tmp_path: Path) -> None:
    expected = {path.name for path in left(tmp_path, *(f"{number}-{number:08x}.sock" for number in range(1, 300)))}
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(names.listed, [folder] * 400):
                assert set(found) == expected
    finally:
        os.close(folder)


async def test_many_who_ask_keep_nobody_from_taking_over(locker: FileLocker, tmp_path: Path) -> None:
    holder = Holder(False)
    async with other(tmp_path) as second, second.hold(ID) as lease:
        lease.on_release_request(holder.ask)
        asking = [asyncio.create_task(locker.report(UploadId(f"other-{number}"))) for number in range(100)]
        await asyncio.sleep(0)  # they have asked
        with pytest.raises(UploadLocked):
            await take(locker, ALWAYS, 0)
        await asyncio.gather(*asking)
    assert holder.asked == [ALWAYS]


async def test_who_asks_of_an_upload_that_nobody_holds_any_more_does_not_wait(
    tmp_path: Path,
) -> None:
    """Its holder may have ended between the look at the lock and the question."""
    async with other(tmp_path) as second, other(tmp_path, answer_timeout=3600.0) as asking:
        await take(second, None, 0)  # so that it listens
        async with asyncio.timeout(600):
            assert await asking.report(ID) is None


# what killed processes leave -----------------------------------------------------------------------------------------


def left(folder: Path, *names: str) -> list[Path]:
    """Sockets of which only the names are left."""
    for name in names:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
            bound.bind(str(folder / name))
    return [folder / name for name in names]


def numbered(count: int) -> list[str]:
    """Names as processes give them."""
    return [f"{number + 2}-{number:08x}.sock" for number in range(count)]


def there(paths: list[Path]) -> list[Path]:
    """Those of some names that are still there."""
    return [path for path in paths if os.path.lexists(path)]


async def test_names_that_killed_processes_left_go_with_the_next_start(locker: FileLocker, tmp_path: Path) -> None:
    gone = left(tmp_path / "locks", *numbered(200))
    await take(locker, None, 0)  # so that it listens
    FileLocker(tmp_path / "locks")
    assert there(gone) == []
    async with other(tmp_path) as second, second.hold(ID):  # the living one is there, and found
        assert len(list((tmp_path / "locks").glob("*.sock"))) == 2


async def test_names_that_killed_processes_left_go_while_others_live(locker: FileLocker, tmp_path: Path) -> None:
    gone = left(tmp_path / "locks", *numbered(3))
    assert await locker.is_leader()
    assert there(gone) == []


async def test_what_is_not_the_name_of_a_process_stays(locker: FileLocker, tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    kept = left(folder, "mine.sock", "1-00000001.sock.bak", "1-xyz.sock")
    (dead,) = left(tmp_path, "2-00000002.sock")
    (folder / "3-00000003.sock").symlink_to(dead)
    (folder / "4-00000004.sock").write_text("mine")
    kept += [dead, folder / "3-00000003.sock", folder / "4-00000004.sock", folder / "held"]
    assert await locker.is_leader()
    assert await locker.report(ID) is None
    assert there(kept) == kept


async def test_a_socket_that_is_being_bound_is_not_taken_for_one_that_was_left(
    locker: FileLocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system makes the name first; whoever connects in between is refused."""
    bind = socket.socket.bind
    made: list[bool] = []

    def slowly(listener: socket.socket, address: str) -> None:
        os.mknod(address, stat.S_IFSOCK | 0o600)
        asyncio.run(FileLocker(tmp_path / "locks").is_leader())  # in a thread
        made.append(os.path.lexists(address) and Path(address).name not in names.listed(locker._folder))
        os.unlink(address)
        bind(listener, address)

    monkeypatch.setattr(socket.socket, "bind", slowly)
    assert await locker.listen()
    assert made == [True]


async def test_thousands_of_names_that_were_left_do_not_hold_up_the_loop(locker: FileLocker, tmp_path: Path) -> None:
    gone = left(tmp_path / "locks", *numbered(2000))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    turns = 0
    assert await locker.report(ID) is None
    counting.cancel()
    assert there(gone) == []
    assert turns >= 30


async def test_a_holder_is_found_behind_names_that_were_left_and_processes_that_hold_nothing(
    staying: Elsewhere, tmp_path: Path
) -> None:
    async with other(tmp_path) as second, other(tmp_path) as third, other(tmp_path, peers_per_turn=1) as asking:
        assert await second.listen()
        assert await third.listen()
        left(tmp_path / "locks", *numbered(50))
        assert await in_real_time(asking.report(ID)) == 12345


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="the folder for locks"):
        FileLocker(tmp_path / "file" / "locks")


def test_uploads_have_bytes_of_their_own() -> None:
    bytes_of = {byte_of(str(number)) for number in range(10_000)}
    assert len(bytes_of) == 10_000
    assert all(0 < byte < 2**63 for byte in bytes_of)


def test_lockers_of_one_folder_have_one_domain_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tmp_path)
    domains = {FileLocker(tmp_path / "alias" / "locks").domain, FileLocker(tmp_path / "locks").domain}
    assert len(domains) == 1
    assert FileLocker(tmp_path / "others").domain not in domains


FORKED = """
import asyncio, os, sys
from tusserver.locks.file import FileLocker
locker = FileLocker(sys.argv[1])
locker.try_byte(1)
ours = asyncio.run(locker.is_leader())
if (child := os.fork()) == 0:
    os._exit(2 * locker.try_byte(1) + asyncio.run(locker.is_leader()))
_, status = os.waitpid(child, 0)
print(ours, os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_has_locks_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path / "locks")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True 0\n"


# links ---------------------------------------------------------------------------------------------------------------


def test_a_folder_for_locks_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="it is a symbolic link"):
        FileLocker(tmp_path / "locks")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_of_locks_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "held").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="cannot be used"):
        FileLocker(tmp_path / "locks")
    assert not (tmp_path / "elsewhere").exists()


async def test_nobody_is_asked_by_way_of_a_link(locker: FileLocker, staying: Elsewhere, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as foreign:
        foreign.bind(str(tmp_path / "foreign"))
        (tmp_path / "locks" / "link.sock").symlink_to(tmp_path / "foreign")
        with pytest.raises(UploadLocked):
            await take(locker, ALWAYS, 0)
        assert staying.line() == "asked None"
        with pytest.raises(BlockingIOError):
            foreign.recv(512)
    assert (tmp_path / "locks" / "link.sock").is_symlink()
