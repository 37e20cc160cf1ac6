"""Sweeps of many uploads: together, each under its lock, and with turns for everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import anyio.lowlevel
import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import DAY, LATE, Feed, World
from tusserver.hooks.base import HookType
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.errors import StoreUnavailable, UploadLocked
from tusserver.protocol.limits import Expiry
from tusserver.protocol.upload import Upload, UploadId
from tusserver.service.reaper import LANES
from tusserver.service.tuning import Tuning
from tusserver.stores.base import Reaped
from tusserver.stores.file.store import FileStore
from tusserver.stores.memory import MemoryStore

GROUP = 8


class Watched(MemoryStore):
    """Notes what is removed together."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []
        self.before: Callable[[Sequence[UploadId]], None] = lambda ids: None

    async def reap(self, ids: Sequence[UploadId], is_over: Callable[[Upload], bool]) -> Reaped:
        self.before(ids)
        self.groups.append(len(ids))
        await anyio.lowlevel.checkpoint()
        return await super().reap(ids, is_over)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(tuning=Tuning(group=GROUP))


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def watched(store: Watched) -> World:
    """The service on a store that is watched."""
    return World(lambda: store, tuning=Tuning(group=GROUP))


async def test_many_expired_uploads_are_removed_in_groups_and_all_are_told(world: World) -> None:
    ids = [await world.upload(11) for _ in range(3 * GROUP + 5)]
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == len(ids)
    assert await world.stored() == []
    assert [world.heard(HookType.POST_EXPIRE, upload_id) for upload_id in ids] == [1] * len(ids)


async def test_a_group_costs_one_call_of_the_store(watched: World, store: Watched) -> None:
    for _ in range(10 * GROUP):
        await watched.upload(11)
    watched.clock.advance(DAY + LATE)
    assert await watched.sweeper.sweep() == 10 * GROUP
    assert store.groups == [GROUP] * 10


async def test_whoever_is_removed_is_held(watched: World, store: Watched) -> None:
    for _ in range(GROUP + 3):
        await watched.upload(11)
    held: list[bool] = []
    locker = watched.locker
    assert isinstance(locker, MemoryLocker)
    store.before = lambda ids: held.extend(locker.holds(upload_id) for upload_id in ids)
    watched.clock.advance(DAY + LATE)
    await watched.sweeper.sweep()
    assert held == [True] * (GROUP + 3)
    assert locker._leases == {}


async def test_a_listener_is_told_when_the_lock_is_free_again(world: World) -> None:
    upload_id = await world.upload(11)

    async def listener(upload: Upload) -> None:
        async with world.locker.hold(upload.id):
            pass

    world.callbacks[HookType.POST_EXPIRE] = listener
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 1
    assert world.heard(HookType.POST_EXPIRE, upload_id) == 1


async def test_others_have_their_turns_while_thousands_are_removed(watched: World, store: Watched) -> None:
    for _ in range(100 * GROUP):
        await watched.upload(11)
    watched.clock.advance(DAY + LATE)
    turns: list[int] = []

    async def somebody() -> None:
        while True:
            turns.append(len(store.groups))
            await anyio.lowlevel.checkpoint()

    other = asyncio.create_task(somebody())
    await watched.sweeper.sweep()
    other.cancel()
    await asyncio.wait([other])
    most = max(after - before for before, after in pairwise(turns))
    assert most <= LANES


async def test_one_that_is_being_written_is_left_and_the_rest_of_its_group_goes(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(sliding=False), tuning=Tuning(group=GROUP))
    written, feed = await world.upload(11), Feed(b"hello")
    others = [await world.upload(11) for _ in range(5)]
    appending = asyncio.create_task(world.append(written, 0, feed, announced=11))
    await feed.taken()
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == len(others)
    feed.send(b" world")
    assert (await appending).finished
    assert await world.stored() == [written]


