"""Finished files that are renamed to where people find them, and what people do to them there."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contracts.stores import HOUR, ID, NOW, OTHER, an_upload, bytes_of, complete, listed, put
from tests.support.uploads import changed
from tusserver.protocol.errors import StoreUnavailable, UploadNotFound
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.file.store import FileStore

pytestmark = pytest.mark.usefixtures("unsynced")

A_TXT = Metadata(f"filename {base64.b64encode(b'a.txt').decode()}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "finished"


@pytest.fixture
def store(tmp_path: Path, folder: Path) -> FileStore:
    return FileStore(tmp_path / "data", finished_folder=folder)


async def finish(store: FileStore, data: bytes, upload_id: UploadId = ID) -> Upload:
    """Upload a.txt, to the end of all books."""
    upload = await store.finalize(await complete(store, data, upload_id, metadata=A_TXT))
    upload = changed(upload, finished=True, expires_at=None)
    await store.commit(upload)
    return upload


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(store: FileStore) -> list[str]:
    return sorted(path.name for path in (store.root / "uploads").rglob("*") if path.is_file())


# renaming ------------------------------------------------------------------------------------------------------------


async def test_a_finished_file_is_where_people_find_it_and_nowhere_else(store: FileStore, folder: Path) -> None:
    upload = await finish(store, b"hello")
    assert files(folder) == {"a.txt": b"hello"}
    assert stored(store) == [f"{ID}.record"]
    assert await bytes_of(store, upload) == b"hello"


async def test_a_finished_file_is_found_again_after_a_restart(store: FileStore, folder: Path) -> None:
    upload = await finish(store, b"hello")
    again = FileStore(store.root)  # and also without its folder of finished files
    assert await again.load(ID) == upload
    assert await bytes_of(again, await again.load(ID)) == b"hello"


async def test_the_bytes_are_renamed_and_not_copied(store: FileStore, folder: Path) -> None:
    upload = await complete(store, b"hello", metadata=A_TXT)
    inode = (store.root / "uploads" / ID[:2] / ID).stat().st_ino
    await store.finalize(upload)
    assert (folder / "a.txt").stat().st_ino == inode
    assert (folder / "a.txt").stat().st_nlink == 1


async def test_partial_uploads_stay_where_they_are(store: FileStore, folder: Path) -> None:
    part = await store.finalize(await complete(store, b"hello", role=Role.PARTIAL, metadata=A_TXT))
    assert files(folder) == {}
    assert await bytes_of(store, part) == b"hello"


async def test_a_finished_file_holds_no_more_than_its_bytes(store: FileStore, folder: Path) -> None:
    upload = an_upload(length=None, protocol="other", metadata=A_TXT)
    await store.create(upload)
    upload = await put(store, upload, b"hello")
    (bytes_of_it,) = (path for path in store.root.rglob(ID) if path.is_file())
    os.truncate(bytes_of_it, 1 << 20)  # what a body that died had reserved ahead
    upload = changed(upload, complete=True, length=5)
    await store.commit(upload)
    await store.finalize(upload)
    assert files(folder) == {"a.txt": b"hello"}


async def test_two_files_of_one_name_get_two(store: FileStore, folder: Path) -> None:
    one, two = await finish(store, b"one"), await finish(store, b"two", OTHER)
    assert files(folder) == {"a.txt": b"one", "a (2).txt": b"two"}
    assert (await bytes_of(store, one), await bytes_of(store, two)) == (b"one", b"two")


async def test_a_removed_upload_takes_its_file_along(store: FileStore, folder: Path) -> None:
    await finish(store, b"hello")
    await finish(store, b"other", OTHER)
    assert await store.remove(ID)
    assert files(folder) == {"a (2).txt": b"other"}


async def test_finishing_fails_as_a_whole_if_there_is_no_place(store: FileStore, folder: Path) -> None:
    upload = await complete(store, b"hello", metadata=A_TXT)
    os.rmdir(folder)
    (folder.parent / "finished").touch()
    with pytest.raises(StoreUnavailable):
        await store.finalize(upload)
    assert await store.load(ID) == upload
    os.unlink(folder)
    assert await bytes_of(store, await store.finalize(upload)) == b"hello"
    assert files(folder) == {"a.txt": b"hello"}


# a crash on the way --------------------------------------------------------------------------------------------------


async def test_a_crash_between_the_new_name_and_the_record_leaves_one_file(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await complete(store, b"hello", metadata=A_TXT)
    dies_in(monkeypatch, "rename")
    with pytest.raises(KeyboardInterrupt):
        await store.finalize(upload)
    monkeypatch.undo()
    assert files(folder) == {"a.txt": b"hello"}
    upload = await store.finalize(await store.load(ID))
    assert files(folder) == {"a.txt": b"hello"}
    assert stored(store) == [f"{ID}.record"]
    assert await bytes_of(store, upload) == b"hello"


async def test_a_crash_between_the_record_and_the_old_name_leaves_one_file(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await complete(store, b"hello", metadata=A_TXT)
    dies_in(monkeypatch, "unlink")
    with pytest.raises(KeyboardInterrupt):
        await store.finalize(upload)
    monkeypatch.undo()
    assert ID in stored(store)
    await store.finalize(await store.load(ID))
    assert files(folder) == {"a.txt": b"hello"}
    assert stored(store) == [f"{ID}.record"]


async def test_an_upload_removed_after_such_a_crash_takes_both_names_along(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await complete(store, b"hello", metadata=A_TXT)
    dies_in(monkeypatch, "rename")
    with pytest.raises(KeyboardInterrupt):
        await store.finalize(upload)
    monkeypatch.undo()
    assert await store.remove(ID)
    assert files(folder) == {}
    assert stored(store) == []


def dies_in(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Let a system call be the last thing that happens."""

    def die(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, die)


