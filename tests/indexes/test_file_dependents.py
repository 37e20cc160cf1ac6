"""Notes of a part: a file that several processes add to and strike out from."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tusserver.indexes import file_dependents
from tusserver.protocol.upload import UploadId

ONE, TWO, THREE = UploadId("one"), UploadId("two"), UploadId("three")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where notes are, once there are any."""
    return str(tmp_path / "part.awaited")


def note(path: str, *finals: UploadId) -> None:
    for final in finals:
        file_dependents.note(path, final, 0o600)


def test_what_is_noted_again_is_not_written_again(path: str) -> None:
    note(path, ONE, TWO)
    size = os.stat(path).st_size
    note(path, ONE, TWO, ONE)
    assert os.stat(path).st_size == size
    assert file_dependents.read(path) == (ONE, TWO)


def test_what_is_struck_out_takes_no_space_and_the_last_one_takes_the_file_along(path: str) -> None:
    note(path, ONE, TWO, THREE)
    file_dependents.strike(path, {ONE, THREE}, 0o600)
    assert (file_dependents.read(path), os.stat(path).st_size) == ((TWO,), len("two\n"))
    file_dependents.strike(path, {TWO}, 0o600)
    assert not os.path.exists(path)
    file_dependents.strike(path, {TWO}, 0o600)
    assert os.listdir(os.path.dirname(path)) == []


def test_a_line_that_a_power_cut_tore_does_not_spoil_the_next(path: str) -> None:
    Path(path).write_bytes(b"\none\n\ntw\0\xff")
    note(path, THREE)
    assert file_dependents.read(path) == (ONE, THREE)


@pytest.mark.parametrize("what", ["replaced", "removed"])
def test_a_note_is_not_lost_in_a_file_that_another_process_took_away_meanwhile(
    path: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(path, ONE, TWO)
    lock = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        monkeypatch.undo()
        file_dependents.strike(path, {ONE} if what == "replaced" else {ONE, TWO}, 0o600)
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    note(path, THREE)
    assert file_dependents.read(path) == ((TWO, THREE) if what == "replaced" else (THREE,))


def test_a_long_file_is_left_to_whoever_may_take_his_time(path: str) -> None:
    assert file_dependents.read_short(path) == ()
    note(path, ONE)
    assert file_dependents.read_short(path) == (ONE,)
    Path(path).write_text("\n".join(f"{number:032x}" for number in range(1000)))
    assert file_dependents.read_short(path) is None
    assert len(file_dependents.read(path)) == 1000
