from __future__ import annotations

import asyncio
import gc
import hashlib
import weakref
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import DAY, IDLE, Feed, World, elapse, whole
from tusserver.hooks.base import HookType
from tusserver.protocol.checksum import Checksum
from tusserver.protocol.errors import (
    BodyTimeout,
    BodyTooLarge,
    ChecksumMismatch,
    ClientDisconnected,
    FinalIsReadOnly,
    InconsistentLength,
    InvalidChecksum,
    MaxSizeExceeded,
    OffsetMismatch,
    OutOfSpace,
    SizeExceeded,
    TusError,
    UploadExpired,
    UploadNotFound,
)
from tusserver.protocol.limits import Expiry, Limits
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.memory import MemoryStore
from tusserver.streams import OnProgress, Source


def sha1(data: bytes) -> Checksum:
    return Checksum("sha1", hashlib.sha1(data).digest())


async def test_bytes_go_behind_those_that_are_there(world: World) -> None:
    upload_id = await world.upload(11)
    assert (await world.append(upload_id, 0, b"hello")).offset == 5
    assert (await world.append(upload_id, 5, b" world")).offset == 11
    assert await world.content(upload_id) == b"hello world"


async def test_an_offset_that_is_not_the_uploads_is_refused_and_changes_nothing(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    for offset in (0, 4, 6, 11):
        with pytest.raises(OffsetMismatch) as refusal:
            await world.append(upload_id, offset, b" world")
        assert (refusal.value.expected, refusal.value.provided) == (5, offset)
    assert await world.content(upload_id) == b"hello"


async def test_an_upload_that_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(UploadNotFound):
        await world.append(UploadId("nobody"), 0, b"hello")


async def test_the_end_is_told_once_and_with_the_whole_upload(world: World) -> None:
    upload_id = await world.upload(5, b"hel")
    assert world.heard(HookType.PRE_FINISH) == 0
    await world.append(upload_id, 3, b"lo")
    assert next(upload for kind, upload in world.told if kind is HookType.PRE_FINISH).complete
    assert world.heard(HookType.PRE_FINISH) == 1


async def test_a_partial_upload_is_not_told_as_finished(world: World) -> None:
    """ "The Server SHOULD NOT process these partial uploads until they are concatenated"."""
    part = await world.part(b"hello")
    assert (await world.head(part)).finished
    assert world.heard(HookType.PRE_FINISH) == 0


async def test_an_empty_body_in_the_middle_changes_nothing(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    for empty in (b"", Feed(ends=True)):
        assert (await world.append(upload_id, 5, empty)).offset == 5


async def test_an_empty_body_at_the_end_repeats_a_lost_answer_and_tells_nothing_again(world: World) -> None:
    upload_id = await world.upload(5, b"hello")
    for empty in (b"", Feed(ends=True)):
        assert (await world.append(upload_id, 5, empty)).offset == 5
    assert world.heard(HookType.PRE_FINISH) == 1


async def test_an_empty_body_moves_no_deadline_and_gives_none_to_a_finished_upload(world: World) -> None:
    """One that got a deadline at the repeated end would be removed at it."""
    finished, unfinished = await world.upload(5, b"hello"), await world.upload(11, b"hello")
    deadline = world.clock.now + DAY
    world.clock.advance(timedelta(hours=1))
    for upload_id, expires_at in ((finished, None), (unfinished, deadline)):
        await world.append(upload_id, 5)
        await world.append(upload_id, 5, Feed(ends=True))
        await world.append(upload_id, 5, checksum=sha1(b""))
        assert (await world.head(upload_id)).expires_at == expires_at


async def test_a_finished_upload_takes_no_more_bytes(world: World) -> None:
    upload_id = await world.upload(5, b"hello")
    for body in (b"!", Feed(b"!", ends=True)):
        with pytest.raises(SizeExceeded):
            await world.append(upload_id, 5, body)
    assert await world.content(upload_id) == b"hello"


async def test_a_final_upload_takes_no_bytes(world: World) -> None:
    final = await world.join(await world.part(b"hello"))
    with pytest.raises(FinalIsReadOnly):
        await world.append(final.id, 5, b"!")


# too long ------------------------------------------------------------------------------------------------------------


async def test_a_body_announced_too_long_is_refused_before_it_is_read(world: World) -> None:
    upload_id, feed = await world.upload(5), Feed()
    with pytest.raises(SizeExceeded):
        await world.append(upload_id, 0, feed, announced=6)
    assert (await world.head(upload_id)).offset == 0


@pytest.mark.parametrize("chunks", [(b"hello!",), (b"hel", b"lo", b"!"), (b"hello", b"!")])
async def test_a_chunked_body_that_runs_over_is_refused_and_never_told_as_finished(
    world: World, chunks: tuple[bytes, ...]
) -> None:
    upload_id = await world.upload(5)
    with pytest.raises(SizeExceeded):
        await world.append(upload_id, 0, Feed(*chunks, ends=True))
    assert ((await world.head(upload_id)).offset, world.heard(HookType.PRE_FINISH)) == (0, 0)
    await world.append(upload_id, 0, b"hello")
    assert (await world.content(upload_id), world.heard(HookType.PRE_FINISH)) == (b"hello", 1)


@pytest.mark.parametrize(
    ("limits", "length", "refusal"),
    [
        (Limits(), 5, SizeExceeded),
        (Limits(max_size=5), None, MaxSizeExceeded),
        (Limits(body_size=5), 100, BodyTooLarge),
        (Limits(body_size=5), None, BodyTooLarge),
    ],
    ids=["length", "max_size", "body_size", "body_size, deferred"],
)
@pytest.mark.parametrize("asked", [False, True], ids=["", "asked on the way"])
async def test_nothing_is_left_of_a_body_that_runs_over_whatever_was_committed_on_the_way(
    make_world: MakeWorld, limits: Limits, length: int | None, refusal: type[TusError], asked: bool
) -> None:
    world = make_world(limits=limits)
    upload_id, feed = await world.upload(length), Feed(b"hel")
    appending = asyncio.create_task(world.append(upload_id, 0, feed))
    await feed.taken()
    await elapse(1.5)
    assert (await world.store.load(upload_id)).offset == 3
    if asked:
        assert (await world.head(upload_id)).offset == 3
    feed.send(b"lo!")
    feed.end()
    with pytest.raises(refusal):
        await appending
    upload = await world.store.load(upload_id)
    assert (upload.offset, upload.told, upload.length) == (0, 0, length)
    assert (await world.append(upload_id, 0, b"hello")).offset == 5
    assert world.heard(HookType.PRE_FINISH) == (length == 5)


async def test_nothing_is_left_of_the_length_that_came_with_a_body_that_is_refused(world: World) -> None:
    upload_id, feed = await world.upload(None, b"he"), Feed(b"l")
    appending = asyncio.create_task(world.append(upload_id, 2, feed, length=5))
    await feed.taken()
    await elapse(1.5)
    feed.send(b"lo!")
    feed.end()
    with pytest.raises(SizeExceeded):
        await appending
    upload = await world.store.load(upload_id)
    assert (upload.offset, upload.length) == (2, None)
    assert (await world.append(upload_id, 2, b"llo world", length=11)).finished


async def test_a_body_of_unknown_end_is_bounded_by_the_largest_size(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(max_size=8))
    upload_id = await world.upload(None, b"hello")
    with pytest.raises(MaxSizeExceeded):
        await world.append(upload_id, 5, b"four")
    with pytest.raises(MaxSizeExceeded):
        await world.append(upload_id, 5, Feed(b"fo", b"ur", ends=True))
    assert (await world.append(upload_id, 5, Feed(b"you", ends=True))).offset == 8


# deferred length -----------------------------------------------------------------------------------------------------


async def test_a_length_may_come_with_any_body(world: World) -> None:
    upload_id = await world.upload(None, b"hello")
    upload = await world.append(upload_id, 5, b" wo", length=11)
    assert (upload.offset, upload.length, upload.complete) == (8, 11, False)
    assert (await world.append(upload_id, 8, b"rld", length=11)).finished
    assert (await world.content(upload_id), world.heard(HookType.PRE_FINISH)) == (b"hello world", 1)


async def test_a_length_may_come_at_the_end_without_a_body(world: World) -> None:
    upload_id = await world.upload(None, b"hello")
    assert (await world.append(upload_id, 5, length=5)).finished
    assert world.heard(HookType.PRE_FINISH) == 1


async def test_a_length_stands_even_if_its_body_does_not_arrive(world: World) -> None:
    upload_id, feed = await world.upload(None, b"hello"), Feed()
    appending = asyncio.create_task(world.append(upload_id, 5, feed, announced=6, length=11))
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await appending
    upload = await world.head(upload_id)
    assert (upload.offset, upload.length) == (5, 11)


@pytest.mark.parametrize(("length", "refusal"), [(4, InconsistentLength), (21, MaxSizeExceeded)])
async def test_a_length_that_cannot_be_is_refused_and_stays_open(
    make_world: MakeWorld, length: int, refusal: type[TusError]
) -> None:
    world = make_world(limits=Limits(max_size=20))
    upload_id = await world.upload(None, b"hello")
    with pytest.raises(refusal):
        await world.append(upload_id, 5, b"", length=length)
    assert (await world.head(upload_id)).length is None


async def test_a_length_once_set_cannot_change(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    for other in (5, 12):
        with pytest.raises(InconsistentLength):
            await world.append(upload_id, 5, b"", length=other)
    assert (await world.append(upload_id, 5, b" world", length=11)).finished


async def test_a_body_longer_than_the_length_it_declares_is_refused(world: World) -> None:
    upload_id = await world.upload(None, b"hello")
    for body in (b" world", Feed(b" wor", b"ld", ends=True)):
        with pytest.raises(SizeExceeded):
            await world.append(upload_id, 5, body, length=8)
    assert (await world.head(upload_id)).offset == 5


async def test_a_length_whose_body_is_refused_completes_nothing(world: World) -> None:
    """ "Never both 413 and a finish event"; and complete without one it would never be finished."""
    upload_id = await world.upload(None, b"hello")
    with pytest.raises(SizeExceeded):
        await world.append(upload_id, 5, Feed(b"!", ends=True), length=5)
    with pytest.raises(ChecksumMismatch):
        await world.append(upload_id, 5, b"", length=5, checksum=sha1(b"?"))
    assert ((await world.store.load(upload_id)).complete, world.heard(HookType.PRE_FINISH)) == (False, 0)
    assert (await world.append(upload_id, 5, Feed(ends=True), length=5)).finished
    assert (await world.store.load(upload_id)).length == 5


# checksums -----------------------------------------------------------------------------------------------------------


async def test_a_body_with_the_right_checksum_is_kept_wherever_it_stands(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    body = Feed(b" wo", b"rld", ends=True)
    assert (await world.append(upload_id, 5, body, checksum=sha1(b" world"))).finished
    assert await world.content(upload_id) == b"hello world"


async def test_a_body_with_a_wrong_checksum_is_discarded_and_may_come_again(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    with pytest.raises(ChecksumMismatch):
        await world.append(upload_id, 5, b" wurld", checksum=sha1(b" world"))
    assert (await world.content(upload_id), world.heard(HookType.PRE_FINISH)) == (b"hello", 0)
    assert (await world.append(upload_id, 5, b" world", checksum=sha1(b" world"))).finished
    assert (await world.content(upload_id), world.heard(HookType.PRE_FINISH)) == (b"hello world", 1)


async def test_the_checksum_of_an_empty_body_is_checked_too(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    assert (await world.append(upload_id, 5, b"", checksum=sha1(b""))).offset == 5
    with pytest.raises(ChecksumMismatch):
        await world.append(upload_id, 5, b"", checksum=sha1(b"?"))


async def test_a_body_with_a_checksum_that_breaks_off_is_discarded(world: World) -> None:
    upload_id, feed = await world.upload(11, b"hello"), Feed(b" wor")
    appending = asyncio.create_task(world.append(upload_id, 5, feed, announced=6, checksum=sha1(b" world")))
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await appending
    assert await world.content(upload_id) == b"hello"


async def test_a_chunked_body_whose_end_is_missing_is_discarded_even_if_its_checksum_fits(world: World) -> None:
    """A checksum is of "the entire request", and nobody knows whether this was all of it."""
    upload_id, feed = await world.upload(11, b"hello"), Feed(b" world")
    appending = asyncio.create_task(world.append(upload_id, 5, feed, checksum=sha1(b" world")))
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await appending
    assert (await world.content(upload_id), world.heard(HookType.PRE_FINISH)) == (b"hello", 0)


async def test_a_checksum_may_follow_its_body(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    for wrong, refusal in ((sha1(b" wurld"), ChecksumMismatch), (None, InvalidChecksum)):
        with pytest.raises(refusal):
            await world.append(upload_id, 5, Feed(b" wo", b"rld", ends=True, trailer=wrong), checksum_in_trailer=True)
        assert (await world.content(upload_id), world.heard(HookType.PRE_FINISH)) == (b"hello", 0)
    right = Feed(b" wo", b"rld", ends=True, trailer=sha1(b" world"))
    assert (await world.append(upload_id, 5, right, checksum_in_trailer=True)).finished
    assert await world.content(upload_id) == b"hello world"


@pytest.mark.parametrize("pauses", [False, True])
async def test_a_checksum_that_follows_unannounced_counts_as_much(world: World, pauses: bool) -> None:
    upload_id = await world.upload(11, b"hello")
    feed = Feed(b" wo", trailer=sha1(b" wurld"))
    appending = asyncio.create_task(world.append(upload_id, 5, feed))
    await feed.taken()
    if pauses:
        await elapse(1.5)
        assert (await world.head(upload_id)).offset == 8
    feed.send(b"rld")
    feed.end()
    with pytest.raises(ChecksumMismatch):
        await appending
    upload = await world.store.load(upload_id)
    assert (upload.offset, upload.told, world.heard(HookType.PRE_FINISH)) == (5, 5, 0)
    right = Feed(b" wo", b"rld", ends=True, trailer=sha1(b" world"))
    assert (await world.append(upload_id, 5, right)).finished
    assert await world.content(upload_id) == b"hello world"


async def test_of_two_checksums_neither_may_be_wrong(world: World) -> None:
    upload_id = await world.upload(5)
    for header, trailer in ((b"hello", b"hallo"), (b"hallo", b"hello")):
        feed = Feed(b"hello", ends=True, trailer=sha1(trailer))
        with pytest.raises(ChecksumMismatch):
            await world.append(upload_id, 0, feed, checksum=sha1(header))
    assert (await world.head(upload_id)).offset == 0


async def test_nothing_is_kept_of_a_body_that_breaks_off_before_its_checksum(world: World) -> None:
    upload_id, feed = await world.upload(11, b"hello"), Feed(b" world", trailer=sha1(b" world"))
    appending = asyncio.create_task(world.append(upload_id, 5, feed, checksum_in_trailer=True))
    await feed.taken()
    await elapse(5)
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await appending
    assert await world.content(upload_id) == b"hello"


# bodies that break off -----------------------------------------------------------------------------------------------


async def test_the_bytes_of_a_client_that_went_away_are_kept_and_it_goes_on_there(world: World) -> None:
    upload_id, feed = await world.upload(11), Feed(b"hel", b"lo")
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=11))
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await appending
    assert await world.content(upload_id) == b"hello"
    await world.append(upload_id, 5, b" world")
    assert await world.content(upload_id) == b"hello world"


async def test_a_client_that_sent_the_last_byte_and_not_the_end_of_its_body_has_finished(world: World) -> None:
    """When it comes back it asks with HEAD, sees that all is there, and has nothing more to send."""
    upload_id, feed = await world.upload(5), Feed(b"hello")
    appending = asyncio.create_task(world.append(upload_id, 0, feed))
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await appending
    assert ((await world.head(upload_id)).finished, world.heard(HookType.PRE_FINISH)) == (True, 1)


async def test_the_bytes_of_a_client_that_falls_silent_are_kept_and_it_is_told_to_come_again(world: World) -> None:
    upload_id, feed = await world.upload(11), Feed(b"hello")
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=11))
    await feed.taken()
    await elapse(IDLE - 1)
    assert not appending.done()
    await elapse(3)
    with pytest.raises(BodyTimeout):
        await appending
    assert await world.content(upload_id) == b"hello"


async def test_a_client_that_is_slow_but_not_silent_is_not_cut_off(world: World) -> None:
    upload_id, feed = await world.upload(5), Feed()
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=5))
    for letter in (b"h", b"e", b"l", b"l", b"o"):
        await elapse(IDLE - 2)
        feed.send(letter)
    assert (await appending).finished


@pytest.mark.parametrize("chunked", [True, False])
async def test_progress_is_committed_each_second_while_a_long_body_comes_in(world: World, chunked: bool) -> None:
    upload_id, feed = await world.upload(100), Feed()
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=None if chunked else 100))
    for sent in range(10, 60, 10):
        feed.send(b"0123456789")
        await feed.taken()
        await elapse(1.1)
        assert (await world.store.load(upload_id)).offset == sent
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await appending


