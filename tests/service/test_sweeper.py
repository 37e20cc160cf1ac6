from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import DAY, LATE, Clock, FailsAtFirst, Feed, World, elapse, not_leading
from tests.support.uploads import changed
from tusserver.clock import WallClock, boot_clock
from tusserver.hooks.base import HookType
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.errors import FinishFailed, StoreUnavailable, UploadExpired, UploadNotFound
from tusserver.protocol.limits import Expiry
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file.store import FileStore
from tusserver.stores.memory import MemoryStore

HOUR = timedelta(hours=1)


async def fail(upload: Upload) -> None:
    raise RuntimeError("the listener fails")


def files(root: Path) -> list[Path]:
    """Every file of an upload below a data folder."""
    return [path for path in (root / "uploads").rglob("*") if path.is_file()]


# what expires --------------------------------------------------------------------------------------------------------


async def test_an_expired_upload_is_removed_with_all_it_owns_and_told(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 1
    assert await world.stored() == []
    assert not await world.store.remove(upload_id)
    assert world.heard(HookType.POST_EXPIRE, upload_id) == 1
    with pytest.raises(UploadNotFound):
        await world.head(upload_id)


async def test_between_its_deadline_and_the_sweep_an_upload_is_gone_already(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    world.clock.advance(DAY)
    with pytest.raises(UploadExpired):
        await world.head(upload_id)
    with pytest.raises(UploadExpired):
        await world.append(upload_id, 5, b" world")
    await world.delete(upload_id)
    assert await world.stored() == []


async def test_a_sweep_counts_uploads_and_leaves_those_that_have_time(world: World) -> None:
    for _ in range(3):
        await world.upload(11, b"hello")
    world.clock.advance(12 * HOUR)
    young = await world.upload(11, b"hello")
    world.clock.advance(12 * HOUR + LATE)
    assert await world.sweeper.sweep() == 3
    assert await world.stored() == [young]
    assert await world.sweeper.sweep() == 0


async def test_finished_uploads_stay(world: World) -> None:
    upload_id = await world.upload(5, b"hello")
    for _ in range(3):
        world.clock.advance(30 * DAY)
        assert await world.sweeper.sweep() == 0
    assert await world.stored() == [upload_id]
    assert await world.content(upload_id) == b"hello"


async def test_an_upload_that_a_power_cut_made_unfinished_again_gets_a_deadline(world: World) -> None:
    upload_id = await world.upload(5, b"hello")
    await world.sweeper.sweep()
    upload = await world.store.load(upload_id)
    assert upload.finished
    await world.store.commit(changed(upload, offset=2, finished=False))  # as the file store finds it after the cut
    await world.store.schedule(upload_id, world.clock.now)
    world.clock.advance(HOUR)
    assert await world.sweeper.sweep() == 0
    assert (await world.head(upload_id)).expires_at == world.clock.now + DAY
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 1
    assert await world.stored() == []


async def test_complete_parts_that_nobody_joined_stay_for_a_week(world: World) -> None:
    part = await world.part(b"hello")
    world.clock.advance(6 * DAY)
    assert await world.sweeper.sweep() == 0
    assert await world.stored() == [part]
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 1
    assert await world.stored() == []


async def test_finished_uploads_go_when_their_retention_is_over(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(keep_finished=7 * DAY))
    upload_id = await world.upload(5, b"hello")
    assert (await world.head(upload_id)).expires_at == world.clock.now + 7 * DAY
    world.clock.advance(6 * DAY)
    assert await world.sweeper.sweep() == 0
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 1
    assert (await world.stored(), world.heard(HookType.POST_EXPIRE)) == ([], 1)


async def test_an_upload_whose_deadline_slid_is_removed_at_the_new_one(world: World) -> None:
    upload_id = await world.upload(11, b"h")
    world.clock.advance(20 * HOUR)
    await world.append(upload_id, 1, b"ello")
    world.clock.advance(4 * HOUR + LATE)
    assert await world.sweeper.sweep() == 0
    assert await world.content(upload_id) == b"hello"
    world.clock.advance(19 * HOUR)
    assert await world.sweeper.sweep() == 0
    world.clock.advance(HOUR)
    assert await world.sweeper.sweep() == 1
    assert await world.stored() == []


async def test_an_upload_that_never_got_a_byte_is_removed_after_an_hour_and_one_that_did_stays(world: World) -> None:
    _, touched = await world.upload(11), await world.upload(11)
    world.clock.advance(timedelta(minutes=50))
    await world.append(touched, 0, b"h")
    assert await world.sweeper.sweep() == 0
    world.clock.advance(timedelta(minutes=10) + LATE)
    assert await world.sweeper.sweep() == 1
    assert (await world.stored(), world.heard(HookType.POST_EXPIRE)) == ([touched], 1)
    world.clock.advance(22 * HOUR)
    assert await world.sweeper.sweep() == 0
    world.clock.advance(2 * HOUR)
    assert await world.sweeper.sweep() == 1


async def test_another_life_of_uploads_without_a_byte_reaches_those_that_are_there(world: World) -> None:
    untouched, touched = await world.upload(11), await world.upload(11, b"h")
    await world.sweeper.sweep()
    world.obey(Expiry(untouched=timedelta(minutes=5)))
    await world.sweeper.sweep()
    deadlines = [(await world.store.load(upload_id)).expires_at for upload_id in (untouched, touched)]
    assert deadlines == [world.clock.now + timedelta(minutes=5), world.clock.now + DAY]


async def test_a_fixed_deadline_does_not_slide(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(sliding=False))
    upload_id = await world.upload(11, b"h")
    world.clock.advance(20 * HOUR)
    await world.append(upload_id, 1, b"ello")
    world.clock.advance(4 * HOUR + LATE)
    assert await world.sweeper.sweep() == 1
    assert not await world.store.remove(upload_id)


async def test_without_expiry_nothing_is_ever_removed(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(after=None))
    upload_id = await world.upload(11, b"hello")
    world.clock.advance(10_000 * DAY)
    assert await world.sweeper.sweep() == 0
    assert await world.stored() == [upload_id]


async def test_a_restart_forgets_no_deadline(world: World) -> None:
    await world.upload(11, b"hello")
    world.restart()
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 1
    assert await world.stored() == []


async def test_a_waiting_final_upload_and_its_parts_expire_too(world: World) -> None:
    await world.join(await world.part(b"hel", length=5))
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 2
    assert await world.stored() == []


async def test_nothing_is_left_on_the_disk(tmp_path: Path) -> None:
    world = World(lambda: FileStore(tmp_path))
    await world.upload(1000, b"hello")
    await world.upload(None, b"hello")
    await world.join(await world.part(b"hel", length=5))
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 4
    assert files(tmp_path) == []


# uploads that are being written --------------------------------------------------------------------------------------


async def test_an_upload_that_is_being_written_is_left_alone_past_its_deadline(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(sliding=False))
    upload_id, feed = await world.upload(11), Feed(b"hello")
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=11))
    await feed.taken()
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 0
    feed.send(b" world")
    assert (await appending).finished
    world.clock.advance(LATE)
    assert await world.sweeper.sweep() == 0
    assert await world.content(upload_id) == b"hello world"


