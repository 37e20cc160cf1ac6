from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import DAY, LATE, Feed, World, a_request, elapse
from tests.support.hooks import MemoryHooks
from tests.support.uploads import changed
from tusserver.hooks.base import HookResponse, HookType, UploadChanges
from tusserver.protocol.errors import (
    ClientDisconnected,
    FinishFailed,
    InvalidConcat,
    MaxSizeExceeded,
    OutOfSpace,
    PartsUnfinished,
    StoreUnavailable,
    UploadExpired,
    UploadLocked,
    UploadNotFound,
    UploadRejected,
)
from tusserver.protocol.extensions import Extension
from tusserver.protocol.limits import Expiry, Features, Limits
from tusserver.protocol.messages import Create, Download
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.base import OnCopied
from tusserver.stores.file.store import FileStore
from tusserver.stores.memory import MemoryStore

NOBODY = UploadId("nobody")
NO_UNFINISHED = Features(disable=[Extension.CONCATENATION_UNFINISHED])


async def fail(upload: Upload) -> None:
    raise RuntimeError("the listener fails")


async def refuse(upload: Upload) -> None:
    raise UploadRejected("a virus", status=422)


# complete parts ------------------------------------------------------------------------------------------------------


async def test_complete_parts_are_joined_at_once_in_the_order_given(world: World) -> None:
    one, two = await world.part(b"hello "), await world.part(b"world")
    for parts, content in (((one, two), b"hello world"), ((two, one), b"worldhello "), ((one, one), b"hello hello ")):
        final = await world.join(*parts)
        assert (final.length, final.offset, final.finished) == (len(content), len(content), True)
        assert await world.content(final.id) == content


async def test_a_final_upload_is_told_as_finished_once_and_its_parts_never(world: World) -> None:
    final = await world.join(await world.part(b"hello "), await world.part(b"world"))
    assert world.heard(HookType.PRE_FINISH) == world.heard(HookType.PRE_FINISH, final.id) == 1


async def test_parts_stay_as_they_were(world: World) -> None:
    one, two = await world.part(b"hello "), await world.part(b"world")
    await world.join(one, two)
    assert [await world.content(part) for part in (one, two)] == [b"hello ", b"world"]


async def test_a_final_upload_outlives_its_parts(world: World) -> None:
    one, two = await world.part(b"hello "), await world.part(b"world")
    final = await world.join(one, two)
    await world.delete(one)
    await world.delete(two)
    assert await world.content(final.id) == b"hello world"


async def test_parts_without_bytes_make_a_final_upload_without_bytes(world: World) -> None:
    final = await world.join(await world.part(b""), await world.part(b""))
    assert (final.length, final.finished, world.heard(HookType.PRE_FINISH)) == (0, True, 1)


async def test_parts_of_a_length_that_was_deferred_can_be_joined(world: World) -> None:
    part = (await world.create(None, role=Role.PARTIAL)).upload.id
    await world.append(part, 0, b"hello", length=5)
    assert await world.content((await world.join(part, part)).id) == b"hellohello"


@pytest.mark.parametrize("kind", ["unknown", "regular", "final", "expired"])
async def test_what_is_no_part_cannot_be_joined_and_leaves_nothing(world: World, kind: str) -> None:
    part = await world.part(b"hello")
    match kind:
        case "unknown":
            other = NOBODY
        case "regular":
            other = await world.upload(5, b"hello")
        case "final":
            other = (await world.join(part)).id
        case _:
            other = await world.part(b"hel", length=5)
            world.clock.advance(DAY)
    before = await world.stored()
    with pytest.raises(InvalidConcat):
        await world.join(part, other)
    assert await world.stored() == before


async def test_parts_that_are_too_large_together_are_refused_and_leave_nothing(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(max_size=9))
    parts = [await world.part(b"hello"), await world.part(b"you", length=5)]
    for joined in ((parts[0], parts[0]), parts):
        with pytest.raises(MaxSizeExceeded):
            await world.join(*joined)
    assert await world.stored() == sorted(parts)