async def test_progress_of_a_fast_body_is_committed_too(world: World) -> None:
    """Its batches are full long before a second is over."""
    upload_id, feed = await world.upload(100 << 20), Feed()
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=100 << 20))
    for _ in range(12):
        feed.send(b"x" * (1 << 20))
        await feed.taken()
        await elapse(0.1)
    assert (await world.store.load(upload_id)).offset >= 1 << 20
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await appending


async def test_nothing_is_committed_while_a_checksum_waits(world: World) -> None:
    upload_id, feed = await world.upload(10), Feed(b"hello")
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=10, checksum=sha1(b"hello you!")))
    await feed.taken()
    await elapse(5)
    assert (await world.store.load(upload_id)).offset == 0
    feed.send(b" you!")
    assert (await appending).finished


async def test_completion_is_not_committed_before_the_end_of_a_chunked_body_is_known(world: World) -> None:
    upload_id, feed = await world.upload(5), Feed(b"hello")
    appending = asyncio.create_task(world.append(upload_id, 0, feed))
    await feed.taken()
    await elapse(5)
    assert not (await world.store.load(upload_id)).complete
    feed.end()
    assert (await appending).finished


async def test_what_was_committed_before_the_storage_filled_up_stays(make_world: MakeWorld) -> None:
    class Full(MemoryStore):
        async def write(self, upload: Upload, source: Source, on_progress: OnProgress) -> int:
            if upload.offset >= 5:
                raise OutOfSpace
            return await super().write(upload, source, on_progress)

        async def put(self, upload: Upload, data: bytes) -> None:
            if upload.offset > 5:
                raise OutOfSpace
            await super().put(upload, data)

    world = World(Full)
    upload_id = await world.upload(11, b"hello")
    for body in (whole(b" world"), Feed(b" world", ends=True)):
        with pytest.raises(OutOfSpace):
            await world.append(upload_id, 5, body, announced=6)
    assert await world.content(upload_id) == b"hello"


