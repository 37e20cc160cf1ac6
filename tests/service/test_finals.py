"""Many final uploads of one part, and many parts in one: what they cost others, and where it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import DAY, LATE, World, a_request
from tusserver.hooks.base import HookType
from tusserver.protocol.errors import InvalidConcat, StoreUnavailable
from tusserver.protocol.limits import Expiry, Limits
from tusserver.protocol.messages import Download
from tusserver.protocol.upload import Upload, UploadId
from tusserver.service.parts import STEP
from tusserver.service.tuning import Tuning
from tusserver.stores.file.store import FileStore
from tusserver.stores.memory import MemoryStore

MANY = 120
PROMPT = 2 * STEP
"""Records that may be read between two turns of the loop: the end of one step and the whole of another."""


class Counting(MemoryStore):
    """Counts the records that are read: in all, and at most between two turns of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.in_a_row = 0
        self.most = 0
        self.damaged: set[UploadId] = set()

    async def load(self, upload_id: UploadId, fence: int = 0) -> Upload:
        self.loads += 1
        self.in_a_row += 1
        self.most = max(self.most, self.in_a_row)
        if upload_id in self.damaged:
            raise StoreUnavailable
        return await super().load(upload_id, fence)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count from nothing on, beside somebody else who has the loop in turns."""
        self.loads = self.in_a_row = self.most = 0
        turns = asyncio.get_running_loop().create_task(self._take_turns())
        yield
        turns.cancel()

    async def _take_turns(self) -> None:
        while True:
            self.in_a_row = 0
            await asyncio.sleep(0)


@pytest.fixture
def store() -> Counting:
    return Counting()


@pytest.fixture
def counting(store: Counting) -> World:
    """The service over a store that counts; for tests of the cost, not of the limit."""
    return World(lambda: store, limits=Limits(finals_per_part=10 * MANY))


async def waiting(world: World, part: UploadId, number: int) -> list[UploadId]:
    """Have final uploads wait for a part, and for others that never come."""
    missing = await world.part(b"", length=1)
    return [(await world.join(part, *[missing] * times)).id for times in range(1, number + 1)]


# what others wait for ------------------------------------------------------------------------------------------------


async def test_an_empty_patch_at_the_end_of_a_part_looks_at_no_final_upload(counting: World, store: Counting) -> None:
    part = await counting.part(b"hello")
    await waiting(counting, part, MANY)
    with store.counted():
        assert (await counting.append(part, 5)).finished
    assert store.loads <= 2


async def the_last_byte(world: World) -> None:
    part = await world.part(b"hell", length=5)
    await waiting(world, part, MANY)
    with counted(world):
        await world.append(part, 4, b"o")


async def another_final(world: World) -> None:
    part = await world.part(b"hello")
    await waiting(world, part, MANY)
    with counted(world):
        await world.join(part)


async def a_sweep(world: World) -> None:
    part = await world.part(b"hello")
    await waiting(world, part, MANY)
    await world.store.schedule(part, world.clock())
    with counted(world):
        await world.sweeper.sweep()


async def a_note_of_a_part_that_has_gone(world: World) -> None:
    part = await world.part(b"hello")
    for final in await waiting(world, part, MANY):
        await world.delete(final)
    await world.store.remove(part, notes=False)
    await world.store.schedule(part, world.clock())
    with counted(world):
        await world.sweeper.sweep()


async def many_parts(world: World) -> list[UploadId]:
    return [*[await world.part(b"x") for _ in range(MANY)], await world.part(b"", length=1)]


async def a_final_of_many_parts(world: World) -> None:
    parts = await many_parts(world)
    with counted(world):
        await world.join(*parts)


async def a_head(world: World) -> None:
    final = await world.join(*await many_parts(world))
    world.restart()
    with counted(world):
        await world.head(final.id)


async def a_head_behind_its_own_deadline(world: World) -> None:
    world.obey(Expiry(after=timedelta(days=3)))
    final = await world.join(*await many_parts(world))
    world.obey(Expiry(after=timedelta(days=9)))
    for part in final.parts:
        upload = await world.store.load(part)
        await world.store.commit(
            upload.with_progress(upload.offset, expires_at=world.clock() + 9 * DAY, finished=upload.finished)
        )
    world.clock.advance(4 * DAY)
    with counted(world):
        assert (await world.head(final.id)).expires_at == world.clock() + 5 * DAY


async def a_get(world: World) -> None:
    final = await world.join(*await many_parts(world))
    world.restart()
    with counted(world):
        await world.service.download(Download(id=final.id), a_request("GET"))


async def a_final_that_is_refused(world: World) -> None:
    parts = await many_parts(world)
    world.store.damaged.add(parts[-1])  # type: ignore[attr-defined]
    with counted(world), pytest.raises(StoreUnavailable):
        await world.join(*parts)


async def a_copy_of_many_parts(world: World) -> None:
    parts = (await many_parts(world))[:-1]
    with counted(world):
        assert (await world.join(*parts)).finished


async def a_sweep_of_a_final_that_waits(world: World) -> None:
    final = await world.join(*await many_parts(world))
    world.restart()
    await world.store.schedule(final.id, world.clock())
    with counted(world):
        await world.sweeper.sweep()


def counted(world: World) -> AbstractContextManager[None]:
    assert isinstance(world.store, Counting)
    return world.store.counted()


@pytest.mark.parametrize(
    "request_",
    [
        *(the_last_byte, another_final, a_sweep, a_note_of_a_part_that_has_gone, a_final_of_many_parts, a_head),
        *(a_head_behind_its_own_deadline, a_get, a_final_that_is_refused, a_copy_of_many_parts),
        a_sweep_of_a_final_that_waits,
    ],
)
async def test_others_have_their_turn_while_many_records_are_read(
    counting: World, store: Counting, request_: Callable[[World], Awaitable[object]]
) -> None:
    await request_(counting)
    assert store.loads >= MANY
    assert store.most <= PROMPT


async def test_a_final_upload_that_waits_is_looked_at_again_by_the_part_that_was_missing(
    counting: World, store: Counting
) -> None:
    final = await counting.join(*await many_parts(counting))
    await counting.head(final.id)
    with store.counted():
        assert (await counting.head(final.id)).pending
    assert store.loads <= 6


async def test_a_final_upload_behind_its_own_deadline_is_not_looked_at_through_all_parts_again(
    counting: World, store: Counting
) -> None:
    await a_head_behind_its_own_deadline(counting)
    final = next(upload for upload in [upload async for upload in store.uploads()] if upload.parts)
    with store.counted():
        assert (await counting.head(final.id)).expires_at == counting.clock() + 5 * DAY
    assert store.loads <= 6


async def test_a_part_that_comes_reads_one_part_of_each_final_upload_that_waits_for_others(
    counting: World, store: Counting
) -> None:
    parts = [await counting.part(b"", length=1) for _ in range(40)]
    for turned in range(10):
        await counting.join(*parts[turned:], *parts[:turned])
    with store.counted():
        for part in reversed(parts[15:]):  # none is the one that was missing first
            await counting.append(part, 0, b"x")
    assert store.loads <= 25 * 10 * 4  # of 10 final uploads with 40 parts each
    for part in parts[:15]:
        await counting.append(part, 0, b"x")
    await counting.concatenator.wait_for_copies()
    assert all([upload.finished async for upload in store.uploads()])


async def test_what_is_remembered_of_final_uploads_is_bounded(store: Counting) -> None:
    counting = World(lambda: store, tuning=Tuning(remembered=4))
    part = await counting.part(b"", length=1)
    finals = await waiting(counting, part, 10)
    for final in finals:
        await counting.head(final)
    assert len(counting.concatenator._parts._missing) <= 4
    await counting.append(part, 0, b"x")
    assert [(await counting.head(final)).pending for final in finals] == [True] * 10


async def test_a_record_that_cannot_be_read_keeps_no_other_final_upload_from_being_joined(
    counting: World, store: Counting
) -> None:
    part = await counting.part(b"hell", length=5)
    finals = [(await counting.join(*[part] * times)).id for times in (1, 2, 3)]
    store.damaged.add(finals[0])
    await counting.append(part, 4, b"o")
    store.damaged.clear()
    assert [(await store.load(final)).finished for final in finals] == [False, True, True]


async def test_a_stop_ends_the_walk_over_final_uploads(counting: World) -> None:
    part = await counting.part(b"hell", length=5)
    finals = [(await counting.join(*[part] * times)).id for times in range(1, MANY)]

    async def stop(upload: Upload) -> None:
        if upload.id == finals[1]:
            counting.service.close()

    counting.callbacks[HookType.PRE_FINISH] = stop
    await counting.append(part, 4, b"o")
    await counting.service.wait_for_background()
    assert (await counting.store.load(finals[-1])).pending
    counting.restart()
    counting.clock.advance(LATE)
    for _ in range(MANY // 16 + 2):
        await counting.sweeper.sweep()
        await counting.concatenator.wait_for_copies()
        counting.clock.advance(LATE)
    assert all([(await counting.store.load(final)).finished for final in finals])


async def test_a_part_whose_length_comes_last_completes_its_final_uploads_also_after_a_crash(world: World) -> None:
    part = await world.part(b"hello", length=None)
    upload = (await world.create(None, role=(await world.store.load(part)).role)).upload
    await world.append(upload.id, 0, b"hello")
    final = await world.join(upload.id)
    world.concatenator.close()  # nothing is joined in this life
    assert (await world.append(upload.id, 5, length=5)).finished
    assert (await world.store.load(final.id)).pending
    world.restart()
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    await world.concatenator.wait_for_copies()
    assert (await world.store.load(final.id)).finished


# where it ends -------------------------------------------------------------------------------------------------------


async def test_a_part_in_too_many_final_uploads_is_refused_by_name_and_leaves_nothing(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(finals_per_part=3))
    part, other = await world.part(b"a"), await world.part(b"b")
    for times in range(1, 4):
        await world.join(part, *[other] * times)
    before, made = await world.stored(), world.heard(HookType.POST_CREATE)
    with pytest.raises(InvalidConcat, match=rf"the partial upload {part} is in limits.finals_per_part = 3 final"):
        await world.join(part)
    with pytest.raises(InvalidConcat, match=rf"the partial upload {other} is in"):
        await world.join(other)
    assert (await world.stored(), world.heard(HookType.POST_CREATE)) == (before, made)


async def test_the_same_final_upload_asked_for_again_is_counted_once(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(finals_per_part=2))
    part = await world.part(b"a")
    first = await world.join(part, part)
    for _ in range(5):
        assert (await world.join(part, part)).id == first.id
    second = await world.join(part)
    assert {(await world.join(part)).id, (await world.join(part, part)).id} == {first.id, second.id}


async def test_a_final_upload_that_was_deleted_makes_room_for_another(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(finals_per_part=2))
    part, missing = await world.part(b"a"), await world.part(b"", length=1)
    for times in range(1, 20):
        await world.delete((await world.join(part, *[missing] * times)).id)
    finals = [await world.join(*[part] * times) for times in (1, 2)]
    assert await world.store.dependents(part) == tuple(final.id for final in finals)
    assert len(await world.store.dependents(missing)) <= 3


async def test_of_many_who_ask_at_once_as_many_succeed_as_there_is_room_for(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(finals_per_part=3))
    part, missing = await world.part(b"a"), await world.part(b"", length=1)
    asked = [world.join(part, *[missing] * times) for times in range(10)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    made = {outcome.id for outcome in outcomes if isinstance(outcome, Upload)}
    assert len(made) == 3
    assert all(isinstance(outcome, Upload | InvalidConcat) for outcome in outcomes)
    assert set(await world.stored()) == {part, missing, *made}


async def test_notes_of_final_uploads_that_are_gone_go_with_the_next_walk(make_world: MakeWorld) -> None:
    world = make_world()
    part = await world.part(b"hell", length=5)
    finals = await waiting(world, part, 10)
    for final in finals[1:]:
        await world.delete(final)
    assert len(await world.store.dependents(part)) == 10
    await world.append(part, 4, b"o")
    await world.concatenator.wait_for_copies()
    assert await world.store.dependents(part) == (finals[0],)


async def test_the_notes_of_a_part_do_not_grow_with_the_requests_for_it(tmp_path: Path) -> None:
    world = World(lambda: FileStore(tmp_path), limits=Limits(finals_per_part=3))
    part = await world.part(b"a")
    for times in range(1, 30):
        await world.delete((await world.join(*[part] * times)).id)
        assert len(await world.store.dependents(part)) <= 3
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.awaited")) < 200  # noqa: ASYNC240 - it is done


class Racing(MemoryStore):
    """Something is noted while gone final uploads are struck out."""

    async def remove_dependents(self, part: UploadId, gone: Collection[UploadId]) -> None:
        await self.add_dependent(UploadId("late"), part)
        await super().remove_dependents(part, gone)


async def test_what_is_noted_while_others_are_struck_out_stays() -> None:
    world = World(Racing)
    part = await world.part(b"hell", length=5)
    for final in await waiting(world, part, 3):
        await world.delete(final)
    await world.append(part, 4, b"o")
    await world.concatenator.wait_for_copies()
    assert await world.store.dependents(part) == ("late",)