async def test_more_parts_than_allowed_are_refused(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(parts=3))
    part = await world.part(b"hello")
    await world.join(part, part, part)
    with pytest.raises(InvalidConcat):
        await world.join(part, part, part, part)


class SlowStore(MemoryStore):
    """Joins when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.joining = asyncio.Event()
        self.go_on = asyncio.Event()

    async def concatenate(self, final: Upload, parts: Sequence[Upload], on_progress: OnCopied) -> None:
        self.joining.set()
        await self.go_on.wait()
        await super().concatenate(final, parts, on_progress)


async def test_a_final_upload_that_cannot_be_finished_stays_and_is_finished_when_it_is_asked_for_again(
    make_world: MakeWorld,
) -> None:
    world = make_world(features=Features(delete_parts=True))
    part = await world.part(b"hello")
    world.callbacks[HookType.PRE_FINISH] = fail
    with pytest.raises(FinishFailed):
        await world.join(part)
    stored = await world.stored()
    assert len(stored) == 2
    del world.callbacks[HookType.PRE_FINISH]
    final = await world.join(part)
    assert await world.content(final.id) == b"hello"
    assert await world.stored() == [final.id]
    assert final.id in stored


async def test_a_final_upload_that_the_application_refuses_is_removed_and_its_parts_stay(world: World) -> None:
    part = await world.part(b"hello")
    world.callbacks[HookType.PRE_FINISH] = refuse
    with pytest.raises(UploadRejected):
        await world.join(part)
    assert await world.stored() == [part]
    del world.callbacks[HookType.PRE_FINISH]
    assert await world.content((await world.join(part)).id) == b"hello"


# asked for again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delete_parts", [False, True])
async def test_the_same_parts_asked_for_again_are_the_same_final_upload(
    make_world: MakeWorld, delete_parts: bool
) -> None:
    world = make_world(features=Features(delete_parts=delete_parts))
    one, two = await world.part(b"hello "), await world.part(b"world")
    final = await world.join(one, two)
    assert (await world.join(one, two)).id == final.id
    assert world.heard(HookType.POST_CREATE, final.id) == world.heard(HookType.PRE_FINISH, final.id) == 1
    assert await world.content(final.id) == b"hello world"


async def test_other_parts_or_another_order_or_other_metadata_are_another_final_upload(world: World) -> None:
    one, two = await world.part(b"hello "), await world.part(b"world")
    finals = [await world.join(*parts) for parts in ((one, two), (two, one), (one,), (one, two, one))]
    named = (await world.create(None, role=Role.FINAL, parts=(one, two), metadata="filename YQ==")).upload
    assert len({final.id for final in [*finals, named]}) == 5


async def test_a_final_upload_that_was_deleted_is_made_again(world: World) -> None:
    part = await world.part(b"hello")
    final = await world.join(part)
    await world.delete(final.id)
    again = await world.join(part)
    assert again.id != final.id
    assert await world.content(again.id) == b"hello"


async def test_many_who_ask_at_once_get_one_final_upload(world: World) -> None:
    one, two = await world.part(b"hello "), await world.part(b"world")
    finals = await asyncio.gather(*(world.join(one, two) for _ in range(5)))
    assert len({final.id for final in finals}) == 1
    assert world.heard(HookType.POST_CREATE, finals[0].id) == world.heard(HookType.PRE_FINISH, finals[0].id) == 1


async def test_they_are_so_too_where_the_application_changes_the_metadata(make_world: MakeWorld) -> None:
    changes = HookResponse(changes=UploadChanges(metadata=Metadata("user YW5u")))
    hooks = MemoryHooks(responses={HookType.PRE_CREATE: changes})
    world = make_world(features=Features(delete_parts=True), hooks=hooks)
    parts = [await world.part(b"hello "), await world.part(b"world")]
    final = await world.join(*parts)
    assert (final.metadata.text, final.finished) == ("user YW5u", True)
    assert await world.join(*parts) == final
    assert [request.upload.length for request in hooks.requests[2:]] == [11, 11]


async def test_parts_that_are_gone_do_not_become_one_with_other_metadata(make_world: MakeWorld) -> None:
    world = make_world(features=Features(delete_parts=True))
    parts = [await world.part(b"hello "), await world.part(b"world")]
    final = await world.join(*parts)
    with pytest.raises(InvalidConcat):
        await world.create(None, role=Role.FINAL, parts=parts, metadata="user YW5u")
    assert await world.stored() == [final.id]


async def test_the_same_parts_asked_for_again_need_no_place_of_their_own(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(uploads=2))
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    assert (await world.join(part)).id == final.id


async def test_an_application_may_sweep_when_it_is_told_of_a_final_upload(world: World) -> None:
    async def sweep(upload: Upload) -> None:
        await world.sweeper.sweep()

    world.callbacks[HookType.PRE_FINISH] = sweep
    final = await world.join(await world.part(b"hello"))
    async with asyncio.timeout(60):
        await world.concatenator.wait_for_copies()
    assert (await world.head(final.id)).finished


# parts go with their final upload ------------------------------------------------------------------------------------


async def test_parts_are_removed_with_the_success_of_their_final_upload_if_so_wished(make_world: MakeWorld) -> None:
    world = make_world(features=Features(delete_parts=True))
    one, two = await world.part(b"hello "), await world.part(b"world")
    final = await world.join(one, two, one)
    assert await world.stored() == [final.id]
    assert await world.content(final.id) == b"hello worldhello "


async def test_parts_are_removed_when_the_last_of_them_completes_a_waiting_final_upload(make_world: MakeWorld) -> None:
    world = make_world(features=Features(delete_parts=True))
    one, two = await world.part(b"hello "), await world.part(b"wor", length=5)
    final = await world.join(one, two)
    assert await world.stored() == sorted([one, two, final.id])
    await world.append(two, 3, b"ld")
    assert await world.stored() == [final.id]


async def test_parts_of_a_waiting_final_upload_go_even_if_it_is_finished_later(make_world: MakeWorld) -> None:
    world = make_world(features=Features(delete_parts=True))
    one, two = await world.part(b"hello "), await world.part(b"wor", length=5)
    final = await world.join(one, two)
    world.callbacks[HookType.PRE_FINISH] = fail
    await world.append(two, 3, b"ld")
    assert len(await world.stored()) == 3
    del world.callbacks[HookType.PRE_FINISH]
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    await world.concatenator.wait_for_copies()
    assert await world.stored() == [final.id]
    assert (await world.head(final.id)).finished
    assert (await world.content(final.id), world.heard(HookType.PRE_FINISH)) == (b"hello world", 1)


async def test_the_same_final_upload_is_given_back_while_its_parts_are_removed(make_world: MakeWorld) -> None:
    world = make_world(features=Features(delete_parts=True))
    one, two = await world.part(b"hello "), await world.part(b"world")
    removing, go_on = asyncio.Event(), asyncio.Event()
    original = world.store.remove

    async def remove(upload_id: UploadId, *, notes: bool = True) -> bool:
        if upload_id == two:
            removing.set()
            await go_on.wait()
        return await original(upload_id, notes=notes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store, "remove", remove)
        joining = asyncio.create_task(world.join(one, two))
        await removing.wait()
        again = asyncio.create_task(world.join(one, two))
        await elapse(1)
        go_on.set()
        assert (await again).id == (await joining).id


async def test_the_same_final_upload_is_given_back_if_its_parts_could_not_all_be_removed(
    make_world: MakeWorld,
) -> None:
    world = make_world(features=Features(delete_parts=True))
    one, two = await world.part(b"hello "), await world.part(b"world")
    original = world.store.remove

    async def remove(upload_id: UploadId, *, notes: bool = True) -> bool:
        if upload_id == two:
            raise StoreUnavailable
        return await original(upload_id, notes=notes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store, "remove", remove)
        with contextlib.suppress(StoreUnavailable):
            await world.join(one, two)
    world.restart()
    assert await world.content((await world.join(one, two)).id) == b"hello world"
    assert world.heard(HookType.PRE_FINISH) == 1


async def test_the_same_final_upload_is_given_back_for_a_day_after_its_parts_went(make_world: MakeWorld) -> None:
    world = make_world(features=Features(delete_parts=True))
    one, two = await world.part(b"hello "), await world.part(b"world")
    final = await world.join(one, two)
    for _ in range(23):
        world.clock.advance(timedelta(hours=1))
        await world.sweeper.sweep()
        assert (await world.join(one, two)).id == final.id


# unfinished parts ----------------------------------------------------------------------------------------------------


async def test_unfinished_parts_are_refused_where_waiting_is_off(make_world: MakeWorld) -> None:
    world = make_world(features=NO_UNFINISHED)
    part = await world.part(b"hel", length=5)
    with pytest.raises(PartsUnfinished):
        await world.join(part)
    assert await world.stored() == [part]


async def test_a_final_upload_waits_for_its_parts_and_is_joined_with_the_last_one(world: World) -> None:
    one, two = await world.part(b"hel", length=6), await world.part(b"", length=5)
    final = await world.join(one, two, one)
    assert (final.pending, final.length, final.offset) == (True, 17, 0)
    await world.append(one, 3, b"lo ")
    assert (await world.head(final.id)).pending
    await world.append(two, 0, b"world")
    joined = await world.head(final.id)
    assert (joined.length, joined.offset, joined.finished, joined.expires_at) == (17, 17, True, None)
    assert await world.content(final.id) == b"hello worldhello "
    assert world.heard(HookType.PRE_FINISH) == 1


async def test_the_length_of_a_final_upload_is_known_once_those_of_its_parts_are(world: World) -> None:
    part = (await world.create(None, role=Role.PARTIAL)).upload.id
    final = await world.join(part, await world.part(b"!"))
    assert (final.pending, final.length) == (True, None)
    await world.append(part, 0, b"hello", length=5)
    assert (await world.head(final.id)).length == 6
    assert await world.content(final.id) == b"hello!"


async def test_two_final_uploads_may_wait_for_the_same_part(world: World) -> None:
    part = await world.part(b"hel", length=5)
    finals = [await world.join(part), await world.join(part, part)]
    await world.append(part, 3, b"lo")
    assert [await world.content(final.id) for final in finals] == [b"hello", b"hellohello"]
    assert world.heard(HookType.PRE_FINISH) == 2


async def test_a_part_that_breaks_off_after_its_last_byte_completes_its_final_upload(world: World) -> None:
    part, feed = await world.part(b"", length=5), Feed(b"hello")
    final = await world.join(part)
    appending = asyncio.create_task(world.append(part, 0, feed))
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await appending
    assert (await world.store.load(final.id)).finished


async def test_a_waiting_final_upload_survives_a_restart(world: World) -> None:
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    world.restart()
    await world.append(part, 3, b"lo")
    assert await world.content(final.id) == b"hello"


async def test_a_crash_between_the_last_part_and_the_joining_is_made_good_by_head(world: World) -> None:
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    unfinished = await world.store.load(part)
    await world.store.write(unfinished, Given(b"lo"), nothing)
    await world.store.commit(changed(unfinished, offset=5))
    world.restart()
    assert (await world.head(final.id)).finished
    assert await world.content(final.id) == b"hello"


async def test_a_part_that_is_deleted_leaves_its_final_upload_waiting_until_it_expires(world: World) -> None:
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    await world.delete(part)
    assert (await world.head(final.id)).pending
    world.clock.advance(DAY)
    with pytest.raises(UploadExpired):
        await world.head(final.id)


async def test_a_final_upload_that_is_deleted_leaves_its_parts_in_peace(world: World) -> None:
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    await world.delete(final.id)
    assert (await world.append(part, 3, b"lo")).finished
    assert await world.stored() == [part]


async def test_a_final_upload_that_waits_lives_as_long_as_its_parts(make_world: MakeWorld) -> None:
    """A film in parts over two days."""
    world = make_world(expiry=Expiry(after=timedelta(hours=1)))
    part = await world.part(b"", length=5)
    final = await world.join(part)
    for at in range(4):
        world.clock.advance(timedelta(minutes=40))
        await world.append(part, at, b"h")
        await world.sweeper.sweep()
        assert (await world.head(final.id)).pending
    await world.append(part, 4, b"o")
    assert (await world.head(final.id)).finished


async def test_a_final_upload_expires_with_the_first_part_that_is_lost(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(after=timedelta(hours=1)))
    one, two = await world.part(b"", length=5), await world.part(b"", length=5)
    final = await world.join(one, two)
    world.clock.advance(timedelta(minutes=40))
    await world.append(two, 0, b"h")
    world.clock.advance(timedelta(minutes=40))
    with pytest.raises(UploadExpired):
        await world.head(final.id)
    assert await world.sweeper.sweep() == 2
    assert await world.stored() == [two]


# interrupted ---------------------------------------------------------------------------------------------------------


class Full(MemoryStore):
    """Has no room for copies while it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True

    async def concatenate(self, final: Upload, parts: Sequence[Upload], on_progress: OnCopied) -> None:
        if self.full:
            raise OutOfSpace
        await super().concatenate(final, parts, on_progress)