async def test_an_upload_that_was_being_written_is_looked_at_again(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(sliding=False))
    upload_id, feed = await world.upload(11), Feed(b"hello")
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=11))
    await feed.taken()
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 0
    world.service.close()
    await asyncio.wait([appending])
    assert appending.exception() is not None
    world.clock.advance(LATE)
    assert await world.sweeper.sweep() == 1
    assert not await world.store.remove(upload_id)


# what goes wrong -----------------------------------------------------------------------------------------------------


class Stubborn(MemoryStore):
    """Does not give up one upload."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    async def remove(self, upload_id: UploadId, *, notes: bool = True) -> bool:
        if upload_id == "upload-2" and self.error is not None:
            raise self.error
        return await super().remove(upload_id)


@pytest.mark.parametrize("error", [StoreUnavailable(), RuntimeError("broken")])
async def test_one_upload_that_cannot_be_removed_does_not_keep_the_others(error: Exception) -> None:
    store = Stubborn(error)
    world = World(lambda: store)
    for _ in range(3):
        await world.upload(11, b"hello")
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 2
    assert await world.stored() == [UploadId("upload-2")]
    store.error = None
    assert await world.sweeper.sweep() == 0
    world.clock.advance(LATE)
    assert await world.sweeper.sweep() == 1


async def test_a_listener_that_fails_at_the_expiry_does_not_keep_the_others(world: World) -> None:
    world.callbacks[HookType.POST_EXPIRE] = fail
    for _ in range(3):
        await world.upload(11, b"hello")
    world.clock.advance(DAY + LATE)
    await world.sweeper.sweep()
    assert await world.stored() == []
    world.clock.advance(LATE)
    assert await world.sweeper.sweep() == 0


async def test_what_a_crash_left_half_made_is_removed(tmp_path: Path) -> None:
    """The bytes are there, the record that would make them an upload is not."""
    world = World(lambda: FileStore(tmp_path))
    upload_id = await world.upload(11, b"hello")
    for record in (tmp_path / "uploads").rglob("*.record"):
        record.unlink()
    world.restart()
    assert files(tmp_path) != []
    world.clock.advance(DAY + LATE)
    assert await world.sweeper.sweep() == 0
    assert files(tmp_path) == []
    assert world.heard(HookType.POST_EXPIRE, upload_id) == 0


# finishing, again ----------------------------------------------------------------------------------------------------


async def test_an_upload_whose_end_failed_is_finished_by_a_sweep(world: World) -> None:
    await world.sweeper.sweep()
    listener = world.callbacks[HookType.PRE_FINISH] = FailsAtFirst(2)
    upload_id = await world.upload(5)
    with pytest.raises(FinishFailed):
        await world.append(upload_id, 0, b"hello")
    assert await world.sweeper.sweep() == 0
    assert listener.calls == 1
    for _ in range(5):
        world.clock.advance(LATE)
        assert await world.sweeper.sweep() == 0
    assert (listener.calls, world.heard(HookType.PRE_FINISH)) == (3, 1)
    assert (await world.head(upload_id)).finished


@pytest.mark.parametrize("after", [DAY, None])
async def test_an_end_that_a_crash_interrupted_is_made_good_by_a_sweep_soon(
    make_world: MakeWorld, after: timedelta | None
) -> None:
    """Its client asks with HEAD when it is back, sees that all is there, and sends nothing more."""
    world = make_world(expiry=Expiry(after=after))
    await world.sweeper.sweep()
    upload_id, thinking = await world.upload(5), asyncio.Event()

    async def think(upload: Upload) -> None:
        thinking.set()
        await asyncio.Event().wait()

    world.callbacks[HookType.PRE_FINISH] = think
    appending = asyncio.create_task(world.append(upload_id, 0, b"hello"))
    await thinking.wait()
    appending.cancel()
    await asyncio.wait([appending])
    world.restart()
    del world.callbacks[HookType.PRE_FINISH]
    world.clock.advance(LATE)
    await world.sweeper.sweep()
    assert ((await world.head(upload_id)).finished, world.heard(HookType.PRE_FINISH)) == (True, 1)


# for ever ------------------------------------------------------------------------------------------------------------


class Broken(MemoryStore):
    """Cannot say what is due, at first."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def due(
        self, now: datetime, latest: datetime | None = None, *, owed: bool = False
    ) -> AsyncIterator[UploadId]:
        if not owed:
            self.asked += 1
        if self.asked == 1:
            raise StoreUnavailable
        async for upload_id in super().due(now, latest, owed=owed):
            yield upload_id


