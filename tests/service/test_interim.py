"""What a client is sent before its answer, where its dialect has interim answers."""

from __future__ import annotations

import asyncio

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import Feed, World, a_request, elapse, whole
from tests.support.leases import ExpiringLocker, LeaseServer
from tusserver.protocol.errors import (
    ClientDisconnected,
    LeaseLost,
    StoreUnavailable,
    TusError,
    UploadNotFound,
    UploadRejected,
)
from tusserver.protocol.messages import Append, Create, Created, InterimOutcome, Progressed
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Upload, UploadId

DRAFT = "draft"


class Interims:
    """A request in a dialect with interim answers, and those that were sent."""

    def __init__(self) -> None:
        self.sent: list[InterimOutcome] = []
        self.context = a_request()
        self.context.send_interim = self._send
        self._another = asyncio.Event()

    async def _send(self, outcome: InterimOutcome) -> bool:
        self.sent.append(outcome)
        self._another.set()
        return True

    async def next(self) -> InterimOutcome:
        """Wait for one more."""
        self._another.clear()
        await self._another.wait()
        return self.sent[-1]


def a_creation(length: int | None = 10, body_length: int | None = 10) -> Create:
    first = Append(id=None, offset=0, body_length=body_length, completes=True, protocol=DRAFT)
    return Create(length=length, metadata=Metadata(), first=first, protocol=DRAFT)


async def test_the_url_is_sent_before_the_body_is_read(world: World) -> None:
    interims, feed = Interims(), Feed()
    creating = asyncio.create_task(world.service.create(a_creation(), feed, interims.context))
    created = await interims.next()
    assert isinstance(created, Created)
    assert await world.store.load(created.upload.id) == created.upload
    feed.send(b"0123456789")
    feed.end()
    assert (await creating).upload.complete
    assert interims.sent == [created]


async def test_an_upload_whose_url_was_sent_is_kept_when_its_client_disconnects(world: World) -> None:
    interims, feed = Interims(), Feed(b"01234")
    creating = asyncio.create_task(world.service.create(a_creation(), feed, interims.context))
    created = await interims.next()
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await creating
    assert (await world.head(created.upload.id)).offset == 5


@pytest.mark.parametrize("status", [503, 400])
async def test_an_upload_whose_url_was_sent_is_kept_when_the_server_fails(world: World, status: int) -> None:
    interims, feed = Interims(), Feed(b"01234")
    creating = asyncio.create_task(world.service.create(a_creation(), feed, interims.context))
    created = await interims.next()
    await feed.taken()

    async def fail(upload: Upload) -> None:
        raise StoreUnavailable if status >= 500 else UploadRejected("no", status=status)

    feed.send(b"56789")
    feed.end()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store, "commit", fail)
        with pytest.raises(TusError):
            await creating
    assert await world.stored() == ([created.upload.id] if status >= 500 else [])


async def test_an_upload_whose_url_was_sent_is_kept_when_the_lease_is_lost(make_world: MakeWorld) -> None:
    server = LeaseServer()
    world = make_world(make_locker=lambda: ExpiringLocker(server))
    interims, feed = Interims(), Feed(b"01234")
    creating = asyncio.create_task(world.service.create(a_creation(), feed, interims.context))
    created = await interims.next()
    await feed.taken()
    server.holders[created.upload.id].lose()
    with pytest.raises(LeaseLost):
        await creating
    assert await world.stored() == [created.upload.id]


async def test_without_interim_answers_it_is_removed(world: World) -> None:
    feed = Feed(b"01234")
    creating = asyncio.create_task(world.service.create(a_creation(), feed, a_request()))
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await creating
    assert await world.stored() == []


async def test_nothing_is_sent_for_what_is_done_at_once(world: World) -> None:
    interims = Interims()
    await world.service.create(a_creation(), whole(b"0123456789"), interims.context)
    await world.service.create(a_creation(0, 0), Feed(ends=True), interims.context)
    assert interims.sent == []


async def appending(world: World, interims: Interims, feed: Feed) -> tuple[UploadId, asyncio.Task[object]]:
    """Start to append to an upload of 100 bytes."""
    upload = (await world.service.create(a_creation(100, 0), Feed(ends=True), a_request())).upload
    append = Append(id=upload.id, offset=0, body_length=100, completes=True, protocol=DRAFT)
    return upload.id, asyncio.create_task(world.service.append(append, feed, interims.context))


async def progressed(interims: Interims, feed: Feed) -> Upload:
    """Send bytes until progress is told."""
    told = asyncio.create_task(interims.next())
    while not told.done():
        feed.send(b"x" * 10)
        await elapse(0.6)
    outcome = await told
    assert isinstance(outcome, Progressed)
    return outcome.upload


async def test_progress_is_sent_once_it_is_committed_and_binding(world: World) -> None:
    interims, feed = Interims(), Feed()
    upload_id, running = await appending(world, interims, feed)
    upload = await progressed(interims, feed)
    stored = await world.store.load(upload_id)
    assert 0 < upload.offset <= stored.told <= stored.offset
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await running
    assert (await world.head(upload_id)).offset >= upload.offset


async def test_an_upload_that_is_gone_is_told_of_no_progress(world: World) -> None:
    interims = Interims()
    append = Append(id=UploadId("none"), offset=0, body_length=100, protocol=DRAFT)
    with pytest.raises(UploadNotFound):
        await world.service.append(append, Feed(), interims.context)
    assert interims.sent == []


async def test_a_client_that_does_not_read_holds_up_no_end(world: World) -> None:
    interims, feed = Interims(), Feed()
    sending = asyncio.Event()

    async def send(outcome: InterimOutcome) -> bool:
        sending.set()
        await asyncio.Event().wait()
        return True

    interims.context.send_interim = send
    upload_id, running = await appending(world, interims, feed)
    while not sending.is_set():
        feed.send(b"x" * 10)
        await elapse(0.6)
    feed.vanish()
    async with asyncio.timeout(10):
        with pytest.raises(ClientDisconnected):
            await running
    assert (await world.head(upload_id)).offset > 0


async def test_a_client_that_disconnects_before_it_has_the_url_leaves_nothing(world: World) -> None:
    interims = Interims()

    async def send(outcome: InterimOutcome) -> bool:
        raise ClientDisconnected

    interims.context.send_interim = send
    with pytest.raises(ClientDisconnected):
        await world.service.create(a_creation(), Feed(), interims.context)
    assert await world.stored() == []