@pytest.mark.parametrize("by", ["sweep", "head", "get"])
async def test_what_found_no_room_when_the_last_part_came_is_joined_later(by: str) -> None:
    store = Full()
    world = World(lambda: store)
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    await world.append(part, 3, b"lo")
    assert (await store.load(final.id)).pending
    store.full = False
    if by == "sweep":
        world.clock.advance(LATE)
        await world.sweeper.sweep()
        await world.concatenator.wait_for_copies()
    elif by == "head":
        assert (await world.head(final.id)).finished
    else:
        await world.service.download(Download(id=final.id), a_request("GET"))
    assert await world.content(final.id) == b"hello"


async def test_a_sweep_joins_what_a_crash_kept_the_last_part_from_joining(world: World) -> None:
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    joins = [
        asyncio.create_task(world.append(part, 3, b"lo")),
        asyncio.create_task(elapse(0)),
    ]
    world.concatenator.close()  # nothing is joined in this life
    await asyncio.gather(*joins)
    assert (await world.store.load(final.id)).pending
    world.restart()
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    await world.concatenator.wait_for_copies()
    assert await world.content(final.id) == b"hello"


async def test_a_sweep_joins_soon_what_waits_when_the_calendar_is_lost(tmp_path: Path) -> None:
    """By a power cut, or because the disk was full when the last part came."""
    world = World(lambda: FileStore(tmp_path))
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    world.concatenator.close()  # nothing is joined in this life
    await asyncio.gather(world.append(part, 3, b"lo"))
    shutil.rmtree(tmp_path / "calendar")
    world.restart()
    world.clock.advance(LATE)
    for _ in range(2):
        await world.sweeper.sweep()
        await world.concatenator.wait_for_copies()
        world.clock.advance(LATE)
    assert (await world.store.load(final.id)).finished