# what people do ------------------------------------------------------------------------------------------------------


async def test_a_file_that_was_moved_away_is_gone_for_downloads(store: FileStore, folder: Path) -> None:
    upload = await finish(store, b"hello")
    (folder / "a.txt").rename(folder / "mine.txt")
    with pytest.raises(UploadNotFound):
        await store.content(upload)
    assert await listed(store) == {ID: upload}


async def test_a_file_that_was_moved_away_survives_the_removal_of_its_upload(store: FileStore, folder: Path) -> None:
    await finish(store, b"hello")
    (folder / "a.txt").rename(folder / "mine.txt")
    assert await store.remove(ID)
    assert files(folder) == {"mine.txt": b"hello"}
    assert await listed(store) == {}


async def test_another_file_that_took_the_name_is_not_served_for_the_first(store: FileStore, folder: Path) -> None:
    first = await finish(store, b"first")
    (folder / "a.txt").unlink()
    second = await finish(store, b"other", OTHER)
    assert files(folder) == {"a.txt": b"other"}
    with pytest.raises(UploadNotFound):
        await store.content(first)
    assert await bytes_of(store, second) == b"other"


async def test_another_file_that_took_the_name_is_not_removed_with_the_first(store: FileStore, folder: Path) -> None:
    await finish(store, b"first")
    (folder / "a.txt").unlink()
    second = await finish(store, b"other", OTHER)
    assert await store.remove(ID)
    assert files(folder) == {"a.txt": b"other"}
    assert await bytes_of(store, second) == b"other"


async def test_a_file_of_somebody_else_that_took_the_name_is_left_alone(store: FileStore, folder: Path) -> None:
    upload = await finish(store, b"hello")
    (folder / "a.txt").rename(folder / "mine.txt")
    (folder / "a.txt").write_bytes(b"notes")
    os.utime(folder / "a.txt", (1, 1))
    with pytest.raises(UploadNotFound):
        await store.content(upload)
    await store.remove(ID)
    assert files(folder) == {"mine.txt": b"hello", "a.txt": b"notes"}


async def test_a_folder_that_took_the_name_is_left_alone(store: FileStore, folder: Path) -> None:
    upload = await finish(store, b"hello")
    (folder / "a.txt").unlink()
    (folder / "a.txt").mkdir()
    with pytest.raises(UploadNotFound):
        await store.content(upload)
    assert await store.remove(ID)
    assert (folder / "a.txt").is_dir()


async def test_the_whole_folder_may_go(store: FileStore, folder: Path) -> None:
    upload = await finish(store, b"hello")
    (folder / "a.txt").unlink()
    os.rmdir(folder)
    with pytest.raises(UploadNotFound):
        await store.content(upload)
    assert await store.remove(ID)
    await finish(store, b"again", OTHER)
    assert files(folder) == {"a.txt": b"again"}


async def test_a_listener_that_moves_the_file_and_then_fails_can_be_called_again(
    store: FileStore, folder: Path
) -> None:
    upload = await store.finalize(await complete(store, b"hello", metadata=A_TXT))
    (folder / "a.txt").unlink()
    again = await store.finalize(await store.load(ID))
    await store.commit(replace(again, finished=True))
    with pytest.raises(UploadNotFound):
        await store.content(changed(upload, finished=True))
    assert stored(store) == [f"{ID}.record"]


async def test_an_upload_that_waits_to_be_finished_can_be_removed_without_its_bytes(
    store: FileStore, folder: Path
) -> None:
    await complete(store, b"hello", metadata=A_TXT, expires_at=NOW + HOUR)
    (store.root / "uploads" / ID[:2] / ID).unlink()
    assert await store.remove(ID)
    assert stored(store) == []


async def test_an_unfinished_upload_never_reaches_the_folder(store: FileStore, folder: Path) -> None:
    upload = an_upload(metadata=A_TXT)
    await store.create(upload)
    await put(store, upload, b"he")
    assert files(folder) == {}
    assert await store.remove(ID)
    assert files(folder) == {}
