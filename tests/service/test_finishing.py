"""The end of an upload where an application wants to know of it: it is told, told again, refuses, or is elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import DAY, LATE, FailsAtFirst, World, a_request, elapse, not_leading
from tusserver.hooks.base import HookType
from tusserver.protocol.errors import (
    FinishFailed,
    FinishPending,
    ShuttingDown,
    TusError,
    UploadExpired,
    UploadNotFound,
    UploadRejected,
    UploadWithheld,
)
from tusserver.protocol.limits import Expiry
from tusserver.protocol.messages import Content, Download
from tusserver.protocol.rules import RETRIES
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.base import Store

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


async def unfinished(world: World, failures: int = 1, error: Exception | None = None) -> tuple[UploadId, FailsAtFirst]:
    """An upload that is all here, and whose application failed to take it."""
    listener = world.callbacks[HookType.PRE_FINISH] = FailsAtFirst(failures, error)
    upload_id = await world.upload(5)
    with pytest.raises(FinishFailed) as caught:
        await world.append(upload_id, 0, b"hello")
    assert caught.value.expires_at is None
    return upload_id, listener


async def download(world: World, upload_id: UploadId) -> object:
    return await world.service.download(Download(id=upload_id), a_request("GET"))


# it fails ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("no"), ShuttingDown(), OSError(28, "full"), KeyError("x")], ids=repr)
async def test_until_the_application_was_told_nothing_says_that_the_upload_is_done(
    world: World, error: Exception
) -> None:
    upload_id, _ = await unfinished(world, error=error)
    with pytest.raises(FinishPending) as pending:
        await world.head(upload_id)
    assert pending.value.retry_after == 1
    with pytest.raises(UploadWithheld):
        await download(world, upload_id)


async def test_an_empty_patch_at_the_end_tries_again(world: World) -> None:
    upload_id, listener = await unfinished(world, failures=2)
    with pytest.raises(FinishFailed):
        await world.append(upload_id, 5)
    assert (await world.append(upload_id, 5)).finished
    await world.append(upload_id, 5)
    assert (listener.calls, world.heard(HookType.PRE_FINISH)) == (3, 1)
    assert (await world.head(upload_id)).finished
    assert isinstance(await download(world, upload_id), Content)


async def test_clients_that_ask_again_at_once_have_it_finished_once(world: World) -> None:
    upload_id, _ = await unfinished(world)
    await asyncio.gather(*(world.append(upload_id, 5) for _ in range(5)))
    assert world.heard(HookType.PRE_FINISH) == 1


async def test_head_tries_again_when_it_is_time_and_not_before(world: World) -> None:
    upload_id, listener = await unfinished(world, failures=3)
    for seconds in (1, 2, 4):
        for _ in range(3):
            with pytest.raises(FinishPending) as pending:
                await world.head(upload_id)
            assert pending.value.retry_after == seconds
        calls = listener.calls
        world.clock.advance(seconds * SECOND)
        if seconds < 4:
            with pytest.raises(FinishPending):
                await world.head(upload_id)
        else:
            assert (await world.head(upload_id)).finished
        assert listener.calls == calls + 1


async def test_head_does_not_wait_for_an_application_that_is_told_again(world: World) -> None:
    """A proxy would give up on the HEAD with a 504, after which tus-js-client starts again with the first byte."""
    upload_id, _ = await unfinished(world)
    thinking, answer = asyncio.Event(), asyncio.Event()

    async def think(upload: Upload) -> None:
        thinking.set()
        await answer.wait()

    world.callbacks[HookType.PRE_FINISH] = think
    world.clock.advance(SECOND)
    with pytest.raises(FinishPending):
        async with asyncio.timeout(10):
            await world.head(upload_id)
    assert thinking.is_set()
    answer.set()
    await elapse(1)
    assert (await world.head(upload_id)).finished


async def test_a_sweep_tries_again_after_pauses_that_grow(world: World) -> None:
    upload_id, listener = await unfinished(world, failures=10)
    tries: list[datetime] = []
    while not (await world.store.load(upload_id)).finished:
        world.clock.advance(timedelta(minutes=1))
        before = listener.calls
        await world.sweeper.sweep()
        tries += [world.clock.now] * (listener.calls - before)
    pauses = [after - before for before, after in pairwise(tries)]
    assert len(tries) == 10
    assert pauses == sorted(pauses)
    assert pauses[-1] >= timedelta(minutes=8)
    assert world.heard(HookType.PRE_FINISH) == 1


async def test_it_goes_on_after_a_restart_where_it_was(world: World) -> None:
    upload_id, listener = await unfinished(world, failures=2)
    world.restart()
    upload = await world.store.load(upload_id)
    assert (upload.tries, upload.withheld) == (1, True)
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    assert (listener.calls, world.heard(HookType.PRE_FINISH)) == (3, 1)


async def test_the_trace_is_logged_once_and_a_line_each_time(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await unfinished(world, failures=5)
    for _ in range(200):
        world.clock.advance(timedelta(minutes=1))
        await world.sweeper.sweep()
    said = [record for record in caplog.records if "finishing an upload failed" in record.getMessage()]
    assert len(said) == 5
    assert [record.exc_info is not None for record in said] == [True, False, False, False, False]


async def test_it_does_not_expire_while_it_is_tried(world: World) -> None:
    upload_id, _ = await unfinished(world)
    world.clock.advance(timedelta(days=30))
    assert (await world.append(upload_id, 5)).finished


async def test_in_the_end_it_is_tried_no_more_and_expires(world: World, caplog: pytest.LogCaptureFixture) -> None:
    upload_id, listener = await unfinished(world, failures=1000)
    for _ in range(30):
        world.clock.advance(HOUR + LATE)
        await world.sweeper.sweep()
    assert listener.calls == RETRIES + 1
    with pytest.raises(FinishPending):
        await world.head(upload_id)
    assert listener.calls == RETRIES + 1
    assert [record.levelno for record in caplog.records if "not tried again" in record.getMessage()] == [logging.ERROR]
    world.clock.advance(DAY + LATE)
    with pytest.raises(UploadExpired):
        await world.head(upload_id)
    assert await world.sweeper.sweep() == 1
    assert await world.stored() == []
    assert listener.calls == RETRIES + 1


class Abandoned(BaseException):
    """What `except Exception` does not see."""


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, Abandoned])
async def test_a_failure_that_is_no_exception_counts_like_any_other(world: World, error: type[BaseException]) -> None:
    """An application that awaits a task which somebody has cancelled raises CancelledError itself."""
    failures = [error(), error(), error()]

    async def fail(upload: Upload) -> None:
        if failures:
            raise failures.pop()

    world.callbacks[HookType.PRE_FINISH] = fail
    upload_id = await world.upload(5)
    with pytest.raises(FinishFailed):
        await world.append(upload_id, 0, b"hello")
    world.clock.advance(SECOND)
    with pytest.raises(FinishPending):
        await world.head(upload_id)
    other = await world.upload(11, b"hello")
    sweeping = asyncio.create_task(world.sweeper.run())
    for _ in range(2):
        world.clock.advance(LATE)
        await elapse(60)
        assert not sweeping.done()
    assert (await world.head(upload_id)).finished
    world.clock.advance(DAY + LATE)
    await elapse(60)
    assert other not in await world.stored()
    sweeping.cancel()
    await asyncio.wait([sweeping])


async def test_a_clock_that_is_set_back_does_not_put_off_the_next_try(world: World) -> None:
    world.clock.advance(365 * DAY)
    upload_id, _ = await unfinished(world)
    world.clock.advance(-365 * DAY)
    world.clock.advance(HOUR + LATE)
    assert (await world.head(upload_id)).finished


async def test_what_is_tried_no_more_goes_when_an_expiry_is_set_later(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(after=None))
    await world.sweeper.sweep()
    await unfinished(world, failures=1000)
    for _ in range(30):
        world.clock.advance(HOUR + LATE)
        await world.sweeper.sweep()
    world.obey(Expiry(after=DAY, keep_finished=DAY))
    for _ in range(3):
        await world.sweeper.sweep()
        world.clock.advance(DAY + LATE)
    assert await world.stored() == []


# it refuses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 413, 422, 451])
async def test_an_upload_that_the_application_refuses_is_removed_at_once(world: World, status: int) -> None:
    listener = world.callbacks[HookType.PRE_FINISH] = FailsAtFirst(1, UploadRejected("a virus", status=status))
    upload_id = await world.upload(5)
    with pytest.raises(UploadRejected) as caught:
        await world.append(upload_id, 0, b"hello")
    assert (caught.value.status, str(caught.value)) == (status, "upload has been rejected by server: a virus")
    for asked in (world.head(upload_id), download(world, upload_id), world.append(upload_id, 5)):
        with pytest.raises(UploadNotFound):
            await asked
    assert not await world.store.remove(upload_id)
    world.clock.advance(DAY + LATE)
    await world.sweeper.sweep()
    assert (listener.calls, world.heard(HookType.PRE_FINISH), world.heard(HookType.POST_TERMINATE)) == (1, 0, 0)


async def test_one_that_comes_whole_with_its_creation_too(world: World) -> None:
    world.callbacks[HookType.PRE_FINISH] = FailsAtFirst(1, UploadRejected("a virus"))
    with pytest.raises(UploadRejected):
        await world.create(5, b"hello")
    assert await world.stored() == []


async def test_a_refusal_that_comes_at_a_later_try_removes_it_too(world: World) -> None:
    for asks in ("head", "sweep", "patch"):
        upload_id, _ = await unfinished(world)
        world.callbacks[HookType.PRE_FINISH] = FailsAtFirst(1, UploadRejected("a virus"))
        world.clock.advance(LATE)
        if asks == "head":
            with pytest.raises(UploadNotFound):
                await world.head(upload_id)
        elif asks == "sweep":
            await world.sweeper.sweep()
        else:
            with pytest.raises(UploadRejected):
                await world.append(upload_id, 5)
        assert await world.stored() == []


# it is elsewhere -----------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(world: World, open_store: Callable[[], Store]) -> World:
    """Another process on the same store, without the application."""
    other = World(open_store, clock=world.clock, hooks=False)
    other.locker, other.store = world.locker, world.store
    return other


async def test_who_cannot_tell_the_application_leaves_the_upload_alone(world: World, elsewhere: World) -> None:
    upload_id, listener = await unfinished(world)
    world.clock.advance(LATE)
    for _ in range(3):
        await elsewhere.sweeper.sweep()
    for asked in (elsewhere.head(upload_id), elsewhere.append(upload_id, 5)):
        with pytest.raises(FinishPending):
            await asked
    with pytest.raises(UploadWithheld):
        await download(elsewhere, upload_id)
    assert listener.calls == 1
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    assert (listener.calls, world.heard(HookType.PRE_FINISH)) == (2, 1)


async def test_an_upload_of_an_application_that_is_completed_elsewhere_is_owed_to_it(
    world: World, elsewhere: World
) -> None:
    upload_id = await world.upload(11, b"hello")
    with pytest.raises(FinishPending):
        await elsewhere.append(upload_id, 5, b" world")
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    assert (world.heard(HookType.PRE_FINISH), (await elsewhere.head(upload_id)).finished) == (1, True)


async def test_a_final_upload_too(world: World, elsewhere: World) -> None:
    part = await world.part(b"hel", length=5)
    final = await world.join(part)
    await elsewhere.append(part, 3, b"lo")
    assert (await world.store.load(final.id)).withheld
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    await world.concatenator.wait_for_copies()
    assert (world.heard(HookType.PRE_FINISH, final.id), (await world.head(final.id)).finished) == (1, True)


@pytest.mark.parametrize("final", [False, True])
async def test_what_another_process_finds_to_be_owed_is_told_by_the_one_with_the_application(
    world: World, elsewhere: World, final: bool
) -> None:
    """That one does not sweep: the other one was first."""
    if final:
        part = await world.part(b"hel", length=5)
        upload_id = (await world.join(part)).id
        await elsewhere.append(part, 3, b"lo")
    else:
        upload_id, _ = await unfinished(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.locker, "is_leader", not_leading)
        telling = asyncio.create_task(world.sweeper.run())
        for _ in range(3):
            world.clock.advance(LATE)
            await elsewhere.sweeper.sweep()
            await elapse(60)
        telling.cancel()
        await asyncio.wait([telling])
    await world.concatenator.wait_for_copies()
    assert (world.heard(HookType.PRE_FINISH, upload_id), (await world.store.load(upload_id)).finished) == (1, True)


async def test_an_upload_made_elsewhere_is_told_to_the_application_that_completes_it(
    world: World, elsewhere: World
) -> None:
    upload_id = (await elsewhere.create(5, role=Role.REGULAR)).upload.id
    await world.append(upload_id, 0, b"hello")
    assert world.heard(HookType.PRE_FINISH, upload_id) == 1


async def test_where_nobody_wants_to_know_nothing_waits(make_world: MakeWorld) -> None:
    world = make_world(hooks=False)
    upload_id = await world.upload(5, b"hello")
    assert (await world.head(upload_id)).finished


async def test_a_failure_of_the_store_is_no_refusal(world: World) -> None:
    upload_id = await world.upload(5)
    original = world.store.finalize
    failures = [TusError("once")]

    async def finish(upload: Upload) -> Upload:
        if failures:
            raise failures.pop()
        return await original(upload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store, "finalize", finish)
        with pytest.raises(TusError):
            await world.append(upload_id, 0, b"hello")
        assert (await world.append(upload_id, 5)).finished
    assert await world.content(upload_id) == b"hello"
