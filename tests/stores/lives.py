"""What is left of a scenario on the disk, however it was ended: for tests of kills and of power cuts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.contracts.sources import read
from tests.stores.crash import DATA, ID, PARTS, STEP, End, Order, open_store
from tusserver.app import Tus
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.upload import Role, Upload

WHOLE = {ID: DATA, PARTS[0]: DATA[:STEP], PARTS[1]: DATA[STEP:]}
"""What each upload holds in the end."""


class Life:
    """One scenario, and what is left of it on the disk."""

    def __init__(self, folder: Path, order: Order, end: End) -> None:
        self.folder = folder
        self.durability = order.durability
        self.end = end
        self.where = f"{order.scenario}, killed {'within' if order.torn else 'before'} call {order.dies_at}: {end.call}"
        self.store = open_store(order.root, order.durability)

    def files(self) -> list[str]:
        """All files of uploads, and all finished ones."""
        found = [*(self.folder / "data" / "uploads").rglob("*"), *(self.folder / "finished").rglob("*")]
        return sorted(path.name for path in found if path.is_file())

    async def uploads(self) -> list[Upload]:
        return [upload async for upload in self.store.uploads()]

    async def bytes_of(self, upload: Upload) -> bytes:
        return await read(await self.store.content(upload), 0, upload.offset)

    async def sweep_later(self) -> None:
        """Let three days pass, with a sweep on each."""
        for days in (1, 2, 3):
            now = datetime.now(UTC) + timedelta(days=days)
            tus = Tus(self.store, locker=MemoryLocker(), now=lambda now=now: now)  # type: ignore[misc]
            await tus.sweep()
            await tus.joined()


async def check_that_all_is_whole(life: Life) -> None:
    """Check that there are finished uploads with their files, and no other file."""
    expected = []
    for upload in await life.uploads():
        assert upload.finished, f"{life.where}: {upload.id} was left unfinished"
        assert await life.bytes_of(upload) == WHOLE[upload.id], life.where
        expected += [f"{upload.id}.record", Path(upload.storage.get("path", upload.id)).name]
        if f"{upload.id}.awaited" in life.files():
            assert upload.role is Role.PARTIAL, life.where
            expected.append(f"{upload.id}.awaited")
    assert life.files() == sorted(expected), life.where
