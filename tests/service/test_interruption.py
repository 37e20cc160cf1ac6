"""Who may interrupt whom (the head of the list of behaviours).

A client is alive if it sent bytes within the last quarter of a second; here the loop's clock says so.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.service.world import Feed, World, elapse
from tusserver.events import Finished, Terminated
from tusserver.protocol.checksum import Checksum
from tusserver.protocol.errors import (
    OffsetMismatch,
    ShuttingDown,
    TusError,
    UploadInterrupted,
    UploadLocked,
    UploadNotFound,
)
from tusserver.protocol.upload import Upload, UploadId

DATA = b"hello world"
STALLED = 0.3
LIVELY = 0.1


class Writer:
    """A PATCH@0 of `DATA` under way, of which `sent` bytes have come."""

    def __init__(self, world: World, upload_id: UploadId, checksum: Checksum | None = None) -> None:
        self.feed = Feed()
        self._task = asyncio.create_task(world.append(upload_id, 0, self.feed, announced=len(DATA), checksum=checksum))

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

    @property
    def going_on(self) -> bool:
        """Whether it was left alone."""
        return not self._task.done()


async def within(seconds: float, waited_for: Coroutine[Any, Any, Any]) -> Any:
    """Await something that must not take longer, by the loop's clock."""
    async with asyncio.timeout(seconds):
        return await waited_for


# a writer that is stalled --------------------------------------------------------------------------------------------


