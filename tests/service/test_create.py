from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import IDLE, Feed, World, elapse, whole
from tusserver.hooks.base import HookType
from tusserver.protocol.checksum import Checksum
from tusserver.protocol.errors import (
    ChecksumMismatch,
    ClientDisconnected,
    CreationRejected,
    FinishFailed,
    InvalidMetadata,
    MaxSizeExceeded,
    OutOfSpace,
    ShuttingDown,
    SizeExceeded,
    TusError,
    UploadExists,
    UploadLocked,
)
from tusserver.protocol.limits import Limits
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.base import Store
from tusserver.stores.memory import MemoryStore
from tusserver.streams import OnProgress, Source


def sha1(data: bytes) -> Checksum:
    return Checksum("sha1", hashlib.sha1(data).digest())


async def fail(upload: Upload) -> None:
    raise RuntimeError("the listener fails")


async def test_a_new_upload_stands_at_zero_with_all_that_its_client_said(world: World) -> None:
    created = await world.create(10, metadata="filename d29ybGQudHh0")
    upload = await world.store.load(created.upload.id)
    assert (upload.offset, upload.length, upload.metadata.name) == (0, 10, "world.txt")
    assert (upload.created_at, upload.expires_at) == (world.clock.now, world.clock.now + timedelta(hours=1))
    assert upload == created.upload


async def test_the_creation_is_told_before_any_byte_is_there(world: World) -> None:
    await world.create(5, b"hello")
    assert [kind for kind, _ in world.told] == [HookType.POST_CREATE, HookType.PRE_FINISH]
    assert world.told[0][1].offset == 0


async def test_an_upload_of_length_zero_is_finished_at_once(world: World) -> None:
    upload = (await world.create(0)).upload
    assert (upload.complete, upload.finished, world.heard(HookType.PRE_FINISH)) == (True, True, 1)


@pytest.mark.parametrize("body", [None, b""])
async def test_an_upload_of_length_zero_that_cannot_be_finished_is_not_made(world: World, body: bytes | None) -> None:
    """Its client gets 500 and no URL, and asks again: nobody would ever resume this one."""
    world.callbacks[HookType.PRE_FINISH] = fail
    with pytest.raises(FinishFailed):
        await world.create(0, body)
    assert await world.stored() == []


# refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "metadata", "refusal"), [(11, "", MaxSizeExceeded), (5, "k " + "a" * 100, InvalidMetadata)]
)
async def test_what_is_over_a_limit_is_refused_and_leaves_nothing(
    make_world: MakeWorld, length: int, metadata: str, refusal: type[TusError]
) -> None:
    world = make_world(limits=Limits(max_size=10, metadata_size=50))
    with pytest.raises(refusal):
        await world.create(length, metadata=metadata)
    assert (await world.stored(), world.told) == ([], [])


async def test_a_body_announced_longer_than_the_upload_is_refused_before_anything_is_made(world: World) -> None:
    with pytest.raises(SizeExceeded):
        await world.create(3, b"hello")
    assert (await world.stored(), world.told) == ([], [])


async def test_the_application_may_refuse_and_then_nothing_is_made(make_world: MakeWorld) -> None:
    asked: list[Upload] = []

    async def reject(upload: Upload) -> None:
        asked.append(upload)
        raise CreationRejected("no", status=403)

    world = make_world(before_create=reject)
    with pytest.raises(CreationRejected) as refusal:
        await world.create(10, b"hello", metadata="filename d29ybGQudHh0")
    assert refusal.value.status == 403
    assert asked[0].metadata.name == "world.txt"
    assert (await world.stored(), world.told) == ([], [])


async def test_an_application_that_fails_to_decide_leaves_nothing(make_world: MakeWorld) -> None:
    world = make_world(before_create=fail)
    with pytest.raises(RuntimeError):
        await world.create(10)
    assert await world.stored() == []


async def test_a_listener_that_fails_at_the_creation_leaves_nothing(world: World) -> None:
    world.callbacks[HookType.POST_CREATE] = fail
    with pytest.raises(RuntimeError):
        await world.create(10)
    assert await world.stored() == []
    assert not await world.store.remove(UploadId("upload-1"))


@pytest.mark.parametrize("role", [Role.REGULAR, Role.PARTIAL])
async def test_a_creation_that_is_cancelled_while_a_listener_thinks_leaves_nothing(world: World, role: Role) -> None:
    thinking = anyio.Event()

    async def think(upload: Upload) -> None:
        thinking.set()
        await anyio.sleep_forever()

    world.callbacks[HookType.POST_CREATE] = think
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: world.create(10, role=role))
        await thinking.wait()
        tasks.cancel_scope.cancel()
    assert await world.stored() == []


