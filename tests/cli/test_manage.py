"""`list`, `show`, `remove` and `sweep` on a real data folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import weakref
from collections.abc import AsyncIterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from rich.console import Console
from rich.table import Table

from tests.cli.conftest import Outcome, Run
from tests.support.tus import metadata
from tests.support.uploads import changed
from tests.support.wire import TIMEOUT
from tusserver.cli import listing, manage
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.base import Store
from tusserver.stores.file.store import FileStore

NOW = datetime.now(UTC).replace(microsecond=0)


async def fill(root: Path) -> None:
    """Keep five uploads: finished, half done, of unknown length, expired, and one that awaits its parts."""
    store = FileStore(root, durability="none")

    async def keep(name: str, offset: int, hours: int, **more: object) -> Upload:
        upload = Upload(id=UploadId(name), created_at=NOW - timedelta(hours=hours), **more)  # type: ignore[arg-type]
        await store.create(upload)
        upload = changed(upload, offset=offset)
        await store.commit(upload)
        return upload

    done = await keep("done", 10, 5, length=10, metadata=Metadata(metadata(filename="grüße.txt", empty=b"")))
    await store.finalize(done)
    hostile = Metadata(metadata(filename="[red]\x1b[2J\nforged", blob=b"\xff\x00"))
    await keep(
        "half", 5_000_000, 4, length=10_000_000, metadata=hostile, expires_at=NOW + timedelta(hours=20, minutes=50)
    )
    await keep("unknown", 3, 3, expires_at=NOW + timedelta(days=3, minutes=50))
    await keep("expired", 1, 2, length=2, expires_at=NOW - timedelta(hours=1))
    await keep("final", 0, 1, role=Role.FINAL, concat="final;/files/a", parts=(UploadId("a"),))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with five uploads, made some hours ago."""
    root = tmp_path / "data"
    with monkeypatch.context() as ago:
        ago.setattr("time.time", lambda: (NOW - timedelta(hours=5)).timestamp())
        anyio.run(fill, root)
    return root


def files(folder: Path) -> list[str]:
    """Names of all files that belong to uploads."""
    return sorted(path.name for path in (folder / "uploads").rglob("*") if path.is_file())


def rows(done: Outcome) -> list[list[str]]:
    """Cells of the table below its head."""
    return [line.split() for line in done.out.splitlines() if line.strip()][1:]


def entries_of(done: Outcome) -> list[dict[str, Any]]:
    """What was printed as an object a line."""
    return [json.loads(line) for line in done.out.splitlines()]


