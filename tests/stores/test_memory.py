"""The memory store is like any other."""

from __future__ import annotations

import pytest

from tests.contracts.sources import unheard
from tests.contracts.stores import ID, StoreContract, an_upload, complete, put
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


async def test_no_byte_is_held_of_a_removed_upload() -> None:
    store = MemoryStore()
    upload = an_upload()
    await store.create(upload)
    await put(store, upload, b"hello")
    await store.remove(ID)
    await complete(store, b"new")
    await store.remove(ID)
    assert not any(held for held in vars(store).values() if held is not store.clock)