async def test_a_taken_id_is_refused_and_the_upload_that_has_it_stays_as_it_is(make_world: MakeWorld) -> None:
    world = make_world(new_id=lambda: UploadId("same"))
    await world.create(10, b"hello")
    for refused in (world.create(3), world.create(3, b"new"), world.create(0)):
        with pytest.raises(UploadExists):
            await refused
    assert (await world.head(UploadId("same"))).length == 10
    assert await world.content(UploadId("same")) == b"hello"


async def test_a_taken_id_does_not_disturb_the_upload_that_is_being_written_under_it(make_world: MakeWorld) -> None:
    world, feed = make_world(new_id=lambda: UploadId("same")), Feed(b"hel")
    writing = asyncio.create_task(world.create(5, feed))
    await feed.taken()
    with pytest.raises((UploadExists, UploadLocked)):
        await world.create(3)
    feed.send(b"lo")
    feed.end()
    assert (await writing).upload.complete
    assert await world.content(UploadId("same")) == b"hello"


# with upload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [5, 10, None])
async def test_the_first_bytes_come_along(world: World, length: int | None) -> None:
    upload = (await world.create(length, b"hello")).upload
    assert (upload.offset, upload.length) == (5, length)
    assert await world.content(upload.id) == b"hello"
    assert world.heard(HookType.PRE_FINISH) == (length == 5)


async def test_a_chunked_body_comes_along(world: World) -> None:
    upload = (await world.create(10, Feed(b"hello", b" you!", ends=True))).upload
    assert (upload.finished, await world.content(upload.id)) == (True, b"hello you!")


async def test_a_chunked_body_that_runs_over_leaves_nothing_and_is_never_told_as_finished(world: World) -> None:
    with pytest.raises(SizeExceeded):
        await world.create(5, Feed(b"hello", b"!", ends=True))
    assert (await world.stored(), world.heard(HookType.PRE_FINISH)) == ([], 0)


async def test_a_chunked_body_of_unknown_end_is_bounded_by_the_largest_size(make_world: MakeWorld) -> None:
    world = make_world(limits=Limits(max_size=5))
    with pytest.raises(MaxSizeExceeded):
        await world.create(None, Feed(b"hello", b"!", ends=True))
    assert await world.stored() == []


async def test_first_bytes_with_the_right_checksum_are_kept(world: World) -> None:
    upload = (await world.create(10, b"hello", checksum=sha1(b"hello"))).upload
    assert await world.content(upload.id) == b"hello"


async def test_first_bytes_with_a_wrong_checksum_leave_nothing(world: World) -> None:
    with pytest.raises(ChecksumMismatch):
        await world.create(10, b"hello", checksum=sha1(b"hullo"))
    assert await world.stored() == []
    assert not await world.store.remove(UploadId("upload-1"))


async def test_a_client_that_goes_away_before_it_has_a_url_leaves_nothing(world: World) -> None:
    feed = Feed(b"hel")
    creating = asyncio.create_task(world.create(5, feed, announced=5))
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await creating
    assert await world.stored() == []
    assert (world.heard(HookType.POST_CREATE), world.heard(HookType.POST_TERMINATE)) == (1, 1)


async def test_an_upload_that_is_not_kept_is_not_told_as_finished_even_if_all_bytes_came(world: World) -> None:
    """The end of the chunked body did not come: its client went away, and has no URL."""
    feed = Feed(b"hello")
    creating = asyncio.create_task(world.create(5, feed))
    await feed.taken()
    feed.vanish()
    with pytest.raises(ClientDisconnected):
        await creating
    assert (await world.stored(), world.heard(HookType.PRE_FINISH)) == ([], 0)


async def test_a_client_that_falls_silent_gets_its_url_and_the_offset_reached(world: World) -> None:
    creating = asyncio.create_task(world.create(10, Feed(b"hello"), announced=10))
    await elapse(IDLE + 2)
    created = await creating
    assert (created.closes, created.upload.offset) == (True, 5)
    assert await world.content(created.upload.id) == b"hello"


async def test_a_client_that_falls_silent_after_the_last_byte_has_finished(world: World) -> None:
    creating = asyncio.create_task(world.create(5, Feed(b"hello")))
    await elapse(IDLE + 2)
    created = await creating
    assert (created.closes, created.upload.finished, world.heard(HookType.PRE_FINISH)) == (True, True, 1)


