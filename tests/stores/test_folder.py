"""The data folder as a whole."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file import FileStore
from tusserver.stores.folder import FORMAT

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
