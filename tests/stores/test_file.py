"""The file store: what is its own."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.sources import Chunks, Direct, noting, unheard
from tests.contracts.stores import (
    HOUR,
    ID,
    LATE,
    NOW,
    OTHER,
    StoreContract,
    an_upload,
    bytes_of,
    complete,
    listed,
    named,
    put,
)
from tests.stores.conftest import Mount
from tests.support.uploads import changed
from tusserver.disk import cached, files, space
from tusserver.indexes.file_schedule import DatedLists
from tusserver.protocol.errors import (
    MaxSizeExceeded,
    OutOfSpace,
    StoreUnavailable,
    UploadExists,
    UploadNotFound,
)
from tusserver.protocol.upload import Role, UploadId
from tusserver.stores.base import Store
from tusserver.stores.file import record
from tusserver.stores.file.deadlines import FIRST_LOOK
from tusserver.stores.file.records import Durability
from tusserver.stores.file.store import FileStore

pytestmark = pytest.mark.usefixtures("unsynced")

MIB = 1 << 20


class TestFileStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FileStore(tmp_path / "data")


class TestFileStoreThatSyncsNothing(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FileStore(tmp_path / "data", durability=Durability.NONE)


class TestFileStoreWithReadableNames(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FileStore(tmp_path / "data", finished_folder=tmp_path / "finished")


@pytest.mark.parametrize("durability", list(Durability))
async def test_progress_is_told_and_can_be_committed_after_each_step(tmp_path: Path, durability: Durability) -> None:
    store, upload, seen = FileStore(tmp_path, durability=durability), an_upload(), []
    await store.create(upload)

    async def on_progress(count: int) -> None:
        if (recording := store.checkpoint(changed(upload, offset=count))) is not None:
            await recording
        seen.append((count, (await store.load(ID)).offset))

    await store.write(upload, Chunks(b"abc", [b"d", b"ef"], b"g"), on_progress)
    assert seen == [(3, 3), (6, 6), (7, 7)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore(root)


def found(root: Path) -> list[str]:
    """Names of all files of uploads."""
    return sorted(path.name for path in (root / "uploads").rglob("*") if not path.is_dir())


def bytes_path(root: Path, upload_id: UploadId = ID) -> Path:
    return root / "uploads" / upload_id[:2] / upload_id


def record_path(root: Path, upload_id: UploadId = ID) -> Path:
    return root / "uploads" / upload_id[:2] / f"{upload_id}.record"


def failing(code: int) -> Callable[..., Any]:
    """Make a system call that fails."""

    def call(*args: object, **options: object) -> Any:
        raise OSError(code, os.strerror(code))

    return call


# one file for each upload --------------------------------------------------------------------------------------------


async def test_an_upload_has_its_whole_space_from_the_start(store: FileStore, root: Path) -> None:
    if space.file_system(root) == "tmpfs":
        pytest.skip("tmpfs reserves nothing")
    await store.create(an_upload(length=10 * MIB))
    found = bytes_path(root).stat()
    assert found.st_size == 10 * MIB
    assert found.st_blocks * 512 >= 10 * MIB


async def test_bytes_go_to_their_place_in_that_file_at_once(store: FileStore, root: Path) -> None:
    upload = an_upload(length=10)
    await store.create(upload)
    await put(store, changed(upload, offset=3), b"hello")
    assert bytes_path(root).read_bytes() == b"\0\0\0hello\0\0"


async def test_there_are_no_files_but_the_bytes_and_the_record(store: FileStore, root: Path) -> None:
    upload = an_upload(length=None)
    await store.create(upload)
    for _ in range(3):
        upload = await put(store, upload, b"hello")
        assert found(root) == [ID, f"{ID}.record"]
    upload = changed(upload, length=15)
    await store.replace(upload)
    await store.finalize(upload)
    assert found(root) == [ID, f"{ID}.record"]


async def test_a_pending_final_upload_takes_no_space_yet(store: FileStore, root: Path) -> None:
    await store.create(an_upload(role=Role.FINAL, length=10 * MIB))
    assert bytes_path(root).stat().st_size == 0


async def test_folders_are_sharded_by_the_first_letters_of_ids(store: FileStore, root: Path) -> None:
    for upload_id in ("abc", "abx", "xyz", "q"):
        await store.create(an_upload(UploadId(upload_id)))
    assert sorted(path.name for path in (root / "uploads").iterdir()) == ["ab", "q", "xy"]
    assert set(await listed(store)) == {"abc", "abx", "xyz", "q"}


async def test_another_store_on_the_same_folder_sees_everything(store: FileStore, root: Path) -> None:
    upload = await complete(store, b"hello")
    assert await listed(FileStore(root)) == {ID: upload}


async def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = FileStore("data")
    monkeypatch.chdir("/")
    await store.create(an_upload())
    assert bytes_path(tmp_path / "data").exists()


async def test_files_of_others_in_the_folder_are_left_alone(store: FileStore, root: Path) -> None:
    await store.create(an_upload())
    for name in (".DS_Store", "é.record", "lost+found", f"{ID}.record.new.bak"):
        (bytes_path(root).parent / name).write_bytes(b"?")
    (root / "uploads" / "README").write_bytes(b"?")
    assert list(await listed(store)) == [ID]
    shutil.rmtree(root / "calendar")
    assert set(await named(store, NOW + 48 * HOUR)) == {ID}


# modes and arguments -------------------------------------------------------------------------------------------------


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


async def everything(store: FileStore) -> None:
    """Make the store make every kind of file."""
    part = await complete(store, b"hello", OTHER, role=Role.PARTIAL)
    await store.add_dependent(ID, part.id)
    upload = await complete(store, b"hello")
    await store.replace(upload)
    await store.finalize(upload)
    await named(store, NOW)
    await store.flush()


@pytest.mark.usefixtures("open_umask")
async def test_nobody_else_on_the_machine_may_read_anything(tmp_path: Path) -> None:
    await everything(FileStore(tmp_path / "data", durability="none", finished_folder=tmp_path / "finished"))
    found = [path for top in ("data", "finished") for path in [tmp_path / top, *(tmp_path / top).rglob("*")]]
    assert len(found) > 10
    assert [path for path in found if path.stat().st_mode & 0o077] == []


@pytest.mark.usefixtures("open_umask")
async def test_files_and_folders_have_the_modes_that_were_asked_for(tmp_path: Path) -> None:
    store = FileStore(
        tmp_path / "data", durability="none", finished_folder=tmp_path / "done", file_mode=0o640, folder_mode=0o750
    )
    await everything(store)
    for top in ("data", "done"):
        for path in (tmp_path / top).rglob("*"):
            assert path.stat().st_mode & 0o7777 == (0o750 if path.is_dir() else 0o640), path


def test_the_data_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    FileStore(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c" / "uploads").is_dir()


def test_a_data_folder_that_cannot_be_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"the data folder .*/file cannot be used: Not a directory"):
        FileStore(tmp_path / "file")


def test_a_durability_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="always"):
        FileStore(tmp_path, durability="always")


# ids -----------------------------------------------------------------------------------------------------------------


async def test_bytes_without_a_record_are_never_taken_over(store: FileStore, root: Path) -> None:
    path = bytes_path(root)
    path.parent.mkdir()
    path.write_bytes(b"somebody's")
    with pytest.raises(UploadExists):
        await store.create(an_upload())
    assert path.read_bytes() == b"somebody's"


async def test_an_id_stays_taken_when_its_bytes_have_moved_to_their_readable_place(root: Path, tmp_path: Path) -> None:
    store = FileStore(root, finished_folder=tmp_path / "finished")
    upload = await store.finalize(await complete(store, b"hello"))
    with pytest.raises(UploadExists):
        await store.create(an_upload())
    assert await store.load(ID) == upload
    assert await bytes_of(store, upload) == b"hello"


@pytest.mark.parametrize("suffix", ["", ".record"])
async def test_no_link_leads_out_of_the_folder(store: FileStore, root: Path, tmp_path: Path, suffix: str) -> None:
    outside = tmp_path / "outside"
    upload = await complete(store, b"hello")
    before = put_elsewhere(Path(f"{bytes_path(root)}{suffix}"), outside)
    with pytest.raises(StoreUnavailable):
        await put(store, changed(upload, offset=0), b"evil")
    assert outside.read_bytes() == before


def put_elsewhere(path: Path, outside: Path) -> bytes:
    """Move a file away, leave a symbolic link, and return what is in it."""
    path.rename(outside)
    path.symlink_to(outside)
    return outside.read_bytes()


async def test_checkpoints_on_a_disk_that_becomes_slow_and_quick_again_are_all_recorded(tmp_path: Path) -> None:
    store = FileStore(tmp_path, durability="none")
    upload = an_upload()
    await store.create(upload)
    seen = []

    async def on_progress(count: int) -> None:
        store.lanes.latency.hanging = 1 if count in (2, 4) else 0
        if (recording := store.checkpoint(changed(upload, offset=count))) is not None:
            await recording
        seen.append((await store.load(ID)).offset)

    await store.write(upload, Chunks(b"a", b"b", b"c", b"d", b"e"), on_progress)
    assert seen == [1, 2, 3, 4, 5]


async def test_a_checkpoint_of_a_removed_upload_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path, durability="none")
    recording = store.checkpoint(an_upload(offset=3))
    assert recording is not None
    with pytest.raises(UploadNotFound):
        await recording


# lengths that are not known ------------------------------------------------------------------------------------------


@pytest.fixture
def growth(store: FileStore) -> int:
    store._growth = store._contents._growth = MIB
    return MIB


async def test_a_file_of_unknown_length_grows_by_as_much_as_came(store: FileStore, root: Path, growth: int) -> None:
    upload = an_upload(length=None)
    await store.create(upload)
    sizes = []

    async def on_progress(count: int) -> None:
        sizes.append(bytes_path(root).stat().st_size)

    await store.write(upload, Chunks(*[b"x" * 1000] * 2500), on_progress)
    assert len(set(sizes)) < 15
    assert all(size <= 1000 * (2 * number) for number, size in enumerate(sizes, 1))


async def test_a_file_that_grew_too_large_is_trimmed_when_its_length_is_known(
    store: FileStore, root: Path, growth: int
) -> None:
    upload = an_upload(length=None)
    await store.create(upload)
    upload = changed(upload, offset=await store.write(upload, Chunks(b"he", b"llo", expected=growth), unheard))
    assert bytes_path(root).stat().st_size == growth
    await store.replace(changed(upload, length=7))
    assert bytes_path(root).stat().st_size == 7


async def test_a_length_beyond_what_the_file_grew_to_is_no_trouble(store: FileStore, growth: int) -> None:
    upload = an_upload(length=None)
    await store.create(upload)
    upload = await put(store, upload, b"hello")
    upload = changed(upload, length=2 * growth + 5)
    await store.replace(upload)
    source = Chunks(*[b"x" * growth] * 2)
    upload = changed(upload, offset=5 + await store.write(upload, source, unheard))
    assert await bytes_of(store, upload) == b"hello" + b"x" * 2 * growth


async def test_a_body_into_the_file_of_an_upload_without_length_takes_what_is_announced(
    store: FileStore, root: Path
) -> None:
    upload = an_upload(length=None)
    await store.create(upload)
    assert await store.write(upload, Direct(b"hello"), unheard) == 5
    assert bytes_path(root).read_bytes() == b"hello"


async def test_a_body_into_a_file_goes_behind_the_offset(store: FileStore) -> None:
    told: list[int] = []
    upload = an_upload(length=11)
    await store.create(upload)
    upload = await put(store, upload, b"hello ")
    assert await store.write(upload, Direct(b"world", step=3), noting(told)) == 5
    assert told == [3, 5]
    assert await bytes_of(store, changed(upload, offset=11)) == b"hello world"


# a full disk ---------------------------------------------------------------------------------------------------------


async def nothing_is_left(store: FileStore, root: Path) -> bool:
    return found(root) == [] and await listed(store) == {}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_told_at_creation_and_leaves_nothing(
    store: FileStore, root: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "_fallocate", lambda fd, at, length: code)
    with pytest.raises(OutOfSpace):
        await store.create(an_upload())
    assert await nothing_is_left(store, root)
    monkeypatch.undo()
    await store.create(an_upload())


async def test_an_upload_larger_than_the_whole_disk_can_never_be(store: FileStore, root: Path) -> None:
    with pytest.raises(MaxSizeExceeded, match="more than the whole storage holds"):
        await store.create(an_upload(length=2**63 - 1))
    assert await nothing_is_left(store, root)


@pytest.mark.parametrize("call", ["pwritev", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_record_that_cannot_be_written_leaves_no_upload(
    store: FileStore, root: Path, call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create(an_upload(OTHER))  # makes the folder
    await store.remove(OTHER)
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(OutOfSpace if code == errno.ENOSPC else StoreUnavailable):
        await store.create(an_upload())
    monkeypatch.undo()
    assert await nothing_is_left(store, root)


async def test_a_calendar_that_cannot_be_written_leaves_no_upload(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    with pytest.raises(OutOfSpace):
        await store.create(an_upload())
    monkeypatch.undo()
    assert await nothing_is_left(store, root)


async def test_what_was_told_before_the_disk_was_full_is_kept(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, told = an_upload(length=None), list[int]()
    await store.create(upload)
    calls = iter([os.pwritev])

    def pwritev(fd: int, chunks: list[bytes], at: int) -> int:
        return next(calls, failing(errno.ENOSPC))(fd, chunks, at)

    monkeypatch.setattr(os, "pwritev", pwritev)
    with pytest.raises(OutOfSpace):
        await store.write(upload, Chunks(b"hello", b"world"), noting(told))
    monkeypatch.undo()
    assert told == [5]
    assert await bytes_of(store, changed(upload, offset=5)) == b"hello"


@pytest.mark.parametrize(("code", "refusal"), [(errno.ENOSPC, OutOfSpace), (errno.EIO, StoreUnavailable)])
async def test_what_fails_in_a_drain_is_told_like_any_failure(
    store: FileStore, code: int, refusal: type[Exception]
) -> None:
    upload, told = an_upload(), list[int]()
    await store.create(upload)
    with pytest.raises(refusal):
        await store.write(upload, Direct(b"hello", fails=OSError(code, "no")), noting(told))
    assert told == [5]


async def test_a_commit_that_fails_leaves_the_last_one(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = an_upload()
    await store.create(upload)
    upload = await put(store, upload, b"hello")
    monkeypatch.setattr(os, "pwrite", failing(errno.EIO))
    with pytest.raises(StoreUnavailable):
        await put(store, upload, b"world")
    monkeypatch.undo()
    assert await store.load(ID) == upload


@pytest.mark.parametrize("call", ["pwritev", "rename", "fsync"])
async def test_a_record_that_cannot_be_replaced_stays_as_it_is(
    store: FileStore, root: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = an_upload(length=None)
    await store.create(upload)
    monkeypatch.setattr(os, call, failing(errno.ENOSPC))
    with pytest.raises(OutOfSpace):
        await store.replace(changed(upload, length=5))
    monkeypatch.undo()
    assert await store.load(ID) == upload
    assert found(root) == [ID, f"{ID}.record"]


async def test_an_upload_can_be_removed_from_a_full_disk(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await complete(store, b"hello")
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    monkeypatch.setattr(os, "pwritev", failing(errno.ENOSPC))
    assert await store.remove(ID)
    assert found(root) == []


async def test_a_disk_that_fails_is_told_as_trouble_that_passes(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await complete(store, b"hello")
    monkeypatch.setattr(cached, "_open", lambda path: -1)  # it is not in memory
    monkeypatch.setattr(os, "open", failing(errno.EIO))
    with pytest.raises(StoreUnavailable):
        await store.load(ID)


async def test_on_a_real_disk_that_reserves_a_full_one_is_told_at_creation(mount: Mount) -> None:
    root = mount("ext4", 16 * MIB) / "data"
    store = FileStore(root, untouched=100)
    first = an_upload(length=8 * MIB)
    await store.create(first)
    with pytest.raises(OutOfSpace):
        await store.create(an_upload(OTHER, length=8 * MIB))
    assert found(root) == [ID, f"{ID}.record"]
    # What was reserved is there, whoever fills the rest.
    with pytest.raises(OutOfSpace):
        await fill(store, OTHER)
    assert (await put(store, first, b"x" * 8 * MIB)).complete
    # And what is removed is free again.
    await store.remove(ID)
    await store.remove(OTHER)
    await store.create(first)


async def fill(store: FileStore, upload_id: UploadId) -> None:
    """Fill the disk by an upload of unknown length."""
    upload = an_upload(upload_id, length=None)
    await store.create(upload)
    for _ in range(32):
        upload = await put(store, upload, b"x" * MIB)


async def test_on_a_real_disk_that_does_not_reserve_bytes_are_kept_up_to_its_end(mount: Mount) -> None:
    root = mount("tmpfs", 8 * MIB) / "data"
    store = FileStore(root)
    with pytest.raises(MaxSizeExceeded):
        await store.create(an_upload(length=9 * MIB))
    assert await nothing_is_left(store, root)
    with pytest.raises(OutOfSpace):
        await fill(store, ID)
    upload = await store.load(ID)
    assert upload.offset >= 6 * MIB
    assert bytes_path(root).read_bytes()[: upload.offset] == b"x" * upload.offset
    with pytest.raises(OutOfSpace):
        await store.create(an_upload(OTHER, length=4 * MIB))
    await store.remove(ID)
    await complete(store, b"y" * 4 * MIB, OTHER)


# records that cannot be read -----------------------------------------------------------------------------------------


def spoil_slot(root: Path, number: int) -> None:
    with open(record_path(root), "r+b") as file:
        file.seek(number * record.SLOT_SPACE + 20)
        file.write(b"\xff")


async def test_a_torn_slot_leaves_the_commit_before(store: FileStore, root: Path) -> None:
    upload = an_upload()
    await store.create(upload)
    upload = await put(store, upload, b"hello")
    await put(store, upload, b"world")
    spoil_slot(root, 0)  # commits go to the slots in turn, and this was the second
    assert await store.load(ID) == upload


async def test_a_commit_after_a_torn_one_counts(store: FileStore, root: Path) -> None:
    upload = an_upload()
    await store.create(upload)
    upload = await put(store, upload, b"hello")
    await put(store, upload, b"wrong")
    spoil_slot(root, 0)
    upload = await put(store, upload, b"world")
    assert await store.load(ID) == upload
    assert await bytes_of(store, upload) == b"helloworld"


@pytest.mark.parametrize("damage", ["slots", "json", "newer"])
async def test_a_record_that_cannot_be_read_is_trouble_and_not_a_missing_upload(
    store: FileStore, root: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    # On a 404 clients would forget the upload.
    await complete(store, b"hello")
    path = record_path(root)
    content = path.read_bytes()
    if damage == "slots":
        spoil_slot(root, 0)
        spoil_slot(root, 1)
    elif damage == "json":
        path.write_bytes(content[:-20])
    else:
        path.write_bytes(content.replace(b'"format":1', b'"format":2'))
    with pytest.raises(StoreUnavailable), caplog.at_level(logging.ERROR, "tusserver.store"):
        await store.load(ID)
    assert f"the record of {ID} cannot be read" in caplog.text


async def test_a_newer_record_without_commits_is_not_taken_for_half_made(store: FileStore, root: Path) -> None:
    await store.create(an_upload())
    path = record_path(root)
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(StoreUnavailable):
        await store.load(ID)


async def test_a_record_that_cannot_be_read_does_not_hide_the_others(store: FileStore, root: Path) -> None:
    other = await complete(store, b"hello", OTHER)
    await complete(store, b"hello")
    record_path(root).write_bytes(b"nonsense" * 200)
    assert await listed(store) == {OTHER: other}


async def test_an_upload_whose_record_cannot_be_read_can_be_removed(store: FileStore, root: Path) -> None:
    await complete(store, b"hello")
    record_path(root).write_bytes(b"nonsense" * 200)
    assert await store.remove(ID)
    assert found(root) == []


@pytest.mark.parametrize("cut", [0, 1, 60, 61, 512, 1024, 1100])
async def test_a_record_cut_off_while_it_was_made_is_no_upload(store: FileStore, root: Path, cut: int) -> None:
    await store.create(an_upload())
    path = record_path(root)
    whole = path.read_bytes()
    for rest in (b"", bytes(len(whole) - cut)):  # a crash, a power cut
        path.write_bytes(whole[:cut] + rest)
        with pytest.raises(UploadNotFound):
            await store.load(ID)
    assert await store.remove(ID)
    assert found(root) == []


# the calendar --------------------------------------------------------------------------------------------------------


async def test_what_a_crash_left_half_made_gets_a_look(store: FileStore, root: Path) -> None:
    await store.create(an_upload(expires_at=None))
    record_path(root).unlink()
    assert await named(store, NOW + timedelta(seconds=FIRST_LOOK) + LATE) == [ID]


async def test_a_lost_calendar_is_made_anew(store: FileStore, root: Path) -> None:
    for number, deadline in enumerate([NOW + HOUR, NOW + 3 * HOUR, NOW - HOUR, None]):
        await store.create(an_upload(UploadId(f"{number}x"), expires_at=deadline))
    shutil.rmtree(root / "calendar")
    store = FileStore(root)
    assert sorted(await named(store, NOW + LATE)) == ["2x", "3x"], "one without a deadline may have been finished once"
    assert await named(store, NOW + HOUR + LATE) == ["0x"]
    assert await named(store, NOW + 3 * HOUR + LATE) == ["1x"]


async def test_a_lost_calendar_names_what_waits_to_be_finished_at_once(store: FileStore, root: Path) -> None:
    upload = await complete(store, b"hello", expires_at=None)
    shutil.rmtree(root / "calendar")
    assert await named(store, NOW + LATE) == [ID]
    await store.commit(changed(upload, finished=True))
    shutil.rmtree(root / "calendar")
    assert await named(store, NOW + LATE) == []


async def test_a_lost_calendar_names_bytes_without_a_record_after_a_while(store: FileStore, root: Path) -> None:
    await store.create(an_upload(expires_at=None))
    record_path(root).unlink()
    shutil.rmtree(root / "calendar")
    assert await named(store, NOW + LATE) == []
    assert await named(store, NOW + timedelta(seconds=FIRST_LOOK) + LATE) == [ID]


async def test_a_calendar_lost_while_the_server_runs_loses_nobody(store: FileStore, root: Path) -> None:
    await store.create(an_upload(expires_at=NOW + HOUR))
    shutil.rmtree(root / "calendar")
    assert await named(store, NOW) == []
    await store.create(an_upload(OTHER, expires_at=NOW + HOUR))
    assert set(await named(store, NOW + HOUR + LATE)) == {ID, OTHER}


async def test_a_calendar_of_another_run_of_the_machine_is_not_believed(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create(an_upload(expires_at=NOW + HOUR))
    assert await named(store, NOW) == []
    for path in (root / "calendar").glob("[0-9]*"):
        path.unlink()  # it was not synced
    monkeypatch.setattr("tusserver.stores.file.records.boot_id", lambda: "another")
    assert await named(FileStore(root), NOW + HOUR + LATE) == [ID]


async def test_a_record_that_cannot_be_read_does_not_keep_the_calendar_from_being_made(
    store: FileStore, root: Path
) -> None:
    await store.create(an_upload(OTHER, expires_at=NOW + HOUR))
    await store.create(an_upload())
    record_path(root).write_bytes(b"nonsense" * 200)
    shutil.rmtree(root / "calendar")
    assert await named(store, NOW + HOUR + LATE) == [OTHER]


async def test_a_line_torn_by_a_power_cut_is_stepped_over(store: FileStore, root: Path) -> None:
    await store.create(an_upload(expires_at=NOW + HOUR))
    await named(store, NOW)
    for path in (root / "calendar").glob("[0-9]*"):
        path.write_bytes(b"\0\0\0\nab/../x\n" + path.read_bytes())
    assert await named(store, NOW + HOUR + LATE) == [ID]


async def test_a_name_that_only_half_fits_on_the_disk_is_told_and_spoils_no_other(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create(an_upload(OTHER, expires_at=NOW + HOUR))
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, content: real(fd, content[: len(content) // 2]))
    with pytest.raises(OutOfSpace):
        await store.create(an_upload(expires_at=NOW + HOUR))
    monkeypatch.undo()
    await store.create(an_upload(expires_at=NOW + HOUR))
    assert {ID, OTHER} <= set(await named(store, NOW + HOUR + LATE))


async def test_notes_of_final_uploads_survive_one_that_was_torn(store: FileStore, root: Path) -> None:
    await store.create(an_upload(role=Role.PARTIAL))
    path = bytes_path(root).with_name(f"{ID}.awaited")
    path.write_bytes(b"\xff\0\0\0../x\nabc")
    await store.add_dependent(OTHER, ID)
    assert await store.dependents(ID) == ("abc", OTHER)


async def test_a_removal_that_was_cut_off_gets_another_look(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await complete(store, b"hello", expires_at=None)
    await named(store, NOW + 48 * HOUR)  # its first look is over
    unlink = os.unlink

    def once(path: str) -> None:
        unlink(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", once)
    with pytest.raises(KeyboardInterrupt):
        await store.remove(ID)
    monkeypatch.undo()
    assert found(root) == [ID]
    assert ID in await named(store, NOW + 48 * HOUR)


@pytest.mark.parametrize("left", ["", ".record", ".record.new", ".awaited"])
async def test_an_id_of_which_anything_is_left_gets_its_look(store: FileStore, root: Path, left: str) -> None:
    (root / "uploads" / ID[:2]).mkdir()
    (root / "uploads" / ID[:2] / f"{ID}{left}").touch()
    await store.schedule(ID, NOW)
    await store.schedule(OTHER, NOW)
    assert await named(store, NOW + LATE) == [ID]


async def test_an_id_whose_files_cannot_be_seen_gets_its_look(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails does not say that there is nothing."""
    await store.create(an_upload(expires_at=NOW))
    real = os.lstat

    def lstat(path: str, **options: Any) -> os.stat_result:
        if ID in str(path):
            raise OSError(errno.EIO, "broken")
        return real(path, **options)

    await named(store, NOW - HOUR)
    monkeypatch.setattr(os, "lstat", lstat)
    assert set(await named(store, NOW + LATE)) == {ID}