# expiry --------------------------------------------------------------------------------------------------------------


async def test_each_body_moves_a_sliding_deadline(world: World) -> None:
    upload_id = await world.upload(11, b"h")
    world.clock.advance(timedelta(hours=20))
    assert (await world.append(upload_id, 1, b"ello")).expires_at == world.clock.now + DAY
    world.clock.advance(timedelta(hours=20))
    assert (await world.append(upload_id, 5, b" world")).finished


async def test_a_fixed_deadline_counts_from_the_creation(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(sliding=False))
    upload_id = await world.upload(11)
    assert (await world.head(upload_id)).expires_at == world.clock.now + timedelta(hours=1)
    deadline = world.clock.now + DAY
    world.clock.advance(timedelta(minutes=59))
    assert (await world.append(upload_id, 0, b"hello")).expires_at == deadline
    world.clock.advance(timedelta(hours=24))
    with pytest.raises(UploadExpired):
        await world.append(upload_id, 5, b" world")


async def test_an_empty_body_does_not_prolong_the_life_of_an_upload_that_never_got_a_byte(world: World) -> None:
    upload_id = await world.upload(11)
    deadline = world.clock.now + timedelta(hours=1)
    world.clock.advance(timedelta(minutes=59))
    assert (await world.append(upload_id, 0, b"")).expires_at == deadline
    assert (await world.append(upload_id, 0, Feed(ends=True))).expires_at == deadline
    world.clock.advance(timedelta(minutes=1))
    with pytest.raises(UploadExpired):
        await world.append(upload_id, 0, b"hello")


