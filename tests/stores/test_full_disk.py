"""A server on a file system of its own that gets full."""

from __future__ import annotations

import os

import pytest

from tests.stores.conftest import Mount
from tests.support.server import TusServer
from tests.support.tus import Tus

MIB = 1 << 20
DATA = os.urandom(4 * MIB)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_got_full_goes_on_once_there_is_room(mount: Mount, kind: str) -> None:
    storage = mount(kind, 32 * MIB) / "data"
    with TusServer(storage, "--store.reserve", "0") as server:
        tus = Tus(server.url)
        whole, growing = tus.complete(DATA), tus.upload()
        (storage / "other").write_bytes(bytes(12 * MIB))
        offset = 0
        while (answer := tus.patch(growing, offset, DATA)).status == 204:
            offset += len(DATA)
            assert offset < 32 * MIB
        assert (answer.status, answer["Retry-After"]) == (507, "60")
        assert tus.offset(growing) >= offset > 0
        assert tus.create(16 * MIB).status == 507
        (storage / "other").unlink()
        offset = tus.offset(growing)
        assert tus.patch(growing, offset, DATA, {"Upload-Length": str(offset + len(DATA))}).status == 204
        assert tus.get(growing).body == (DATA * 9)[:offset] + DATA
        assert tus.holds(whole, DATA)
