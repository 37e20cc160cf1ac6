"""The power is cut between any two calls of a scenario, and every state that this may leave is tried.

After each: the store opens under another run of the machine. With `ack` every acknowledged byte is there, with `finish`
every finished upload. In no mode does an offset cover bytes that are not the client's, and a later sweep leaves nothing
half-made. What a cut may leave is said in `powercut`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores.crash import ID, PARTS, SCENARIOS, End, Order, Run
from tests.stores.lives import WHOLE, Life, check_that_all_is_whole
from tests.stores.powercut import Recording
from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.upload import Upload

pytestmark = pytest.mark.usefixtures("unsynced")

MIXTURES = 2
"""States by chance after each step."""
SWEPT = 10
"""Every so many states is swept, which takes longest."""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if the system has one: thousands of states are made and thrown away."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder) / "disk"  # the same for life and replay: records know paths


async def record(folder: Path, scenario: str, durability: str) -> Recording:
    """Live a scenario with the power on."""
    recording = Recording(folder)
    order = Order(root=str(folder / "data"), scenario=scenario, durability=durability, dies_at=0)
    with recording:
        await SCENARIOS[scenario](Run(order, recording.tell))
    return recording


def cuts(recording: Recording, folder: Path, scenario: str, durability: str) -> Iterator[Life]:
    """Go through what the power cuts leave."""
    order = Order(root=str(folder / "data"), scenario=scenario, durability=durability, dies_at=0)
    for step, state, lost in recording.cuts(MIXTURES):
        state.materialize(folder)
        life = Life(folder, order, End(killed=True, told=recording.told(step)))
        life.where = f"{scenario}, {durability}, power cut after step {step} of {recording.steps}, lost: {lost}"
        yield life


async def check(life: Life) -> None:
    """Check every upload against what its client sent and was told."""
    told = life.end.told
    for upload_id in (ID, *PARTS):
        gone, going = f"{upload_id}:removed" in told, f"{upload_id}:removing" in told
        surely = {
            "ack": told.get(upload_id, -1),
            "finish": len(WHOLE[upload_id]) if told.get(f"{upload_id}:finished") else -1,
            "none": -1,
        }[life.durability]
        try:
            upload = await life.store.load(upload_id)
        except UploadNotFound:
            assert going or surely < 0, f"{life.where}: {upload_id} is lost"
            continue
        assert not (gone and life.durability == "ack"), f"{life.where}: {upload_id} is back"
        assert upload.offset >= surely, f"{life.where}: {upload_id} stands at {upload.offset}, told was {surely}"
        if upload.offset and not going:
            assert await life.bytes_of(upload) == WHOLE[upload_id][: upload.offset], (
                f"{life.where}: {upload_id} is wrong"
            )


def forget_readable_names(life: Life, uploads: list[Upload]) -> None:
    """Remove what stands in the folder of finished files and belongs to no upload.

    In the weaker modes names are not synced: a readable one may be on the disk while the upload's own is lost, or come
    back after it was removed. File systems with a journal keep the order, and leave none of these.
    """
    kept = {path.stat().st_ino for path in (life.folder / "data" / "uploads").rglob("*")}
    placed = {upload.storage.get("path") for upload in uploads}
    for path in (life.folder / "finished").rglob("*"):
        if path.is_file() and path.stat().st_ino not in kept and str(path) not in placed:
            path.unlink()


@pytest.mark.parametrize("durability", ["ack", "finish", "none"])
@pytest.mark.parametrize(
    ("scenario", "renames"),
    [
        *[(scenario, False) for scenario in ("known", "small", "deferred", "joined", "removed", "abandoned", "swept")],
        *[(scenario, True) for scenario in ("known", "small", "deferred", "joined", "removed")],
    ],
)
async def test_after_a_power_cut_all_is_there_that_was_promised_and_nothing_wrong(
    memory: Path, monkeypatch: pytest.MonkeyPatch, scenario: str, durability: str, renames: bool
) -> None:
    (memory / "finished" if renames else memory).mkdir(parents=True)
    recording = await record(memory, scenario, durability)
    monkeypatch.setattr("tusserver.stores.file.records.boot_id", lambda: "another run-----")
    tried = 0
    for life in cuts(recording, memory, scenario, durability):
        await check(life)
        tried += 1
        if tried % SWEPT == 0:
            if f"{ID}:removing" in life.end.told:  # whoever was not answered asks again
                await life.store.remove(ID)
            await life.sweep_later()
            if durability != "ack":
                forget_readable_names(life, await life.uploads())
            await check_that_all_is_whole(life)
    assert tried > recording.steps