async def test_while_a_first_body_with_a_checksum_comes_in_its_upload_does_not_expire(world: World) -> None:
    upload_id = await world.upload(5)
    body = Feed(b"hell")
    sending = asyncio.create_task(world.append(upload_id, 0, body, checksum=sha1(b"?")))
    for byte in (b"", b"o"):
        body.send(*filter(None, [byte]))
        await body.taken()
        await elapse(2.0)
    world.clock.advance(timedelta(hours=2))
    assert (await world.head(upload_id)).offset == 0
    body.end()
    with pytest.raises(ChecksumMismatch):
        await sending
    assert (await world.store.load(upload_id)).expires_at == world.clock.now - timedelta(hours=1)


async def test_without_expiry_an_upload_waits_for_ever(make_world: MakeWorld) -> None:
    world = make_world(expiry=Expiry(after=None))
    upload_id = await world.upload(11, b"hello")
    world.clock.advance(timedelta(days=10_000))
    assert (await world.append(upload_id, 5, b" world")).finished


async def test_a_finished_upload_has_no_deadline_any_more(world: World) -> None:
    upload_id = await world.upload(5, b"hello")
    assert (await world.store.load(upload_id)).expires_at is None


async def test_every_refusal_of_an_unfinished_upload_knows_its_deadline(world: World) -> None:
    upload_id = await world.upload(11, b"hello")
    refused = [
        world.append(upload_id, 4, b"o"),
        world.append(upload_id, 5, b"far too long"),
        world.append(upload_id, 5, b" wurld", checksum=sha1(b" world")),
        world.append(upload_id, 5, Feed(b"far too long", ends=True)),
    ]
    for refusal in refused:
        with pytest.raises(TusError) as caught:
            await refusal
        assert caught.value.expires_at == world.clock.now + DAY


async def test_an_interrupted_body_is_told_the_deadline_as_it_moved(world: World) -> None:
    upload_id, feed = await world.upload(11), Feed(b"hello")
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=11))
    await feed.taken()
    world.clock.advance(timedelta(hours=1))
    world.service.close()
    with pytest.raises(TusError) as caught:
        await appending
    assert caught.value.expires_at == world.clock.now + DAY


async def test_a_deferred_upload_is_finished_by_the_body_that_declares_its_length(world: World) -> None:
    upload_id = (await world.create(None, role=Role.PARTIAL)).upload.id
    assert (await world.append(upload_id, 0, whole(b"hello"), length=5)).finished


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
async def test_a_wrong_offset_keeps_nothing_of_its_request_alive(world: World) -> None:
    upload_id, feed = await world.upload(11), Feed()
    alive = weakref.ref(feed)
    with pytest.raises(OffsetMismatch):
        await world.append(upload_id, 5, feed)
    del feed
    assert alive() is None
