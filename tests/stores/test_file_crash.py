"""The server is killed at every single system call of a scenario, and half-way through those that can be torn.

After each death: the store opens; an upload stands at no more than was sent and no less than was acknowledged; its
bytes are those of the client, who can go on to the end; and a later sweep leaves nothing half-made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contracts.sources import Chunks, unheard
from tests.stores.crash import DATA, ID, NAME, PARTS, TEARABLE, Executioner, Order, fresh
from tests.stores.lives import WHOLE, Life, check_that_all_is_whole
from tests.support.uploads import changed
from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.file.store import FileStore

pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.fixture(scope="module")
def executioner() -> Iterator[Executioner]:
    with Executioner() as executioner:
        yield executioner


def lives(
    executioner: Executioner,
    tmp_path: Path,
    scenario: str,
    durability: str,
    *,
    renames: bool = False,
    torn: bool = False,
) -> Iterator[Life]:
    """Live the scenario again and again, each time for one call longer, and at last to its end."""
    for dies_at in range(1, 1000):
        with fresh(tmp_path / "life") as folder:
            if renames:
                (folder / "finished").mkdir()
            order = Order(
                root=str(folder / "data"), scenario=scenario, durability=durability, dies_at=dies_at, torn=torn
            )
            end = executioner.run(order)
            if not torn or not end.killed or end.call in TEARABLE:
                yield Life(folder, order, end)
        if not end.killed:
            assert dies_at > 3, "nothing was done"
            return
    raise AssertionError("it never ends")


async def check(life: Life, upload_id: UploadId, store: FileStore | None = None) -> Upload | None:
    """Check one upload against what its client sent and was told; None if it is not there."""
    told = life.end.told
    try:
        upload = await (store or life.store).load(upload_id)
    except UploadNotFound:
        assert upload_id not in told, f"{life.where}: {upload_id} is lost"
        return None
    sent = len(DATA) if upload.role is Role.FINAL else told.get(f"{upload_id}:sent", 0)
    assert told.get(upload_id, 0) <= upload.offset <= sent, life.where
    assert await life.bytes_of(upload) == WHOLE[upload_id][: upload.offset], life.where
    return upload


async def go_on(life: Life, upload: Upload) -> None:
    """Resume to the end, as clients do."""
    data = WHOLE[upload.id]
    if upload.length is None:
        upload = changed(upload, length=len(data))
        await life.store.replace(upload)
    if upload.offset < len(data):
        await life.store.write(upload, Chunks(data[upload.offset :]), unheard)
        upload = changed(upload, offset=len(data))
        await life.store.commit(upload)
    upload = replace(await life.store.finalize(upload), finished=True, expires_at=None)
    await life.store.commit(upload)
    assert await life.bytes_of(await life.store.load(upload.id)) == data, life.where


UPLOADING = pytest.mark.parametrize(
    ("scenario", "durability", "renames"),
    [
        ("known", "ack", False),
        ("known", "ack", True),
        ("known", "none", True),
        ("small", "ack", False),
        ("small", "none", True),
        ("deferred", "ack", False),
        ("deferred", "none", False),
        ("joined", "ack", False),
    ],
)
TORN = pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])


@TORN
@UPLOADING
async def test_a_client_goes_on_where_the_server_died(
    executioner: Executioner, tmp_path: Path, scenario: str, durability: str, renames: bool, torn: bool
) -> None:
    for life in lives(executioner, tmp_path, scenario, durability, renames=renames, torn=torn):
        for upload_id in (*PARTS, ID):
            upload = await check(life, upload_id)
            if upload is not None and upload.role is not Role.FINAL:
                await go_on(life, upload)
        await life.sweep_later()
        await check_that_all_is_whole(life)
        if renames and ID in life.end.told:
            assert NAME in life.files(), life.where


@TORN
@UPLOADING
async def test_a_sweep_leaves_nothing_half_made_where_the_server_died(
    executioner: Executioner, tmp_path: Path, scenario: str, durability: str, renames: bool, torn: bool
) -> None:
    for life in lives(executioner, tmp_path, scenario, durability, renames=renames, torn=torn):
        await life.sweep_later()
        await check_that_all_is_whole(life)
        if life.end.told.get(ID) == len(DATA):
            assert ID in [upload.id for upload in await life.uploads()], f"{life.where}: a complete upload was swept"
        for upload in await life.uploads():
            await life.store.remove(upload.id)
        assert life.files() == [], life.where


@TORN
@pytest.mark.parametrize("scenario", ["known", "small", "deferred"])
async def test_a_power_cut_on_top_takes_nothing_that_was_acknowledged(
    executioner: Executioner, tmp_path: Path, scenario: str, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tusserver.stores.file.records.boot_id", lambda: "another run-----")
    for life in lives(executioner, tmp_path, scenario, "ack", torn=torn):
        await check(life, ID)


@TORN
@pytest.mark.parametrize(("scenario", "renames"), [("removed", False), ("removed", True), ("abandoned", False)])
async def test_a_removal_that_was_cut_off_can_be_asked_for_again_or_ends_by_itself(
    executioner: Executioner, tmp_path: Path, scenario: str, renames: bool, torn: bool
) -> None:
    for life in lives(executioner, tmp_path, scenario, "ack", renames=renames, torn=torn):
        if [upload.id for upload in await life.uploads()] == [ID]:
            assert await life.store.remove(ID), life.where
        await life.sweep_later()
        assert await life.uploads() == [], life.where
        assert life.files() == [], life.where


@TORN
@pytest.mark.parametrize("scenario", ["swept", "split", "remade"])
async def test_a_sweep_that_was_cut_off_is_done_by_the_next(
    executioner: Executioner, tmp_path: Path, scenario: str, torn: bool
) -> None:
    for life in lives(executioner, tmp_path, scenario, "ack", torn=torn):
        await life.sweep_later()
        assert life.files() == [], life.where
