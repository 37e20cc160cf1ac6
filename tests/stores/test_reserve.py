"""Free space that is kept: new uploads are refused below it, those under way go on."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.contracts.sources import Chunks, unheard
from tests.contracts.stores import ID, OTHER, an_upload, bytes_of
from tests.stores.conftest import Mount
from tusserver.protocol.errors import MaxSizeExceeded, OutOfSpace, StoreUnavailable
from tusserver.protocol.upload import UploadId
from tusserver.stores import disk
from tusserver.stores.file import FileStore

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("unsynced")


class Space:
    """The free space that the system tells, in blocks of one MiB, of a disk with a thousand."""

    def __init__(self) -> None:
        self.free = 500

    def __call__(self, where: object) -> object:
        return SimpleNamespace(f_blocks=1000, f_frsize=MIB, f_bavail=self.free)


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    space = Space()
    monkeypatch.setattr(os, "statvfs", space)
    monkeypatch.setattr(os, "fstatvfs", space)
    monkeypatch.setattr(disk, "_LOOK", 0.0)
    return space


@pytest.fixture
def store(tmp_path: Path, space: Space) -> FileStore:
    return FileStore(tmp_path / "data", reserve=20 * MIB)


@pytest.mark.parametrize("length", [None, 0, 10, 2 * MIB])
async def test_new_uploads_are_refused_while_the_reserve_is_touched(
    store: FileStore, tmp_path: Path, space: Space, length: int | None
) -> None:
    space.free = 19
    with pytest.raises(OutOfSpace):
        await store.create(an_upload(length=length))
    assert [path for path in files(tmp_path / "data" / "uploads") if path.is_file()] == []
    space.free = 30
    await store.create(an_upload(length=length))
    assert (await store.load(ID)).length == length


async def test_an_upload_that_would_touch_the_reserve_is_refused(store: FileStore, space: Space) -> None:
    space.free = 30
    with pytest.raises(OutOfSpace):
        await store.create(an_upload(length=11 * MIB))
    await store.create(an_upload(length=10 * MIB))


async def test_an_upload_of_known_length_goes_on_as_its_space_is_taken(store: FileStore, space: Space) -> None:
    upload = an_upload(length=10)
    await store.create(upload)
    space.free = 0
    upload = replace(upload, offset=await store.write(upload, Chunks(b"hello", b"world"), unheard))
    await store.commit(upload)
    assert await bytes_of(store, upload) == b"helloworld"


async def test_an_upload_of_unknown_length_grows_to_the_reserve_and_keeps_what_it_has(
    store: FileStore, space: Space
) -> None:
    upload = an_upload(length=None)
    await store.create(upload)
    space.free = 21
    upload = replace(upload, offset=await store.write(upload, Chunks(b"hello"), unheard))
    await store.commit(upload)
    space.free = 19
    with pytest.raises(OutOfSpace):
        await store.write(upload, Chunks(b"x" * 2 * MIB), unheard)
    assert await bytes_of(store, await store.load(ID)) == b"hello"


async def test_a_small_disk_keeps_a_tenth_at_most(tmp_path: Path, space: Space) -> None:
    store = FileStore(tmp_path / "data", reserve=10_000 * MIB)
    space.free = 101
    await store.create(an_upload(length=10))
    space.free = 99
    with pytest.raises(OutOfSpace):
        await store.create(an_upload(OTHER, length=10))


async def test_the_log_says_once_that_uploads_are_refused_and_once_that_they_are_taken(
    store: FileStore, space: Space, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tusserver.store"):
        for number, space.free in enumerate([500, 10, 10, 10, 500, 500]):
            try:
                await store.create(an_upload(UploadId(f"{number}x"), length=10))
            except OutOfSpace:
                assert space.free == 10
    assert [record.getMessage() for record in caplog.records if "store.reserve" in record.getMessage()] == [
        "free space is below store.reserve: new uploads are refused",
        "free space is above store.reserve again: new uploads are taken",
    ]


async def test_plenty_of_space_is_not_looked_at_for_each_small_upload(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_LOOK", 1000.0)
    await store.create(an_upload(length=10))
    monkeypatch.setattr(os, "statvfs", lambda where: pytest.fail("it was looked at"))
    await store.create(an_upload(OTHER, length=10))


# the check -----------------------------------------------------------------------------------------------------------


async def test_the_check_passes_leaves_nothing_and_fails_while_the_reserve_is_touched(
    store: FileStore, tmp_path: Path, space: Space
) -> None:
    before = files(tmp_path)
    await store.check()
    assert files(tmp_path) == before
    space.free = 19
    with pytest.raises(OutOfSpace):
        await store.check()
    space.free = 21
    await store.check()


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def remount(root: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(root)], check=True, timeout=30)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while os.write(fd, bytes(size)):
                    pass
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_the_check_knows_a_real_file_system_that_became_read_only_and_one_that_is_full(
    mount: Mount, kind: str
) -> None:
    root = mount(kind, 16 * MIB)
    store = FileStore(root / "data", reserve=MIB)
    await store.check()
    remount(root, "ro")
    with pytest.raises(StoreUnavailable, match="Read-only file system"):
        await store.check()
    remount(root, "rw")
    await store.check()
    fill(root / "filler")
    with pytest.raises((OutOfSpace, StoreUnavailable)):
        await store.check()
    with pytest.raises(OutOfSpace):
        await store.create(an_upload(length=10))
    (root / "filler").unlink()
    await store.check()
    await store.create(an_upload(length=10))


# a limit on the size of files ----------------------------------------------------------------------------------------


@pytest.fixture
def small_files() -> Iterator[int]:
    """As `ulimit -f` sets it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
    yield 2 * MIB
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_an_upload_beyond_the_limit_on_file_sizes_is_refused_and_leaves_nothing(
    tmp_path: Path, small_files: int
) -> None:
    store = FileStore(tmp_path / "data")
    with pytest.raises(MaxSizeExceeded):
        await store.create(an_upload(length=small_files + 1))
    assert [path for path in files(tmp_path / "data" / "uploads") if path.is_file()] == []
    await store.create(an_upload(length=small_files))


async def test_an_upload_of_unknown_length_keeps_what_it_has_at_that_limit(tmp_path: Path, small_files: int) -> None:
    store = FileStore(tmp_path / "data")
    upload = an_upload(length=None)
    await store.create(upload)
    upload = replace(upload, offset=await store.write(upload, Chunks(b"x" * MIB), unheard))
    await store.commit(upload)
    with pytest.raises(MaxSizeExceeded):
        await store.write(upload, Chunks(b"y" * (MIB + 1)), unheard)
    assert await store.load(ID) == upload
    assert await bytes_of(store, upload) == b"x" * MIB
