"""The steps that use-cases share, asked directly: what is stored when something is told, and after a failure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service.world import LATE, Clock, World
from tests.support.uploads import changed
from tusserver.events import Expired, Finished, Observers, Terminated, UploadEvent
from tusserver.hooks.base import HookType
from tusserver.hooks.callables import CallableHooks
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
def observers() -> Observers:
    return Observers()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lifecycle(store: Store, observers: Observers, clock: Clock) -> Lifecycle:
    """With no hooks."""
    return Lifecycle(store, CallableHooks(), observers, Expiry(), clock)


def draw(clock: Clock, length: int, role: Role = Role.REGULAR) -> Upload:
    """Make a record that is stored nowhere."""
    upload = Upload(id=UploadId("one"), created_at=clock.now)
    return changed(upload, length=length, role=role, expires_at=clock.now + WEEK)


def content_of(upload: Upload) -> bytes:
    """Bytes at the place where a finished file was put."""
    return Path(upload.storage["path"]).read_bytes()


async def test_an_upload_is_stored_when_its_creation_is_told(store: Store, observers: Observers, clock: Clock) -> None:
    seen: list[Upload] = []

    async def look(upload: Upload) -> None:
        seen.append(await store.load(upload.id))

    lifecycle = Lifecycle(store, CallableHooks(on_created=look), observers, Expiry(), clock)
    await lifecycle.begin(draw(clock, 10), None)
    assert seen == [draw(clock, 10)]


async def test_a_complete_upload_is_stored_before_its_end_is_told_and_finished_after_it(
    store: Store, observers: Observers, clock: Clock
) -> None:
    seen: list[Upload] = []

    async def look(upload: Upload) -> None:
        seen.append(await store.load(upload.id))

    lifecycle = Lifecycle(store, CallableHooks(on_finished=look), observers, Expiry(), clock)
    await lifecycle.begin(draw(clock, 0), None)
    kept = await lifecycle.commit(draw(clock, 0), None)
    assert not kept.finished
    await lifecycle.finish(kept, None)
    assert [(upload.complete, upload.finished) for upload in seen] == [(True, False)]
    assert (await store.load(UploadId("one"))).finished


async def test_an_upload_whose_end_nobody_waits_for_is_finished_with_its_last_byte(
    lifecycle: Lifecycle, store: Store, clock: Clock
) -> None:
    await lifecycle.begin(draw(clock, 0), None)
    await lifecycle.commit(draw(clock, 0), None)
    upload = await store.load(UploadId("one"))
    assert (upload.finished, upload.expires_at) == (True, None)


async def test_an_upload_that_is_not_complete_is_kept_as_it_is(
    lifecycle: Lifecycle, store: Store, clock: Clock
) -> None:
    await lifecycle.begin(draw(clock, 10), None)
    await lifecycle.commit(draw(clock, 10), None)
    assert await store.load(UploadId("one")) == draw(clock, 10)


async def test_a_file_that_is_to_be_renamed_is_at_its_place_when_its_end_is_told(tmp_path: Path) -> None:
    world = World(lambda: FileStore(tmp_path / "data", finished_folder=tmp_path / "inbox", finished_name="{id}.bin"))
    there: list[bytes] = []

    async def read(upload: Upload) -> None:
        there.append(content_of(upload))

    world.callbacks[HookType.PRE_FINISH] = read
    upload_id = await world.upload(5, b"hello")
    assert there == [b"hello"]
    assert (tmp_path / "inbox" / f"{upload_id}.bin").read_bytes() == b"hello"
    await world.delete(upload_id)
    assert list((tmp_path / "inbox").iterdir()) == []


async def test_a_file_that_was_renamed_before_its_end_failed_is_not_renamed_again(tmp_path: Path) -> None:
    world = World(lambda: FileStore(tmp_path / "data", finished_folder=tmp_path / "inbox", finished_name="same"))

    async def fail(upload: Upload) -> None:
        raise RuntimeError("not now")

    world.callbacks[HookType.PRE_FINISH] = fail
    upload_id = await world.upload(5)
    for offset, body in ((0, b"hello"), (5, b"")):
        with pytest.raises(FinishFailed):
            await world.append(upload_id, offset, body)
    del world.callbacks[HookType.PRE_FINISH]
    world.restart()
    assert (await world.append(upload_id, 5)).finished
    assert [path.name for path in (tmp_path / "inbox").iterdir()] == ["same"]


async def test_the_retention_of_a_finished_upload_begins_with_its_end(
    store: Store, observers: Observers, clock: Clock
) -> None:
    lifecycle = Lifecycle(store, CallableHooks(), observers, Expiry(keep_finished=WEEK), clock)
    await lifecycle.begin(draw(clock, 0), None)
    clock.advance(timedelta(days=1))
    await lifecycle.finish(draw(clock, 0), None)
    assert (await store.load(UploadId("one"))).expires_at == clock.now + WEEK


class Failing(MemoryStore):
    """Cannot finish uploads."""

    finalizes_in_place = False

    async def finalize(self, upload: Upload) -> Upload:
        raise StoreUnavailable


async def test_a_storage_that_cannot_finish_says_so_itself_and_is_asked_again_later(
    observers: Observers, clock: Clock
) -> None:
    store = Failing()
    lifecycle = Lifecycle(store, CallableHooks(), observers, Expiry(after=None), clock)
    await lifecycle.begin(draw(clock, 0), None)
    with pytest.raises(StoreUnavailable):
        await lifecycle.finish(draw(clock, 0), None)
    assert not (await store.load(UploadId("one"))).finished
    assert [name async for name in store.due(clock.now)] == []
    assert [name async for name in store.due(clock.now + LATE)] == ["one"]


@pytest.mark.parametrize("kind", [Terminated, Expired])
async def test_an_upload_is_gone_when_its_removal_is_told(
    store: Store, observers: Observers, clock: Clock, kind: type[UploadEvent]
) -> None:
    told: list[Upload] = []

    async def look(upload: Upload) -> None:
        with pytest.raises(UploadNotFound):
            await store.load(upload.id)
        told.append(upload)

    lifecycle = Lifecycle(store, CallableHooks(on_terminated=look, on_expired=look), observers, Expiry(), clock)
    await lifecycle.begin(draw(clock, 10), None)
    await lifecycle.remove(draw(clock, 10), kind, None)
    assert told == [draw(clock, 10)]


async def test_a_partial_upload_is_finished_without_telling(store: Store, observers: Observers, clock: Clock) -> None:
    told: list[object] = []

    async def hear(upload: Upload) -> None:
        told.append(upload)

    observers.subscribe(Finished, told.append)
    lifecycle = Lifecycle(store, CallableHooks(on_finished=hear), observers, Expiry(), clock)
    await lifecycle.begin(draw(clock, 0, Role.PARTIAL), None)
    assert (await lifecycle.commit(draw(clock, 0, Role.PARTIAL), None)).finished
    assert told == []
