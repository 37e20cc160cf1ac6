"""The steps that use-cases share, asked directly: what is stored when something is told, and after a failure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service.world import LATE, Clock, World
from tests.support.uploads import changed
from tusserver.events import Bus, Created, Event, Expired, Finished, Terminated
from tusserver.protocol.errors import FinishFailed, StoreUnavailable, UploadNotFound
from tusserver.protocol.limits import Expiry
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.service.lifecycle import Lifecycle
from tusserver.stores.base import Store
from tusserver.stores.file.store import FileStore
from tusserver.stores.memory import MemoryStore

WEEK = timedelta(days=7)


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lifecycle(store: Store, bus: Bus, clock: Clock) -> Lifecycle:
    return Lifecycle(store, bus, Expiry(), clock)


def draw(clock: Clock, length: int, role: Role = Role.REGULAR) -> Upload:
    """Make a record that is stored nowhere."""
    upload = Upload(id=UploadId("one"), created_at=clock.now)
    return changed(upload, length=length, role=role, expires_at=clock.now + WEEK)


def content_of(upload: Upload) -> bytes:
    """Bytes at the place where a finished file was put."""
    assert upload.place is not None
    return Path(upload.place).read_bytes()


async def test_an_upload_is_stored_when_its_creation_is_told(
    lifecycle: Lifecycle, store: Store, bus: Bus, clock: Clock
) -> None:
    seen: list[Upload] = []

    async def look(event: Event) -> None:
        seen.append(await store.load(event.upload.id))

    bus.subscribe(Created, look)
    await lifecycle.begin(draw(clock, 10))
    assert seen == [draw(clock, 10)]


async def test_a_complete_upload_is_stored_before_its_end_is_told_and_finished_after_it(
    lifecycle: Lifecycle, store: Store, bus: Bus, clock: Clock
) -> None:
    seen: list[Upload] = []

    async def look(event: Event) -> None:
        seen.append(await store.load(event.upload.id))

    bus.subscribe(Finished, look)
    await lifecycle.begin(draw(clock, 0))
    kept = await lifecycle.commit(draw(clock, 0))
    assert not kept.finished
    await lifecycle.finish(kept)
    assert [(upload.complete, upload.finished) for upload in seen] == [(True, False)]
    assert (await store.load(UploadId("one"))).finished


async def test_an_upload_whose_end_nobody_waits_for_is_finished_with_its_last_byte(
    lifecycle: Lifecycle, store: Store, clock: Clock
) -> None:
    await lifecycle.begin(draw(clock, 0))
    await lifecycle.commit(draw(clock, 0))
    upload = await store.load(UploadId("one"))
    assert (upload.finished, upload.expires_at) == (True, None)


async def test_an_upload_that_is_not_complete_is_kept_as_it_is(
    lifecycle: Lifecycle, store: Store, clock: Clock
) -> None:
    await lifecycle.begin(draw(clock, 10))
    await lifecycle.commit(draw(clock, 10))
    assert await store.load(UploadId("one")) == draw(clock, 10)


async def test_a_file_that_is_to_be_renamed_is_at_its_place_when_its_end_is_told(tmp_path: Path) -> None:
    world = World(lambda: FileStore(tmp_path / "data", finished_folder=tmp_path / "inbox", finished_name="{id}.bin"))
    there: list[bytes] = []

    async def read(upload: Upload) -> None:
        there.append(content_of(upload))

    world.listeners[Finished] = read
    upload_id = await world.upload(5, b"hello")
    assert there == [b"hello"]
    assert (tmp_path / "inbox" / f"{upload_id}.bin").read_bytes() == b"hello"
    await world.delete(upload_id)
    assert list((tmp_path / "inbox").iterdir()) == []


async def test_a_file_that_was_renamed_before_its_end_failed_is_not_renamed_again(tmp_path: Path) -> None:
    world = World(lambda: FileStore(tmp_path / "data", finished_folder=tmp_path / "inbox", finished_name="same"))

    async def fail(upload: Upload) -> None:
        raise RuntimeError("not now")

    world.listeners[Finished] = fail
    upload_id = await world.upload(5)
    for offset, body in ((0, b"hello"), (5, b"")):
        with pytest.raises(FinishFailed):
            await world.append(upload_id, offset, body)
    del world.listeners[Finished]
    world.restart()
    assert (await world.append(upload_id, 5)).finished
    assert [path.name for path in (tmp_path / "inbox").iterdir()] == ["same"]


async def test_the_retention_of_a_finished_upload_begins_with_its_end(store: Store, bus: Bus, clock: Clock) -> None:
    lifecycle = Lifecycle(store, bus, Expiry(keep_finished=WEEK), clock)
    await lifecycle.begin(draw(clock, 0))
    clock.advance(timedelta(days=1))
    await lifecycle.finish(draw(clock, 0))
    assert (await store.load(UploadId("one"))).expires_at == clock.now + WEEK


class Failing(MemoryStore):
    """Cannot finish uploads."""

    finishes_in_place = False

    async def finish(self, upload: Upload) -> Upload:
        raise StoreUnavailable


async def test_a_storage_that_cannot_finish_says_so_itself_and_is_asked_again_later(bus: Bus, clock: Clock) -> None:
    store = Failing()
    lifecycle = Lifecycle(store, bus, Expiry(after=None), clock)
    await lifecycle.begin(draw(clock, 0))
    with pytest.raises(StoreUnavailable):
        await lifecycle.finish(draw(clock, 0))
    assert not (await store.load(UploadId("one"))).finished
    assert [name async for name in store.due(clock.now)] == []
    assert [name async for name in store.due(clock.now + LATE)] == ["one"]


@pytest.mark.parametrize("kind", [Terminated, Expired])
async def test_an_upload_is_gone_when_its_removal_is_told(
    lifecycle: Lifecycle, store: Store, bus: Bus, clock: Clock, kind: type[Event]
) -> None:
    told: list[Upload] = []

    async def look(event: Event) -> None:
        with pytest.raises(UploadNotFound):
            await store.load(event.upload.id)
        told.append(event.upload)

    bus.subscribe(kind, look)
    await lifecycle.begin(draw(clock, 10))
    await lifecycle.remove(draw(clock, 10), kind)
    assert told == [draw(clock, 10)]


async def test_a_partial_upload_is_finished_without_telling(lifecycle: Lifecycle, bus: Bus, clock: Clock) -> None:
    told: list[Event] = []

    async def hear(event: Event) -> None:
        told.append(event)

    bus.subscribe(Finished, hear)
    await lifecycle.begin(draw(clock, 0, Role.PARTIAL))
    assert (await lifecycle.commit(draw(clock, 0, Role.PARTIAL))).finished
    assert told == []


async def test_listeners_are_told_one_after_the_other_and_each_only_what_it_asked_for(bus: Bus, clock: Clock) -> None:
    heard: list[str] = []

    async def first(event: Event) -> None:
        heard.append("first")

    async def second(event: Event) -> None:
        heard.append("second")

    async def other(event: Event) -> None:
        heard.append("other")

    bus.subscribe(Created, first)
    bus.subscribe(Created, second)
    bus.subscribe(Finished, other)
    await bus.publish(Created(draw(clock, 0)))
    assert heard == ["first", "second"]
    assert (bus.has_listeners(Created), bus.has_listeners(Expired)) == (True, False)
