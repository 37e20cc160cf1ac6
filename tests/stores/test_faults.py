"""A storage that fails: what is told, what is kept, and what is made good once the fault is over."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.sources import Chunks, unheard
from tests.contracts.stores import ID, LATE, NOW, OTHER, an_upload, put
from tests.service.world import DAY, World
from tests.service.world import LATE as LATE_SWEEP
from tests.support.uploads import changed
from tusserver.disk import space
from tusserver.disk.faults import EVERY, QUIET, FaultLog
from tusserver.protocol.errors import OutOfSpace, StoreUnavailable
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file.store import FileStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore(root)


def failing(code: int, when: Callable[..., bool] = lambda *_: True, call: Callable[..., Any] | None = None) -> Any:
    """Make a system call that fails, or one that fails where `when` says so and else does what `call` does."""

    def fails(*args: Any, **options: Any) -> Any:
        if call is None or when(*args):
            raise OSError(code, os.strerror(code))
        return call(*args, **options)

    return fails


# the log -------------------------------------------------------------------------------------------------------------


class Storage:
    """Asks for something that fails, or not, at moments of the test's choice."""

    def __init__(self) -> None:
        self.now = 0.0
        self._troubles = FaultLog(lambda: self.now)

    def fail(self, code: int = errno.ENOSPC, doing: str = "testing") -> None:
        with pytest.raises((OutOfSpace, StoreUnavailable)), self._troubles.translating(doing):
            raise OSError(code, os.strerror(code))

    def work(self, doing: str = "testing") -> None:
        with self._troubles.translating(doing):
            pass


@pytest.fixture
def storage(caplog: pytest.LogCaptureFixture) -> Storage:
    caplog.set_level(logging.INFO)
    return Storage()