def in_terminal(width: int, *arguments: str, until: str | None = None) -> str:
    """What a command shows in a terminal so wide. With `until`, it ends by Ctrl-C once that was shown."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "tusserver", *arguments]
    shown = b""
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**environ, "TERM": "xterm-256color"}
    ) as process:
        os.close(theirs)
        try:
            with contextlib.suppress(OSError):  # EIO: the other side is closed
                while data := os.read(ours, 65536):
                    shown += data
                    if until is not None and until.encode() in shown:
                        until = None
                        process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 0, shown
        finally:
            process.kill()  # it may wait for somebody to read
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


# list ----------------------------------------------------------------------------------------------------------------


def test_list_tells_progress_age_and_expiry_oldest_first(run: Run, folder: Path) -> None:
    done = run("list", "--storage", folder)
    assert done.code == 0
    assert rows(done) == [
        ["done", "grüße.txt", "done,", "10", "bytes", "5h", "never"],
        ["half", "[red]\\x1b[2J\\nforged", "50%", "of", "10.0", "MB", "4h", "in", "20h"],
        ["unknown", "3", "bytes", "of", "?", "3h", "in", "3d"],
        ["expired", "50%", "of", "2", "bytes", "2h", "due"],
        ["final", "awaits", "parts", "1h", "never"],
    ]


def test_list_in_json_tells_all_for_programs(run: Run, folder: Path) -> None:
    entries = entries_of(run("list", "--json", "--storage", folder))
    assert [entry["id"] for entry in entries] == ["done", "half", "unknown", "expired", "final"]
    assert entries[0] == {
        "id": "done",
        "name": "grüße.txt",
        "role": "regular",
        "offset": 10,
        "length": 10,
        "complete": True,
        "created_at": (NOW - timedelta(hours=5)).isoformat(),
        "expires_at": None,
    }
    assert entries[1]["expires_at"] == (NOW + timedelta(hours=20, minutes=50)).isoformat()


def test_list_cuts_no_id_in_a_pipe(run: Run, tmp_path: Path) -> None:
    name = "x" * 128
    upload = Upload(id=UploadId(name), created_at=NOW, length=1)
    anyio.run(FileStore(tmp_path / "data").create, upload)
    assert rows(run("list", "--storage", "data"))[0][0] == name


def test_an_empty_folder_lists_as_such(run: Run, tmp_path: Path) -> None:
    FileStore(tmp_path / "data")
    assert run("list", "--storage", "data").out == "There are no uploads\n"
    assert run("list", "--json", "--storage", "data").out == ""


def test_a_record_that_cannot_be_read_does_not_hide_the_others(run: Run, folder: Path) -> None:
    next((folder / "uploads").rglob("half.record")).write_bytes(b"broken" * 400)
    done = run("list", "--json", "--storage", folder)
    assert [entry["id"] for entry in entries_of(done)] == ["done", "unknown", "expired", "final"]
    assert "the record of half cannot be read" in done.err


@pytest.mark.parametrize("command", [["list"], ["show", "x"], ["remove", "x"], ["sweep"]])
def test_a_mistyped_folder_is_told_and_not_made(run: Run, tmp_path: Path, command: list[str]) -> None:
    done = run(*command, "--storage", "nowhere")
    assert done.code == 1
    assert done.err == "tusserver: there is no data folder nowhere; name it with --storage\n"
    assert not (tmp_path / "nowhere").exists()


def test_the_folder_may_come_from_the_environment(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUSSERVER_STORAGE", str(folder))
    assert len(entries_of(run("list", "--json"))) == 5


# list of many --------------------------------------------------------------------------------------------------------


def many(root: Path, number: int) -> list[str]:
    """Keep uploads that were made one after the other; their ids tell nothing of that."""
    store = FileStore(root, durability="none")
    names = [f"{number * 7919 % 10007:05}-{number}" for number in range(number)]
    for age, name in enumerate(names):
        store._create(Upload(id=UploadId(name), created_at=NOW - timedelta(seconds=number - age), length=1))
    return names


def test_list_with_a_limit_tells_the_newest_oldest_first(run: Run, folder: Path) -> None:
    assert [row[0] for row in rows(run("list", "--limit", "2", "--storage", folder))] == ["expired", "final"]
    newest = run("list", "--limit", "3", "--json", "--storage", folder)
    assert [entry["id"] for entry in entries_of(newest)] == ["unknown", "expired", "final"]
    assert len(rows(run("list", "--limit", "99", "--storage", folder))) == 5


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5", "", "\u0663"])
def test_a_limit_that_is_none_is_refused_in_one_line(run: Run, folder: Path, limit: str) -> None:
    done = run("list", f"--limit={limit}", "--storage", folder)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "--limit" in done.err


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("limit", [None, 3])
async def test_list_keeps_no_more_uploads_at_a_time_than_it_sorts(
    tmp_path: Path, limit: int | None, as_json: bool
) -> None:
    names = many(tmp_path / "data", 300)
    store = Watched(tmp_path / "data")
    show = listing.print_json if as_json else listing.printer(datetime.now(UTC))
    shown: list[str] = []
    async for uploads in listing.batches(store, 10) if limit is None else listing.only(listing.newest(store, limit)):
        show(uploads)
        shown += [upload.id for upload in uploads]
    assert store.most <= 2 * 10 + 3
    assert shown == names[-limit:] if limit else sorted(shown) == sorted(names)


class Watched(FileStore):
    """Counts how many of the uploads that it listed are still in use at once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.most = 0
        self._alive: weakref.WeakSet[Held] = weakref.WeakSet()

    async def uploads(self) -> AsyncIterator[Upload]:
        async for upload in super().uploads():
            held = Held(**{field.name: getattr(upload, field.name) for field in fields(upload)})
            self._alive.add(held)
            self.most = max(self.most, len(self._alive))
            yield held


class Held(Upload):
    """An upload that can be referenced weakly."""


def test_list_ends_quietly_when_nobody_reads_on(tmp_path: Path) -> None:
    many(tmp_path / "data", 1500)
    command = [sys.executable, "-m", "tusserver", "list", "--json", "--storage", str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        json.loads(process.stdout.readline())
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 1)


def test_list_in_a_terminal_tells_the_columns_once(folder: Path) -> None:
    many(folder, listing.SORTED + 20)
    text = in_terminal(100, "list", "--storage", str(folder))
    assert text.count("Progress") == 1
    assert text.count("0% of 1 byte") == listing.SORTED + 20