async def test_nothing_of_a_body_with_a_checksum_is_kept_if_its_client_falls_silent(world: World) -> None:
    creating = asyncio.create_task(world.create(10, Feed(b"hello"), announced=10, checksum=sha1(b"hello you!")))
    await elapse(IDLE + 2)
    created = await creating
    assert (created.closes, created.upload.offset) == (True, 0)
    assert (await world.head(created.upload.id)).offset == 0


async def test_a_client_that_cannot_have_its_upload_finished_leaves_nothing(world: World) -> None:
    world.callbacks[HookType.PRE_FINISH] = fail
    with pytest.raises(FinishFailed):
        await world.create(5, b"hello")
    assert (await world.stored(), world.heard(HookType.PRE_FINISH)) == ([], 0)


async def test_a_storage_that_fills_up_under_the_first_bytes_keeps_nothing(make_world: MakeWorld) -> None:
    class Full(MemoryStore):
        async def write(self, upload: Upload, source: Source, on_progress: OnProgress) -> int:
            raise OutOfSpace

        async def put(self, upload: Upload, data: bytes) -> None:
            raise OutOfSpace

    world = World(Full)
    for body in (whole(b"hello"), Feed(b"hello", ends=True)):
        with pytest.raises(OutOfSpace):
            await world.create(5, body, announced=5)
        assert await world.stored() == []


# at the end of the server --------------------------------------------------------------------------------------------


async def test_a_server_that_stops_still_makes_uploads_but_takes_no_bytes_that_are_still_to_come(world: World) -> None:
    world.service.close()
    created = await world.create(10, Feed(b"hello"), announced=5)
    assert (created.closes, created.upload.offset) == (True, 0)
    assert await world.stored() == [created.upload.id]
    assert (await world.create(10, b"hello")).upload.offset == 5, "these have come"


# bytes that have come with the request -------------------------------------------------------------------------------


class Strokes(MemoryStore):
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def create(self, upload: Upload, data: bytes = b"") -> None:
        self.calls.append(f"create {upload.offset} {data!r}")
        await super().create(upload, data)

    async def commit(self, upload: Upload) -> None:
        self.calls.append(f"commit {upload.offset}")
        await super().commit(upload)


@pytest.mark.parametrize("role", [Role.REGULAR, Role.PARTIAL])
@pytest.mark.parametrize("length", [5, 10, None])
async def test_an_upload_is_made_with_its_first_bytes_in_one_stroke(length: int | None, role: Role) -> None:
    store = Strokes()
    world = World(lambda: store, hooks=False)
    upload = (await world.create(length, b"hello", role=role)).upload
    assert store.calls == ["create 5 b'hello'"]
    assert await world.head(upload.id) == replace(upload, updated_at=(await store.load(upload.id)).updated_at)
    assert (upload.offset, upload.told, upload.finished) == (5, 5, length == 5)
    assert bytes(store._bytes[upload.id]) == b"hello"


@pytest.mark.parametrize("body", [b"hellO", b"hello!"], ids=["not-what-was-said", "too-many"])
async def test_first_bytes_that_are_refused_make_no_upload(open_store: Callable[[], Store], body: bytes) -> None:
    world = World(open_store, hooks=False)
    checksum = sha1(b"hello")
    with pytest.raises((ChecksumMismatch, SizeExceeded)):
        await world.create(5, body, checksum=checksum)
    with pytest.raises(ChecksumMismatch):
        await world.create(5, whole(b"hellO", checksum), announced=5)
    assert await world.stored() == []
    assert (await world.create(5, whole(b"hello", checksum), announced=5, checksum=checksum)).upload.finished


async def test_a_server_that_stops_joins_no_parts(world: World) -> None:
    part = await world.part(b"hello")
    world.service.close()
    with pytest.raises(ShuttingDown):
        await world.join(part)
    assert await world.stored() == [part]


async def test_a_server_that_stops_tells_the_url_and_the_offset_reached(world: World) -> None:
    feed = Feed(b"hello")
    creating = asyncio.create_task(world.create(10, feed, announced=10))
    await feed.taken()
    world.service.close()
    created = await creating
    assert (created.closes, created.upload.offset, await world.content(created.upload.id)) == (True, 5, b"hello")


async def test_a_body_that_begins_after_the_stop_ends_at_once(make_world: MakeWorld) -> None:
    """The application was still thinking when the server was told to stop."""
    asked, answer = anyio.Event(), anyio.Event()

    async def think(upload: Upload) -> None:
        asked.set()
        await answer.wait()

    world, feed = make_world(before_create=think), Feed(b"hello")
    creating = asyncio.create_task(world.create(10, feed, announced=10))
    await asked.wait()
    began = asyncio.get_running_loop().time()
    world.service.close()
    answer.set()
    assert (await creating).closes
    assert asyncio.get_running_loop().time() - began < 1
