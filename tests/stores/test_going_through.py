"""Going through all uploads of a file store: many records in one call, and never all of them at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tusserver.lanes import Lane
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file.store import LOAD_RECORDS, FileStore

MANY = 5 * LOAD_RECORDS + 7


@pytest.fixture
async def store(tmp_path: Path) -> FileStore:
    """Uploads that are all in the same folder."""
    store = FileStore(tmp_path, durability="none")
    for number in range(MANY):
        await store.create(Upload(id=UploadId(f"ab{number}"), created_at=datetime.now(UTC), length=1))
    return store


async def test_many_records_are_read_in_one_call_of_a_thread(store: FileStore) -> None:
    calls = 0
    original = store.lanes.run

    async def run(lane: Lane, call: Callable[..., Any], *args: object, discard: Any = None) -> Any:
        nonlocal calls
        calls += 1
        return await original(lane, call, *args, discard=discard)

    store.lanes.run = run  # type: ignore[method-assign]
    assert len([upload async for upload in store.uploads()]) == MANY
    assert calls <= 1 + MANY // LOAD_RECORDS + 1


async def test_records_are_read_as_they_are_asked_for(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    original = store._records.load

    def load(upload_id: UploadId) -> Upload:
        nonlocal read
        read += 1
        return original(upload_id)

    monkeypatch.setattr(store._records, "load", load)
    uploads = store.uploads()
    await anext(uploads)
    assert 0 < read <= LOAD_RECORDS
    await uploads.aclose()  # type: ignore[attr-defined]


async def test_whoever_stops_on_the_way_leaves_no_folder_open(store: FileStore) -> None:
    before = len(os.listdir("/proc/self/fd"))
    uploads = store.uploads()
    await anext(uploads)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    await uploads.aclose()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before
