"""Small calls of the file store never wait behind long ones, and long ones are made in steps."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.sources import Chunks, unheard
from tests.contracts.stores import ID, an_upload, complete, put
from tusserver.disk import files, writeback
from tusserver.protocol.errors import StoreUnavailable
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.file.store import FileStore

MIB = 1 << 20
LARGE = 20 * MIB
CROWD = 17
"""Long calls at once: more than all calls had threads before."""
TIMEOUT = 240.0


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


async def large(store: FileStore, number: int, **more: Any) -> Upload:
    """Make an upload that has its space, and say that all of it has come."""
    upload = an_upload(UploadId(f"large{number:011}"), length=LARGE, **more)
    await store.create(upload)
    return upload.with_progress(LARGE, expires_at=None, finished=False, complete=True)


class Held:
    """Holds up system calls on large files."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.began = threading.Event()

    def on(self, call: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
        def held(*args: Any, **options: Any) -> Any:  # also of what other tests have left
            if size(*args) >= LARGE:
                self.began.set()
                assert self.gate.wait(TIMEOUT)
            return call(*args, **options)

        return held


def size_of(fd: int, *_: object) -> int:
    return os.fstat(fd).st_size


def size_at(path: str) -> int:
    return os.stat(path).st_size if os.path.exists(path) else 0


async def syncs(store: FileStore, number: int) -> Awaitable[object]:
    return store.commit(await large(store, number))


async def removals(store: FileStore, number: int) -> Awaitable[object]:
    return store.remove((await large(store, number)).id)


async def digests(store: FileStore, number: int) -> Awaitable[object]:
    return store.digest(await large(store, number), 0, LARGE, hashlib.sha1())


async def joins(store: FileStore, number: int) -> Awaitable[object]:
    part = await large(store, 2 * number, role=Role.PARTIAL)
    final = an_upload(UploadId(f"large{2 * number + 1:011}"), length=LARGE, role=Role.FINAL, parts=(part.id,))
    await store.create(final)

    async def on_progress(count: int) -> None:
        await store.commit(final.with_progress(count, expires_at=None, finished=False))

    return store.concatenate(final, [part], on_progress)


@pytest.mark.parametrize("long", [syncs, removals, digests, joins])
async def test_small_uploads_do_not_wait_behind_many_long_calls(
    store: FileStore, long: Callable[[FileStore, int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [await long(store, number) for number in range(CROWD)]
    held = Held()
    monkeypatch.setattr(os, "fdatasync", held.on(os.fdatasync, size_of))
    monkeypatch.setattr(os, "pread", held.on(os.pread, size_of))
    monkeypatch.setattr(os, "unlink", held.on(os.unlink, size_at))
    monkeypatch.setattr(files, "copy", held.on(files.copy, size_of))
    monkeypatch.setattr(writeback, "_sync_file_range", held.on(writeback._sync_file_range, size_of))  # type: ignore[arg-type]
    under_way = [asyncio.ensure_future(call) for call in calls]
    try:
        assert await asyncio.to_thread(held.began.wait, TIMEOUT)
        small = asyncio.create_task(complete(store, b"hello"))
        await asyncio.wait({small}, timeout=TIMEOUT / 2)
        assert small.done()
        assert small.result().complete
        assert [call for call in under_way if call.done()] == []
    finally:
        held.gate.set()
        await asyncio.gather(*under_way)


async def test_much_is_synced_in_steps_and_little_at_once(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(writeback, "_sync_file_range", lambda fd, at, length, flags: steps.append((at, length)))
    await store.commit(await large(store, 1))
    assert steps == [(0, writeback.STEP), (writeback.STEP, LARGE - writeback.STEP)]
    del steps[:]
    await complete(store, b"hello")
    assert steps == []


async def test_a_sync_of_much_that_is_cancelled_ends_after_its_step(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await large(store, 1)
    began, gate = threading.Event(), threading.Event()
    steps: list[int] = []

    def step(fd: int, at: int, length: int, flags: int) -> int:
        steps.append(at)
        began.set()
        assert gate.wait(TIMEOUT)
        return 0

    monkeypatch.setattr(writeback, "_sync_file_range", step)
    commit = asyncio.create_task(store.commit(upload))
    assert await asyncio.to_thread(began.wait, TIMEOUT)
    commit.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await commit
    assert steps == [0]
    assert (await store.load(upload.id)).offset == 0


async def test_a_step_that_fails_makes_nothing_count(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = await large(store, 1)
    monkeypatch.setattr(writeback, "_sync_file_range", lambda *_: 5)  # EIO
    with pytest.raises(StoreUnavailable):
        await store.commit(upload)
    assert (await store.load(upload.id)).offset == 0


@pytest.mark.parametrize(("durability", "ahead"), [("finish", True), ("none", False)])
async def test_bytes_that_are_synced_at_the_end_are_on_their_way_before(
    tmp_path: Path, durability: str, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(writeback, "_sync_file_range", lambda fd, at, length, flags: begun.append(at))
    store = FileStore(tmp_path, durability=durability)
    piece = bytes(writeback.AHEAD)
    upload = an_upload(length=2 * len(piece))
    await store.create(upload)
    await store.write(upload, Chunks(piece, piece), unheard)
    assert (begun[:1] == [0]) is ahead


async def test_a_record_that_is_in_memory_is_read_without_a_thread(store: FileStore, tmp_path: Path) -> None:
    upload = await put(store, await made(store), b"hello")
    if store._records.load_cached(UploadId(ID)) is None:
        pytest.skip("this file system does not say what it has in memory")
    store._run_inline = None  # type: ignore[assignment]  # whoever needs it fails
    assert await store.load(UploadId(ID)) == upload


async def made(store: FileStore) -> Upload:
    upload = an_upload()
    await store.create(upload)
    return upload


@pytest.mark.parametrize("durability", ["ack", "finish", "none"])
async def test_a_small_body_goes_to_a_thread_once(tmp_path: Path, durability: str) -> None:
    """Most of what it costs is the way there and back."""
    store = FileStore(tmp_path, durability=durability)
    ways: list[str] = []
    inline, run = store._run_inline, store.lanes.run

    async def running_inline(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        ways.append(call.__name__)
        return await inline(call, *args, **options)

    async def running(lane: Any, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        ways.append(call.__name__)
        return await run(lane, call, *args, **options)

    store._run_inline = running_inline  # noted
    store._lanes.run = running  # type: ignore[method-assign]  # likewise
    upload = an_upload(length=10, offset=5)
    await store.create(upload, b"hello")
    await store.put(upload.with_progress(10, expires_at=None, finished=True, complete=True), b"there")
    assert ways == ["_create", "_put"]
