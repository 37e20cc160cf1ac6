"""Who only looks changes nothing: neither what is stored, nor how often, nor what a client is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import DAY, LATE, Feed, World, a_request, elapse
from tusserver.events import Event, Finished, Interrupted, Progressed, Refused, UploadEvent
from tusserver.hooks.base import HookType
from tusserver.protocol.errors import BodyTimeout, ClientDisconnected, TusError, UploadNotFound, UploadRejected
from tusserver.protocol.messages import Append, Terminate
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.memory import MemoryStore


class Counting(MemoryStore):
    """Notes each change of a record."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[str] = []

    async def create(self, upload: Upload, data: bytes = b"") -> None:
        self.changes.append("create")
        await super().create(upload, data)

    async def put(self, upload: Upload, data: bytes) -> None:
        self.changes.append("put")
        await super().put(upload, data)

    async def commit(self, upload: Upload) -> None:
        self.changes.append("commit")
        await super().commit(upload)

    async def tell(self, upload: Upload) -> None:
        self.changes.append("tell")
        await super().tell(upload)

    async def replace(self, upload: Upload) -> None:
        self.changes.append("replace")
        await super().replace(upload)


def ignore(event: Event) -> None:
    """Look and do nothing."""


def fail(event: Event) -> None:
    """Look and be broken."""
    raise RuntimeError("a broken observer")


Observer = Callable[[Event], None]


async def changes_of_a_small_upload(*observers: Observer) -> list[str]:
    """What is written for an upload that comes in one request, and for one that comes in two."""
    store = Counting()
    world = World(lambda: store, hooks=False)
    for observer in observers:
        world.observers.subscribe(Event, observer)
    await world.create(5, b"hello")
    store.changes.append("|")
    upload_id = await world.upload(10, b"hello")
    await world.append(upload_id, 5, b"world")
    return store.changes


@pytest.mark.parametrize("observer", [ignore, fail])
async def test_observers_add_no_commit_to_a_small_upload(observer: Observer) -> None:
    assert await changes_of_a_small_upload() == ["create", "|", "create", "put", "put"]
    assert await changes_of_a_small_upload(observer) == await changes_of_a_small_upload()


async def test_a_hook_at_the_end_is_what_costs_further_commits() -> None:
    store = Counting()
    world = World(lambda: store)
    assert world.hooks.wants(HookType.PRE_FINISH)
    await world.create(5, b"hello")
    assert store.changes != ["create"]


async def answers(world: World) -> list[object]:
    """What the clients of many requests get, whether they do right or wrong."""
    two, part = UploadId("upload-2"), UploadId("upload-4")
    gone = Feed(b"wor")
    gone.vanish()
    requests: list[Callable[[], Awaitable[object]]] = [
        lambda: world.create(5, b"hello"),
        lambda: world.create(10, b"hello"),
        lambda: world.create(5, b"too long"),
        lambda: world.create(5, b"hello", role=Role.PARTIAL),
        lambda: world.append(two, 3, b"world"),
        lambda: world.append(two, 5, gone),
        lambda: world.head(two),
        lambda: world.append(two, 8, b"ld"),
        lambda: world.create(None, role=Role.FINAL, parts=(part,)),
        lambda: world.delete(two),
        lambda: world.head(two),
    ]
    return [await answer(request) for request in requests]


async def answer(request: Callable[[], Awaitable[object]]) -> object:
    """What the client of one request sees."""
    try:
        outcome = await request()
    except (TusError, ClientDisconnected) as error:
        return type(error), str(error)
    upload = getattr(outcome, "upload", outcome)
    if isinstance(upload, Upload):
        return upload.id, upload.offset, upload.length, upload.finished, upload.expires_at
    return upload


@pytest.mark.parametrize("observer", [ignore, fail])
async def test_observers_change_no_answer(make_world: MakeWorld, observer: Observer) -> None:
    observed = make_world()
    observed.observers.subscribe(Event, observer)
    plain = World(MemoryStore, clock=observed.clock)
    assert await answers(observed) == await answers(plain)


