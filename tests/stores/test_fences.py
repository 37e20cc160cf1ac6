"""Two file stores on one folder, as two machines have it: commits that come beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.sources import Chunks, unheard
from tests.contracts.stores import ID, an_upload, put
from tests.support.uploads import changed
from tusserver.disk import files
from tusserver.protocol.errors import LeaseLost
from tusserver.stores.file.store import FileStore


def interposed(call: Callable[..., Any], after: Callable[[], Any], at: int = 1) -> Callable[..., Any]:
    """Make `call`, and when it is called for the `at`th time `after` behind it."""
    loop = asyncio.get_running_loop()
    calls = 0

    def called(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        now = calls == at
        found = call(*args, **options)
        if now:
            asyncio.run_coroutine_threadsafe(after(), loop).result(10)
        return found

    return called


@pytest.mark.parametrize("fence", [0, 1])
async def test_what_an_older_holder_commits_before_the_fence_is_there_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fence: int
) -> None:
    older, newer = FileStore(tmp_path), FileStore(tmp_path)
    upload = an_upload(fence=fence)
    await older.create(upload)

    async def commit() -> None:
        await put(older, upload, b"hello")

    monkeypatch.setattr(files, "read_file", interposed(files.read_file, commit))
    loaded = await newer.load(ID, 2)
    assert loaded == replace(changed(upload, offset=5), fence=2)
    assert await older.load(ID) == loaded


@pytest.mark.parametrize("wait", [1, 2])
async def test_who_waits_for_the_disk_while_a_newer_holder_comes_has_committed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: int
) -> None:
    older, newer = FileStore(tmp_path), FileStore(tmp_path)
    upload = an_upload(fence=1)
    await older.create(upload)
    assert await older.write(upload, Chunks(b"hello"), unheard) == 5

    async def load() -> None:
        assert (await newer.load(ID, 2)).offset == 0

    monkeypatch.setattr(files, "sync_data", interposed(files.sync_data, load, at=wait))
    with pytest.raises(LeaseLost):
        await older.commit(changed(upload, offset=5))
    assert await newer.load(ID, 2) == replace(upload, fence=2)
