"""The data folder as a whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from tests.support.wire import TIMEOUT
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file.folder import FORMAT, Attachment
from tusserver.stores.file.store import FileStore

MARK = f"tusserver data folder, format {FORMAT}\n"
UPLOAD = Upload(id=UploadId("abc"), created_at=datetime(2026, 1, 2, tzinfo=UTC), length=5)


# format --------------------------------------------------------------------------------------------------------------


def test_a_new_folder_is_marked_with_its_format_and_nothing_is_left_beside(tmp_path: Path) -> None:
    FileStore(tmp_path)
    assert (tmp_path / "format").read_text() == MARK
    assert sorted(os.listdir(tmp_path)) == ["format", "uploads"]


@pytest.mark.parametrize("mark", [None, b"", bytes(40)], ids=["none", "empty", "zeros"])
def test_a_folder_from_before_the_mark_is_marked_and_its_uploads_go_on(tmp_path: Path, mark: bytes | None) -> None:
    anyio.run(FileStore(tmp_path).create, UPLOAD)
    (tmp_path / "format").unlink()
    if mark is not None:
        (tmp_path / "format").write_bytes(mark)

    store = FileStore(tmp_path)

    assert anyio.run(store.load, UPLOAD.id) == UPLOAD
    assert (tmp_path / "format").read_text() == MARK


def test_a_marked_folder_is_not_marked_again(tmp_path: Path) -> None:
    FileStore(tmp_path)
    before = (tmp_path / "format").stat()
    FileStore(tmp_path)
    assert (tmp_path / "format").stat() == before


def test_a_folder_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "format").write_text(f"tusserver data folder, format {FORMAT + 1}\n")
    with pytest.raises(ValueError, match=f"has format {FORMAT + 1}, and this version knows {FORMAT} at most") as told:
        FileStore(tmp_path)
    assert "\n" not in str(told.value)
    assert os.listdir(tmp_path) == ["format"]


@pytest.mark.parametrize("text", ["format 1\n", "tusserver data folder, format 0\n", "tusserver data folder, format 1"])
def test_a_mark_that_says_nothing_is_refused_with_its_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text)
    with pytest.raises(ValueError, match="or remove it"):
        FileStore(tmp_path)
    assert (tmp_path / "format").read_text() == text


def test_many_may_use_a_new_folder_first(tmp_path: Path) -> None:
    failed: list[BaseException] = []
    together = threading.Barrier(8)

    def use() -> None:
        together.wait()
        try:
            FileStore(tmp_path)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(os.listdir(tmp_path)) == ["format", "uploads"]


# who is on it --------------------------------------------------------------------------------------------------------


def test_those_with_the_same_locks_are_on_it_together(tmp_path: Path) -> None:
    one, two = FileStore(tmp_path).attach("ours"), FileStore(tmp_path).attach("ours")
    one.close()
    two.close()


def test_nobody_with_other_locks_comes_while_somebody_is_there(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    one, two = store.attach("ours"), store.attach("ours")
    one.close()
    with pytest.raises(ValueError, match="is in use with other locks") as told:
        store.attach("theirs")
    assert str(tmp_path / "locks") in str(told.value)
    store.attach("ours").close()
    two.close()
    store.attach("theirs").close()


def test_who_is_killed_is_not_there_any_more(tmp_path: Path) -> None:
    stays = f"""