def test_a_flood_of_failures_is_one_line_of_the_log(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(1000):
        storage.fail()
    assert caplog.messages == ["storage is full while testing"]


def test_trouble_that_lasts_is_told_again_with_its_number(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        storage.fail()
        storage.now += EVERY / 4
    assert caplog.messages[1:] == ["storage is full while testing (5 times in 30 s)"]


def test_trouble_of_another_kind_is_told_at_once(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    storage.fail()
    storage.fail(errno.EIO)
    storage.fail(doing="reading")
    assert caplog.messages == [
        "storage is full while testing",
        "storage failed while testing: [Errno 5] Input/output error (2 times in 0 s)",
        "storage is full while reading",
    ]


def test_the_end_of_trouble_is_told_once(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    storage.fail()
    storage.fail()
    storage.now += QUIET
    storage.work("something else")
    for _ in range(3):
        storage.work()
    assert caplog.messages[1:] == ["storage works again while testing; it had failed 2 times"]


def test_what_works_now_and_then_is_not_told_as_the_end(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        storage.fail()
        storage.work()
        storage.now += QUIET / 20
    assert len(caplog.messages) == 1


# the cause -----------------------------------------------------------------------------------------------------------


async def test_a_disk_that_refuses_to_clean_up_too_is_still_told_to_be_full(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "_fallocate", lambda fd, at, length: errno.ENOSPC)
    monkeypatch.setattr(os, "unlink", failing(errno.EIO))
    with pytest.raises(OutOfSpace):
        await store.create(an_upload())


async def test_a_record_that_cannot_be_replaced_tells_the_first_failure(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = an_upload(length=None)
    await store.create(upload)
    monkeypatch.setattr(os, "rename", failing(errno.ENOSPC))
    monkeypatch.setattr(os, "unlink", failing(errno.EROFS))
    with pytest.raises(OutOfSpace):
        await store.replace(changed(upload, length=5))


@pytest.mark.parametrize("call", ["scandir", "unlink", "rename"])
async def test_a_calendar_that_cannot_be_read_is_told_like_any_failure(
    store: FileStore, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create(an_upload())
    assert [upload_id async for upload_id in store.due(NOW)] == []
    await store.schedule(ID, NOW)
    monkeypatch.setattr(os, call, failing(errno.EIO))
    with pytest.raises(StoreUnavailable):
        assert [upload_id async for upload_id in store.due(NOW + timedelta(days=3650))] != [None]


# what is promised ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_an_offset_that_did_not_reach_the_disk_is_not_told(
    store: FileStore, root: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would tell it to every reader: what it could not write stays in memory, and it forgets that."""
    upload = an_upload()
    await store.create(upload)
    upload = await put(store, upload, b"hello")
    record = os.stat(root / "uploads" / ID[:2] / f"{ID}.record").st_ino
    of_record = lambda fd: os.fstat(fd).st_ino == record  # noqa: E731 - one line says it
    monkeypatch.setattr(os, "fdatasync", failing(code, of_record, os.fdatasync))
    with pytest.raises(StoreUnavailable):
        await put(store, upload, b"world")
    assert await store.load(ID) == upload
    monkeypatch.undo()
    assert (await put(store, upload, b"world")).offset == 10
    assert (await store.load(ID)).offset == 10


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_bytes_that_did_not_reach_the_disk_do_not_count(
    store: FileStore, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = an_upload()
    await store.create(upload)
    monkeypatch.setattr(os, "fdatasync", failing(code))
    with pytest.raises(StoreUnavailable):
        await put(store, upload, b"hello")
    assert await store.load(ID) == upload


# the calendar --------------------------------------------------------------------------------------------------------


async def due(store: FileStore) -> list[UploadId]:
    return [upload_id async for upload_id in store.due(NOW + LATE)]


async def test_a_look_that_could_not_be_noted_is_made_up_for(
    root: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = an_upload(expires_at=NOW)
    for upload_id in (ID, OTHER):
        await store.create(changed(upload, id=upload_id))
    assert set(await due(store)) == {ID, OTHER}
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    await store.schedule(ID, NOW)
    monkeypatch.undo()
    assert ID in await due(FileStore(root))


async def test_a_list_stays_while_looks_cannot_be_noted(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.create(an_upload(expires_at=NOW))
    await due(store)
    await store.schedule(ID, NOW)
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    for _ in range(3):
        async for upload_id in store.due(NOW + LATE):
            await store.schedule(upload_id, NOW)
    monkeypatch.undo()
    assert ID in await due(store)


# sweeps --------------------------------------------------------------------------------------------------------------


async def test_a_sweep_makes_room_on_a_full_disk_whatever_one_upload_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(lambda: FileStore(tmp_path))
    uploads = [await world.upload(11, b"hello") for _ in range(5)]
    world.clock.advance(DAY + LATE_SWEEP)
    for name in ("write", "pwrite", "pwritev"):
        monkeypatch.setattr(os, name, failing(errno.ENOSPC))
    stuck = str(uploads[0])
    monkeypatch.setattr(os, "unlink", failing(errno.EIO, lambda path: stuck in str(path), os.unlink))
    assert await world.sweeper.sweep() == 4
    monkeypatch.undo()
    assert await world.stored() == [uploads[0]]
    world.clock.advance(LATE_SWEEP)
    assert await world.sweeper.sweep() == 1
    assert len([line for line in caplog.messages if "could not be swept" in line]) == 1


async def test_what_a_disk_refuses_to_remove_is_one_line_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(lambda: FileStore(tmp_path))
    for _ in range(20):
        await world.upload(11, b"hello")
    world.clock.advance(DAY + LATE_SWEEP)
    monkeypatch.setattr(os, "unlink", failing(errno.EIO, lambda path: "/uploads/" in str(path), os.unlink))
    assert await world.sweeper.sweep() == 0
    swept = [record.getMessage() for record in caplog.records if record.name == "tusserver.sweeper"]
    assert len(swept) == 2
    assert swept[1] == "20 uploads in all could not be swept; they are tried again"
    monkeypatch.undo()
    world.clock.advance(LATE_SWEEP)
    assert await world.sweeper.sweep() == 20


async def test_an_upload_is_finished_though_no_look_can_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(lambda: FileStore(tmp_path, finished_folder=tmp_path / "finished"))
    upload_id = await world.upload(5)
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    await world.append(upload_id, 0, b"hello")
    assert (await world.head(upload_id)).finished


# starting ------------------------------------------------------------------------------------------------------------


async def test_a_store_on_a_full_disk_starts_and_gives_back_what_it_has(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = an_upload()
    await store.create(upload)
    kept: Upload = await put(store, upload, b"hello")
    for name in ("write", "pwrite", "pwritev", "mkdir", "rename"):
        monkeypatch.setattr(os, name, failing(errno.ENOSPC))
    again = FileStore(root)
    assert await again.load(ID) == kept
    with pytest.raises(OutOfSpace):
        await again.write(kept, Chunks(b"x"), unheard)
    assert await again.remove(ID)
