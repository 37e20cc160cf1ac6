from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.indexes import A, B, OpenUploadsContract
from tests.support.wire import TIMEOUT
from tusserver.indexes.base import OpenUploads
from tusserver.indexes.file_open_uploads import FileOpenUploads
from tusserver.indexes.memory import MemoryOpenUploads
from tusserver.protocol.errors import StoreUnavailable
from tusserver.protocol.upload import UploadId


def scribble(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def run_workers(folder: Path, names: str) -> list[int]:
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(folder), name]) for name in names]
    return [worker.wait(TIMEOUT) for worker in workers]


class TestMemoryLedger(OpenUploadsContract):
    @pytest.fixture
    def open_uploads(self) -> OpenUploads:
        return MemoryOpenUploads()


class TestFileLedger(OpenUploadsContract):
    @pytest.fixture
    def open_uploads(self, tmp_path: Path) -> OpenUploads:
        return FileOpenUploads(tmp_path / "data" / "tally")

    async def test_a_list_outlives_the_process(self, open_uploads: OpenUploads, tmp_path: Path) -> None:
        await open_uploads.add("x", A)
        assert await FileOpenUploads(tmp_path / "data" / "tally").add("x", B) == (2, 2**62 + 5)

    async def test_an_entry_that_a_crash_tore_is_written_over(self, open_uploads: OpenUploads, tmp_path: Path) -> None:
        await open_uploads.add("x", A)
        scribble(tmp_path / "data" / "tally" / "x", b"torn")
        assert await open_uploads.add("x", B) == (2, 2**62 + 5)
        assert list(await open_uploads.read("x")) == [A, B]

    async def test_an_entry_that_is_no_id_is_passed_over(self, open_uploads: OpenUploads, tmp_path: Path) -> None:
        await open_uploads.add("x", A)
        scribble(tmp_path / "data" / "tally" / "x", bytes((tmp_path / "data" / "tally" / "x").stat().st_size))
        assert list(await open_uploads.read("x")) == [A]
        assert await open_uploads.add("x", A) == (3, 10)

    async def test_others_may_not_read_the_lists(self, open_uploads: OpenUploads, tmp_path: Path) -> None:
        await open_uploads.add("x", A)
        folder = tmp_path / "data" / "tally"
        assert (folder.stat().st_mode & 0o777, (folder / "x").stat().st_mode & 0o777) == (0o700, 0o600)

    async def test_only_lists_that_are_idle_are_named(self, open_uploads: OpenUploads, tmp_path: Path) -> None:
        for name in ("old", "new"):
            await open_uploads.add(name, A)
        os.utime(tmp_path / "data" / "tally" / "old", (0, 0))
        assert list(await open_uploads.names(3600)) == ["old"]

    async def test_a_list_that_cannot_be_written_is_trouble_of_the_store(
        self, open_uploads: OpenUploads, tmp_path: Path
    ) -> None:
        (tmp_path / "data" / "tally").mkdir(parents=True)
        (tmp_path / "data" / "tally" / "x").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreUnavailable):
            await open_uploads.add("x", A)
        assert not (tmp_path / "elsewhere").exists()

    async def test_processes_that_add_and_strike_out_at_once_lose_nothing(
        self, open_uploads: OpenUploads, tmp_path: Path
    ) -> None:
        folder = tmp_path / "data" / "tally"
        assert run_workers(folder, "pqr") == [0, 0, 0]
        left = [upload.id for upload in await open_uploads.read("x") if upload.id.endswith("-kept")]
        assert sorted(left) == sorted(UploadId(f"{name}{number}-kept") for name in "pqr" for number in range(100))
        assert await open_uploads.add("x", A) == (
            len(await open_uploads.read("x")),
            sum(each[1] for each in await open_uploads.read("x")),
        )


WORKER = """
import asyncio, sys
from pathlib import Path
from tusserver.protocol.upload import UploadId
from tusserver.indexes.base import Listed
from tusserver.indexes.file_open_uploads import FileOpenUploads

async def work(folder, name):
    open_uploads = FileOpenUploads(Path(folder))
    for number in range(100):
        await open_uploads.add("x", Listed(UploadId(f"{name}{number}-kept"), 3))
        await open_uploads.add("x", Listed(UploadId(f"{name}{number}-done"), 4))
        if number % 10 == 9:
            known = await open_uploads.read("x")
            await open_uploads.replace("x", known, [entry for entry in known if entry.id.endswith("-kept")])

asyncio.run(work(*sys.argv[1:]))
"""
