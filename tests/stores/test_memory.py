"""The memory store is like any other."""

from __future__ import annotations

import pytest

from tests.contracts.stores import ID, StoreContract, an_upload, complete, put
from tusserver.protocol.errors import UploadNotFound
from tusserver.stores.base import Store
from tusserver.stores.memory import MemoryStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


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
