"""Locks that can be lost: who was frozen and wakes up commits nothing over its successor.

Two nodes share a store and a service of leases (`tests.support.leases`).
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import Feed, World, elapse
from tests.support.hooks import MemoryHooks
from tests.support.leases import ExpiringLease, ExpiringLocker, LeaseServer
from tusserver.hooks.base import HookType
from tusserver.protocol.checksum import Checksum
from tusserver.protocol.errors import LeaseLost, UploadRejected
from tusserver.protocol.upload import Upload, UploadId

DATA = b"hello world"
FIRST = b"hello"
REST = b" world"


@dataclass
class Nodes:
    """Two nodes."""

    one: World
    two: World

    def lease(self, upload_id: UploadId) -> ExpiringLease:
        """The lease of whoever holds an upload."""
        assert isinstance(self.one.locker, ExpiringLocker)
        return self.one.locker.lease(upload_id)


@pytest.fixture
def nodes(make_world: MakeWorld) -> Nodes:
    server = LeaseServer()

    def node() -> World:
        return make_world(make_locker=lambda: ExpiringLocker(server))

    return Nodes(node(), node())


async def begin(world: World, upload_id: UploadId, sent: bytes = FIRST) -> tuple[Feed, asyncio.Task[Upload]]:
    """PATCH from the start, of which some bytes have come, were committed and told."""
    feed = Feed(sent)
    writing = asyncio.create_task(world.append(upload_id, 0, feed))
    await feed.taken()
    assert (await world.head(upload_id)).offset == len(sent)
    return feed, writing


async def refused(writing: asyncio.Task[Upload]) -> None:
    """Wait for a request that is told that its lease was lost."""
    with pytest.raises(LeaseLost):
        await writing


async def test_fences_rise_in_the_record_from_request_to_request(nodes: Nodes) -> None:
    upload_id = await nodes.one.upload(20)
    fences = [(await nodes.one.store.load(upload_id)).fence]
    for at, world in enumerate((nodes.two, nodes.one, nodes.two)):
        fences.append((await world.append(upload_id, at, b"x")).fence)
    assert fences == sorted(set(fences))
    assert fences[0] > 0


async def test_who_wakes_up_commits_nothing_over_its_successor(nodes: Nodes) -> None:
    upload_id = await nodes.one.upload(len(DATA))
    feed, writing = await begin(nodes.one, upload_id)
    feed.send(b"?")
    await feed.taken()
    frozen = nodes.lease(upload_id)
    frozen.frozen = True
    assert (await nodes.two.append(upload_id, len(FIRST), REST)).finished
    committed = await nodes.two.store.load(upload_id)
    frozen.thaw()
    feed.send(b"?????")
    await refused(writing)
    assert await nodes.one.store.load(upload_id) == committed
    assert await nodes.one.content(upload_id) == DATA


async def test_who_wakes_up_commits_nothing_while_its_successor_writes(nodes: Nodes) -> None:
    """Before its first commit too: who takes over an upload lets the store refuse all older holders first."""
    upload_id = await nodes.one.upload(len(DATA))
    feed, writing = await begin(nodes.one, upload_id)
    frozen = nodes.lease(upload_id)
    frozen.frozen = frozen.unaware = True
    rest = Feed()
    going_on = asyncio.create_task(nodes.two.append(upload_id, len(FIRST), rest))
    await rest.taken()
    feed.send(REST)
    feed.end()
    await refused(writing)
    assert (await nodes.two.store.load(upload_id)).offset == len(FIRST)
    rest.send(REST)
    rest.end()
    assert (await going_on).finished
    assert await nodes.one.content(upload_id) == DATA


async def test_a_small_body_of_who_wakes_up_is_refused(nodes: Nodes) -> None:
    upload_id = await nodes.one.upload(len(DATA), FIRST)
    async with nodes.one.locker.hold(upload_id) as lease:
        stale = await nodes.one.store.load(upload_id, lease.fence)
        nodes.lease(upload_id).frozen = True
        assert (await nodes.two.append(upload_id, len(FIRST), REST)).finished
        with pytest.raises(LeaseLost):
            await nodes.one.store.put(stale.with_progress(6, expires_at=None, finished=False), b"?")
    assert await nodes.one.content(upload_id) == DATA


async def test_a_lost_lease_ends_its_body_at_once_and_nothing_more_is_committed(nodes: Nodes) -> None:
    upload_id = await nodes.one.upload(len(DATA))
    feed, writing = await begin(nodes.one, upload_id)
    feed.send(b" wor")
    await feed.taken()
    nodes.lease(upload_id).lose()
    async with asyncio.timeout(1):
        await refused(writing)
    upload = await nodes.two.store.load(upload_id)
    assert (upload.offset, upload.told) == (len(FIRST), len(FIRST))
    assert (await nodes.two.append(upload_id, len(FIRST), REST)).finished
    assert await nodes.two.content(upload_id) == DATA


async def test_a_body_that_came_whole_is_not_committed_either(nodes: Nodes) -> None:
    upload_id = await nodes.one.upload(len(DATA))
    feed, writing = await begin(nodes.one, upload_id)
    nodes.lease(upload_id).frozen = True
    await elapse(10)
    feed.send(REST)
    feed.end()
    await refused(writing)
    assert (await nodes.two.head(upload_id)).offset == len(FIRST)


async def test_who_lost_its_lease_records_and_tells_nothing_any_more(nodes: Nodes) -> None:
    upload_id = await nodes.one.upload(len(DATA))
    feed, writing = await begin(nodes.one, upload_id)
    lease = nodes.lease(upload_id)
    lease.frozen = True
    await elapse(10)
    for byte in (b" ", b"w"):  # time for a checkpoint
        feed.send(byte)
        await feed.taken()
        await elapse(2)
    assert (await nodes.two.store.load(upload_id)).offset == len(FIRST)
    assert lease.reporting is not None
    assert await lease.reporting() is None
    lease.thaw()
    await refused(writing)


async def test_who_wakes_up_takes_no_space_from_an_upload_of_unknown_length(nodes: Nodes) -> None:
    """Of bytes that its successor has written and not committed yet."""
    upload_id = await nodes.one.upload(None)
    _, writing = await begin(nodes.one, upload_id)
    frozen = nodes.lease(upload_id)
    frozen.frozen = True
    rest = Feed()
    sha1 = Checksum("sha1", hashlib.sha1(REST).digest())  # so that nothing is committed before the end
    going_on = asyncio.create_task(nodes.two.append(upload_id, len(FIRST), rest, checksum=sha1))
    await rest.taken()
    rest.send(b" wor")
    await rest.taken()
    await elapse(2)  # they are written
    frozen.thaw()
    await refused(writing)
    rest.send(b"ld")
    rest.end()
    assert (await going_on).offset == len(DATA)
    await nodes.two.append(upload_id, len(DATA), length=len(DATA))
    assert await nodes.two.content(upload_id) == DATA


async def test_a_creation_that_loses_its_lease_leaves_nothing(nodes: Nodes) -> None:
    feed = Feed(FIRST)
    creating = asyncio.create_task(nodes.one.create(len(DATA), feed))
    await feed.taken()
    (upload_id,) = await nodes.two.stored()
    nodes.lease(upload_id).lose()
    with pytest.raises(LeaseLost):
        await creating
    assert await nodes.two.stored() == []
    assert [nodes.one.heard(kind) for kind in (HookType.POST_CREATE, HookType.POST_TERMINATE)] == [1, 1]


async def test_who_lost_its_lease_while_an_application_refused_removes_nothing(make_world: MakeWorld) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def refuse(upload: Upload) -> None:
        asked.set()
        await answered.wait()
        raise UploadRejected("no")

    server = LeaseServer()
    hooks = MemoryHooks({HookType.PRE_FINISH: refuse})
    nodes = Nodes(*(make_world(make_locker=lambda: ExpiringLocker(server), hooks=hooks) for _ in range(2)))
    upload_id = await nodes.one.upload(len(DATA), FIRST)
    writing = asyncio.create_task(nodes.one.append(upload_id, len(FIRST), REST))
    await asked.wait()
    nodes.lease(upload_id).lose()
    async with nodes.two.locker.hold(upload_id) as lease:
        await nodes.two.store.load(upload_id, lease.fence)
        answered.set()
        with pytest.raises(LeaseLost):
            await writing
    assert await nodes.two.content(upload_id) == DATA


async def test_uploads_go_on_as_ever_where_no_lease_is_lost(nodes: Nodes) -> None:
    upload_id = await nodes.one.upload(len(DATA))
    feed, writing = await begin(nodes.one, upload_id)
    await elapse(20)  # its lease is renewed
    feed.send(REST)
    feed.end()
    assert (await writing).finished
    assert (await nodes.two.head(upload_id)).finished
    await nodes.two.delete(upload_id)
    assert await nodes.one.stored() == []
