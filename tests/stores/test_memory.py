"""The memory store is like any other."""

from __future__ import annotations

import asyncio

import pytest

from tests.contracts.sources import Chunks, unheard
from tests.contracts.stores import ID, StoreContract, an_upload, bytes_of, complete, put
from tests.support.uploads import changed
from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.upload import Upload
from tusserver.stores.base import Store
from tusserver.stores.memory import MemoryStore
from tusserver.streams import OnProgress, Source


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class Coarse(MemoryStore):
    """Can commit whole bodies only, as a store of objects commits whole parts."""

    async def write(self, upload: Upload, source: Source, on_progress: OnProgress) -> int:
        count = await super().write(upload, source, unheard)
        if count and (committing := on_progress(count)) is not None:
            await committing
        return count


class TestCoarseStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return Coarse()


async def test_every_store_has_a_memory_of_its_own() -> None:
    await MemoryStore().create(an_upload())
    with pytest.raises(UploadNotFound):
        await MemoryStore().load(ID)


async def test_a_writer_that_lost_its_lease_does_not_move_the_bytes_of_the_next_one() -> None:
    store = MemoryStore()
    start = an_upload(length=11)
    await store.create(start)
    thawed = asyncio.Event()

    async def freeze() -> None:
        await thawed.wait()

    older = asyncio.create_task(store.write(start, Chunks(b"hello", b"?"), lambda _: freeze()))
    await asyncio.sleep(0)
    upload = changed(start, offset=5)
    await store.commit(upload)

    class Late(Chunks):
        async def read(self, most: int) -> list[bytes]:
            thawed.set()
            await older
            return await super().read(most)

    assert await store.write(upload, Late(b" world"), unheard) == 6
    upload = changed(upload, offset=11)
    await store.commit(upload)
    assert await bytes_of(store, upload) == b"hello world"


async def test_no_byte_is_held_of_a_removed_upload() -> None:
    store = MemoryStore()
    upload = an_upload()
    await store.create(upload)
    await put(store, upload, b"hello")
    await store.remove(ID)
    await complete(store, b"new")
    await store.remove(ID)
    assert not any(held for held in vars(store).values() if held is not store.clock)
