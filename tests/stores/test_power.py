"""What survives a power cut: the machine comes back under another boot id, and with what had reached its disk."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contracts.sources import Chunks, unheard
from tests.contracts.stores import ID, NOW, OTHER, an_upload, bytes_of, listed, put
from tests.support.uploads import changed
from tusserver.clock import WallClock
from tusserver.disk import files
from tusserver.protocol.errors import StoreUnavailable
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file import record
from tusserver.stores.file.record import JSON_AT
from tusserver.stores.file.records import Durability
from tusserver.stores.file.store import FileStore

WEAK = [Durability.FINISH, Durability.NONE]

Booted = Callable[[str, Durability], FileStore]
"""`boot("second", durability)`: the store as it is under that run of the machine."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def boot(root: Path, monkeypatch: pytest.MonkeyPatch) -> Booted:
    def boot(run: str, durability: Durability) -> FileStore:
        monkeypatch.setattr("tusserver.stores.file.records.boot_id", lambda: run.ljust(16, "-"))
        return FileStore(root, durability=durability)

    return boot


async def begin(store: FileStore, data: bytes = b"hello", length: int = 10) -> Upload:
    upload = an_upload(length=length)
    await store.create(upload)
    return await put(store, upload, data)


# after a power cut ---------------------------------------------------------------------------------------------------


async def test_what_was_acknowledged_is_there_after_a_power_cut(boot: Booted) -> None:
    upload = await begin(boot("first", Durability.ACK))
    assert await boot("second", Durability.ACK).load(ID) == upload


@pytest.mark.parametrize("durability", WEAK)
async def test_in_the_weaker_modes_an_upload_goes_back_to_what_had_surely_reached_the_disk(
    boot: Booted, durability: Durability, caplog: pytest.LogCaptureFixture
) -> None:
    upload = await begin(boot("first", durability))
    with caplog.at_level(logging.WARNING, "tusserver.store"):
        assert await boot("second", durability).load(ID) == changed(upload, offset=0)
    assert f"upload {ID} goes back to byte 0 after a restart of the machine" in caplog.text


@pytest.mark.parametrize("durability", WEAK)
async def test_an_upload_resumes_from_there(boot: Booted, durability: Durability) -> None:
    await begin(boot("first", durability), b"wrong")
    store = boot("second", durability)
    upload = await put(store, await store.load(ID), b"hello")
    assert upload.offset == 5
    assert await store.load(ID) == upload
    assert await bytes_of(store, upload) == b"hello"


@pytest.mark.parametrize("durability", list(Durability))
async def test_a_crash_of_the_server_alone_loses_nothing(boot: Booted, durability: Durability) -> None:
    upload = await begin(boot("first", durability))
    assert await boot("first", durability).load(ID) == upload


async def test_a_finished_upload_is_there_after_a_power_cut_if_finishing_syncs(boot: Booted) -> None:
    upload = await begin(boot("first", Durability.FINISH), b"hello", 5)
    assert upload.complete
    assert await boot("second", Durability.FINISH).load(ID) == upload


async def test_without_any_sync_a_finished_upload_may_be_unfinished_again(boot: Booted) -> None:
    store = boot("first", Durability.NONE)
    upload = replace(await begin(store, b"hello", 5), finished=True)
    await store.commit(upload)
    assert await boot("second", Durability.NONE).load(ID) == changed(upload, offset=0, finished=False)


@pytest.mark.parametrize("durability", list(Durability))
async def test_an_upload_without_bytes_loses_none(boot: Booted, durability: Durability) -> None:
    upload = an_upload()
    await boot("first", durability).create(upload)
    assert await boot("second", durability).load(ID) == upload


# what was synced -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", WEAK)
async def test_what_was_synced_is_there_after_a_power_cut(
    boot: Booted, durability: Durability, clock: list[float]
) -> None:
    store = boot("first", durability)
    upload = await begin(store)
    clock[0] += 1
    await store.flush()
    assert await boot("second", durability).load(ID) == upload


@pytest.mark.parametrize("durability", WEAK)
async def test_what_came_after_it_was_synced_is_not(boot: Booted, durability: Durability, clock: list[float]) -> None:
    store = boot("first", durability)
    upload = await begin(store, b"hello", 20)
    clock[0] += 1
    await store.flush()
    clock[0] += 1
    await put(store, upload, b"world")
    assert (await boot("second", durability).load(ID)).offset < 10