# what they hear ------------------------------------------------------------------------------------------------------


@pytest.fixture
def seen(world: World) -> list[Event]:
    """Everything that is published in this test's world, in its order."""
    events: list[Event] = []
    world.observers.subscribe(Event, events.append)
    return events


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


@pytest.mark.parametrize("hooks", [False, True])
async def test_a_small_upload_is_created_progresses_and_is_finished(make_world: MakeWorld, hooks: bool) -> None:
    world = make_world(hooks=hooks)
    seen: list[Event] = []
    world.observers.subscribe(Event, seen.append)
    await world.create(5, b"hello")
    assert kinds(seen) == ["Created", "Progressed", "Finished"]


async def test_an_event_has_the_request_that_caused_it_and_the_time(world: World, seen: list[Event]) -> None:
    context = a_request("PATCH", client="1.2.3.4")
    upload_id = await world.upload(5)
    feed = Feed(b"hello", ends=True)
    await world.service.append(Append(id=upload_id, offset=0, body_length=5), feed, context)
    finished = next(event for event in seen if isinstance(event, Finished))
    assert (finished.context, finished.at, finished.upload.offset) == (context, world.clock.now, 5)
    assert finished.upload.finished


async def test_a_large_body_is_reported_as_it_is_committed(world: World, seen: list[Event]) -> None:
    upload_id, feed = await world.upload(100), Feed()
    appending = asyncio.create_task(world.append(upload_id, 0, feed))
    for _ in range(5):
        feed.send(bytes(20))
        await elapse(1)
    feed.end()
    await appending
    offsets = [event.upload.offset for event in seen if isinstance(event, Progressed)]
    assert len(offsets) > 2
    assert offsets == sorted(offsets)
    assert offsets[-1] == 100
    assert kinds(seen)[-1] == "Finished"


async def test_a_body_that_ends_early_is_reported_with_the_reason(world: World, seen: list[Event]) -> None:
    upload_id = await world.upload(100)
    with pytest.raises(BodyTimeout):
        await world.append(upload_id, 0, Feed(b"hello"))
    interrupted = next(event for event in seen if isinstance(event, Interrupted))
    assert isinstance(interrupted.reason, BodyTimeout)
    assert interrupted.upload.offset == 5


async def test_removals_are_reported_with_their_cause(world: World, seen: list[Event]) -> None:
    deleted, expired = await world.upload(5), await world.upload(5)
    await world.delete(deleted)
    world.clock.advance(DAY + LATE)
    await world.sweeper.sweep()
    gone = [event for event in seen if isinstance(event, UploadEvent)][-2:]
    assert [(type(event).__name__, event.upload.id) for event in gone] == [
        ("Terminated", deleted),
        ("Expired", expired),
    ]
    assert [event.context is None for event in gone] == [False, True]


async def test_an_upload_that_is_refused_at_its_end_is_terminated(world: World, seen: list[Event]) -> None:
    async def refuse(upload: Upload) -> None:
        raise UploadRejected("a virus")

    world.callbacks[HookType.PRE_FINISH] = refuse
    upload_id = await world.upload(5)
    with pytest.raises(UploadRejected):
        await world.append(upload_id, 0, b"hello")
    assert kinds(seen) == ["Created", "Progressed", "Terminated"]


async def test_an_upload_whose_creation_fails_was_never_there(world: World, seen: list[Event]) -> None:
    async def break_down(upload: Upload) -> None:
        raise RuntimeError("not now")

    world.callbacks[HookType.POST_CREATE] = break_down
    with pytest.raises(RuntimeError):
        await world.create(5)
    assert seen == []


async def test_a_refusal_is_published_with_its_request(world: World, seen: list[Event]) -> None:
    context = a_request("DELETE")
    with pytest.raises(UploadNotFound) as caught:
        await world.service.terminate(Terminate(id=UploadId("none")), context)
    world.service.publish_refusal(caught.value, context)
    assert seen == [Refused(error=caught.value, context=context, at=world.clock.now)]
