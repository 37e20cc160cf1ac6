"""Space of uploads without a length: what their files take while a body comes, and what they give back."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.contracts.sources import Chunks, Direct, unheard
from tests.contracts.stores import ID, NOW, an_upload, bytes_of, named, put, uncopied
from tests.support.uploads import changed
from tusserver.clock import boot_id
from tusserver.disk import space
from tusserver.protocol.errors import MaxSizeExceeded, OutOfSpace, StoreUnavailable
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.file import record
from tusserver.stores.file.store import FileStore

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(params=["reserved", "sparse"])
def store(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    if request.param == "sparse":
        monkeypatch.setattr(space, "_fallocate", None)
    return FileStore(root)


def taken(root: Path) -> int:
    """Bytes of the file, or of the disk if those are more by more than the last block and a list of blocks."""
    found = (root / "uploads" / ID[:2] / ID).stat()
    return max(found.st_size, found.st_blocks * 512 - 2 * found.st_blksize)


async def deferred(store: FileStore, data: bytes = b"") -> Upload:
    upload = an_upload(length=None)
    await store.create(upload)
    return await put(store, upload, data)


class Sizes:
    """A `on_progress` that notes what the file takes."""

    def __init__(self, root: Path) -> None:
        self.seen: list[int] = []
        self._root = root

    def __call__(self, count: int) -> Awaitable[None] | None:
        self.seen.append(taken(self._root))
        return None


# while a body comes --------------------------------------------------------------------------------------------------


async def test_two_bytes_take_two_bytes(store: FileStore, root: Path) -> None:
    await deferred(store, b"hi")
    assert taken(root) == 2


async def test_a_body_whose_length_is_announced_takes_that_from_its_first_byte_on(store: FileStore, root: Path) -> None:
    sizes = Sizes(root)
    await store.write(await deferred(store, b"hello"), Chunks(b"a", b"b", expected=100_000), sizes)
    assert sizes.seen == [100_005, 100_005]


async def test_a_body_without_a_length_takes_twice_what_came_at_most(store: FileStore, root: Path) -> None:
    sizes = Sizes(root)
    await store.write(await deferred(store), Chunks(*[bytes(1000)] * 300), sizes)
    assert all(size <= 2000 * number for number, size in enumerate(sizes.seen, 1))
    assert len(set(sizes.seen)) < 12


async def test_a_body_never_takes_more_than_it_may_have(store: FileStore, root: Path) -> None:
    sizes = Sizes(root)
    await store.write(await deferred(store, b"hello"), Chunks(*[bytes(1000)] * 300, limit=300_000), sizes)
    assert max(sizes.seen) == 300_005


async def test_a_body_that_drains_without_a_length_grows_by_what_came_before(store: FileStore, root: Path) -> None:
    sizes = Sizes(root)
    source = Direct(bytes(300_000), step=50_000)
    source.expected, source.limit = None, 350_000
    await store.write(await deferred(store, b"hello"), source, sizes)
    assert sizes.seen[:3] == [50_005, 100_005, 200_005]
    assert max(sizes.seen) <= 350_005


async def test_what_cannot_grow_ahead_grows_by_what_came(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = space.SpaceReservation.reserve

    def scarce(self: space.SpaceReservation, fd: int, at: int, length: int) -> None:
        if length > 1000:
            raise OutOfSpace
        real(self, fd, at, length)

    monkeypatch.setattr(space.SpaceReservation, "reserve", scarce)
    assert await store.write(await deferred(store), Chunks(*[b"x" * 1000] * 5), unheard) == 5000
    assert taken(root) == 5000


def soon(store: FileStore) -> datetime:
    """When the next sweep comes."""
    return datetime.fromtimestamp(store.clock.seconds() + 3, UTC)


@pytest.mark.parametrize(("announced", "looks"), [(MIB, [ID]), (2, []), (None, [])])
async def test_an_upload_that_takes_space_ahead_is_looked_at_by_the_next_sweep(
    store: FileStore, announced: int | None, looks: list[UploadId]
) -> None:
    assert await named(store, NOW) == []  # makes the calendar
    await store.write(await deferred(store), Chunks(b"hi", expected=announced), unheard)
    assert await named(store, soon(store)) == looks


@pytest.mark.parametrize(
    ("size", "written", "room", "grows"),
    [(5, 0, None, 5), (5, 7, None, 7), (5, 1000, None, 100), (500, 1000, None, 500), (5, 90, 100, 10), (5, 97, 100, 5)],
    ids=["first", "double", "most", "large", "room", "beyond"],
)
def test_a_step_is_what_came_before_within_its_bounds(size: int, written: int, room: int | None, grows: int) -> None:
    assert space.step(size, written, room, 100) == grows


# giving back ---------------------------------------------------------------------------------------------------------


async def test_what_is_not_committed_is_given_back(store: FileStore, root: Path) -> None:
    upload = await deferred(store, b"hello")
    await store.write(upload, Chunks(b"wrong", expected=MIB), unheard)
    await store.trim(ID)
    assert taken(root) == 5
    assert await bytes_of(store, upload) == b"hello"


async def test_blocks_behind_the_end_of_a_file_are_given_back(root: Path) -> None:
    store = FileStore(root)
    await deferred(store, b"hello")
    fd = os.open(root / "uploads" / ID[:2] / ID, os.O_RDWR)
    try:
        keep_size = 1
        call = getattr(ctypes.CDLL(None), "fallocate64", None)
        if call is None or call(fd, keep_size, ctypes.c_int64(0), ctypes.c_int64(MIB)):
            pytest.skip("this file system does not reserve")
    finally:
        os.close(fd)
    assert taken(root) > MIB // 2
    await store.trim(ID)
    assert taken(root) == 5


async def test_an_upload_with_a_length_keeps_its_space(store: FileStore, root: Path) -> None:
    upload = an_upload(length=MIB)
    await store.create(upload)
    await put(store, upload, b"hello")
    await store.trim(ID)
    assert taken(root) == MIB


async def test_bytes_that_a_restart_of_the_machine_may_bring_back_are_kept(store: FileStore, root: Path) -> None:
    """A process dies when a slot is on the disk, and before it is marked: then it counts after the next power cut."""
    upload = await deferred(store, b"hello")
    await store.write(upload, Chunks(b" world", expected=MIB), unheard)
    fd = os.open(root / "uploads" / ID[:2] / f"{ID}.record", os.O_RDWR)
    try:
        last = record.read_slot(fd, boot_id())
        assert last is not None
        record.write_slot(fd, replace(last, number=last.number + 1, offset=11, unsynced=True))
    finally:
        os.close(fd)
    assert (await store.load(ID)).offset == 5
    await store.trim(ID)
    assert taken(root) == 11


async def test_uploads_that_take_more_than_they_have_are_due_when_the_calendar_is_made_anew(
    store: FileStore, root: Path
) -> None:
    await store.write(await deferred(store, b"hello"), Chunks(b"x", expected=MIB), unheard)
    for path in (root / "calendar").iterdir():
        if path.is_file():
            path.unlink()
    assert await named(FileStore(root), soon(store)) == [ID]


async def test_a_join_that_fails_gives_back_what_it_had_reserved(store: FileStore, root: Path) -> None:
    part = an_upload(UploadId("part"), length=MIB, role=Role.PARTIAL)
    await store.create(part)
    part = await put(store, part, bytes(MIB))
    final = an_upload(role=Role.FINAL, length=MIB)
    await store.create(final)
    (root / "uploads" / "pa" / "part").write_bytes(b"short")
    with pytest.raises(StoreUnavailable):
        await store.concatenate(final, [part], uncopied)
    assert taken(root) == 0


# lengths that come later ---------------------------------------------------------------------------------------------


async def test_a_length_that_is_declared_later_is_reserved_then(store: FileStore, root: Path) -> None:
    upload = replace(await deferred(store, b"hello"), length=MIB)
    await store.reserve(upload)
    await store.replace(upload)
    assert taken(root) == MIB
    await store.trim(ID)
    assert taken(root) == MIB


@pytest.mark.parametrize(("blocks", "refusal"), [(100, MaxSizeExceeded), (1 << 40, OutOfSpace)])
async def test_a_length_for_which_there_is_no_room_is_refused_and_leaves_nothing(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, refusal: type[Exception]
) -> None:
    upload = await deferred(store, b"hello")
    real = os.fstatvfs

    def small(fd: int) -> os.statvfs_result:
        return os.statvfs_result((*real(fd)[:2], blocks, 50, 50, *real(fd)[5:]))

    monkeypatch.setattr(os, "fstatvfs", small)
    with pytest.raises(refusal):
        await store.reserve(changed(upload, length=1 << 40))
    await store.trim(ID)
    assert (taken(root), await store.load(ID)) == (5, upload)


async def test_a_reservation_that_fails_half_way_is_given_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(root)
    upload = await deferred(store, b"hello")
    real = space._fallocate

    def half(fd: int, at: int, length: int) -> int:
        if real is None or real(fd, at, length // 2):
            pytest.skip("this file system does not reserve")
        return errno.ENOSPC

    monkeypatch.setattr(space, "_fallocate", half)
    with pytest.raises(OutOfSpace):
        await store.reserve(changed(upload, length=2 * MIB))
    await store.trim(ID)
    assert taken(root) == 5


async def test_what_became_complete_at_its_offset_gives_the_rest_back(root: Path, store: FileStore) -> None:
    upload = an_upload(length=None, protocol="other")
    await store.create(upload)
    upload = await put(store, upload, b"hello")
    os.truncate(root / "uploads" / ID[:2] / ID, MIB)  # what a body that died had reserved ahead
    await store.commit(changed(upload, complete=True, length=5))
    await store.trim(ID)
    assert (root / "uploads" / ID[:2] / ID).read_bytes() == b"hello"