@pytest.mark.parametrize("durability", WEAK)
@pytest.mark.parametrize("again", [False, True], ids=["in the same run", "in the next run"])
async def test_what_was_synced_is_not_lost_with_what_came_after_it(
    boot: Booted, durability: Durability, clock: list[float], again: bool
) -> None:
    """Of an upload that is being written when the power is cut all but the last minute is on the disk."""
    store = boot("first", durability)
    upload = await begin(store, b"hello", 20)
    clock[0] += 1
    await store.flush()
    clock[0] += 1
    if again:
        store = boot("second", durability)
        upload = await store.load(ID)
    await put(store, upload, b"world")
    assert (await boot("third", durability).load(ID)).offset == 5


@pytest.mark.parametrize("durability", WEAK)
async def test_nor_with_a_checkpoint(boot: Booted, durability: Durability, clock: list[float]) -> None:
    store = boot("first", durability)
    upload = await begin(store, b"hello", 20)
    clock[0] += 1
    await store.flush()
    clock[0] += 1
    if (saving := store.checkpoint(changed(upload, offset=10))) is not None:
        await saving
    assert (await boot("second", durability).load(ID)).offset == 5


async def test_what_was_synced_stays_so_over_many_restarts(boot: Booted, clock: list[float]) -> None:
    store = boot("first", Durability.NONE)
    upload = await begin(store)
    for run in ("second", "third", "fourth"):
        clock[0] += 1
        await store.flush()
        store = boot(run, Durability.NONE)
        other = an_upload(OTHER)
        await store.create(other)
        await put(store, other, b"x")
        assert await store.load(ID) == upload
        await store.remove(OTHER)


async def test_nothing_is_synced_of_another_run_than_that_which_wrote_it(boot: Booted, clock: list[float]) -> None:
    upload = await begin(boot("first", Durability.NONE))
    clock[0] += 1
    store = boot("second", Durability.NONE)  # the first one was never synced
    other = an_upload(OTHER)
    await store.create(other)
    other = await put(store, other, b"x")
    clock[0] += 1
    await store.flush()
    assert await listed(boot("third", Durability.NONE)) == {ID: changed(upload, offset=0), OTHER: other}


async def test_what_is_written_in_the_moment_of_a_sync_is_not_synced(boot: Booted, clock: list[float]) -> None:
    store = boot("first", Durability.NONE)
    await begin(store)
    await store.flush()  # the clock stands still
    assert (await boot("second", Durability.NONE).load(ID)).offset == 0


async def test_stores_on_one_folder_that_sync_at_once_do_not_disturb_each_other(
    boot: Booted, clock: list[float]
) -> None:
    stores = [boot("first", Durability.NONE) for _ in range(8)]
    for turn in range(10):
        for number, store in enumerate(stores):
            upload = an_upload(UploadId(f"{turn}-{number}"), length=10)
            await store.create(upload)
            await put(store, upload, b"hello")
        clock[0] += 1
        await asyncio.gather(*(store.flush() for store in stores))
    again = boot("second", Durability.NONE)
    assert {upload.offset for upload in (await listed(again)).values()} == {5}