async def test_a_part_that_is_held_for_a_moment_only_delays_its_final_upload(world: World) -> None:
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    await world.append(part, 3, b"l")
    async with world.locker.hold(part):
        stored = await world.store.load(part)
        await world.store.commit(stored.with_progress(5, expires_at=stored.expires_at, finished=True, complete=True))
        await world.concatenator.part_completed(part, a_request())
        assert (await world.store.load(final.id)).pending
    assert (await world.head(final.id)).finished


async def test_a_stop_interrupts_a_copy_and_it_goes_on_where_it_was(tmp_path: Path) -> None:
    world = World(lambda: FileStore(tmp_path))
    parts = [await world.part(letter * (20 << 20)) for letter in (b"a", b"b", b"c")]
    original = world.store.concatenate
    reached: list[int] = []

    async def watched(final: Upload, parts: Sequence[Upload], on_progress: OnCopied) -> None:
        async def and_stop(done: int) -> None:
            reached.append(done)
            if len(reached) == 2:
                world.service.close()
            await on_progress(done)

        await original(final, parts, and_stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store, "concatenate", watched)
        final = await world.join(*parts)
        assert final.pending
        await world.service.wait_for_background()
    assert len(reached) == 2
    world.restart()
    assert (await world.store.load(final.id)).offset == reached[-1] == 20 << 20
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    await world.concatenator.wait_for_copies()
    found = await world.content(final.id)
    assert [found[:1], found[-1:], len(found)] == [b"a", b"c", 60 << 20]
    assert found == b"".join([await world.content(part) for part in parts])


