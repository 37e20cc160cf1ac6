"""Who may interrupt whom (the head of the list of behaviours).

What was told is binding, what nobody was told can be taken back. Whether the one who writes is alive does not matter.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.service.world import Feed, World, elapse
from tests.support.hooks import MemoryHooks
from tusserver.hooks.base import HookResponse, HookType
from tusserver.locks.base import Preempt
from tusserver.protocol.checksum import Checksum
from tusserver.protocol.errors import (
    ClientDisconnected,
    FinishPending,
    OffsetMismatch,
    ShuttingDown,
    SizeExceeded,
    TusError,
    UploadInterrupted,
    UploadLocked,
    UploadNotFound,
    UploadRejected,
)
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.base import Store
from tusserver.stores.file.store import FileStore

DATA = b"hello world"
STALLED = 0.3
LIVELY = 0.1


class Writer:
    """A PATCH of `DATA` under way, of which `sent` bytes have come."""

    def __init__(
        self,
        world: World,
        upload_id: UploadId,
        checksum: Checksum | None = None,
        *,
        at: int = 0,
        announced: int | None = None,
    ) -> None:
        self.feed = Feed()
        if announced is None:
            announced = len(DATA) - (0 if checksum is not None else at)
        self._task = asyncio.create_task(world.append(upload_id, at, self.feed, announced=announced, checksum=checksum))

    @classmethod
    async def begin(cls, world: World, upload_id: UploadId, sent: int = 5, checksum: Checksum | None = None) -> Writer:
        writer = cls(world, upload_id, checksum)
        if sent:
            writer.feed.send(DATA[:sent])
        await writer.feed.taken()
        return writer

    async def finish(self, sent: int = 5) -> Upload:
        """Send the rest."""
        self.feed.send(DATA[sent:])
        return await self._task

    async def ends(self) -> TusError:
        """Return what it was told."""
        with pytest.raises(TusError) as caught:
            await self._task
        return caught.value

    async def vanishes(self) -> None:
        """Wait until the server noticed that its client is gone."""
        with pytest.raises(ClientDisconnected):
            await self._task

    @property
    def going_on(self) -> bool:
        """Whether it was left alone."""
        return not self._task.done()


async def within(seconds: float, waited_for: Coroutine[Any, Any, Any]) -> Any:
    """Await something that must not take longer, by the loop's clock."""
    async with asyncio.timeout(seconds):
        return await waited_for


@pytest.fixture(params=[LIVELY, STALLED], ids=["alive", "stalled"])
async def pause(request: pytest.FixtureRequest) -> float:
    """Seconds since the last bytes of whoever writes."""
    seconds: float = request.param
    return seconds


# HEAD ----------------------------------------------------------------------------------------------------------------


async def test_head_interrupts_nobody_and_tells_what_has_come(world: World, pause: float) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await elapse(pause)
    for _ in range(3):
        assert (await within(1, world.head(upload_id))).offset == 5
    assert writer.going_on
    assert (await writer.finish()).finished
    assert (await world.content(upload_id), world.heard(HookType.PRE_FINISH)) == (DATA, 1)


async def test_what_head_has_told_is_there_after_a_crash(world: World, open_store: Callable[[], Store]) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    assert (await world.head(upload_id)).offset == 5
    upload = await open_store().load(upload_id)
    assert (upload.offset, upload.told) == (5, 5)
    await writer.finish()


async def test_head_follows_a_writer_byte_by_byte(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id, sent=1)
    for at in range(1, len(DATA) - 1):
        assert (await world.head(upload_id)).offset == at
        writer.feed.send(DATA[at : at + 1])
        await writer.feed.taken()
    assert (await writer.finish(sent=len(DATA) - 1)).finished


async def test_head_tells_of_a_body_with_a_checksum_where_it_began(world: World, pause: float) -> None:
    upload_id = await world.upload(2 + len(DATA), b"ab")
    sha1 = Checksum("sha1", hashlib.sha1(DATA).digest())
    writer = Writer(world, upload_id, sha1, at=2)
    writer.feed.send(DATA[:5])
    await writer.feed.taken()
    await elapse(pause)
    assert (await within(1, world.head(upload_id))).offset == 2
    assert (await writer.finish()).finished


async def test_head_does_not_tell_that_all_is_here_before_the_body_has_ended(world: World) -> None:
    """A byte too many may follow, and then nothing of it counts."""
    upload_id = await world.upload(len(DATA))
    feed = Feed(DATA)
    writing = asyncio.create_task(world.append(upload_id, 0, feed))
    await feed.taken()
    assert (await world.head(upload_id)).offset == 0
    feed.send(b"!")
    with pytest.raises(SizeExceeded):
        await writing
    assert (await world.head(upload_id)).offset == 0


