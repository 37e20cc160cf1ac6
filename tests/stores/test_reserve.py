"""Free space that is kept: new uploads are refused below it, those under way go on."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.contracts.sources import Chunks, unheard
from tests.contracts.stores import ID, OTHER, an_upload, bytes_of
from tests.stores.conftest import Mount
from tests.support.uploads import changed
from tests.support.wire import TIMEOUT
from tusserver.protocol.errors import MaxSizeExceeded, OutOfSpace, StoreUnavailable
from tusserver.protocol.upload import UploadId
from tusserver.stores.file.store import FileStore

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("unsynced")


class Space:
    """The free space that the system tells: in blocks of one MiB, of a disk with a thousand, and 100,000 inodes."""

    def __init__(self) -> None:
        self.free = 500
        self.inodes = 100_000
        self.free_inodes = 50_000

    def __call__(self, where: object) -> object:
        return SimpleNamespace(
            f_blocks=1000, f_frsize=MIB, f_bavail=self.free, f_files=self.inodes, f_favail=self.free_inodes
        )


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    space = Space()
    monkeypatch.setattr(os, "statvfs", space)
    monkeypatch.setattr(os, "fstatvfs", space)
    return space


def opened(root: Path, reserve: int) -> FileStore:
    """A store that looks at the disk each time."""
    store = FileStore(root, reserve=reserve)
    store._reservation._look_seconds = 0.0
    return store


@pytest.fixture
def store(tmp_path: Path, space: Space) -> FileStore:
    return opened(tmp_path / "data", 20 * MIB)


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
    upload = changed(upload, offset=await store.write(upload, Chunks(b"hello", b"world"), unheard))
    await store.commit(upload)
    assert await bytes_of(store, upload) == b"helloworld"


async def test_an_upload_of_unknown_length_grows_to_the_reserve_and_keeps_what_it_has(
    store: FileStore, space: Space
) -> None:
    upload = an_upload(length=None)
    await store.create(upload)
    space.free = 21
    upload = changed(upload, offset=await store.write(upload, Chunks(b"hello"), unheard))
    await store.commit(upload)
    space.free = 19
    with pytest.raises(OutOfSpace):
        await store.write(upload, Chunks(b"x" * 2 * MIB), unheard)
    assert await bytes_of(store, await store.load(ID)) == b"hello"


async def test_a_small_disk_keeps_a_tenth_at_most(tmp_path: Path, space: Space) -> None:
    store = opened(tmp_path / "data", 10_000 * MIB)
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
    store._reservation._look_seconds = 1000.0
    await store.create(an_upload(length=10))
    monkeypatch.setattr(os, "statvfs", lambda where: pytest.fail("it was looked at"))
    await store.create(an_upload(OTHER, length=10))


# inodes --------------------------------------------------------------------------------------------------------------


async def test_the_same_share_of_the_inodes_is_kept_and_what_is_under_way_goes_on(
    store: FileStore, tmp_path: Path, space: Space
) -> None:
    upload = an_upload(OTHER, length=None)
    await store.create(upload)
    space.free_inodes = 2003  # a fiftieth of the disk is kept, and a creation takes four
    with pytest.raises(OutOfSpace, match="not enough space in the storage: too few inodes are free"):
        await store.create(an_upload())
    assert ID not in {path.name for path in files(tmp_path / "data" / "uploads")}
    assert await store.write(upload, Chunks(b"x" * 2 * MIB), unheard) == 2 * MIB
    space.free_inodes = 2004
    await store.create(an_upload())


async def test_a_small_disk_keeps_a_tenth_of_its_inodes_at_most(tmp_path: Path, space: Space) -> None:
    store = opened(tmp_path / "data", 10_000 * MIB)
    space.free_inodes = 10_004
    await store.create(an_upload())
    space.free_inodes = 10_003
    with pytest.raises(OutOfSpace):
        await store.create(an_upload(OTHER))


async def test_nothing_is_begun_without_inodes_for_it_where_nothing_is_kept(tmp_path: Path, space: Space) -> None:
    store = opened(tmp_path / "data", 0)
    space.free_inodes = 3
    with pytest.raises(OutOfSpace):
        await store.create(an_upload())
    space.free_inodes = 4
    await store.create(an_upload())


async def test_a_file_system_that_counts_no_inodes_is_not_short_of_them(store: FileStore, space: Space) -> None:
    space.inodes = space.free_inodes = 0
    await store.create(an_upload())
    await store.check()


async def test_the_log_says_of_which_there_are_too_few(
    store: FileStore, space: Space, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tusserver.store"):
        for number, space.free_inodes in enumerate([50_000, 10, 10, 50_000, 50_000]):
            with contextlib.suppress(OutOfSpace):
                await store.create(an_upload(UploadId(f"{number}x"), length=10))
    assert [record.getMessage() for record in caplog.records if "store.reserve" in record.getMessage()] == [
        "free inodes are below store.reserve: new uploads are refused",
        "free inodes are above store.reserve again: new uploads are taken",
    ]


async def test_the_check_says_what_there_is_too_little_of(store: FileStore, space: Space) -> None:
    space.free_inodes = 10
    with pytest.raises(OutOfSpace, match="inodes"):
        await store.check()
    space.free_inodes, space.free = 50_000, 10
    with pytest.raises(OutOfSpace, match=r"^not enough space in the storage$"):
        await store.check()


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
    subprocess.run(["mount", "-o", f"remount,{how}", str(root)], check=True, timeout=TIMEOUT)


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
    upload = changed(upload, offset=await store.write(upload, Chunks(b"x" * MIB), unheard))
    await store.commit(upload)
    with pytest.raises(MaxSizeExceeded):
        await store.write(upload, Chunks(b"y" * (MIB + 1)), unheard)
    assert await store.load(ID) == upload
    assert await bytes_of(store, upload) == b"x" * MIB
