"""An application that is asked while a body comes in can stop the upload; a client does not wait for it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.service.world import Feed, World, a_request, elapse
from tests.support.hooks import MemoryHooks
from tusserver.hooks.base import HookRequest, HookResponse, HookType
from tusserver.protocol.dialect import ReplyChanges, RequestContext
from tusserver.protocol.errors import UploadNotFound, UploadRejected
from tusserver.protocol.messages import Append
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.base import Store
from tusserver.stores.memory import MemoryStore
from tusserver.streams import OnProgress, Source

ASKED = HookType.POST_RECEIVE


async def send(world: World, upload_id: UploadId, feed: Feed, pieces: int) -> asyncio.Task[Upload]:
    """Start an append, and send pieces of ten bytes, half a second apart."""
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=1000))
    for _ in range(pieces):
        feed.send(bytes(10))
        await elapse(0.5)
    return appending


async def test_an_application_is_asked_about_once_a_second_with_rising_offsets(open_store: Callable[[], Store]) -> None:
    hooks = MemoryHooks(responses={ASKED: HookResponse()})
    world = World(open_store, hooks=hooks)
    feed = Feed()
    appending = await send(world, await world.upload(1000), feed, 20)
    feed.send(bytes(800))
    await appending
    offsets = [request.upload.offset for request in hooks.requests]
    assert 5 <= len(offsets) <= 10
    assert offsets == sorted(set(offsets))


async def test_an_upload_that_is_stopped_is_removed_and_its_client_gets_the_refusal(
    open_store: Callable[[], Store],
) -> None:
    hooks = MemoryHooks(responses={ASKED: HookResponse(refusal=UploadRejected("enough", status=403))})
    world = World(open_store, hooks=hooks)
    upload_id = await world.upload(1000)
    appending = await send(world, upload_id, Feed(), 5)
    with pytest.raises(UploadRejected, match="enough"):
        await appending
    with pytest.raises(UploadNotFound):
        await world.head(upload_id)


async def test_a_creation_that_is_stopped_leaves_nothing(open_store: Callable[[], Store]) -> None:
    hooks = MemoryHooks(responses={ASKED: HookResponse(refusal=UploadRejected("enough"))})
    world, feed = World(open_store, hooks=hooks), Feed()
    creating = asyncio.create_task(world.create(1000, feed, announced=1000))
    for _ in range(5):
        feed.send(bytes(10))
        await elapse(0.5)
    with pytest.raises(UploadRejected):
        await creating
    assert await world.stored() == []


async def test_a_question_that_fails_or_is_not_answered_changes_nothing(open_store: Callable[[], Store]) -> None:
    asked = 0

    async def answer(upload: Upload) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("not now")
        await asyncio.Event().wait()

    world, feed = World(open_store, hooks=MemoryHooks({ASKED: answer})), Feed()
    appending = await send(world, await world.upload(1000), feed, 20)
    feed.send(bytes(800))
    assert (await appending).finished
    assert asked == 2


class Refuses(MemoryHooks):
    """Refuses each body with an error of its own, once it `may`."""

    def __init__(self) -> None:
        super().__init__(responses={ASKED: HookResponse()})
        self.may = asyncio.Event()

    async def ask(self, request: HookRequest) -> HookResponse:
        """See `Hooks.ask`."""
        await self.may.wait()
        return HookResponse(refusal=UploadRejected("enough"), answer=ReplyChanges(body=b"mine"))


class EndsLate(MemoryStore):
    """Calls `ended` when all bytes of a body are written, and waits for it."""

    def __init__(self, ended: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._ended = ended

    async def write(self, upload: Upload, source: Source, on_progress: OnProgress) -> int:
        """See `Store.write`."""
        written = await super().write(upload, source, on_progress)
        await self._ended()
        return written


async def stopped_or_not(world: World, context: RequestContext, ends: bool) -> None:
    upload_id, feed = await world.upload(50), Feed()
    append = Append(id=upload_id, offset=0, body_length=50)
    appending = asyncio.create_task(world.service.append(append, feed, context))
    for _ in range(5 if ends else 4):
        feed.send(bytes(10))
        await elapse(0.5)
    await appending


async def test_an_answer_that_comes_once_the_body_has_ended_is_not_that_of_the_request() -> None:
    hooks = Refuses()

    async def answer() -> None:
        hooks.may.set()
        await elapse(0.1)

    world, context = World(lambda: EndsLate(answer), hooks=hooks), a_request("PATCH")
    await stopped_or_not(world, context, True)
    assert context.answer is None


async def test_an_answer_with_a_refusal_that_stopped_the_body_is_that_of_the_request(
    open_store: Callable[[], Store],
) -> None:
    hooks, context = Refuses(), a_request("PATCH")
    hooks.may.set()
    with pytest.raises(UploadRejected) as refused:
        await stopped_or_not(World(open_store, hooks=hooks), context, False)
    assert context.changes(refused.value) == ReplyChanges(body=b"mine")
    assert (context.changes(None), context.changes(UploadRejected())) == (None, None)


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
async def test_a_body_that_was_stopped_does_not_wait_for_the_garbage_collector(open_store: Callable[[], Store]) -> None:
    hooks = Refuses()
    hooks.may.set()
    world = World(open_store, hooks=hooks)
    feed, upload_id = Feed(), await world.upload(1000)
    alive = weakref.ref(feed)
    with pytest.raises(UploadRejected):
        await (await send(world, upload_id, feed, 5))
    del feed
    await elapse(0.1)
    assert alive() is None
