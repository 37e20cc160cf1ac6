"""A data folder that an older version wrote: everything in it goes on. See `format1/made_by.txt` for what that is."""

from __future__ import annotations

import base64
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tusserver import Expiry, FileStore, Limits, Tus
from tusserver.clock import WallClock, boot_clock, boot_id
from tusserver.protocol.upload import Upload

FIXTURE = Path(__file__).parent / "format1" / "data.tar.gz"
ROOT = b"/tmp/tusserver-format1"
"""Where it was when it was written."""
HOUR = timedelta(hours=1)
UNTOUCHED = {"new", "untouched", "expiring"}
UNFINISHED = {*UNTOUCHED, "begun", "large", "deferred", "declared", "b", "owed", "weaker"}
FINISHED = {"inplace": b"hello", "first": b"hello", "second": b"world", "joined": b"aaaacccc"}
PARTS = {"a": b"aaaa", "c": b"cccc"}

pytestmark = pytest.mark.usefixtures("unsynced")


class Folder:
    """The folder, and clocks that go on from when it was written."""

    def __init__(self, path: Path, *, restarted: bool) -> None:
        self.path = path
        with tarfile.open(FIXTURE) as tar:
            tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)  # Python 3.11.4 and later
            tar.extractall(path)
        for record in path.rglob("*.record"):  # finished files are known by where they are
            record.write_bytes(record.read_bytes().replace(ROOT, str(path).encode()))
        self.moment = float((path / "moment").read_text())
        self.ahead = self.moment - boot_clock()
        self.later = 0.0
        if not restarted:
            (path / "data" / "calendar" / "covers").write_text(boot_id())

    def open(
        self, *, on_finished: Callable[[Upload], Awaitable[None]] | None = None, limits: Limits | None = None
    ) -> Tus:
        """Return an app on it, as it was configured then."""
        store = FileStore(self.path / "data", finished_folder=self.path / "finished", finished_name="{year}/{filename}")
        store.clock = WallClock(
            wall=lambda: boot_clock() + self.ahead + self.later, steady=lambda: boot_clock() + self.later
        )
        return Tus(
            store,
            limits=limits or Limits(),
            expiry=Expiry(after=24 * HOUR, keep_finished=168 * HOUR),
            on_finished=on_finished,
        )

    def records(self) -> set[str]:
        return {path.stem for path in (self.path / "data" / "uploads").rglob("*.record")}

    def finished(self) -> dict[str, bytes]:
        below = self.path / "finished"
        return {str(path.relative_to(below)): path.read_bytes() for path in below.rglob("*") if path.is_file()}


