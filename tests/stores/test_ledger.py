from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.ledgers import A, B, LedgerContract
from tests.support.wire import TIMEOUT
from tusserver.indexes.base import Ledger
from tusserver.indexes.file_open_uploads import FileLedger
from tusserver.indexes.memory import MemoryLedger
from tusserver.protocol.errors import StoreUnavailable
from tusserver.protocol.upload import UploadId


def scribble(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def run_workers(folder: Path, names: str) -> list[int]:
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(folder), name]) for name in names]
    return [worker.wait(TIMEOUT) for worker in workers]


class TestMemoryLedger(LedgerContract):
    @pytest.fixture
    def ledger(self) -> Ledger:
        return MemoryLedger()


class TestFileLedger(LedgerContract):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        return FileLedger(tmp_path / "data" / "tally")

    async def test_a_list_outlives_the_process(self, ledger: Ledger, tmp_path: Path) -> None:
        await ledger.add("x", A)
        assert await FileLedger(tmp_path / "data" / "tally").add("x", B) == (2, 2**62 + 5)

    async def test_an_entry_that_a_crash_tore_is_written_over(self, ledger: Ledger, tmp_path: Path) -> None:
        await ledger.add("x", A)
        scribble(tmp_path / "data" / "tally" / "x", b"torn")
        assert await ledger.add("x", B) == (2, 2**62 + 5)
        assert list(await ledger.read("x")) == [A, B]

    async def test_an_entry_that_is_no_id_is_passed_over(self, ledger: Ledger, tmp_path: Path) -> None:
        await ledger.add("x", A)
        scribble(tmp_path / "data" / "tally" / "x", bytes((tmp_path / "data" / "tally" / "x").stat().st_size))
        assert list(await ledger.read("x")) == [A]
        assert await ledger.add("x", A) == (3, 10)

    async def test_others_may_not_read_the_lists(self, ledger: Ledger, tmp_path: Path) -> None:
        await ledger.add("x", A)
        folder = tmp_path / "data" / "tally"
        assert (folder.stat().st_mode & 0o777, (folder / "x").stat().st_mode & 0o777) == (0o700, 0o600)

    async def test_only_lists_that_are_idle_are_named(self, ledger: Ledger, tmp_path: Path) -> None:
        for name in ("old", "new"):
            await ledger.add(name, A)
        os.utime(tmp_path / "data" / "tally" / "old", (0, 0))
        assert list(await ledger.names(3600)) == ["old"]

    async def test_a_list_that_cannot_be_written_is_trouble_of_the_store(self, ledger: Ledger, tmp_path: Path) -> None:
        (tmp_path / "data" / "tally").mkdir(parents=True)
        (tmp_path / "data" / "tally" / "x").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreUnavailable):
            await ledger.add("x", A)
        assert not (tmp_path / "elsewhere").exists()

    async def test_processes_that_add_and_strike_out_at_once_lose_nothing(self, ledger: Ledger, tmp_path: Path) -> None:
        folder = tmp_path / "data" / "tally"
        assert run_workers(folder, "pqr") == [0, 0, 0]
        left = [upload.id for upload in await ledger.read("x") if upload.id.endswith("-kept")]
        assert sorted(left) == sorted(UploadId(f"{name}{number}-kept") for name in "pqr" for number in range(100))
        assert await ledger.add("x", A) == (
            len(await ledger.read("x")),
            sum(each[1] for each in await ledger.read("x")),
        )


WORKER = """
import asyncio, sys
from pathlib import Path
from tusserver.protocol.upload import UploadId
from tusserver.indexes.base import Listed
from tusserver.indexes.file_open_uploads import FileLedger

async def work(folder, name):
    ledger = FileLedger(Path(folder))
    for number in range(100):
        await ledger.add("x", Listed(UploadId(f"{name}{number}-kept"), 3))
        await ledger.add("x", Listed(UploadId(f"{name}{number}-done"), 4))
        if number % 10 == 9:
            known = await ledger.read("x")
            await ledger.keep("x", known, [entry for entry in known if entry.id.endswith("-kept")])

asyncio.run(work(*sys.argv[1:]))
"""