import sys
from tusserver.stores.file.store import FileStore
claim = FileStore({str(tmp_path)!r}).attach("theirs")
print("there", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", stays]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        with pytest.raises(ValueError, match="is in use"):
            FileStore(tmp_path).attach("ours")
        process.kill()
        process.wait(TIMEOUT)
        FileStore(tmp_path).attach("ours").close()


def test_of_many_who_come_at_once_only_those_of_one_kind_stay(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for _ in range(20):
        together = threading.Barrier(6)
        there: list[tuple[str, Attachment]] = []

        def come(
            scope: str, together: threading.Barrier = together, there: list[tuple[str, Attachment]] = there
        ) -> None:
            together.wait()
            with contextlib.suppress(ValueError):
                there.append((scope, store.attach(scope)))

        threads = [threading.Thread(target=come, args=(scope,)) for scope in ("ours", "theirs") * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        scopes = [scope for scope, _ in there]
        assert scopes in (["ours"] * 3, ["theirs"] * 3)
        for _, claim in there:
            claim.close()


@pytest.mark.parametrize("call", ["pwrite", "flock"])
def test_a_folder_without_room_or_locks_may_be_used_and_the_log_says_what_is_missing(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(tmp_path)
    code = {"pwrite": errno.ENOSPC, "flock": errno.ENOLCK}[call]

    def fails(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os if call == "pwrite" else fcntl, call, fails)
    store.attach("ours").close()
    assert "nothing keeps a server with other locks off it" in caplog.text


def test_a_full_disk_keeps_nobody_from_an_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FileStore(tmp_path)
    (tmp_path / "format").unlink()

    def fails(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", fails)
    FileStore(tmp_path)
    assert "it gets no mark of its format" in caplog.text
    assert os.listdir(tmp_path) == ["uploads"]


# what others may see -------------------------------------------------------------------------------------------------

EVERYTHING = """
import asyncio, os, sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.file.store import FileStore
from tusserver.indexes.base import Listed
from tusserver.indexes.file_open_uploads import FileOpenUploads

async def main(root, mask, file_mode, folder_mode):
    os.umask(mask)
    modes = dict(file_mode=file_mode, folder_mode=folder_mode)
    store = FileStore(root / "data", durability="none", finished_folder=root / "done", finished_name="{id}/x", **modes)
    open_uploads = FileOpenUploads(root / "data" / "tally", **modes)
    now = datetime.now(UTC)
    for name in ("aa1", "bb2"):
        upload = Upload(id=UploadId(name), created_at=now, length=0, expires_at=now)
        await store.create(upload)
    await store.finalize(upload)
    await store.add_dependent(UploadId("aa1"), UploadId("bb2"))
    await store.replace(replace(upload, id=UploadId("aa1"), length=3, complete=False))
    await store.commit(upload)
    await store.flush()
    [name async for name in store.due(now)]
    await open_uploads.add("list", Listed(UploadId("aa1")))
    store.attach("ours").close()

asyncio.run(main(Path(sys.argv[1]), *(int(mode, 8) for mode in sys.argv[2:])))
"""


@pytest.mark.parametrize("mask", ["000", "022", "077"])
@pytest.mark.parametrize(("file_mode", "folder_mode"), [("600", "700"), ("640", "750"), ("664", "775")])
def test_files_and_folders_have_their_modes_whatever_the_umask(
    tmp_path: Path, mask: str, file_mode: str, folder_mode: str
) -> None:
    command = [sys.executable, "-c", EVERYTHING, str(tmp_path), mask, file_mode, folder_mode]
    subprocess.run(command, check=True, timeout=TIMEOUT)
    found = {path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    wanted = {path: int(folder_mode if (tmp_path / path).is_dir() else file_mode, 8) for path in found}
    assert found == wanted
    names = {path.name for path in found}
    assert {"format", "in-use", "settled", "covers", "list", "x", "aa1", "aa1.record", "bb2.awaited"} <= names


def test_a_group_that_a_folder_hands_down_is_handed_down_further(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    before = os.umask(0o077)
    try:
        FileStore(tmp_path / "data", folder_mode=0o770)
    finally:
        os.umask(before)
    assert (tmp_path / "data" / "uploads").stat().st_mode & 0o7777 == 0o2770


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o704])
def test_folders_that_all_can_look_into_are_told_at_the_start(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    FileStore(tmp_path)
    (tmp_path / "uploads").chmod(mode)
    FileStore(tmp_path)
    (line,) = warned(caplog)
    assert str(tmp_path / "uploads") in line
    assert "chmod o=" in line


def test_what_the_modes_allow_is_no_reason_for_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FileStore(tmp_path, folder_mode=0o755)
    FileStore(tmp_path, folder_mode=0o755)
    tmp_path.chmod(0o755)  # what is in it is closed, or meant to be open
    FileStore(tmp_path, folder_mode=0o755)
    assert warned(caplog) == []


def test_a_folder_in_which_all_can_change_things_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o777)
    FileStore(tmp_path)
    assert [str(tmp_path) in line and "chmod o-w" in line for line in warned(caplog)] == [True]
