"""Space of uploads without a length: however a request ends, no more stays reserved than there are bytes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.service.world import Feed, World, whole
from tusserver.disk import space
from tusserver.protocol.checksum import Checksum
from tusserver.protocol.errors import (
    ChecksumMismatch,
    ClientDisconnected,
    InvalidChecksum,
    MaxSizeExceeded,
    OutOfSpace,
    UploadInterrupted,
)
from tusserver.protocol.limits import Limits
from tusserver.protocol.upload import UploadId
from tusserver.stores.file.store import FileStore

MIB = 1 << 20
WRONG = Checksum("sha1", bytes(20))

pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync nothing: no power is cut here."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, os.fstat)


@pytest.fixture(params=["ack", "none"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    return World(lambda: FileStore(tmp_path / "data", durability=request.param), limits=Limits(max_size=100 * MIB))


class Files:
    """What the files of uploads take: their bytes, or blocks if those are more."""

    def __init__(self, root: Path) -> None:
        self._root = root / "data" / "uploads"

    def taken(self, upload_id: UploadId) -> int:
        found = (self._root / upload_id[:2] / upload_id).stat()
        return max(found.st_size, found.st_blocks * 512 - 2 * found.st_blksize)

    def names(self) -> list[str]:
        return [path.name for path in self._root.rglob("*") if path.is_file()]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def deferred(world: World, data: bytes = b"hello") -> UploadId:
    return await world.upload(None, data)


Ending = Callable[[World, UploadId, Feed, "asyncio.Task[object]"], Awaitable[None]]


async def vanishes(world: World, upload_id: UploadId, feed: Feed, request: asyncio.Task[object]) -> None:
    feed.vanish()


async def is_cancelled(world: World, upload_id: UploadId, feed: Feed, request: asyncio.Task[object]) -> None:
    request.cancel()


async def is_stopped(world: World, upload_id: UploadId, feed: Feed, request: asyncio.Task[object]) -> None:
    world.service.close()


async def falls_silent(world: World, upload_id: UploadId, feed: Feed, request: asyncio.Task[object]) -> None:
    await asyncio.wait([request])


async def is_taken_over(world: World, upload_id: UploadId, feed: Feed, request: asyncio.Task[object]) -> None:
    await world.append(upload_id, 5, b"")


ENDINGS = [vanishes, is_cancelled, is_stopped, falls_silent, is_taken_over]


@pytest.mark.parametrize("announced", [50 * MIB, None], ids=["announced", "chunked"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_a_body_had_reserved_is_given_back_when_it(
    world: World, files: Files, ending: Ending, announced: int | None
) -> None:
    upload_id = await deferred(world)
    feed = Feed()
    request: asyncio.Task[object] = asyncio.create_task(world.append(upload_id, 5, feed, announced=announced))
    for _ in range(3):
        await feed.taken()
        feed.send(bytes(200_000))
    await feed.taken()
    if announced is not None:
        assert files.taken(upload_id) == 5 + 50 * MIB
    await ending(world, upload_id, feed, request)
    await asyncio.wait([request])
    offset = (await world.store.load(upload_id)).offset
    assert files.taken(upload_id) == offset
    assert offset in (5, 600_005)


@pytest.mark.parametrize(
    ("error", "size", "options"),
    [
        (ChecksumMismatch, MIB, {"checksum": WRONG}),
        (InvalidChecksum, MIB, {"checksum_in_trailer": True}),
        (MaxSizeExceeded, 100 * MIB, {}),
    ],
)
async def test_nothing_is_left_of_a_body_that_is_refused_as_a_whole(
    world: World, files: Files, error: type[Exception], size: int, options: dict[str, Any]
) -> None:
    upload_id = await deferred(world)
    with pytest.raises(error):
        await world.append(upload_id, 5, whole(bytes(size)), **options)
    assert files.taken(upload_id) == 5
    assert await world.content(upload_id) == b"hello"


async def test_nothing_is_left_of_a_creation_whose_body_is_refused(world: World, files: Files) -> None:
    before = files.names()
    for length in (None, MIB):
        with pytest.raises(ChecksumMismatch):
            await world.create(length, bytes(1000), checksum=WRONG)
    assert files.names() == before


async def test_what_a_killed_process_had_reserved_is_given_back_by_the_next_sweep(world: World, files: Files) -> None:
    upload_id = await deferred(world)
    await world.sweeper.sweep()
    feed = Feed(bytes(600_000))
    request = asyncio.create_task(world.append(upload_id, 5, feed, announced=50 * MIB))
    await feed.taken()
    assert files.taken(upload_id) == 5 + 50 * MIB
    world.restart()  # without a word to the one that holds it
    world.clock.now = datetime.fromtimestamp(world.store.clock.seconds() + 3, UTC)
    await world.sweeper.sweep()
    assert files.taken(upload_id) == (await world.store.load(upload_id)).offset
    request.cancel()
    await asyncio.wait([request])


async def test_or_by_the_next_request(world: World, files: Files, tmp_path: Path) -> None:
    upload_id = await deferred(world)
    os.truncate(tmp_path / "data" / "uploads" / upload_id[:2] / upload_id, 10 * MIB)
    await world.append(upload_id, 5, b" world")
    assert files.taken(upload_id) == 11
    assert await world.content(upload_id) == b"hello world"


async def test_a_finished_file_has_no_byte_more_than_the_upload(world: World, files: Files, tmp_path: Path) -> None:
    upload_id = await deferred(world)
    os.truncate(tmp_path / "data" / "uploads" / upload_id[:2] / upload_id, 10 * MIB)
    await world.append(upload_id, 5, b" world", length=11)
    assert files.taken(upload_id) == 11


# lengths that come later ---------------------------------------------------------------------------------------------


async def test_a_length_that_is_declared_later_is_reserved_before_the_body_is_read(world: World, files: Files) -> None:
    upload_id = await deferred(world)
    feed = Feed()
    request = asyncio.create_task(world.append(upload_id, 5, feed, length=10 * MIB))
    await feed.taken()
    assert files.taken(upload_id) == 10 * MIB
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await request
    assert files.taken(upload_id) == 10 * MIB  # the length stands, and so does its space


@pytest.mark.parametrize("refusal", [OutOfSpace, MaxSizeExceeded])
async def test_a_length_that_does_not_fit_is_refused_before_the_body_is_read_and_changes_nothing(
    world: World, files: Files, monkeypatch: pytest.MonkeyPatch, refusal: type[Exception]
) -> None:
    upload_id = await deferred(world)
    before = await world.store.load(upload_id)
    real = space.SpaceReservation.reserve

    def reserve(self: space.SpaceReservation, fd: int, at: int, length: int) -> None:
        real(self, fd, at, length)
        raise refusal

    monkeypatch.setattr(space.SpaceReservation, "reserve", reserve)
    with pytest.raises(refusal):
        await asyncio.wait_for(world.append(upload_id, 5, Feed(), length=10 * MIB), 1)  # the feed never ends
    assert await world.store.load(upload_id) == before
    assert files.taken(upload_id) == 5
    monkeypatch.undo()
    await world.append(upload_id, 5, b"", length=10)
    await world.append(upload_id, 5, b"world")
    assert await world.content(upload_id) == b"helloworld"


async def test_not_even_bytes_that_nobody_was_told_of(
    world: World, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = await deferred(world)
    feed = Feed()
    request = asyncio.create_task(world.append(upload_id, 5, feed))
    feed.send(b" world")
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await request
    before = await world.store.load(upload_id)
    assert (before.told, before.offset) == (5, 11)

    def reserve(self: space.SpaceReservation, fd: int, at: int, length: int) -> None:
        raise OutOfSpace

    monkeypatch.setattr(space.SpaceReservation, "reserve", reserve)
    with pytest.raises(OutOfSpace):
        await world.append(upload_id, 5, b"", length=10 * MIB)
    assert await world.store.load(upload_id) == before
    assert await world.content(upload_id) == b"hello world"


async def test_a_declared_length_that_is_refused_with_its_body_takes_no_space(world: World, files: Files) -> None:
    upload_id = await deferred(world)
    with pytest.raises(ChecksumMismatch):
        await world.append(upload_id, 5, b"wrong", length=10 * MIB, checksum=WRONG)
    assert (await world.store.load(upload_id)).length is None
    assert files.taken(upload_id) == 5


async def test_who_is_taken_over_leaves_what_was_told_and_no_space(world: World, files: Files) -> None:
    upload_id = await deferred(world)
    feed = Feed()
    request = asyncio.create_task(world.append(upload_id, 5, feed, announced=50 * MIB))
    feed.send(bytes(1000))
    await feed.taken()
    await world.append(upload_id, 5, b"!")
    with pytest.raises(UploadInterrupted):
        await request
    assert await world.content(upload_id) == b"hello!"
    assert files.taken(upload_id) == 6
