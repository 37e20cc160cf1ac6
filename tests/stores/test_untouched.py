"""What uploads that never got a byte may hold of a disk: a share of it, and what goes beyond is taken all the same."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.contracts.sources import Chunks, unheard
from tests.contracts.stores import an_upload
from tests.stores.conftest import Mount
from tests.support.uploads import changed
from tusserver.disk.space import file_system
from tusserver.protocol.errors import MaxSizeExceeded, OutOfSpace
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.file import untouched
from tusserver.stores.file.contents import SMALL
from tusserver.stores.file.store import FileStore
from tusserver.stores.file.untouched import Untouched

MIB = 1 << 20
BLOCK = 4096

pytestmark = pytest.mark.usefixtures("unsynced")


class SmallDisk:
    """Ten MiB, less what the files below a folder hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, where: object) -> object:
        free = 10 * MIB - held_below(self.folder)
        # It does not count inodes.
        return SimpleNamespace(f_blocks=100 * MIB // BLOCK, f_frsize=BLOCK, f_bavail=free // BLOCK, f_files=0)


def held_below(folder: Path) -> int:
    """Bytes that uploads hold, without their records."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.suffix]
    return sum(path.stat().st_blocks * 512 for path in files)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if file_system(tmp_path) == "tmpfs":
        pytest.skip("tmpfs reserves nothing")
    small = SmallDisk(tmp_path / "data" / "uploads")
    monkeypatch.setattr(os, "statvfs", small)
    monkeypatch.setattr(os, "fstatvfs", small)
    return tmp_path / "data"


def opened(root: Path, **options: int) -> FileStore:
    """A store that looks at the disk each time, and again as soon as a test does, however slow the machine."""
    store = FileStore(root, **options)  # type: ignore[arg-type]
    store._reservation._look_seconds = 0.0
    store._contents._untouched._rest = 0
    return store


@pytest.fixture
def store(root: Path) -> FileStore:
    return opened(root)


def numbered(number: int, length: int = MIB, **values: object) -> Upload:
    return replace(an_upload(UploadId(f"{number:02}-upload"), length=length), **values)  # type: ignore[arg-type]  # of tests


async def touch(store: FileStore, upload: Upload, data: bytes = b"x") -> None:
    await store.commit(changed(upload, offset=await store.write(upload, Chunks(data), unheard)))


def bytes_of(root: Path, upload: Upload) -> os.stat_result:
    return (root / "uploads" / upload.id[:2] / upload.id).stat()


async def test_a_flood_of_creations_takes_half_of_the_disk_and_is_not_refused(store: FileStore, root: Path) -> None:
    for number in range(30):
        await store.create(numbered(number))
    assert 4 * MIB <= held_below(root / "uploads") <= 5 * MIB
    other = numbered(99, 4 * MIB)
    await store.create(other)
    await touch(store, other)
    assert bytes_of(root, other).st_blocks * 512 >= 4 * MIB


async def test_an_upload_that_fits_is_taken_and_gets_its_whole_space_with_its_first_byte(
    store: FileStore, root: Path
) -> None:
    upload = numbered(1, 9 * MIB)
    await store.create(upload)
    assert bytes_of(root, upload).st_blocks == 0
    await touch(store, upload)
    assert bytes_of(root, upload).st_blocks * 512 >= 9 * MIB
    assert (await store.load(upload.id)).offset == 1


async def test_what_does_not_fit_is_refused_at_the_creation_as_ever(store: FileStore) -> None:
    with pytest.raises(OutOfSpace):
        await store.create(numbered(1, 11 * MIB))
    with pytest.raises(MaxSizeExceeded):
        await store.create(numbered(1, 200 * MIB))
    assert [upload async for upload in store.uploads()] == []


async def test_creations_whose_answer_was_lost_do_not_hold_the_file_again_and_again(
    store: FileStore, root: Path
) -> None:
    for number in range(5):
        await store.create(numbered(number, 4 * MIB))
    assert held_below(root / "uploads") <= 5 * MIB
    await touch(store, numbered(4, 4 * MIB))


async def test_space_that_is_gone_at_the_first_byte_is_told_then_and_the_upload_stays(store: FileStore) -> None:
    one, two = numbered(1, 6 * MIB), numbered(2, 6 * MIB)
    for upload in (one, two):
        await store.create(upload)
    await touch(store, one)
    with pytest.raises(OutOfSpace):
        await touch(store, two)
    assert (await store.load(two.id)).offset == 0
    await store.remove(one.id)
    await touch(store, two)


@pytest.mark.parametrize("role", [Role.REGULAR, Role.PARTIAL])
@pytest.mark.parametrize("end", ["touched", "removed"])
async def test_uploads_that_got_a_byte_or_are_gone_make_room_for_others(
    store: FileStore, root: Path, end: str, role: Role
) -> None:
    for number in range(20):
        upload = numbered(number, role=role)
        await store.create(upload)
        assert bytes_of(root, upload).st_blocks * 512 >= MIB, "its space is there from the start"
        await touch(store, upload)
        if end == "removed" or number > 2:
            await store.remove(upload.id)


async def test_processes_count_together_and_a_restart_forgets_nothing(store: FileStore, root: Path) -> None:
    for number in range(15):
        await (store, opened(root))[number % 2].create(numbered(number))
    assert held_below(root / "uploads") <= 5 * MIB


async def test_bytes_that_a_crash_left_without_a_record_count(store: FileStore, root: Path) -> None:
    for number in range(5):
        await store.create(numbered(number))
        (root / "uploads" / f"{number:02}" / f"{number:02}-upload.record").unlink()
    for number in range(5, 9):
        await store.create(numbered(number))
    assert held_below(root / "uploads") <= 5 * MIB


async def test_small_uploads_cost_no_line_in_the_books(store: FileStore, root: Path) -> None:
    upload = numbered(1, SMALL)
    await store.create(upload)
    assert bytes_of(root, upload).st_blocks * 512 >= SMALL
    assert not (root / "untouched").exists()


@pytest.mark.parametrize("harm", ["torn", "link"])
async def test_books_that_cannot_be_read_stand_in_nobodys_way(store: FileStore, root: Path, harm: str) -> None:
    books = root / "untouched"
    if harm == "torn":
        books.write_bytes(b"\xff" * 1000)
    else:
        books.symlink_to(root / "elsewhere")
    for number in range(12):
        await store.create(numbered(number))
    assert held_below(root / "uploads") <= 5 * MIB
    assert not (root / "elsewhere").exists()


@pytest.mark.parametrize(("share", "most"), [(0, 0), (20, 2), (100, 10)])
async def test_the_share_is_the_operators(root: Path, share: int, most: int) -> None:
    store = opened(root, untouched=share)
    for number in range(10):
        await store.create(numbered(number))
    assert (most - 1) * MIB <= held_below(root / "uploads") <= most * MIB


async def test_a_length_that_is_declared_without_a_byte_is_in_the_share_too(root: Path) -> None:
    store = opened(root, untouched=20)
    for number in range(10):
        upload = numbered(number)
        await store.create(changed(upload, length=None))
        await store.reserve(upload)
        await store.replace(upload)
    assert MIB <= held_below(root / "uploads") <= 2 * MIB


async def test_on_a_real_disk_a_creation_without_a_byte_does_not_keep_it_from_others(mount: Mount) -> None:
    store = FileStore(mount("ext4", 16 * MIB) / "data")
    idle, busy = numbered(1, 11 * MIB), numbered(2, 8 * MIB)
    for upload in (idle, busy):
        await store.create(upload)
    await touch(store, busy, b"x" * 8 * MIB)
    with pytest.raises(OutOfSpace):
        await touch(store, idle)
    await store.remove(busy.id)
    await touch(store, idle, b"x" * 11 * MIB)


# the books alone -----------------------------------------------------------------------------------------------------


class Held:
    """Which uploads hold space, and how often that was asked."""

    def __init__(self) -> None:
        self.ids: set[UploadId] = set()
        self.asked = 0

    def __call__(self, upload_id: UploadId) -> bool:
        self.asked += 1
        return upload_id in self.ids


@pytest.fixture
def held() -> Held:
    return Held()


def a_book(tmp_path: Path, held: Held, *, rest: float) -> Untouched:
    path = str(tmp_path / "books")
    return Untouched(path, 0o600, 50, lambda: 2000 - 10 * len(held.ids), held, long=50, piece=10, rest=rest)


@pytest.fixture
def books(tmp_path: Path, held: Held) -> Untouched:
    """A share of 1000 bytes, on a disk from which they are taken, and pieces of ten entries."""
    return a_book(tmp_path, held, rest=0)


def test_a_list_does_not_grow_with_what_is_done(books: Untouched, tmp_path: Path, held: Held) -> None:
    for number in range(2000):
        assert books.admit(UploadId(f"{number}"), 1)
    assert (tmp_path / "books").stat().st_size < 110 * 136
    assert held.asked <= 2000


def test_what_is_held_stays_on_the_list_whatever_is_struck_out_around_it(books: Untouched, held: Held) -> None:
    held.ids = {UploadId(f"{number}") for number in range(0, 400, 7)}  # 58
    for number in range(400):
        assert books.admit(UploadId(f"{number}"), 1)
    while books._look():
        pass
    with books._books() as (fd, head):
        listed = {name for name, _ in untouched._read(fd, 0, head.entries)}
    assert held.ids <= listed
    assert head.total == head.entries


def test_a_flood_beyond_the_share_costs_one_look_for_each_rest(books: Untouched, held: Held) -> None:
    for number in range(100):
        assert books.admit(UploadId(f"{number}"), 10)
        held.ids.add(UploadId(f"{number}"))
    assert not books.admit(UploadId("100"), 10)
    books._rest = 10**9
    before = held.asked
    assert not any(books.admit(UploadId(f"{number}"), 10) for number in range(100, 3000))
    assert held.asked - before == 10
