"""What may be unfinished, uploads and bytes: what counts, whom it hits, and that no limit is passed, not at times."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import DAY, LATE, Feed, World, a_request, elapse
from tusserver.indexes.base import Listed
from tusserver.indexes.memory import MemoryOpenUploads
from tusserver.protocol.errors import (
    CreationRejected,
    MaxSizeExceeded,
    ServerFull,
    SpaceReserved,
    StoreUnavailable,
    TooManyUploads,
    TooMuchReserved,
)
from tusserver.protocol.limits import Limits
from tusserver.protocol.messages import Append
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.service import quota
from tusserver.service.quota import Quota
from tusserver.service.tuning import Tuning

ME, YOU = "1.2.3.4", "5.6.7.8"


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """Three unfinished uploads a client, five in all."""
    return make_world(limits=Limits(uploads_per_client=3, uploads=5))


async def make(world: World, client: str = ME, length: int = 5, **options: Any) -> UploadId:
    return (await world.create(length, client=client, **options)).upload.id


async def rest() -> None:
    """Until a list that was found full is looked at again."""
    await elapse(quota.AT_LEAST)


async def test_a_client_with_too_many_unfinished_uploads_gets_no_more_and_others_do(world: World) -> None:
    mine = [await make(world) for _ in range(3)]
    for _ in range(5):
        with pytest.raises(TooManyUploads) as refusal:
            await make(world)
    assert (refusal.value.status, refusal.value.retry_after) == (429, 10)
    yours = await make(world, YOU)
    assert await world.stored() == sorted([*mine, yours])


async def test_the_server_has_a_limit_for_all(world: World) -> None:
    for client in (ME, YOU, "", "2001:db8::/64", YOU):
        await make(world, client)
    with pytest.raises(ServerFull) as refusal:
        await make(world, "9.9.9.9")
    assert (refusal.value.status, refusal.value.retry_after) == (503, 10)
    assert len(await world.stored()) == 5


async def test_who_nobody_can_name_counts_in_all_alone(world: World) -> None:
    for _ in range(5):
        await make(world, "")
    with pytest.raises(ServerFull):
        await make(world, "")


@pytest.mark.parametrize("end", ["finished", "deleted", "expired"])
async def test_an_upload_that_is_done_makes_room(world: World, end: str) -> None:
    first, *_ = [await make(world) for _ in range(3)]
    with pytest.raises(TooManyUploads):
        await make(world)
    if end == "finished":
        await world.append(first, 0, b"hello")
    elif end == "deleted":
        await world.delete(first)
    else:
        world.clock.advance(DAY + LATE)
    await rest()
    await make(world)


async def test_finished_uploads_do_not_count_however_many(world: World) -> None:
    for _ in range(20):
        assert (await world.create(5, b"hello", client=ME)).upload.finished


async def test_parts_and_what_waits_for_them_count_while_they_are_unfinished(world: World) -> None:
    parts = [await make(world, role=Role.PARTIAL) for _ in range(2)]
    final = await world.create(None, role=Role.FINAL, parts=parts, client=ME)
    with pytest.raises(TooManyUploads):
        await make(world)
    for part in parts:
        await world.append(part, 0, b"hello")
    assert (await world.head(final.upload.id)).finished
    await rest()
    for _ in range(3):
        await make(world)


async def test_a_creation_that_is_refused_by_the_app_does_not_count(make_world: MakeWorld) -> None:
    numbers = count()

    async def before_create(upload: Upload) -> None:
        if next(numbers) % 2:
            raise CreationRejected

    world = make_world(limits=Limits(uploads_per_client=3), before_create=before_create)
    for number in range(6):
        if number % 2:
            with pytest.raises(CreationRejected):
                await make(world)
        else:
            await make(world)
    assert len(await world.stored()) == 3


async def test_a_creation_that_fails_does_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(upload: Upload) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as broken:
        broken.setattr(world.store, "create", fail)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await make(world)
    for _ in range(3):
        await make(world)


async def test_of_many_creations_at_once_no_more_pass_than_there_is_room_for(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(uploads_per_client=7))
    made = await asyncio.gather(*(make(world) for _ in range(50)), return_exceptions=True)
    assert {type(outcome) for outcome in made} == {str, TooManyUploads}
    assert len(await world.stored()) == 7


async def test_counts_outlive_a_restart(make_world: MakeWorld) -> None:
    open_uploads = MemoryOpenUploads()
    world = make_world(limits=Limits(uploads_per_client=3), open_uploads=open_uploads)
    for _ in range(3):
        await make(world)
    world.restart()
    with pytest.raises(TooManyUploads):
        await make(world)


async def test_two_servers_count_together(make_world: MakeWorld) -> None:
    open_uploads, ids = MemoryOpenUploads(), (UploadId(f"shared-{number}") for number in count())
    one, two = (
        make_world(limits=Limits(uploads_per_client=3), open_uploads=open_uploads, new_id=ids.__next__)
        for _ in range(2)
    )
    for world in (one, two, one):
        await make(world)
    for world in (one, two):
        with pytest.raises(TooManyUploads):
            await make(world)


# several processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(world: World) -> tuple[Quota, Quota]:
    """Of two processes on one store."""
    open_uploads, limits = MemoryOpenUploads(), Limits(uploads_per_client=3, reserved_per_client=1000)
    one, two = (Quota(world.store, open_uploads, world.locker, limits, world.clock) for _ in range(2))
    return one, two


async def test_what_another_process_is_making_counts_while_that_lives(
    world: World, shared: tuple[Quota, Quota]
) -> None:
    one, two = shared
    async with AsyncExitStack() as making:
        for number in range(3):
            await making.enter_async_context(one.reserve(UploadId(f"making-{number}"), ME, 5))
        for number in range(2):
            with pytest.raises(TooManyUploads):
                async with two.reserve(UploadId(f"other-{number}"), ME, 5):
                    pass
    # Gone without a record, as those of a process that died: nobody holds their locks.
    async with two.reserve(UploadId("later"), ME, 5):
        pass


async def test_what_a_check_met_while_it_was_made_is_still_counted_when_it_is_there(
    world: World, shared: tuple[Quota, Quota]
) -> None:
    one, two = shared
    async with AsyncExitStack() as making:
        for number in range(3):
            upload_id = UploadId(f"making-{number}")
            await making.enter_async_context(one.reserve(upload_id, ME, 5))
        with pytest.raises(TooManyUploads):
            async with two.reserve(UploadId("other"), ME, 5):
                pass
        for number in range(3):
            await world.store.create(Upload(id=UploadId(f"making-{number}"), created_at=world.clock.now, length=5))
    for process in shared:
        with pytest.raises(TooManyUploads):
            async with process.reserve(UploadId("another"), ME, 5):
                pass


async def test_bytes_that_another_process_is_reserving_count(world: World, shared: tuple[Quota, Quota]) -> None:
    one, two = shared
    async with one.reserve(UploadId("large"), ME, 900):
        with pytest.raises(TooMuchReserved):
            async with two.reserve(UploadId("other"), ME, 101):
                pass
        async with two.reserve(UploadId("small"), ME, 100):
            pass


async def test_a_length_that_another_process_is_declaring_counts_before_it_is_recorded(
    world: World, shared: tuple[Quota, Quota]
) -> None:
    one, two = shared
    deferred = UploadId("deferred")
    await world.store.create(Upload(id=deferred, created_at=world.clock.now))
    async with one.reserve(deferred, ME, 900):
        with pytest.raises(TooMuchReserved):
            async with two.reserve(UploadId("other"), ME, 101):
                pass
    await rest()
    async with two.reserve(UploadId("other"), ME, 101):  # it was not recorded in the end
        pass


async def test_uploads_that_cannot_be_read_just_now_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        await make(world)

    async def fail(upload_id: UploadId) -> Upload:
        raise StoreUnavailable

    with monkeypatch.context() as broken:
        broken.setattr(world.store, "load", fail)
        with pytest.raises(TooManyUploads):
            await make(world)
    await rest()
    with pytest.raises(TooManyUploads):
        await make(world)


# bytes ---------------------------------------------------------------------------------------------------------------


async def test_a_client_reserves_no_more_bytes_than_its_limit_and_others_do(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(reserved_per_client=100, reserved=150))
    await make(world, length=60)
    with pytest.raises(TooMuchReserved) as refusal:
        await make(world, length=41)
    assert (refusal.value.status, refusal.value.retry_after) == (429, 10)
    await make(world, length=40)
    with pytest.raises(SpaceReserved) as full:
        await make(world, YOU, length=51)
    assert (full.value.status, full.value.retry_after) == (507, 10)
    await make(world, YOU, length=50)
    assert len(await world.stored()) == 3


async def test_bytes_that_came_are_not_reserved_any_more(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(reserved=100))
    upload_id = await make(world, length=100)
    with pytest.raises(SpaceReserved):
        await make(world, length=5)
    await world.append(upload_id, 0, b"x" * 30)
    await rest()
    await make(world, length=30)
    with pytest.raises(SpaceReserved):
        await make(world, length=1)


async def test_a_byte_now_and_then_keeps_no_more_than_the_limit(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(reserved=100))
    upload_id = await make(world, length=100)
    for offset in range(3):
        await world.append(upload_id, offset, b"x")
        await rest()
        with pytest.raises(SpaceReserved):
            await make(world, length=offset + 2)
        await rest()
    await make(world, length=3)


async def test_more_than_the_limit_can_never_be(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(reserved=100, reserved_per_client=50))
    with pytest.raises(MaxSizeExceeded, match=r"limits\.reserved_per_client = 50"):
        await make(world, length=51)
    with pytest.raises(MaxSizeExceeded, match=r"limits\.reserved = 100"):
        await make(world, "", length=101)
    assert await world.stored() == []


async def test_a_length_that_is_declared_later_is_reserved_then_or_refused(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(reserved_per_client=100))
    one, two = [(await world.create(None, client=ME)).upload.id for _ in range(2)]
    declaring = Append(id=one, offset=0, body_length=0, length=70)
    await world.service.append(declaring, Feed(ends=True), a_request(client=ME))
    with pytest.raises(TooMuchReserved):
        await world.service.append(replace(declaring, id=two), Feed(ends=True), a_request(client=ME))
    assert (await world.store.load(two)).length is None
    with pytest.raises(TooMuchReserved):
        await make(world, length=31)
    await make(world, length=30)


async def test_parts_reserve_and_what_they_become_does_not(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(reserved=100))
    part = await make(world, length=60, role=Role.PARTIAL)
    await world.create(None, role=Role.FINAL, parts=[part], client=ME)
    await make(world, length=40)
    with pytest.raises(SpaceReserved):
        await make(world, length=1)


async def test_of_many_creations_at_once_no_more_bytes_pass_than_there_is_room_for(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(reserved_per_client=70))
    made = await asyncio.gather(*(make(world, length=10) for _ in range(50)), return_exceptions=True)
    assert {type(outcome) for outcome in made} == {str, TooMuchReserved}
    assert len(await world.stored()) == 7


# what it costs -------------------------------------------------------------------------------------------------------


class CountingLedger(MemoryOpenUploads):
    """Knows how often a whole list was read."""

    def __init__(self) -> None:
        super().__init__()
        self.entries_read = 0

    async def read(self, name: str) -> tuple[Listed, ...]:
        entries = tuple(await super().read(name))
        self.entries_read += len(entries)
        return entries


async def test_a_flood_of_refused_creations_costs_no_more_than_the_first_of_them(make_world: MakeWorld) -> None:
    open_uploads = CountingLedger()
    world = make_world(limits=Limits(uploads_per_client=50), open_uploads=open_uploads)
    for _ in range(50):
        await make(world)
    for _ in range(200):
        with pytest.raises(TooManyUploads):
            await make(world)
    assert open_uploads.entries_read == 51
    assert len(await open_uploads.read(ME)) == 51


def counting_looks(world: World, monkeypatch: pytest.MonkeyPatch) -> list[UploadId]:
    looks: list[UploadId] = []
    look = world.service.quota._look

    async def counted(entry: Listed) -> tuple[int | None, bool]:
        looks.append(entry.id)
        return await look(entry)

    monkeypatch.setattr(world.service.quota, "_look", counted)
    return looks


async def test_a_client_that_stays_just_below_its_limit_costs_a_few_looks_for_each_upload(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, more = 80, 200
    world = make_world(limits=Limits(uploads_per_client=limit))
    looks = counting_looks(world, monkeypatch)
    for _ in range(limit - 1):
        await make(world)
    for _ in range(more):
        await world.append(await make(world), 0, b"hello")
    assert len(looks) <= more * 2 * quota.LOOKS


async def test_a_list_that_is_bounded_by_bytes_alone_does_not_grow_with_what_is_done(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_uploads = MemoryOpenUploads()
    world = make_world(limits=Limits(reserved=10**9), open_uploads=open_uploads, tuning=Tuning(crowd=10))
    looks = counting_looks(world, monkeypatch)
    for _ in range(100):
        await world.append(await make(world), 0, b"hello")
    assert len(await open_uploads.read(quota.ALL)) <= 12
    assert len(looks) <= 200


async def test_lists_of_clients_who_are_done_are_forgotten(world: World) -> None:
    open_uploads = MemoryOpenUploads()
    tidied = Quota(world.store, open_uploads, world.locker, Limits(uploads_per_client=3), world.clock)
    await tidied.prune()
    async with tidied.reserve(UploadId("never-made"), YOU, 5):
        pass
    mine = await make(world)
    async with tidied.reserve(mine, ME, 5):
        pass
    await tidied.prune()
    assert set(await open_uploads.names(0)) == {ME, YOU}
    await elapse(quota.IDLE)
    await tidied.prune()
    assert set(await open_uploads.names(0)) == {ME}
    await world.append(mine, 0, b"hello")
    await elapse(quota.IDLE)
    await tidied.prune()
    assert set(await open_uploads.names(0)) == set()


async def test_without_limits_nothing_is_counted(make_world: MakeWorld) -> None:
    open_uploads = MemoryOpenUploads()
    world = make_world(open_uploads=open_uploads)
    for _ in range(20):
        await make(world)
    assert list(await open_uploads.names(0)) == []
    assert not world.service.quota.by_client
