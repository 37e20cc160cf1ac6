"""A request that is cancelled, wherever it waits, leaves no file open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.sources import Chunks, Direct, unheard
from tests.contracts.stores import an_upload, complete, uncopied
from tests.support.descriptors import cancelled_everywhere
from tests.support.uploads import changed
from tusserver.lanes import Lane
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.file.store import FileStore
from tusserver.threads import Threads
from tusserver.web import download

pytestmark = pytest.mark.usefixtures("unsynced")

ids = map("upload{}".format, count())


@pytest.fixture(params=["ack", "none"])
async def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """A store on a slow disk, so that every call waits for a thread. What it keeps open is open already."""
    store = FileStore(tmp_path / "data", durability=request.param, finished_folder=tmp_path / "finished")

    async def slow(call: Callable[..., Any], *args: object, discard: Callable[[Any], object] | None = None) -> Any:
        return await store.lanes.run(Lane.BRIEF, call, *args, discard=discard)

    monkeypatch.setattr(store, "_run_inline", slow)
    await complete(store, b"hello", UploadId("begin"))
    return store


async def apart(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.create_task(coroutine)


Story = Callable[[FileStore, Upload], Coroutine[Any, Any, object]]


async def read(store: FileStore, upload: Upload) -> None:
    await store.write(upload, Chunks(b"hello", bytes(100_000), b"!"), unheard)


async def read_what_is_announced(store: FileStore, upload: Upload) -> None:
    await store.write(changed(upload, length=None), Chunks(b"hello", expected=70 << 20), unheard)


async def received_into(store: FileStore, upload: Upload) -> None:
    async def on_progress(count: int) -> None:
        if (saving := store.checkpoint(changed(upload, offset=count))) is not None:
            await saving

    await store.write(upload, Direct(bytes(100_000), step=40_000), on_progress)


async def told_and_finished(store: FileStore, upload: Upload) -> None:
    upload = changed(upload, offset=200_000, metadata=Metadata("filename YQ=="))
    await store.write(changed(upload, offset=0), Chunks(bytes(200_000)), unheard)
    await store.commit(upload)
    await store.tell(changed(upload, told=5))
    await store.revert(changed(upload, offset=10))
    await store.commit(upload)
    await store.content(await store.finalize(upload))
    await store.load(upload.id)


async def declared(store: FileStore, upload: Upload) -> None:
    await store.reserve(upload)
    await store.replace(changed(upload, length=None))
    await store.trim(upload.id)
    await store.replace(upload)


async def removed(store: FileStore, upload: Upload) -> None:
    await store.add_dependent(upload.id, upload.id)
    await store.dependents(upload.id)
    await store.remove(upload.id)
    await store.check()
    await store.flush()


async def joined(store: FileStore, upload: Upload) -> None:
    part = replace(await store.load(UploadId("begin")), role=Role.PARTIAL)
    await store.concatenate(changed(upload, role=Role.FINAL, length=5), [part], uncopied)


async def listed(store: FileStore, upload: Upload) -> None:
    async for _ in store.uploads():
        break  # there is one more each time
    async for _ in store.due(upload.created_at):
        break


STORIES = [read, read_what_is_announced, received_into, told_and_finished, declared, removed, joined, listed]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("story", STORIES)
async def test_who_is_cancelled_leaves_no_file_open(store: FileStore, story: Story, late: bool) -> None:
    async def make() -> Coroutine[Any, Any, object]:
        upload = an_upload(UploadId(next(ids)), length=200_000)
        await store.create(upload)
        return story(store, upload)

    assert await cancelled_everywhere(make, late=late) > 0


@pytest.mark.parametrize("late", [False, True])
async def test_a_download_that_is_cancelled_leaves_no_file_open(store: FileStore, tmp_path: Path, late: bool) -> None:
    content = await store.content(await store.load(UploadId("begin")))
    scope = {"type": "http", "method": "GET", "headers": []}

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        await asyncio.sleep(0)

    async def respond() -> None:
        await download.respond(content, scope, {})(scope, receive, send)

    async def make() -> Coroutine[Any, Any, None]:
        return respond()

    assert await cancelled_everywhere(make, late=late) > 2


async def test_what_a_thread_opened_for_nobody_is_done_away_with() -> None:
    threads, closed = Threads(1, "test"), list[int]()
    assert await threads.run(lambda: 5, discard=closed.append) == 5
    assert closed == []

    async def opens() -> int:
        return await threads.run(lambda: 7, discard=closed.append)

    with pytest.raises(asyncio.CancelledError):
        await apart(_at_once(opens()))
    assert closed == [7]


async def _at_once(coroutine: Coroutine[Any, Any, Any]) -> None:
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    task.cancel()
    await task


async def test_what_failed_for_nobody_is_not_complained_of(tmp_path: Path) -> None:
    threads = Threads(1, "test")
    with pytest.raises(asyncio.CancelledError):
        await apart(_at_once(threads.run(os.open, str(tmp_path / "none"), os.O_RDONLY, discard=os.close)))
