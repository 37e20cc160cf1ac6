"""A server on a file system of its own that gets full."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import urljoin

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


def test_a_disk_without_inodes_takes_no_new_uploads_and_says_why(mount: Mount) -> None:
    root = mount("tmpfs", 32 * MIB)
    subprocess.run(["mount", "-o", "remount,nr_inodes=400", str(root)], check=True, timeout=30)
    storage = root / "data"
    with TusServer(storage) as server:
        tus = Tus(server.url)
        under_way = tus.upload(len(DATA))
        made = use_up_inodes(root)
        answer = tus.create(10)
        assert (answer.status, answer["Retry-After"]) == (507, "60")
        assert b"inodes" in answer.body
        ready = tus.request("GET", urljoin(server.url, "/readyz"))
        assert (ready.status, b"inodes" in ready.body) == (503, True)
        assert tus.patch(under_way, 0, DATA).status == 204
        for path in made:
            path.unlink()
        assert tus.create(10).status == 201
        assert tus.holds(under_way, DATA)


def use_up_inodes(root: Path) -> list[Path]:
    """Leave a few: less than a tenth of all."""
    made: list[Path] = []
    while os.statvfs(root).f_favail > 20:
        made.append(root / f"file{len(made)}")
        made[-1].touch()
    return made