async def test_head_stops_a_stalled_writer_and_tells_the_bytes_it_left(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await elapse(STALLED)
    assert (await within(1, world.head(upload_id))).offset == 5
    assert isinstance(await writer.ends(), UploadInterrupted)
    assert await world.content(upload_id) == b"hello"
    await world.append(upload_id, 5, DATA[5:])
    assert (await world.content(upload_id), world.heard(Finished)) == (DATA, 1)


async def test_a_writer_that_has_sent_nothing_yet_may_be_stalled_too(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id, sent=0)
    await elapse(STALLED)
    assert (await within(1, world.append(upload_id, 0, DATA))).finished
    assert isinstance(await writer.ends(), UploadInterrupted)
    assert (await world.content(upload_id), world.heard(Finished)) == (DATA, 1)


async def test_a_patch_stops_a_stalled_writer_and_then_goes_by_what_that_left(world: World) -> None:
    """Its offset was right when it asked; the bytes of the stalled one moved it."""
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await elapse(STALLED)
    with pytest.raises(OffsetMismatch) as caught:
        await within(1, world.append(upload_id, 0, DATA))
    assert caught.value.expected == 5
    assert isinstance(await writer.ends(), UploadInterrupted)
    assert await world.content(upload_id) == b"hello"


async def test_a_patch_at_a_wrong_offset_is_refused_before_it_disturbs_a_stalled_writer(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await elapse(STALLED)
    with pytest.raises(OffsetMismatch):
        await world.append(upload_id, 7, b"orld")
    assert writer.going_on
    assert (await writer.finish()).finished


async def test_delete_stops_a_stalled_writer_and_leaves_nothing(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await elapse(STALLED)
    await within(1, world.delete(upload_id))
    assert isinstance(await writer.ends(), UploadInterrupted)
    assert not await world.store.remove(upload_id)
    assert world.heard(Terminated) == 1


# a writer that is alive ----------------------------------------------------------------------------------------------


async def test_head_leaves_a_living_writer_alone_and_tells_what_is_committed(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await elapse(LIVELY)
    assert (await within(0.1, world.head(upload_id))).offset == 0
    for at in range(5, 10):
        await elapse(0.24)
        writer.feed.send(DATA[at : at + 1])
    await elapse(LIVELY)
    assert (await within(0.1, world.head(upload_id))).offset >= 5
    assert writer.going_on
    assert (await writer.finish(sent=10)).finished


async def test_a_patch_waits_for_a_living_writer_and_is_then_told_to_come_again(world: World) -> None:
    upload_id, data = await world.upload(1000), bytes(1000)
    feed = Feed()
    writing = asyncio.create_task(world.append(upload_id, 0, feed, announced=1000))
    second = asyncio.create_task(world.append(upload_id, 0, data))
    began = asyncio.get_running_loop().time()
    sent = 0
    while not second.done():
        feed.send(b"x")
        sent += 1
        await elapse(LIVELY)
    with pytest.raises((UploadLocked, OffsetMismatch)) as caught:
        await second
    assert isinstance(caught.value, UploadLocked)
    assert caught.value.retry_after == 1
    assert 4.9 < asyncio.get_running_loop().time() - began < 5.5
    feed.send(b"x" * (1000 - sent))
    assert (await writing).finished
    assert await world.content(upload_id) == b"x" * 1000


async def test_a_patch_that_waited_goes_on_when_the_other_is_done(world: World) -> None:
    upload_id = await world.upload(2 * len(DATA))
    writer = await Writer.begin(world, upload_id)
    second = asyncio.create_task(world.append(upload_id, 0, DATA))
    await elapse(LIVELY)
    assert not second.done()
    await writer.finish()
    with pytest.raises(OffsetMismatch):
        await second
    assert await world.content(upload_id) == DATA


async def test_a_writer_that_falls_silent_while_another_waits_has_to_leave(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await elapse(LIVELY)
    with pytest.raises(OffsetMismatch):
        await within(1, world.append(upload_id, 0, DATA))
    assert isinstance(await writer.ends(), UploadInterrupted)


async def test_delete_stops_a_living_writer_and_leaves_nothing(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id)
    await within(1, world.delete(upload_id))
    assert isinstance(await writer.ends(), UploadInterrupted)
    with pytest.raises(UploadNotFound):
        await world.head(upload_id)
    assert not await world.store.remove(upload_id)


# one at a time -------------------------------------------------------------------------------------------------------


async def test_of_many_writers_at_once_one_writes_and_the_others_change_nothing(world: World) -> None:
    upload_id = await world.upload(1000)
    bodies = [bytes([letter]) * 1000 for letter in b"abcde"]
    answers = await asyncio.gather(*(world.append(upload_id, 0, body) for body in bodies), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) == 4
    assert all(isinstance(answer, OffsetMismatch | UploadLocked | UploadInterrupted) for answer in refused)
    winner = next(index for index, answer in enumerate(answers) if isinstance(answer, Upload))
    assert await world.content(upload_id) == bodies[winner]
    assert world.heard(Finished) == 1


async def test_of_many_stalled_writers_each_makes_room_for_the_next(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    for _ in range(3):
        stalled = await Writer.begin(world, upload_id, sent=0)
        await elapse(STALLED)
        following = await Writer.begin(world, upload_id, sent=0)
        assert isinstance(await stalled.ends(), UploadInterrupted)
        await elapse(STALLED)
        await within(1, world.head(upload_id))
        await following.ends()
    assert (await world.append(upload_id, 0, DATA)).finished


async def test_of_many_deletes_at_once_one_finds_the_upload(world: World) -> None:
    upload_id = await world.upload(len(DATA), b"hello")
    answers = await asyncio.gather(*(world.delete(upload_id) for _ in range(4)), return_exceptions=True)
    assert [type(answer) for answer in answers if answer is not None] == 3 * [UploadNotFound]
    assert world.heard(Terminated) == 1


async def test_head_does_not_wait_for_an_application_that_takes_its_time_at_the_end(world: World) -> None:
    thinking, answer = asyncio.Event(), asyncio.Event()

    async def think(upload: Upload) -> None:
        thinking.set()
        await answer.wait()

    world.listeners[Finished] = think
    upload_id = await world.upload(5)
    appending = asyncio.create_task(world.append(upload_id, 0, b"hello"))
    await thinking.wait()
    upload = await within(0.1, world.head(upload_id))
    assert (upload.complete, upload.finished) == (True, False)
    answer.set()
    assert (await appending).finished


# bodies with a checksum ----------------------------------------------------------------------------------------------


async def test_an_interrupted_body_with_a_checksum_is_discarded_as_a_whole(world: World) -> None:
    upload_id = await world.upload(len(DATA))
    writer = await Writer.begin(world, upload_id, checksum=Checksum("sha1", hashlib.sha1(DATA).digest()))
    await elapse(STALLED)
    assert (await within(1, world.head(upload_id))).offset == 0
    assert isinstance(await writer.ends(), UploadInterrupted)
    assert (await world.append(upload_id, 0, DATA)).finished
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
    first = await Writer.begin(world, upload_id, sent=0)
    second = Writer(world, upload_id)
    await elapse(LIVELY)
    world.service.close()
    for writer in (first, second):
        assert isinstance(await within(1, writer.ends()), ShuttingDown)
