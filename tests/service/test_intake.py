from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.service.world import IDLE, Feed, elapse
from tusserver.protocol.checksum import Checksum, Digest
from tusserver.protocol.errors import (
    BodyTimeout,
    ChecksumMismatch,
    ClientDisconnected,
    OutOfSpace,
    ShuttingDown,
    SizeExceeded,
    StoreUnavailable,
    UploadInterrupted,
)
from tusserver.service.buffers import Buffers
from tusserver.service.intake import Intake
from tusserver.streams import BodyCallbacks, FileTarget, Reserve

LARGE = 1 << 20


def sha1(data: bytes) -> Checksum:
    return Checksum("sha1", hashlib.sha1(data).digest())


def make(
    feed: Feed, *, limit: int | None = 100, expected: int | None = None, checksum: Checksum | None = None
) -> Intake:
    return Intake(feed, limit=limit, expected=expected, idle_timeout=IDLE, checksum=checksum)


def now() -> float:
    return asyncio.get_running_loop().time()


# batches -------------------------------------------------------------------------------------------------------------


async def test_chunks_come_in_batches_of_about_the_size_asked_for() -> None:
    intake = make(Feed(b"12345", b"67890", b"abcde", b"fg", ends=True))
    assert await intake.read(8) == [b"12345", b"67890"]
    assert await intake.read(8) == [b"abcde", b"fg"]
    assert await intake.read(8) == []
    assert (intake.received, intake.stop_reason) == (17, None)


async def test_a_batch_waits_a_second_for_more_and_not_longer() -> None:
    feed = Feed(b"hel")
    intake, began = make(feed), now()
    reading = asyncio.create_task(intake.read(100))
    await elapse(0.9)
    feed.send(b"lo")
    assert await reading == [b"hel", b"lo"]
    assert now() - began == pytest.approx(1.0)
    feed.send(b"!")
    feed.end()
    assert await intake.read(100) == [b"!"]
    assert (await intake.read(100), intake.stop_reason) == ([], None)


async def test_the_announced_end_is_not_waited_for() -> None:
    """The bytes that were announced are all there is, whether the server says so at once or not."""
    feed = Feed(b"hel", b"lo")
    intake, began = make(feed, expected=5), now()
    assert await intake.read(100) == [b"hel", b"lo"]
    assert (await intake.read(100), intake.stop_reason, now()) == ([], None, began)


async def test_a_body_announced_as_empty_is_not_even_asked_for() -> None:
    intake = make(Feed(), expected=0)
    assert (await intake.read(100), intake.stop_reason) == ([], None)


# cut short -----------------------------------------------------------------------------------------------------------


async def test_a_body_that_runs_over_its_room_ends_before_the_chunk_that_is_too_much() -> None:
    intake = make(Feed(b"hello", b"!", ends=True), limit=5)
    assert await intake.read(100) == [b"hello"]
    assert await intake.read(100) == []
    with pytest.raises(SizeExceeded):
        intake.verify()


async def test_a_client_that_goes_away_ends_its_body_behind_what_came() -> None:
    feed = Feed(b"hello")
    feed.vanish()
    intake = make(feed)
    assert await intake.read(100) == [b"hello"]
    assert await intake.read(100) == []
    assert isinstance(intake.stop_reason, ClientDisconnected)


async def test_silence_ends_a_body_after_the_time_allowed_and_no_sooner() -> None:
    intake, began = make(Feed(b"hello")), now()
    assert await intake.read(5) == [b"hello"]
    assert await intake.read(5) == []
    assert isinstance(intake.stop_reason, BodyTimeout)
    assert now() - began == pytest.approx(IDLE)


async def test_a_body_that_is_told_to_stop_ends_behind_the_bytes_in_hand() -> None:
    feed = Feed(b"hello")
    intake = make(feed)
    reading = asyncio.create_task(intake.read(100))
    await feed.taken()
    intake.stop(ShuttingDown())
    feed.send(b"too late")
    assert await reading == [b"hello"]
    assert await intake.read(100) == []
    assert isinstance(intake.stop_reason, ShuttingDown)