async def test_head_of_an_upload_that_nobody_writes_binds_what_was_left_untold(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    writer.feed.vanish()
    await writer.vanishes()
    before = await world.store.load(upload_id)
    assert (before.offset, before.told) == (5, 0)
    assert (await world.head(upload_id)).offset == 5
    assert (await world.store.load(upload_id)).told == 5


# PATCH ---------------------------------------------------------------------------------------------------------------


async def test_a_patch_at_the_told_offset_takes_over_and_what_came_beyond_is_discarded(
    world: World, pause: float
) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    assert (await world.head(upload_id)).offset == 5
    writer.feed.send(b"XXX")
    await writer.feed.taken()
    await elapse(pause)
    assert (await within(1, world.append(upload_id, 5, DATA[5:]))).finished
    assert isinstance(await writer.ends(), UploadInterrupted)
    assert (await world.content(upload_id), world.heard(HookType.PRE_FINISH)) == (DATA, 1)


async def committed_untold(world: World) -> tuple[UploadId, asyncio.Task[Upload]]:
    """A body under way of which 20 bytes are committed, and nobody was told."""
    upload_id = await world.upload(100)
    feed = Feed(b"X" * 10)
    writing = asyncio.create_task(world.append(upload_id, 0, feed, announced=100))
    await elapse(3)
    feed.send(b"X" * 10)
    await elapse(3)
    assert (await world.store.load(upload_id)).offset == 20
    return upload_id, writing


async def test_what_a_checkpoint_committed_can_be_taken_back_as_nobody_was_told(world: World) -> None:
    upload_id, writing = await committed_untold(world)
    assert (await within(1, world.append(upload_id, 0, b"hello"))).offset == 5
    with pytest.raises(UploadInterrupted):
        await writing
    assert await world.content(upload_id) == b"hello"


async def test_a_patch_at_another_offset_is_told_the_current_one_and_disturbs_nobody(
    world: World, pause: float
) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await elapse(pause)
    with pytest.raises(OffsetMismatch) as caught:
        await world.append(upload_id, 7, b"orld")
    assert caught.value.expected == 5
    assert writer.going_on
    with pytest.raises(OffsetMismatch):  # it was told that the upload stands at 5, so that is binding
        await world.append(upload_id, 0, DATA)
    assert (await writer.finish()).finished


async def test_a_client_that_comes_back_while_its_old_request_still_arrives_goes_on_where_it_was_told(
    world: World,
) -> None:
    """Out of a proxy's buffer, say. A 409 would be final for the clients of Java, Go, .NET, Swift and Dart."""
    upload_id = await world.upload(len(DATA))
    zombie = await Writer.begin(world, upload_id, sent=3)
    told = (await world.head(upload_id)).offset
    zombie.feed.send(DATA[3:7])
    await zombie.feed.taken()
    assert (await world.append(upload_id, told, DATA[told:])).finished
    assert isinstance(await zombie.ends(), UploadInterrupted)


async def test_it_does_so_too_if_the_old_request_ends_just_before(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    zombie = await Writer.begin(world, upload_id, sent=3)
    told = (await world.head(upload_id)).offset
    zombie.feed.send(b"XXXX")
    await zombie.feed.taken()
    zombie.feed.vanish()
    await zombie.vanishes()
    assert (await world.store.load(upload_id)).offset == 7
    assert (await world.append(upload_id, told, DATA[told:])).finished
    assert await world.content(upload_id) == DATA


async def test_a_client_that_knows_what_it_sent_may_go_on_there_untold(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    writer.feed.vanish()
    await writer.vanishes()
    assert (await world.append(upload_id, 5, DATA[5:])).finished


async def test_an_answer_is_binding_too(world: World) -> None:
    upload_id = await world.upload(len(DATA), b"hello")
    writer = Writer(world, upload_id, at=5)
    writer.feed.send(b" w")
    await writer.feed.taken()
    with pytest.raises(OffsetMismatch):
        await world.append(upload_id, 0, DATA)
    assert writer.going_on
    assert (await writer.finish(sent=7)).finished


async def test_what_is_taken_back_stays_taken_back_after_a_crash(world: World, open_store: Callable[[], Store]) -> None:
    upload_id = await world.upload(100)
    feed = Feed(b"X" * 10)
    writing = asyncio.create_task(world.append(upload_id, 0, feed, announced=100))
    await elapse(3)
    assert (await world.store.load(upload_id)).offset == 10
    newcomer = Feed()
    coming = asyncio.create_task(world.append(upload_id, 0, newcomer, announced=100))
    with pytest.raises(UploadInterrupted):
        await writing
    await newcomer.taken()
    assert (await open_store().load(upload_id)).offset == 0
    newcomer.vanish()
    with pytest.raises(ClientDisconnected):
        await coming


async def test_two_who_come_back_again_and_again_both_make_progress(world: World) -> None:
    """Each is told to come back later than the time before, and keeps what was told."""
    upload_id = await world.upload(1000)
    waits: list[int | None] = []
    writer: Writer | None = None
    for turn in range(7):
        offset = (await world.head(upload_id)).offset
        assert offset == 10 * turn
        following = Writer(world, upload_id, at=offset, announced=1000 - offset)
        following.feed.send(b"x" * 10)
        await following.feed.taken()
        if writer is not None:
            waits.append((await writer.ends()).retry_after)
        writer = following
    assert waits == [1, 2, 4, 8, 16, 30]
    assert writer is not None
    offset = (await world.head(upload_id)).offset
    assert (await world.append(upload_id, offset, b"x" * (1000 - offset))).finished


async def test_a_request_that_was_answered_ends_the_row_of_takeovers(world: World) -> None:
    upload_id = await world.upload(100)
    for _ in range(3):
        await Writer.begin(world, upload_id, sent=0)
    await world.append(upload_id, 0, b"hello")
    writer = Writer(world, upload_id, at=5)
    await writer.feed.taken()
    await world.append(upload_id, 5, b"hello")
    assert (await writer.ends()).retry_after == 1


async def test_who_takes_over_while_somebody_asks_starts_where_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk takes its time to commit what is to be told; until then nobody was told of it."""
    world = World(lambda: FileStore(tmp_path / "data"))
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    committing, goes_on = asyncio.Event(), asyncio.Event()
    commit = world.store.commit

    def slow(upload: Upload) -> Coroutine[Any, Any, None]:
        async def save() -> None:
            committing.set()
            await goes_on.wait()
            await commit(upload)

        return save()

    monkeypatch.setattr(world.store, "checkpoint", slow)
    asking = asyncio.create_task(world.head(upload_id))
    await committing.wait()
    newcomer = asyncio.create_task(world.append(upload_id, 0, DATA))
    await elapse(0.01)
    goes_on.set()
    assert (await newcomer).finished
    assert isinstance(await writer.ends(), UploadInterrupted)
    assert (await asking).offset in (0, len(DATA))
    assert await world.content(upload_id) == DATA


async def test_who_is_interrupted_leaves_nothing_for_others_to_be_told(world: World) -> None:
    """Somebody who asks may come between who leaves and who takes over, and what it hears is binding."""
    upload_id, writing = await committed_untold(world)
    async with world.locker.hold(upload_id, Preempt(0), 1.0):
        with pytest.raises(UploadInterrupted):
            await writing
        assert (await world.store.load(upload_id)).offset == 0


async def test_a_creation_makes_room_too_for_who_starts_where_it_was_told(world: World) -> None:
    """An application may have told others of the upload before its first bytes have come."""
    feed, ids = Feed(), []

    async def note(upload: Upload) -> None:
        ids.append(upload.id)

    world.callbacks[HookType.POST_CREATE] = note
    creating = asyncio.create_task(world.create(len(DATA), feed, announced=len(DATA)))
    feed.send(DATA[:5])
    await feed.taken()
    for byte in (DATA[5:6], DATA[6:7]):
        await elapse(1.1)
        feed.send(byte)
        await feed.taken()
    assert (await world.store.load(ids[0])).offset > 0
    assert (await world.append(ids[0], 0, DATA)).finished
    assert (await creating).upload.offset == 0
    assert await world.content(ids[0]) == DATA


# DELETE --------------------------------------------------------------------------------------------------------------


async def test_delete_stops_whoever_writes_and_leaves_nothing(world: World, pause: float) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await elapse(pause)
    await within(1, world.delete(upload_id))
    assert isinstance(await writer.ends(), UploadInterrupted)
    with pytest.raises(UploadNotFound):
        await world.head(upload_id)
    assert not await world.store.remove(upload_id)
    assert world.heard(HookType.POST_TERMINATE) == 1


# one at a time -------------------------------------------------------------------------------------------------------


async def test_a_delete_that_the_application_refuses_stops_nobody(open_store: Callable[[], Store]) -> None:
    refusal = HookResponse(refusal=UploadRejected("keep it"))
    world, feed = World(open_store, hooks=MemoryHooks(responses={HookType.PRE_TERMINATE: refusal})), Feed()
    upload_id = await world.upload(10)
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=10))
    feed.send(b"hello")
    await feed.taken()
    with pytest.raises(UploadRejected, match="keep it"):
        await world.delete(upload_id)
    feed.send(b"world")
    assert (await appending).finished


async def test_of_many_writers_at_once_one_writes_and_the_others_change_nothing(world: World) -> None:
    upload_id = await world.upload(1000)
    bodies = [bytes([letter]) * 1000 for letter in b"abcde"]
    answers = await asyncio.gather(*(world.append(upload_id, 0, body) for body in bodies), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) == 4
    assert all(isinstance(answer, OffsetMismatch | UploadLocked | UploadInterrupted) for answer in refused)
    winner = next(index for index, answer in enumerate(answers) if isinstance(answer, Upload))
    assert await world.content(upload_id) == bodies[winner]
    assert world.heard(HookType.PRE_FINISH) == 1


async def test_of_many_writers_that_send_nothing_each_makes_room_for_the_next(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    for _ in range(3):
        before = await Writer.begin(world, upload_id, sent=0)
        following = await Writer.begin(world, upload_id, sent=0)
        assert isinstance(await before.ends(), UploadInterrupted)
        await within(1, world.head(upload_id))
        assert following.going_on
    assert (await world.append(upload_id, 0, DATA)).finished
    assert isinstance(await following.ends(), UploadInterrupted)


async def test_of_many_deletes_at_once_one_finds_the_upload(world: World) -> None:
    upload_id = await world.upload(len(DATA), b"hello")
    answers = await asyncio.gather(*(world.delete(upload_id) for _ in range(4)), return_exceptions=True)
    assert [type(answer) for answer in answers if answer is not None] == 3 * [UploadNotFound]
    assert world.heard(HookType.POST_TERMINATE) == 1


async def test_head_does_not_wait_for_an_application_that_takes_its_time_at_the_end(world: World) -> None:
    thinking, answer = asyncio.Event(), asyncio.Event()

    async def think(upload: Upload) -> None:
        thinking.set()
        await answer.wait()

    world.callbacks[HookType.PRE_FINISH] = think
    upload_id = await world.upload(5)
    appending = asyncio.create_task(world.append(upload_id, 0, b"hello"))
    await thinking.wait()
    with pytest.raises(FinishPending):
        await within(2, world.head(upload_id))
    answer.set()
    assert (await appending).finished


# bodies with a checksum ----------------------------------------------------------------------------------------------


async def test_an_interrupted_body_with_a_checksum_is_discarded_as_a_whole(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id, checksum=Checksum("sha1", hashlib.sha1(DATA).digest()))
    assert (await within(1, world.append(upload_id, 0, DATA))).finished
    assert isinstance(await writer.ends(), UploadInterrupted)
    assert await world.content(upload_id) == DATA


# the server stops ----------------------------------------------------------------------------------------------------


async def test_a_server_that_stops_keeps_the_bytes_of_every_writer_and_tells_them(world: World) -> None:
    uploads = [await world.upload(len(DATA)) for _ in range(3)]
    writers = [await Writer.begin(world, upload_id, sent) for upload_id, sent in zip(uploads, (0, 5, 9), strict=True)]
    world.service.close()
    for writer in writers:
        assert isinstance(await within(1, writer.ends()), ShuttingDown)
    assert [await world.content(upload_id) for upload_id in uploads] == [b"", b"hello", b"hello wor"]
    world.restart()
    for upload_id, sent in zip(uploads, (0, 5, 9), strict=True):
        assert (await world.append(upload_id, sent, DATA[sent:])).finished


async def test_a_server_that_stops_takes_no_more_bytes_but_still_tells_offsets(world: World) -> None:
    upload_id = await world.upload(len(DATA), b"hello")
    world.service.close()
    with pytest.raises(ShuttingDown):
        await world.append(upload_id, 5, b" world")
    assert (await world.head(upload_id)).offset == 5


async def test_a_writer_that_waits_for_another_does_not_begin_when_the_server_stops(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    async with world.locker.hold(upload_id):
        waiting = Writer(world, upload_id)
        await elapse(LIVELY)
        world.service.close()
    assert isinstance(await within(1, waiting.ends()), ShuttingDown)


async def test_head_of_a_body_that_comes_faster_than_it_is_written_does_not_wait_for_its_end(world: World) -> None:
    upload_id = await world.upload(1 << 30)
    feed = Feed()
    writing = asyncio.create_task(world.append(upload_id, 0, feed, announced=1 << 30))
    await feed.taken()
    asking = asyncio.create_task(world.head(upload_id))
    for _ in range(50):
        feed.send(b"x" * 1000)
        await elapse(0.001)
    async with asyncio.timeout(0.1):
        told = (await asking).offset
    assert told < 50_000
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await writing
