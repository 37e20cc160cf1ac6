"""An application that is asked while a body comes in can stop the upload; a client does not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.service.world import Feed, World, elapse
from tests.support.hooks import MemoryHooks
from tusserver.hooks.base import HookResponse, HookType
from tusserver.protocol.errors import UploadNotFound, UploadRejected
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.base import Store

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