async def test_a_store_that_fails_as_a_whole_is_asked_again_for_each(watched: World, store: Watched) -> None:
    for _ in range(GROUP):
        await watched.upload(11)
    watched.clock.advance(DAY + LATE)

    def fail(ids: Sequence[UploadId]) -> None:
        raise StoreUnavailable

    store.before = fail
    assert await watched.sweeper.sweep() == 0
    store.before = lambda ids: None
    watched.clock.advance(LATE)
    assert await watched.sweeper.sweep() == GROUP


async def test_a_sweep_that_is_ended_among_many_forgets_none_of_them(tmp_path: Path) -> None:
    """Their list stays until all of them are done with, whatever lane they are in."""
    world = World(lambda: FileStore(tmp_path, durability="none"), tuning=Tuning(group=GROUP))
    for _ in range(5 * GROUP):
        await world.upload(11)
    world.clock.advance(DAY + LATE)
    reached = asyncio.Event()

    async def hang(upload: Upload) -> None:
        reached.set()
        await asyncio.Event().wait()

    world.callbacks[HookType.POST_EXPIRE] = hang
    sweeping = asyncio.create_task(world.sweeper.sweep())
    await reached.wait()
    sweeping.cancel()
    await asyncio.wait([sweeping])
    assert await world.stored() != []
    del world.callbacks[HookType.POST_EXPIRE]
    world.restart()
    await world.sweeper.sweep()
    assert await world.stored() == []


async def test_a_listener_that_awaits_what_was_cancelled_keeps_nobody(world: World) -> None:
    ids = [await world.upload(11) for _ in range(2 * GROUP)]

    async def cancelled(upload: Upload) -> None:
        if upload.id == ids[0]:
            raise asyncio.CancelledError

    world.callbacks[HookType.POST_EXPIRE] = cancelled
    world.clock.advance(DAY + LATE)
    await world.sweeper.sweep()
    assert await world.stored() == []


async def test_an_id_that_is_listed_twice_in_a_batch_is_looked_at_once(watched: World, store: Watched) -> None:
    upload_id = await watched.upload(11)
    watched.clock.advance(DAY + LATE)
    assert await watched.sweeper._reaper.look_at([upload_id, upload_id]) == 1
    assert store.groups == [1]


# deadlines of all ----------------------------------------------------------------------------------------------------


async def test_new_rules_lock_only_what_has_another_deadline_by_them(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tuning=Tuning(group=GROUP))
    await world.sweeper.sweep()
    for _ in range(5):
        await world.upload(5, b"hello")
    unfinished = await world.upload(11, b"hello")
    world.obey(Expiry(after=2 * DAY))
    held: list[UploadId] = []
    real = world.locker.hold

    def hold(upload_id: UploadId, *args: object, **options: object) -> object:
        held.append(upload_id)
        return real(upload_id, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(world.locker, "hold", hold)
    await world.sweeper.sweep()
    assert held == [unfinished]
    assert (await world.head(unfinished)).expires_at == world.clock.now + 2 * DAY


async def test_uploads_that_cannot_get_their_new_deadline_are_not_remembered_without_end(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tuning=Tuning(group=GROUP, most_left=5))
    await world.sweeper.sweep()
    ids = [await world.upload(11, b"hello") for _ in range(20)]
    world.obey(Expiry(after=2 * DAY))
    real = world.locker.hold

    def hold(upload_id: UploadId, *args: object, **options: object) -> object:
        raise UploadLocked

    monkeypatch.setattr(world.locker, "hold", hold)
    await world.sweeper.sweep()
    assert world.sweeper._left is None
    monkeypatch.setattr(world.locker, "hold", real)
    world.clock.advance(timedelta(minutes=1))
    await world.sweeper.sweep()
    late = world.clock.now + 2 * DAY - timedelta(minutes=2)
    assert all(expires is not None and expires > late for expires in [(await world.head(i)).expires_at for i in ids])