async def test_an_idle_store_is_not_synced_again_and_again(
    boot: Booted, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    store = boot("first", Durability.NONE)
    await begin(store)
    await store.flush()
    monkeypatch.setattr(files, "sync_file_system", lambda folder: pytest.fail("it was synced"))
    await store.flush()


async def test_where_everything_is_synced_at_once_that_is_noted_once_after_a_start(
    boot: Booted, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = boot("first", Durability.ACK)
    await begin(store)
    await store.flush()
    assert (root / "settled").exists()
    monkeypatch.setattr(files, "sync_file_system", lambda folder: pytest.fail("it was synced"))
    await put(store, await store.load(ID), b"!")
    await store.flush()


@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize("before", WEAK)
async def test_what_a_dead_process_left_unsynced_is_synced_by_the_next(
    boot: Booted, before: Durability, durability: Durability
) -> None:
    upload = await begin(boot("first", before))  # and it is killed
    await boot("first", durability).flush()  # the next one has nothing to do, and is stopped
    assert await boot("second", before).load(ID) == upload


async def test_what_could_not_be_synced_is_not_noted_as_synced_and_tried_again(
    boot: Booted, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = boot("first", Durability.NONE)
    upload = await begin(store)

    def fail(folder: Path) -> None:
        raise OSError(5, "a bad disk")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_file_system", fail)
        with pytest.raises(StoreUnavailable):
            await store.flush()
    assert (await boot("second", Durability.NONE).load(ID)).offset == 0
    monkeypatch.setattr("tusserver.stores.file.records.boot_id", lambda: "first".ljust(16, "-"))
    await store.flush()
    assert await boot("second", Durability.NONE).load(ID) == upload


@pytest.mark.parametrize("durability", WEAK)
@pytest.mark.parametrize("steps", [-3600.0, 3600.0, -10 * 365 * 86400.0])
async def test_what_is_on_the_disk_does_not_depend_on_the_wall_clock(
    boot: Booted, monkeypatch: pytest.MonkeyPatch, durability: Durability, steps: float
) -> None:
    """Set back between a sync and the next bytes, these were taken for synced."""
    store = boot("first", durability)
    upload = await begin(store)
    await store.flush()
    real = WallClock.seconds
    monkeypatch.setattr(WallClock, "seconds", lambda self: real(self) + steps)
    await put(store, upload, b"!!")
    assert (await boot("second", durability).load(ID)).offset == 5


async def test_records_of_an_older_version_go_by_its_clock(boot: Booted, root: Path) -> None:
    """It noted the wall clock alone, in the slots and in `settled`."""
    await begin(boot("first", Durability.NONE))
    path = root / "uploads" / ID[:2] / f"{ID}.record"
    slot = record.latest(path.read_bytes()[:JSON_AT], "another")
    assert slot is not None
    head = bytearray(JSON_AT)
    old = replace(slot, clock=None, told=None).pack()
    head[: len(old)] = old if slot.number % 2 == 0 else bytes(len(old))
    head[512 : 512 + len(old)] = old if slot.number % 2 else bytes(len(old))
    path.write_bytes(bytes(head) + path.read_bytes()[JSON_AT:])
    for synced, offset in ((slot.written_at + 1, 5), (slot.written_at - 1, 0)):
        (root / "settled").write_text(f"{slot.boot} {synced}\n")
        upload = await boot("second", Durability.NONE).load(ID)
        assert (upload.offset, upload.told) == (offset, offset)


# what waits for the disk ---------------------------------------------------------------------------------------------


async def test_an_offset_that_waits_for_the_disk_is_read_by_nobody(
    boot: Booted, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = boot("first", Durability.ACK)
    upload = await begin(store)
    await store.flush()
    seen: list[int] = []
    original = files.sync_data

    def sync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".record"):
            seen.append(
                record.unpack((store.root / "uploads" / ID[:2] / f"{ID}.record").read_bytes(), "first".ljust(16, "-"))[
                    0
                ].offset
            )
            raise OSError(5, "a bad disk")
        original(fd)

    monkeypatch.setattr(files, "sync_data", sync)
    with pytest.raises(StoreUnavailable):
        await put(store, upload, b"!!")
    assert seen == [5]
    assert await store.load(ID) == upload


async def test_after_a_restart_of_the_machine_one_that_reached_it_counts(
    boot: Booted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is made after the sync, and is not synced itself."""
    store = boot("first", Durability.ACK)
    upload = await begin(store)
    await store.flush()
    monkeypatch.setattr(record, "mark_synced", lambda fd, slot: None)
    upload = await put(store, upload, b"!!")
    assert (await boot("second", Durability.ACK).load(ID)).offset == upload.offset == 7


async def test_what_is_taken_back_is_on_the_disk_before_other_bytes_come(boot: Booted, calls: list[str]) -> None:
    for durability in Durability:
        store = boot("first", durability)
        upload = an_upload(UploadId(f"an-{durability}"))
        await store.create(upload)
        upload = await put(store, upload, b"hello")
        await store.flush()
        calls.clear()
        await store.revert(changed(upload, offset=2))
        assert "sync record" in calls
        assert (await store.load(upload.id)).offset == 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as the file store sees it, to be moved on."""
    now = [NOW.timestamp()]
    monkeypatch.setattr(WallClock, "steady", lambda self: now[0])
    monkeypatch.setattr(WallClock, "seconds", lambda self: now[0])
    return now


# changing the mode ---------------------------------------------------------------------------------------------------


async def test_a_mode_made_stronger_syncs_what_the_weaker_left(boot: Booted) -> None:
    await begin(boot("first", Durability.NONE))
    store = boot("first", Durability.ACK)
    upload = await put(store, await store.load(ID), b"world")
    assert await boot("second", Durability.ACK).load(ID) == upload


async def test_a_mode_made_weaker_remembers_what_was_synced(boot: Booted) -> None:
    upload = await begin(boot("first", Durability.ACK))
    await put(boot("first", Durability.NONE), upload, b"world")
    assert await boot("second", Durability.NONE).load(ID) == upload


# the order of things -------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written and synced, by kind of file, in order."""
    found: list[str] = []

    def kind(fd: int) -> str:
        path = os.readlink(f"/proc/self/fd/{fd}")
        return "folder" if os.path.isdir(path) else "record" if ".record" in path else "bytes"

    def watch(name: str, verb: str) -> None:
        real = getattr(os, name)

        def call(fd: int, *args: object) -> object:
            found.append(f"{verb} {kind(fd)}")
            return real(fd, *args)

        monkeypatch.setattr(os, name, call)

    for name, verb in [("pwrite", "write"), ("pwritev", "write"), ("fsync", "sync"), ("fdatasync", "sync")]:
        watch(name, verb)
    return found


async def test_bytes_are_on_the_disk_before_the_record_says_so(boot: Booted, calls: list[str]) -> None:
    store = boot("first", Durability.ACK)
    upload = an_upload()
    await store.create(upload)
    await store.flush()
    calls.clear()
    written = await store.write(upload, Chunks(b"hello"), unheard)
    await store.commit(changed(upload, offset=written))
    assert calls == ["write bytes", "sync bytes", "write record", "sync record", "write record"]


async def test_until_all_that_others_left_is_synced_names_are_synced_too(boot: Booted, calls: list[str]) -> None:
    await begin(boot("first", Durability.NONE))
    store = boot("first", Durability.ACK)
    calls.clear()
    await put(store, await store.load(ID), b"!")
    assert calls[-2:] == ["sync folder", "sync folder"]


async def test_a_new_record_and_its_name_are_on_the_disk_before_anybody_is_told(boot: Booted, calls: list[str]) -> None:
    store = boot("first", Durability.ACK)
    await store.create(an_upload(OTHER))  # makes the folder
    calls.clear()
    await store.create(an_upload())
    # A dead process may have made the folder and not synced its name.
    assert calls == ["write record", "sync record", "sync folder", "sync folder"]
    await store.flush()
    calls.clear()
    await store.create(an_upload(UploadId("abc")))
    assert calls == ["write record", "sync record", "sync folder"]


async def test_a_changed_record_is_on_the_disk_before_it_takes_its_place(boot: Booted, calls: list[str]) -> None:
    store = boot("first", Durability.ACK)
    upload = an_upload(length=None)
    await store.create(upload)
    calls.clear()
    await store.replace(changed(upload, length=10))
    assert calls == ["write record", "sync record", "sync folder"]


@pytest.mark.parametrize(
    ("durability", "syncs"),
    [(Durability.FINISH, ["sync bytes", "sync record", "sync folder", "sync folder"]), (Durability.NONE, [])],
)
async def test_the_weaker_modes_sync_no_more_than_they_say(
    boot: Booted, calls: list[str], durability: Durability, syncs: list[str]
) -> None:
    store = boot("first", durability)
    calls.clear()
    upload = await begin(store)
    assert [call for call in calls if call.startswith("sync")] == []
    await put(store, upload, b"world")
    assert [call for call in calls if call.startswith("sync")] == syncs


async def test_a_finished_upload_has_its_readable_name_on_the_disk_before_it_loses_the_other(
    boot: Booted, root: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    boot("first", Durability.FINISH)
    store = FileStore(root, durability=Durability.FINISH, finished_folder=root.parent / "finished")
    upload = await begin(store, b"hello", 5)
    real = os.unlink

    def unlink(path: str) -> None:
        calls.append("unlink")
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    calls.clear()
    await store.finalize(upload)
    assert calls == ["sync bytes", "sync folder", "write record", "sync record", "sync folder", "unlink"]