def test_a_large_folder_that_is_watched_is_not_read_all_the_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    took = iter([0, 0.1, 10, 40])

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    async def look(store: Store, console: Console) -> Table:
        return Table()

    monkeypatch.setattr(manage, "anyio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(manage, "time", SimpleNamespace(monotonic=lambda: next(took)))
    with pytest.raises(KeyboardInterrupt):
        anyio.run(partial(manage._watch, FileStore(tmp_path), look=look))
    assert pauses == [1, 120]


def test_list_watched_shows_no_more_than_its_limit(folder: Path) -> None:
    text = in_terminal(100, "list", "--watch", "--limit", "2", "--storage", str(folder), until="final")
    assert "expired" in text
    assert "half" not in text


# show ----------------------------------------------------------------------------------------------------------------


def test_show_tells_all_about_an_upload(run: Run, folder: Path) -> None:
    done = run("show", "half", "--storage", folder)
    assert done.code == 0
    facts = {key: rest.strip() for key, _, rest in (line.partition(" ") for line in done.out.splitlines())}
    assert facts["offset"] == "5000000"
    assert facts["length"] == "10000000"
    assert facts["complete"] == "no"
    assert facts["file"] == "-"
    assert done.out.splitlines()[-2:] == [
        "metadata     filename = [red]\\x1b[2J\\nforged",
        "metadata     blob = �\\x00",
    ]


def test_show_in_json_tells_where_the_finished_bytes_are(run: Run, folder: Path) -> None:
    entry = json.loads(run("show", "done", "--json", "--storage", folder).out)
    assert Path(entry["file"]).stat().st_size == 10
    assert entry["metadata"] == {"filename": "grüße.txt", "empty": ""}


def test_show_of_an_upload_whose_file_was_taken_away_tells_the_rest(run: Run, folder: Path) -> None:
    next((folder / "uploads").rglob("done")).unlink()
    entry = json.loads(run("show", "done", "--json", "--storage", folder).out)
    assert (entry["length"], entry["file"]) == (10, None)


def test_show_of_a_final_upload_tells_its_parts(run: Run, folder: Path) -> None:
    assert json.loads(run("show", "final", "--json", "--storage", folder).out)["concat"] == "final;/files/a"


@pytest.mark.parametrize("name", ["nobody", "../../etc/passwd", "\x1b[2J", ""])
def test_show_of_an_unknown_upload_fails_in_one_line(run: Run, folder: Path, name: str) -> None:
    done = run("show", name, "--storage", folder)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("tusserver: there is no upload ")
    assert done.err.removesuffix("\n").isprintable()


@pytest.mark.parametrize("width", [40, 100])
def test_list_in_a_terminal_fits_it_and_never_cuts_an_id(folder: Path, width: int) -> None:
    text = in_terminal(width, "list", "--storage", str(folder))
    assert max(map(len, text.splitlines())) <= width
    assert {"done", "half", "final", "unknown", "expired"} <= set(text.split())


def test_list_watched_shows_the_uploads_until_ctrl_c(folder: Path) -> None:
    text = in_terminal(100, "list", "--watch", "--storage", str(folder), until="half")
    assert "unknown" in text


def test_show_watched_shows_one_upload_until_ctrl_c(folder: Path) -> None:
    text = in_terminal(100, "show", "half", "--watch", "--storage", str(folder), until="metadata")
    assert "unknown" not in text
    assert "offset" in text


def test_what_is_watched_may_not_be_there_yet(folder: Path) -> None:
    in_terminal(100, "show", "nobody", "--watch", "--storage", str(folder), until="there is no upload nobody")


def test_watching_without_a_terminal_is_refused_in_one_line(run: Run, folder: Path) -> None:
    done = run("list", "--watch", "--storage", folder)
    assert (done.code, done.out) == (2, "")
    assert done.err == "tusserver: --watch needs a terminal, and goes without --json\n"


# remove --------------------------------------------------------------------------------------------------------------


def test_remove_takes_everything_an_upload_owns(run: Run, folder: Path) -> None:
    done = run("remove", "half", "done", "--storage", folder)
    assert (done.code, done.out) == (0, "Removed half\nRemoved done\n")
    assert files(folder) == ["expired", "expired.record", "final", "final.record", "unknown", "unknown.record"]


def test_remove_goes_on_after_an_unknown_id_and_fails_in_the_end(run: Run, folder: Path) -> None:
    done = run("remove", "nobody", "half", "../x", "--storage", folder)
    assert (done.code, done.out) == (1, "Removed half\n")
    assert done.err == "tusserver: there is no upload nobody\ntusserver: there is no upload ../x\n"


def test_remove_takes_a_file_that_was_moved_to_its_readable_name(run: Run, tmp_path: Path) -> None:
    async def finish() -> Upload:
        store = FileStore(tmp_path / "data", finished_folder=tmp_path / "done")
        upload = Upload(id=UploadId("a"), created_at=NOW, length=0, metadata=Metadata(metadata(filename="a.txt")))
        await store.create(upload)
        return await store.finalize(upload)

    anyio.run(finish)
    assert (tmp_path / "done" / "a.txt").exists()
    assert run("remove", "a", "--storage", "data").code == 0
    assert not (tmp_path / "done" / "a.txt").exists()
    assert files(tmp_path / "data") == []


# sweep ---------------------------------------------------------------------------------------------------------------


def test_sweep_removes_what_is_due_and_counts_it(run: Run, folder: Path) -> None:
    done = run("sweep", "--storage", folder)
    assert (done.code, done.out) == (0, "Removed 1 upload\n")
    assert "expired" not in files(folder)
    assert {"done", "half", "unknown", "final"} < set(files(folder))
    assert run("sweep", "--storage", folder).out == "Removed 0 uploads\n"


# a data folder that is not for us ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["list"], ["show", "done"], ["remove", "done"], ["sweep"]])
def test_a_folder_of_a_newer_version_is_refused_in_one_line_and_left_alone(
    run: Run, folder: Path, command: list[str]
) -> None:
    before = files(folder)
    (folder / "format").write_text("tusserver data folder, format 999\n")
    done = run(*command, "--storage", folder)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "has format 999, and this version knows 1 at most; run the newer version that wrote it" in done.err
    assert files(folder) == before
