"""How many uploads may be unfinished: what counts, whom it hits, and that a count is never wrong for long."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import DAY, LATE, World, elapse
from tusserver.protocol.errors import CreationRejected, ServerFull, StoreUnavailable, TooManyUploads
from tusserver.protocol.rules import Limits
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.service import quota
from tusserver.service.quota import Quota
from tusserver.stores.ledger import MemoryLedger

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
    ledger = MemoryLedger()
    world = make_world(limits=Limits(uploads_per_client=3), ledger=ledger)
    for _ in range(3):
        await make(world)
    world.restart()
    with pytest.raises(TooManyUploads):
        await make(world)


async def test_two_servers_count_together(make_world: MakeWorld) -> None:
    ledger, ids = MemoryLedger(), (UploadId(f"shared-{number}") for number in count())
    one, two = (make_world(limits=Limits(uploads_per_client=3), ledger=ledger, new_id=ids.__next__) for _ in range(2))
    for world in (one, two, one):
        await make(world)
    for world in (one, two):
        with pytest.raises(TooManyUploads):
            await make(world)


class CountingLedger(MemoryLedger):
    """Knows how often a whole list was read."""

    def __init__(self) -> None:
        super().__init__()
        self.entries_read = 0

    async def read(self, name: str) -> tuple[UploadId, ...]:
        entries = tuple(await super().read(name))
        self.entries_read += len(entries)
        return entries


async def test_a_flood_of_refused_creations_costs_no_more_than_the_first_of_them(make_world: MakeWorld) -> None:
    ledger = CountingLedger()
    world = make_world(limits=Limits(uploads_per_client=50), ledger=ledger)
    for _ in range(50):
        await make(world)
    for _ in range(200):
        with pytest.raises(TooManyUploads):
            await make(world)
    assert ledger.entries_read == 51
    assert len(await ledger.read(ME)) == 51


async def test_a_client_that_stays_just_below_its_limit_costs_a_few_looks_for_each_upload(
    make_world: MakeWorld,
) -> None:
    ledger = CountingLedger()
    limit, more = 80, 200
    world = make_world(limits=Limits(uploads_per_client=limit), ledger=ledger)
    for _ in range(limit - 1):
        await make(world)
    for _ in range(more):
        await world.append(await make(world), 0, b"hello")
    assert ledger.entries_read <= more * 2 * quota.SLACK


async def test_lists_of_clients_who_are_done_are_forgotten(world: World) -> None:
    ledger = MemoryLedger()
    tidied = Quota(world.store, ledger, Limits(uploads_per_client=3), world.clock)
    await tidied.tidy()
    async with tidied.place(UploadId("never-made"), YOU):
        pass
    mine = await make(world)
    async with tidied.place(mine, ME):
        pass
    await tidied.tidy()
    assert set(await ledger.names(0)) == {ME, YOU}
    await elapse(quota.IDLE)
    await tidied.tidy()
    assert set(await ledger.names(0)) == {ME}
    await world.append(mine, 0, b"hello")
    await elapse(quota.IDLE)
    await tidied.tidy()
    assert set(await ledger.names(0)) == set()


async def test_without_limits_nothing_is_counted(make_world: MakeWorld) -> None:
    ledger = MemoryLedger()
    world = make_world(ledger=ledger)
    for _ in range(20):
        await make(world)
    assert list(await ledger.names(0)) == []
    assert not world.service.quota.by_client
