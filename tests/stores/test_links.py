"""Symbolic links that somebody planted in a data folder: none leads out of it, for writing or for reading."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.contracts.sources import Chunks
from tests.support.uploads import changed
from tusserver.indexes.base import Listed
from tusserver.indexes.file_open_uploads import FileOpenUploads
from tusserver.protocol.errors import StoreUnavailable, UploadNotFound
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file.store import FileStore

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ID = UploadId("abc")
SAME_SHARD = UploadId("ab0")


def an_upload(upload_id: UploadId = ID) -> Upload:
    return Upload(id=upload_id, created_at=NOW, length=5)


async def complete(store: FileStore, upload: Upload) -> Upload:
    """Make an upload and send its bytes."""
    await store.create(upload)
    await store.write(upload, Chunks(b"hello"), lambda count: None)
    upload = changed(upload, offset=5)
    await store.commit(upload)
    return upload


def lead_elsewhere(path: Path, outside: Path) -> None:
    """Move what is there away, and leave a link to it."""
    path.rename(outside)
    path.symlink_to(outside)


def all_of(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# folders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uploads", "calendar", "tally", "locks"])
def test_a_folder_in_it_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        FileStore(tmp_path / "data")
    assert all_of(tmp_path / "outside") == {}


@pytest.mark.parametrize("name", ["format", "settled"])
def test_a_file_in_it_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("tusserver data folder, format 1\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="cannot be"):
        FileStore(tmp_path / "data")


def test_nobody_claims_it_by_way_of_a_link(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "data")
    (tmp_path / "data" / "in-use").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="cannot be used"):
        store.attach("ours")
    assert not (tmp_path / "outside").exists()


async def test_the_data_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "large disk")
    store = FileStore(tmp_path / "data")
    await complete(store, an_upload())
    assert await store.load(ID) == changed(an_upload(), offset=5)


USES: dict[str, Callable[[FileStore], Awaitable[object]]] = {
    "create": lambda store: store.create(an_upload(SAME_SHARD)),
    "load": lambda store: store.load(ID),
    "write": lambda store: store.write(an_upload(), Chunks(b"evil!"), lambda count: None),
    "commit": lambda store: store.commit(an_upload()),
    "amend": lambda store: store.replace(changed(an_upload(), length=2)),
    "note": lambda store: store.add_dependent(SAME_SHARD, ID),
    "awaiting": lambda store: store.dependents(ID),
    "remove": lambda store: store.remove(ID),
    "content": lambda store: store.content(changed(an_upload(), offset=5)),
}


@pytest.mark.parametrize("use", USES)
async def test_nothing_is_done_behind_a_link_among_the_uploads(
    tmp_path: Path, use: str, caplog: pytest.LogCaptureFixture
) -> None:
    await complete(FileStore(tmp_path / "data"), an_upload())
    lead_elsewhere(tmp_path / "data" / "uploads" / "ab", tmp_path / "outside")
    before = all_of(tmp_path / "outside")
    with pytest.raises(StoreUnavailable):
        await USES[use](FileStore(tmp_path / "data"))
    assert all_of(tmp_path / "outside") == before
    assert "uploads/ab is a symbolic link" in caplog.text


@pytest.mark.parametrize("use", USES)
async def test_where_others_may_put_a_link_at_any_time_it_is_looked_for_each_time(tmp_path: Path, use: str) -> None:
    store = FileStore(tmp_path / "data", folder_mode=0o770)
    await complete(store, an_upload())
    lead_elsewhere(tmp_path / "data" / "uploads" / "ab", tmp_path / "outside")
    before = all_of(tmp_path / "outside")
    with pytest.raises(StoreUnavailable):
        await USES[use](store)
    assert all_of(tmp_path / "outside") == before


async def test_uploads_behind_a_link_are_not_listed_and_not_put_into_the_calendar(tmp_path: Path) -> None:
    await complete(FileStore(tmp_path / "data"), an_upload())
    lead_elsewhere(tmp_path / "data" / "uploads" / "ab", tmp_path / "outside")
    store = FileStore(tmp_path / "data")
    assert [upload async for upload in store.uploads()] == []
    assert [name async for name in store.due(datetime.now(UTC))] == []


# files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["write", "amend", "content"])
async def test_bytes_that_are_a_link_are_neither_written_cut_nor_read(tmp_path: Path, use: str) -> None:
    store = FileStore(tmp_path / "data")
    await complete(store, an_upload())
    lead_elsewhere(tmp_path / "data" / "uploads" / "ab" / ID, tmp_path / "outside")
    with pytest.raises((StoreUnavailable, UploadNotFound)):
        await USES[use](store)
    assert (tmp_path / "outside").read_bytes() == b"hello"


@pytest.mark.parametrize("use", ["load", "commit", "amend"])
async def test_a_record_that_is_a_link_is_neither_written_nor_read(tmp_path: Path, use: str) -> None:
    store = FileStore(tmp_path / "data")
    await complete(store, an_upload())
    lead_elsewhere(tmp_path / "data" / "uploads" / "ab" / f"{ID}.record", tmp_path / "outside")
    before = (tmp_path / "outside").read_bytes()
    with pytest.raises(StoreUnavailable):
        await USES[use](store)
    assert (tmp_path / "outside").read_bytes() == before


@pytest.mark.parametrize("use", ["note", "awaiting"])
async def test_a_list_of_who_waits_that_is_a_link_is_neither_written_nor_read(tmp_path: Path, use: str) -> None:
    store = FileStore(tmp_path / "data")
    await complete(store, an_upload())
    (tmp_path / "outside").write_bytes(b"xyz\n")
    for name in (ID, SAME_SHARD):
        (tmp_path / "data" / "uploads" / "ab" / f"{name}.awaited").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreUnavailable):
        await USES[use](store)
    assert (tmp_path / "outside").read_bytes() == b"xyz\n"


async def test_a_link_goes_with_the_upload_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "data")
    await complete(store, an_upload())
    lead_elsewhere(tmp_path / "data" / "uploads" / "ab" / ID, tmp_path / "outside")
    assert await store.remove(ID)
    assert os.listdir(tmp_path / "data" / "uploads" / "ab") == []
    assert (tmp_path / "outside").read_bytes() == b"hello"


async def test_a_pipe_in_the_place_of_a_record_keeps_nobody_waiting(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "data")
    await complete(store, an_upload())
    path = tmp_path / "data" / "uploads" / "ab" / f"{ID}.record"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises((StoreUnavailable, UploadNotFound)):
        await store.load(ID)


# the calendar and the lists of clients -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".claimed"])
async def test_a_list_of_the_calendar_that_is_a_link_is_neither_read_nor_written(tmp_path: Path, suffix: str) -> None:
    store = FileStore(tmp_path / "data")
    assert [name async for name in store.due(datetime.now(UTC))] == []
    (tmp_path / "outside").write_bytes(b"xyz\n")
    (tmp_path / "data" / "calendar" / f"1000{suffix}").symlink_to(tmp_path / "outside")
    await store.schedule(ID, datetime.fromtimestamp(time.time() - 1, UTC))
    assert "xyz" not in [name async for name in store.due(datetime.fromtimestamp(time.time() + 9, UTC))]
    assert (tmp_path / "outside").read_bytes() == b"xyz\n"


async def test_a_link_does_not_say_that_the_calendar_is_whole(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "data")
    assert [name async for name in store.due(datetime.now(UTC))] == []
    lead_elsewhere(tmp_path / "data" / "calendar" / "covers", tmp_path / "outside")
    before = (tmp_path / "outside").read_bytes()
    upload = changed(an_upload(), expires_at=NOW)
    await store.create(upload)
    assert ID in [name async for name in store.due(datetime.now(UTC))]
    assert not (tmp_path / "data" / "calendar" / "covers").is_symlink()
    assert (tmp_path / "outside").read_bytes() == before


async def test_a_list_of_a_client_that_is_a_link_is_neither_written_nor_read(tmp_path: Path) -> None:
    open_uploads = FileOpenUploads(tmp_path / "tally")
    (tmp_path / "tally").mkdir()
    (tmp_path / "outside").write_bytes(b"precious")
    (tmp_path / "tally" / "list").symlink_to(tmp_path / "outside")
    for use in (open_uploads.add("list", Listed(ID)), open_uploads.read("list"), open_uploads.replace("list", [], [])):
        with pytest.raises(StoreUnavailable):
            await use
    assert (tmp_path / "outside").read_bytes() == b"precious"


# readable names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["a", "a/b"])
async def test_no_file_is_finished_through_a_link_and_it_is_once_that_is_gone(
    tmp_path: Path, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(tmp_path / "data", finished_folder=tmp_path / "inbox", finished_name="a/b/{id}")
    upload = await complete(store, an_upload())
    link = tmp_path / "inbox" / level
    link.parent.mkdir(exist_ok=True)
    (tmp_path / "outside" / "b").mkdir(parents=True)
    link.symlink_to(tmp_path / "outside")

    with pytest.raises(StoreUnavailable):
        await store.finalize(upload)
    assert all_of(tmp_path / "outside") == {"b": None}
    assert "is a link or a file, where a folder is needed" in caplog.text

    link.unlink()
    sealed = await store.finalize(upload)
    assert sealed.storage["path"] == str(tmp_path / "inbox" / "a" / "b" / ID)
    assert (tmp_path / "inbox" / "a" / "b" / ID).read_bytes() == b"hello"


async def test_the_folder_of_readable_names_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "inbox").symlink_to(tmp_path / "elsewhere")
    store = FileStore(tmp_path / "data", finished_folder=tmp_path / "inbox", finished_name="a/{id}")
    await store.finalize(await complete(store, an_upload()))
    assert (tmp_path / "elsewhere" / "a" / ID).read_bytes() == b"hello"


async def test_a_link_that_took_the_place_of_a_finished_file_is_not_read_nor_is_what_it_leads_to_removed(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path / "data", finished_folder=tmp_path / "inbox", finished_name="{id}")
    upload = replace(await store.finalize(await complete(store, an_upload())), finished=True)
    await store.commit(upload)
    place = tmp_path / "inbox" / ID
    place.unlink()
    (tmp_path / "outside").write_bytes(b"secret")
    place.symlink_to(tmp_path / "outside")
    written = int(upload.storage["mtime_ns"])
    for path in (place, tmp_path / "outside"):  # as somebody would who knows how it is told apart
        os.utime(path, ns=(written, written), follow_symlinks=False)
    with pytest.raises(UploadNotFound):
        await store.content(upload)
    assert await store.remove(ID)
    assert (tmp_path / "outside").read_bytes() == b"secret"