async def test_sweeps_go_on_for_ever_also_after_one_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    store = Broken()
    world = World(lambda: store)
    await world.upload(11, b"hello")
    world.clock.advance(DAY + LATE)
    with caplog.at_level(logging.ERROR):
        sweeping = asyncio.create_task(world.sweeper.run())
        await elapse(30)
        assert (store.asked, len(await world.stored())) == (1, 1)
        await elapse(60)
        assert (store.asked, len(await world.stored())) == (2, 0)
        await elapse(600)
    assert store.asked == 12
    assert "a sweep failed" in caplog.text
    sweeping.cancel()
    await asyncio.wait([sweeping])


# clocks and rules ----------------------------------------------------------------------------------------------------


class Stepped(Clock):
    """A wall clock that can be set, and a steady one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0.0
        self.passed = 0.0
        start, steady = self.now.timestamp(), boot_clock()
        self.wall = WallClock(lambda: start + self.passed + self.step, lambda: steady + self.passed)

    def __call__(self) -> datetime:
        return self.wall()


@pytest.fixture
def stepped() -> Stepped:
    return Stepped()


@pytest.fixture
def stepped_world(make_world: MakeWorld, stepped: Stepped) -> World:
    """The service, by clocks that can be set."""
    return make_world(clock=stepped, wall=stepped.wall)


async def test_a_wall_clock_that_jumps_ahead_for_a_while_removes_nothing(
    stepped_world: World, stepped: Stepped, caplog: pytest.LogCaptureFixture
) -> None:
    upload_id = await stepped_world.upload(10, b"hello")
    stepped.step = 10 * 365 * 86400
    for _ in range(3):
        stepped.passed += 1
        assert await stepped_world.sweeper.sweep() == 0
        assert (await stepped_world.head(upload_id)).offset == 5
    assert "nothing is removed" in caplog.text
    stepped.step = 0
    assert await stepped_world.sweeper.sweep() == 0
    assert (await stepped_world.append(upload_id, 5, b"world")).finished


async def test_a_wall_clock_that_stays_ahead_is_believed_in_the_end(stepped_world: World, stepped: Stepped) -> None:
    upload_id = await stepped_world.upload(10, b"hello")
    stepped.step = 10 * 365 * 86400
    removed = 0
    for _ in range(10):
        stepped.passed += 60
        removed += await stepped_world.sweeper.sweep()
    assert removed == 1
    with pytest.raises(UploadNotFound):
        await stepped_world.head(upload_id)


async def test_an_upload_that_is_being_sent_outlives_the_moment_when_the_clock_is_believed(
    stepped_world: World, stepped: Stepped
) -> None:
    """Bytes came a minute ago: that is no time to remove it, whatever year it is now."""
    upload_id = await stepped_world.upload(100, b"x")
    stepped.step = 10 * 365 * 86400
    for sent in range(1, 20):
        stepped.passed += 60
        await stepped_world.append(upload_id, sent, b"x")
        await stepped_world.sweeper.sweep()
    assert (await stepped_world.head(upload_id)).offset == 20


async def test_an_upload_from_the_future_gets_a_new_deadline(stepped_world: World, stepped: Stepped) -> None:
    """It was made while the clock was wrong, and believed."""
    stepped.step = 10 * 365 * 86400
    for _ in range(10):
        stepped.passed += 60
        await stepped_world.sweeper.sweep()
    upload_id = await stepped_world.upload(10, b"hello")
    stepped.step = 0
    for _ in range(10):
        stepped.passed += 60
        assert await stepped_world.sweeper.sweep() == 0
    deadline = (await stepped_world.head(upload_id)).expires_at
    assert deadline is not None
    assert deadline <= stepped() + DAY
    stepped.passed += (DAY + LATE).total_seconds()
    assert await stepped_world.sweeper.sweep() == 1


async def test_an_upload_from_before_the_clock_was_set_right_keeps_its_time(
    stepped_world: World, stepped: Stepped
) -> None:
    """A machine without a clock of its own starts in the past, until it has asked for the time."""
    stepped.step = -365 * 86400
    upload_id = await stepped_world.upload(10, b"hello")
    stepped.passed += 60
    await stepped_world.sweeper.sweep()
    stepped.step = 0
    for _ in range(20):
        stepped.passed += 60
        assert await stepped_world.sweeper.sweep() == 0
    assert (await stepped_world.head(upload_id)).offset == 5


async def test_an_upload_from_the_near_future_does_not_live_as_long_as_others_may(
    make_world: MakeWorld, stepped: Stepped
) -> None:
    world = make_world(clock=stepped, wall=stepped.wall, expiry=Expiry(keep_finished=365 * DAY))
    stepped.step = 100 * 86400
    for _ in range(10):
        stepped.passed += 60
        await world.sweeper.sweep()
    await world.upload(10, b"hello")
    stepped.step = 0
    removed = 0
    for _ in range(10):
        stepped.passed += 60
        removed += await world.sweeper.sweep()
    for _ in range(3):
        removed += await world.sweeper.sweep()
        stepped.passed += (DAY + LATE).total_seconds()
    assert removed == 1


@pytest.mark.parametrize(
    ("before", "after", "goes"),
    [
        (Expiry(), Expiry(keep_finished=HOUR), ["finished"]),
        (Expiry(after=None), Expiry(), ["unfinished"]),
        (Expiry(after=None), Expiry(keep_finished=HOUR), ["finished", "unfinished"]),
        (Expiry(keep_parts=None), Expiry(after=None, keep_parts=HOUR), ["part"]),
        (Expiry(after=30 * DAY), Expiry(after=DAY), ["unfinished"]),
        (Expiry(keep_finished=HOUR), Expiry(), []),
    ],
    ids=["keep_finished", "after", "both", "keep_parts", "a shorter one", "none"],
)
async def test_a_retention_that_is_set_later_reaches_what_is_there(
    stepped_world: World, stepped: Stepped, before: Expiry, after: Expiry, goes: list[str]
) -> None:
    stepped_world.obey(before)
    await stepped_world.sweeper.sweep()
    uploads = {
        "finished": await stepped_world.upload(5, b"hello"),
        "unfinished": await stepped_world.upload(10, b"hello"),
        "part": await stepped_world.part(b"hello"),
    }
    stepped.passed += 1800
    await stepped_world.sweeper.sweep()
    stepped_world.obey(after)
    stepped.passed += 90_000 - 1800
    removed = await stepped_world.sweeper.sweep()
    stepped.passed += 300
    removed += await stepped_world.sweeper.sweep()
    kept = await stepped_world.stored()
    gone = sorted(name for name, upload_id in uploads.items() if upload_id not in kept)
    expected = sorted({*goes, *(["unfinished"] if after.after == DAY else [])})
    assert gone == expected
    assert removed == len(expected)


async def test_a_sweep_by_other_rules_beside_the_server_leaves_deadlines_alone(make_world: MakeWorld) -> None:
    """`tusserver sweep` by hand, without the settings that the server was started with."""
    world = make_world(expiry=Expiry(after=30 * DAY, keep_finished=60 * DAY))
    await world.sweeper.sweep()
    uploads = [await world.upload(10, b"hello"), await world.upload(5, b"hello")]
    before = [(await world.store.load(upload_id)).expires_at for upload_id in uploads]
    other = make_world(clock=world.clock)
    other.store = world.store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other.locker, "is_leader", not_leading)
        await other.sweeper.sweep()
    assert [(await world.store.load(upload_id)).expires_at for upload_id in uploads] == before


class SlowElection(MemoryLocker):
    """It takes a while to find out who leads."""

    async def is_leader(self) -> bool:
        await elapse(1)
        return True


async def test_of_two_sweeps_at_once_one_goes_through_all_uploads(make_world: MakeWorld) -> None:
    world = make_world(make_locker=SlowElection)
    await world.upload(10, b"hello")
    walks = 0
    uploads = world.store.uploads

    def counted() -> AsyncIterator[Upload]:
        nonlocal walks
        walks += 1
        return uploads()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store, "uploads", counted)
        await asyncio.gather(world.sweeper.sweep(), world.sweeper.sweep())
    assert walks == 1


async def test_rules_that_stay_the_same_cost_no_walk(stepped_world: World, stepped: Stepped) -> None:
    await stepped_world.upload(10, b"hello")
    await stepped_world.sweeper.sweep()
    for _ in range(3):
        stepped_world.obey(Expiry())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stepped_world.store, "uploads", lambda: pytest.fail("it went through all uploads"))
            await stepped_world.sweeper.sweep()