async def test_a_delete_interrupts_a_copy() -> None:
    store = SlowStore()
    world = World(lambda: store)
    part = await world.part(b"hello")
    joining = asyncio.create_task(world.join(part))
    await store.joining.wait()
    final = next(upload_id for upload_id in await world.stored() if upload_id != part)
    deleting = asyncio.create_task(world.delete(final))
    await elapse(0)
    store.go_on.set()
    await deleting
    with pytest.raises(UploadNotFound):
        await joining
    assert await world.stored() == [part]


# who waits -----------------------------------------------------------------------------------------------------------


async def test_a_client_is_not_kept_waiting_for_a_long_copy(make_world: MakeWorld) -> None:
    store = SlowStore()
    world = World(lambda: store)
    part = await world.part(b"hello")
    final = await world.join(part)
    assert final.pending
    assert not (await store.load(final.id)).unclaimed
    store.go_on.set()
    await world.concatenator.wait_for_copies()
    assert (await world.head(final.id)).finished


async def test_where_nothing_may_be_pending_it_waits(make_world: MakeWorld) -> None:
    store = SlowStore()
    world = World(lambda: store, features=NO_UNFINISHED)
    part = await world.part(b"hello")
    joining = asyncio.create_task(world.join(part))
    await elapse(120)
    assert not joining.done()
    store.go_on.set()
    assert (await joining).finished