@pytest.fixture(params=[True, False], ids=["after-a-restart-of-the-machine", "in-the-same-run-of-the-machine"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Folder:
    return Folder(tmp_path, restarted=request.param)


@pytest.fixture
async def tus(folder: Folder) -> AsyncIterator[Tus]:
    tus = folder.open()
    async with tus.lifespan():
        yield tus


async def ask(tus: Tus, method: str, name: str = "", body: bytes | None = None, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(tus, root_path="/files")
    async with httpx.AsyncClient(transport=transport, base_url="http://tus.test") as client:
        fields = {"Tus-Resumable": "1.0.0"} | {key.replace("_", "-"): value for key, value in headers.items()}
        if body is not None:
            fields["Content-Type"] = "application/offset+octet-stream"
        return await client.request(method, f"/files/{name}", headers=fields, content=body)


async def patch(tus: Tus, name: str, offset: int, body: bytes, **headers: str) -> httpx.Response:
    return await ask(tus, "PATCH", name, body, Upload_Offset=str(offset), **headers)


async def sweep(folder: Folder, tus: Tus, *, after: timedelta) -> None:
    """Sweep so long after the folder was written. `tus`: one that was asked nothing, else it does so by itself too."""
    folder.later = after.total_seconds()
    await tus.sweep()


@pytest.mark.parametrize(
    ("name", "offset", "length"),
    [
        ("new", 0, "10"),
        ("begun", 5, "10"),
        ("large", 5, "262144"),
        ("untouched", 0, "131072"),
        ("deferred", 5, None),
        ("declared", 9, "11"),
        ("a", 4, "4"),
        ("b", 2, "4"),
        ("owed", 3, "10"),
        ("weaker", 4, "10"),
        ("inplace", 5, "5"),
        ("joined", 8, "8"),
    ],
)
async def test_every_upload_is_where_it_was(tus: Tus, name: str, offset: int, length: str | None) -> None:
    answer = await ask(tus, "HEAD", name)
    assert answer.status_code == 200
    assert (answer.headers["Upload-Offset"], answer.headers.get("Upload-Length")) == (str(offset), length)


@pytest.mark.parametrize(
    ("name", "offset", "data", "headers"),
    [
        ("new", 0, b"hellohello", {}),
        ("begun", 5, b"world", {}),
        ("large", 5, b"x" * (256 * 1024 - 5), {}),
        ("untouched", 0, b"x" * (128 * 1024), {}),
        ("deferred", 5, b" world", {"Upload_Length": "11"}),
        ("declared", 9, b"ld", {}),
        ("weaker", 4, b" modes", {}),
    ],
)
async def test_an_unfinished_upload_goes_on_to_its_end(
    tus: Tus, name: str, offset: int, data: bytes, headers: dict[str, str]
) -> None:
    assert (await patch(tus, name, offset, data, **headers)).status_code == 204
    answer = await ask(tus, "GET", name)
    assert answer.status_code == 200
    assert answer.content[offset:] == data
    assert b"\0" not in answer.content


async def test_finished_uploads_are_given_back(folder: Folder, tus: Tus) -> None:
    for name, data in {**FINISHED, **PARTS}.items():
        assert (await ask(tus, "GET", name)).content == data
    assert folder.finished() == {
        "2026/same é.txt": b"hello",
        "2026/same é (2).txt": b"world",
        "2026/joined.txt": b"aaaacccc",
        "2026/linked.txt": b"linkd",
    }


async def test_the_last_part_completes_what_waited_for_it(folder: Folder, tus: Tus) -> None:
    assert "Upload-Offset" not in (await ask(tus, "HEAD", "pending")).headers
    assert (await patch(tus, "b", 2, b"bb")).status_code == 204
    assert (await ask(tus, "GET", "pending")).content == b"aaaabbbb"
    assert folder.finished()["2026/pending.txt"] == b"aaaabbbb"


async def test_the_same_parts_are_still_the_same_final_upload(tus: Tus) -> None:
    metadata = f"filename {base64.b64encode(b'joined.txt').decode()}"
    answer = await ask(tus, "POST", Upload_Concat="final;/files/a /files/c", Upload_Metadata=metadata)
    assert answer.status_code == 201
    assert answer.headers["Location"].endswith("/files/joined")


async def test_what_an_application_is_owed_is_withheld_until_it_was_told(folder: Folder, tus: Tus) -> None:
    assert (await ask(tus, "HEAD", "withheld")).status_code == 423


async def test_an_application_is_told_what_it_was_owed(folder: Folder) -> None:
    told: list[str] = []

    async def tell(upload: Upload) -> None:
        told.append(upload.id)

    tus = folder.open(on_finished=tell)
    await sweep(folder, tus, after=HOUR)
    assert "withheld" in told
    assert (await ask(tus, "HEAD", "withheld")).status_code == 200
    assert (await ask(tus, "GET", "withheld")).content == b"owing"


async def test_what_a_crash_left_is_finished_or_removed(folder: Folder) -> None:
    tus = folder.open()
    await sweep(folder, tus, after=2 * HOUR)
    assert not (folder.path / "data" / "uploads" / "ha" / "halfmade").exists()
    assert folder.finished()["2026/linked.txt"] == b"linkd"  # under the name that it had, and no other
    assert not (folder.path / "data" / "uploads" / "li" / "linked").exists()
    assert (await ask(tus, "GET", "linked")).content == b"linkd"


async def test_deadlines_are_kept(folder: Folder) -> None:
    tus, before = folder.open(), folder.records()
    assert before >= {*UNFINISHED, *FINISHED, *PARTS, "pending"}
    await sweep(folder, tus, after=2 * HOUR)
    assert folder.records() == before - UNTOUCHED
    await sweep(folder, tus, after=25 * HOUR)
    assert folder.records() & UNFINISHED == set()
    assert folder.records() >= {*FINISHED, *PARTS}
    await sweep(folder, tus, after=180 * HOUR)
    assert folder.records() & {*FINISHED, *PARTS, "pending"} == set()
    assert folder.finished() == {}
    left = {path.name for path in (folder.path / "data" / "uploads").rglob("*") if path.is_file()}
    assert left <= {"withheld", "withheld.record"}  # its application is told for longer


async def test_uploads_can_be_removed(folder: Folder, tus: Tus) -> None:
    for name in (*UNFINISHED, *FINISHED, *PARTS, "pending", "withheld", "linked"):
        assert (await ask(tus, "DELETE", name)).status_code == 204
    assert folder.records() == set()
    assert folder.finished() == {}


async def test_unfinished_uploads_are_still_counted(folder: Folder) -> None:
    unfinished = len(UNFINISHED - {"expiring"} | {"pending"})  # one was made without a request
    for more, status in ((0, 503), (1, 201)):
        tus = folder.open(limits=Limits(uploads=unfinished + more))
        async with tus.lifespan():
            assert (await ask(tus, "POST", Upload_Length="10")).status_code == status