async def test_the_first_reason_to_stop_is_the_one_that_is_told() -> None:
    intake = make(Feed(b"hello"))
    intake.stop(ShuttingDown())
    intake.stop(UploadInterrupted())
    assert isinstance(intake.stop_reason, ShuttingDown)


@pytest.mark.parametrize("expected", [5, None])
async def test_a_body_that_came_whole_was_not_cut_whoever_wanted_it_to_end_meanwhile(expected: int | None) -> None:
    """The last bytes and the wish for its end came in the same moment."""
    feed = Feed(b"hel")
    intake = make(feed, expected=expected, checksum=sha1(b"hello"))
    reading = asyncio.create_task(intake.read(100))
    await feed.taken()
    feed.send(b"lo")
    if expected is None:
        feed.end()
    intake.stop(UploadInterrupted())
    assert await reading == [b"hel", b"lo"]
    assert await intake.read(100) == []
    assert intake.stop_reason is None
    intake.verify()


async def test_a_body_that_has_ended_does_not_stop_any_more() -> None:
    intake = make(Feed(b"hello", ends=True))
    assert await intake.read(100) == [b"hello"]
    intake.stop(ShuttingDown())
    assert intake.stop_reason is None


async def test_a_request_that_is_cancelled_is_not_taken_for_a_silent_client() -> None:
    feed = Feed(b"hello")
    intake = make(feed)
    reading = asyncio.create_task(intake.read(100))
    await feed.taken()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert intake.stop_reason is None


# who asks how far it is ----------------------------------------------------------------------------------------------


async def test_bytes_in_hand_are_handed_on_at_once_when_somebody_asks() -> None:
    feed = Feed(b"hello")
    intake, began = make(feed), now()
    reading = asyncio.create_task(intake.read(100))
    await feed.taken()
    intake.catch_up()
    assert await reading == [b"hello"]
    assert now() == began
    feed.end()
    assert (await intake.read(100), intake.stop_reason) == ([], None)


async def test_a_client_that_has_sent_nothing_is_not_taken_for_a_silent_one_as_somebody_asks() -> None:
    feed = Feed()
    intake = make(feed)
    reading = asyncio.create_task(intake.read(100))
    await feed.taken()
    intake.catch_up()
    await elapse(IDLE - 1)
    feed.send(b"hello")
    feed.end()
    assert await reading == [b"hello"]
    assert intake.stop_reason is None


# checksums -----------------------------------------------------------------------------------------------------------


async def test_a_checksum_is_of_all_chunks_together() -> None:
    for checksum, right in ((sha1(b"hello"), True), (sha1(b"hullo"), False)):
        intake = make(Feed(b"hel", b"lo", ends=True), checksum=checksum)
        assert intake.all_or_nothing
        while await intake.read(2):
            pass
        if right:
            intake.verify()
        else:
            with pytest.raises(ChecksumMismatch):
                intake.verify()


async def test_a_body_that_is_to_be_verified_and_was_cut_is_no_mismatch() -> None:
    """It is told what cut it: the same bytes may be right the next time."""
    feed = Feed(b"hel")
    feed.vanish()
    intake = make(feed, checksum=sha1(b"hello"))
    while await intake.read(100):
        pass
    intake.verify()
    assert isinstance(intake.stop_reason, ClientDisconnected)


# straight into a file -------------------------------------------------------------------------------------------------