async def ask_and_go(world: World, part: UploadId, joining: asyncio.Event) -> None:
    """Ask for a final upload, and disconnect while its part is copied."""
    body = Feed()
    create = Create(length=None, metadata=Metadata(""), role=Role.FINAL, concat=f"final;{part}", parts=(part,))
    asking = asyncio.create_task(world.service.create(create, body, a_request()))
    await joining.wait()
    body.vanish()
    with pytest.raises(ClientDisconnected):
        await asking


async def test_a_final_upload_whose_client_has_gone_expires_until_somebody_asks_for_it() -> None:
    store = SlowStore()
    world = World(lambda: store)
    part = await world.part(b"hello")
    await ask_and_go(world, part, store.joining)
    store.go_on.set()
    await world.concatenator.wait_for_copies()
    final = next(upload_id for upload_id in await world.stored() if upload_id != part)
    assert (await store.load(final)).expires_at == world.clock.now + DAY
    assert (await world.join(part)).id == final
    assert (await store.load(final)).expires_at is None


async def test_a_final_upload_that_somebody_asked_for_while_it_was_copied_stays_also_at_its_readable_place(
    tmp_path: Path,
) -> None:
    world = World(lambda: FileStore(tmp_path / "data", finished_folder=tmp_path / "finished"))
    part = await world.part(b"hello")
    copying, go_on = asyncio.Event(), asyncio.Event()
    original = world.store.concatenate

    async def concatenate(final: Upload, parts: Sequence[Upload], on_progress: OnCopied) -> None:
        copying.set()
        await go_on.wait()
        await original(final, parts, on_progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store, "concatenate", concatenate)
        await ask_and_go(world, part, copying)
        final = next(upload_id for upload_id in await world.stored() if upload_id != part)
        await world.head(final)
        go_on.set()
        await world.concatenator.wait_for_copies()
    upload = await world.store.load(final)
    assert (upload.finished, upload.unclaimed, upload.expires_at) == (True, False, None)


async def test_a_final_upload_that_nobody_asks_for_goes_in_the_end() -> None:
    store = SlowStore()
    world = World(lambda: store)
    part = await world.part(b"hello")
    await ask_and_go(world, part, store.joining)
    store.go_on.set()
    await world.concatenator.wait_for_copies()
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 1
    assert await world.stored() == [part]


# at the same time ----------------------------------------------------------------------------------------------------