async def test_removed_uploads_cost_their_later_looks_neither_locks_nor_calls_of_their_own(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is listed twice still: from its creation on, and from its removal on."""
    for number in range(200):
        await store.create(an_upload(UploadId(f"u{number}"), length=0, expires_at=NOW + 2 * HOUR))
        await store.remove(UploadId(f"u{number}"))
    await named(store, NOW)
    hops = 0
    real = store.lanes.run

    async def run(*args: Any) -> Any:
        nonlocal hops
        hops += 1
        return await real(*args)

    monkeypatch.setattr(store.lanes, "run", run)
    assert [batch async for batch in store.due_batches(NOW + 3 * HOUR)] == []
    assert hops < 20


async def test_many_are_removed_with_one_call_and_each_folder_is_synced_once(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [UploadId(f"{shard}{number:03}") for shard in ("aa", "bb") for number in range(20)]
    for upload_id in ids:
        await store.create(an_upload(upload_id))
    synced: list[str] = []
    monkeypatch.setattr(files, "sync_folder", lambda path: synced.append(Path(path).name))
    assert len((await store.reap(ids, lambda upload: True)).removed) == 40
    assert sorted(synced) == ["aa", "bb"]
    assert found(root) == []


async def test_a_removal_that_may_not_last_is_not_told(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.create(an_upload())

    def broken(path: Path) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(files, "sync_folder", broken)
    reaped = await store.reap([ID], lambda upload: True)
    assert (reaped.removed, list(reaped.failed)) == ([], [ID])


async def test_one_file_that_cannot_be_removed_does_not_keep_the_others(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for upload_id in (ID, OTHER):
        await store.create(an_upload(upload_id))
    real = os.unlink

    def unlink(path: str) -> None:
        if ID in str(path):
            raise OSError(errno.EIO, "broken")
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    reaped = await store.reap([ID, OTHER], lambda upload: True)
    assert ([upload.id for upload in reaped.removed], list(reaped.failed)) == ([OTHER], [ID])


async def test_a_calendar_is_made_anew_a_few_hundred_uploads_at_a_time(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ids of an application may begin alike, so that they share a folder."""
    store._deadlines._listed_at_once = 10
    ids = {UploadId(f"upload-{number}") for number in range(95)}
    for upload_id in ids:
        await store.create(an_upload(upload_id, length=0, expires_at=NOW - HOUR))
    shutil.rmtree(root / "calendar")
    most = 0
    real = DatedLists.add_all

    def add_all(self: DatedLists, looks: list[tuple[str, float]], now: float, *, overdue: bool = False) -> None:
        nonlocal most
        most = max(most, len(looks))
        real(self, looks, now, overdue=overdue)

    monkeypatch.setattr(DatedLists, "add_all", add_all)
    assert set(await named(store, NOW + LATE)) == ids
    assert most == 10


# damaged files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [10, None])
async def test_nothing_is_put_behind_bytes_that_are_not_there(store: FileStore, root: Path, length: int | None) -> None:
    """The gap would read as zeros, and nobody would ever know."""
    upload = an_upload(length=length)
    await store.create(upload)
    upload = await put(store, upload, b"hello")
    os.truncate(bytes_path(root), 2)
    with pytest.raises(StoreUnavailable):
        await put(store, upload, b"world")