class Pipe(Feed):
    """A body with a wire: its bytes go to the file by another way."""

    def __init__(self, *chunks: bytes, ends: bool = False, here: bool = False) -> None:
        super().__init__(*chunks, ends=ends)
        self.can_receive_into = True
        self.fully_received = here
        self.trailers: Mapping[str, str] | None = None

    @property
    def wire(self) -> Pipe:  # type: ignore[override]  # what has no wire elsewhere has one here
        return self

    async def receive_into(self, target: FileTarget, callbacks: BodyCallbacks) -> None:
        at = target.offset
        while chunk := await self.receive():
            callbacks.admit(len(chunk))
            if target.reserve is not None:
                target.reserve(at, len(chunk))
            at += os.pwrite(target.fd, chunk, at)
            if callbacks.digest is not None:
                callbacks.digest.update(chunk)
            callbacks.on_written(len(chunk))

    def read_pending(self) -> None:
        """Nothing is held back here."""

    async def send_interim(self, status: int, headers: Mapping[str, str]) -> bool:
        raise NotImplementedError


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "bytes", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def into(fd: int, offset: int = 0, reserve: Reserve | None = None) -> FileTarget:
    return FileTarget(fd=fd, offset=offset, reserve=reserve)


class Progress:
    """Notes what a store is told; may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[tuple[float, int]] = []
        self._error = error

    async def __call__(self, added: int) -> None:
        self.told.append((now(), added))
        if self._error is not None:
            raise self._error


async def test_a_body_into_a_file_goes_to_its_place_and_through_the_digest(file: int) -> None:
    intake = make(Pipe(b"hello", b" you", ends=True), expected=LARGE, limit=LARGE, checksum=sha1(b"hello you"))
    assert intake.can_receive_into
    assert await intake.receive_into(into(file, 3), Progress()) == 9
    assert os.pread(file, 100, 0) == bytes(3) + b"hello you"
    intake.verify()
    assert (intake.stop_reason, intake.received, intake.can_receive_into) == (None, 9, False)


async def test_a_small_body_that_is_here_already_is_read() -> None:
    assert not make(Pipe(here=True), expected=1000, limit=LARGE).can_receive_into
    assert make(Pipe(), expected=1000, limit=LARGE).can_receive_into
    assert make(Pipe(here=True), expected=LARGE, limit=LARGE).can_receive_into
    assert make(Pipe(), expected=LARGE, limit=LARGE).can_receive_into
    assert not make(Feed(), expected=LARGE, limit=LARGE).can_receive_into


async def test_progress_into_a_file_is_reported_within_a_second_and_not_at_every_chunk(file: int) -> None:
    feed, kept, began = Pipe(), Progress(), now()
    receiving = asyncio.create_task(make(feed, expected=LARGE, limit=LARGE).receive_into(into(file), kept))
    for _ in range(25):
        feed.send(b"x" * 10)
        await elapse(0.1)
    feed.end()
    assert await receiving == 250
    assert [round(at - began) for at, _ in kept.told] == [1, 2]
    assert [added for _, added in kept.told] == pytest.approx([100, 200], abs=11)


async def test_a_body_into_a_file_of_a_silent_client_ends_after_the_time_allowed(file: int) -> None:
    feed, began = Pipe(b"hello"), now()
    intake = make(feed, expected=LARGE, limit=LARGE)
    receiving = asyncio.create_task(intake.receive_into(into(file), Progress()))
    await elapse(IDLE - 5)
    feed.send(b"!")
    assert await receiving == 6
    assert isinstance(intake.stop_reason, BodyTimeout)
    assert now() - began == pytest.approx(2 * IDLE - 5)


async def test_a_body_into_a_file_can_be_interrupted_and_keeps_its_bytes(file: int) -> None:
    feed = Pipe(b"hello")
    intake = make(feed, expected=LARGE, limit=LARGE)
    receiving = asyncio.create_task(intake.receive_into(into(file), Progress()))
    await feed.taken()
    intake.stop(UploadInterrupted())
    assert await receiving == 5
    assert isinstance(intake.stop_reason, UploadInterrupted)


async def test_a_body_into_a_file_of_a_client_that_disconnects_keeps_its_bytes(file: int) -> None:
    feed = Pipe(b"hello")
    feed.vanish()
    intake = make(feed, expected=LARGE, limit=LARGE)
    assert await intake.receive_into(into(file), Progress()) == 5
    assert isinstance(intake.stop_reason, ClientDisconnected)


async def test_a_body_into_a_file_ends_when_its_progress_cannot_be_committed(file: int) -> None:
    feed = Pipe(b"hello")
    receiving = asyncio.create_task(
        make(feed, expected=LARGE, limit=LARGE).receive_into(into(file), Progress(StoreUnavailable()))
    )
    with pytest.raises(StoreUnavailable):
        await receiving


async def test_a_body_that_was_stopped_before_is_not_received_into_a_file(file: int) -> None:
    intake = make(Pipe(b"hello", ends=True), expected=LARGE, limit=LARGE)
    intake.stop(ShuttingDown())
    assert await intake.receive_into(into(file), Progress()) == 0


async def test_a_body_of_unknown_length_reserves_space_as_it_goes_into_a_file(file: int) -> None:
    pipe = Pipe(b"hello", b" you", ends=True)
    intake = make(pipe, limit=LARGE)
    made: list[tuple[int, int]] = []
    assert intake.can_receive_into
    assert await intake.receive_into(into(file, 3, lambda at, count: made.append((at, count))), Progress()) == 9
    assert (os.pread(file, 100, 3), made, intake.stop_reason) == (b"hello you", [(3, 5), (8, 4)], None)


async def test_a_body_into_a_file_that_is_too_long_ends_before_the_bytes_that_are_too_many(file: int) -> None:
    pipe = Pipe(b"hello", b"!", ends=True)
    intake = make(pipe, limit=5)
    assert await intake.receive_into(into(file), Progress()) == 5
    assert os.pread(file, 100, 0) == b"hello"
    with pytest.raises(SizeExceeded):
        intake.verify()


async def test_a_store_that_has_no_space_for_a_body_into_a_file_refuses_it(file: int) -> None:
    pipe = Pipe(b"hello", b"!", ends=True)

    def full(at: int, count: int) -> None:
        if at:
            raise OutOfSpace

    with pytest.raises(OutOfSpace):
        await make(pipe).receive_into(into(file, 0, full), Progress())
    assert os.pread(file, 100, 0) == b"hello"


# the memory that batches take ----------------------------------------------------------------------------------------


async def test_a_batch_is_no_more_than_the_share_of_the_buffers() -> None:
    chunk = b"x" * 10_000
    bodies = range(2_000)
    intake = Intake(
        Feed(*[chunk] * 10, ends=True), limit=None, expected=None, idle_timeout=IDLE, buffers=Buffers(1 << 20, bodies)
    )
    assert [len(batch) for batch in [await intake.read(1 << 19) for _ in range(3)]] == [4, 4, 2]


def test_the_buffers_are_shared_fairly_and_32_kib_are_there_for_everybody() -> None:
    bodies = ["one"]
    buffers = Buffers(1 << 20, bodies)
    assert buffers.share() == 1 << 20
    bodies += ["another", "a third", "a fourth"]
    assert buffers.share() == 1 << 18
    bodies *= 1000
    assert buffers.share() == 32 << 10


async def test_a_checksum_that_follows_the_body_costs_no_digest_while_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which algorithm it will be nobody knows before the end; then the one is computed from what was written."""
    begun: list[str] = []

    def begin(self: Checksum) -> Digest:
        begun.append(self.algorithm)
        return hashlib.sha1()

    monkeypatch.setattr(Checksum, "digest", begin)
    feed = Feed(b"hello", ends=True, trailer=sha1(b"hello"))
    intake = Intake(feed, limit=None, expected=None, idle_timeout=IDLE, checksum_in_trailer=True)
    while await intake.read(100):
        pass
    assert (intake.verify(), intake.all_or_nothing, begun) == (sha1(b"hello"), True, [])