async def test_a_part_that_completes_while_its_final_upload_is_made_is_not_missed(world: World) -> None:
    part = await world.part(b"hel", length=5)
    created = asyncio.Event()

    async def append_now(upload: Upload) -> None:
        if upload.role is Role.FINAL:
            await world.append(part, 3, b"lo")
            created.set()

    world.callbacks[HookType.POST_CREATE] = append_now
    final = await world.join(part)
    assert created.is_set()
    assert (final.finished, await world.content(final.id), world.heard(HookType.PRE_FINISH)) == (True, b"hello", 1)


async def test_a_part_that_is_deleted_while_its_final_upload_is_made_leaves_nothing(world: World) -> None:
    part = await world.part(b"hello")

    async def delete_now(upload: Upload) -> None:
        if upload.role is Role.FINAL:
            await world.delete(part)

    world.callbacks[HookType.POST_CREATE] = delete_now
    with pytest.raises(InvalidConcat):
        await world.join(part)
    assert await world.stored() == []


async def test_all_parts_and_their_final_upload_at_once_come_out_whole(world: World) -> None:
    parts = [await world.part(b"", length=3) for _ in range(6)]
    appended = [world.append(part, 0, bytes([65 + number]) * 3) for number, part in enumerate(parts)]
    final, *_ = await asyncio.gather(world.join(*parts), *appended)
    assert (await world.head(final.id)).finished
    assert (await world.content(final.id), world.heard(HookType.PRE_FINISH)) == (b"AAABBBCCCDDDEEEFFF", 1)


async def test_final_uploads_of_the_same_parts_in_different_orders_do_not_wait_in_a_circle(world: World) -> None:
    one, two = await world.part(b"1"), await world.part(b"2")
    async with asyncio.timeout(1):
        finals = await asyncio.gather(*(world.join(*order) for order in ((one, two), (two, one)) * 3))
    assert [await world.content(final.id) for final in finals] == [b"12", b"21"] * 3


async def test_nobody_touches_a_part_that_is_being_copied() -> None:
    store = SlowStore()
    world = World(lambda: store)
    part = await world.part(b"hello")
    joining = asyncio.create_task(world.join(part))
    await store.joining.wait()
    with pytest.raises(UploadLocked):
        await world.delete(part)
    store.go_on.set()
    assert await world.content((await joining).id) == b"hello"


async def test_head_does_not_wait_for_a_final_upload_that_is_being_joined() -> None:
    store = SlowStore()
    world = World(lambda: store)
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    appending = asyncio.create_task(world.append(part, 3, b"lo"))
    await store.joining.wait()
    async with asyncio.timeout(0.5):
        assert (await world.head(final.id)).pending
    store.go_on.set()
    await appending
    assert (await world.head(final.id)).finished


async def test_a_part_that_is_being_written_is_not_joined_half(world: World) -> None:
    part, feed = await world.part(b"", length=5), Feed(b"hel")
    appending = asyncio.create_task(world.append(part, 0, feed, announced=5))
    await feed.taken()
    await elapse(0.1)
    final = await world.join(part)
    assert final.pending
    feed.send(b"lo")
    await appending
    assert await world.content(final.id) == b"hello"


class Forgetful(FileStore):
    """A part is deleted between the first look at it and the note that somebody waits for it."""

    async def add_dependent(self, final: UploadId, part: UploadId) -> None:
        await self.remove(part)
        await super().add_dependent(final, part)


async def test_no_note_stays_behind_for_a_part_that_went_away(tmp_path: Path) -> None:
    world = World(lambda: Forgetful(tmp_path))
    part = await world.part(b"hel", length=5)
    with pytest.raises(InvalidConcat):
        await world.join(part)
    assert [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()] == []


async def test_a_part_that_is_not_there_is_not_found(world: World) -> None:
    part = await world.part(b"hello")
    await world.join(part)
    await world.delete(part)
    with pytest.raises(UploadNotFound):
        await world.head(part)


class Given:
    """A Source of bytes that are all there."""

    can_receive_into = False
    expected = None
    limit = None

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def read(self, most: int) -> list[bytes]:
        chunks, self._chunks = self._chunks, []
        return chunks

    async def receive_into(self, target: object, on_progress: object) -> int:
        raise NotImplementedError


async def nothing(added: int) -> None:
    """Commit nothing on the way."""
