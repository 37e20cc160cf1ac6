"""The calendar: who wants a look, and when."""

from __future__ import annotations

import errno
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tusserver.disk import files
from tusserver.indexes.file_schedule import DatedLists

NOW = 1_800_000_000.5
LATE = 62.0
"""Seconds by which a list may come after the moment it was asked for."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "calendar"


@pytest.fixture
def calendar(folder: Path) -> DatedLists:
    return a_calendar(folder)


def a_calendar(folder: Path, monotonic: Callable[[], float] = time.monotonic) -> DatedLists:
    return DatedLists(folder, 0o600, 0o700, monotonic=monotonic)


def lists(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(distance=st.floats(-1e6, 1e8))
def test_a_name_is_due_neither_before_its_moment_nor_long_after(folder: Path, distance: float) -> None:
    calendar = a_calendar(folder, lambda: 0.0)  # the test takes no time
    at = NOW + distance
    calendar.add("abc", at, NOW)
    assert list(calendar.due(max(at, NOW) - 0.001)) == []
    assert list(calendar.due(max(at, NOW + 1) + LATE)) == ["abc"]


@pytest.mark.parametrize(("distance", "late"), [(5, 3), (30, 3), (600, 12), (3500, 12), (86400, LATE)])
def test_the_nearer_the_moment_the_sooner_after_it(calendar: DatedLists, distance: float, late: float) -> None:
    calendar.add("abc", NOW + distance, NOW)
    assert list(calendar.due(NOW + distance + late)) == ["abc"]


def test_names_are_due_once(calendar: DatedLists) -> None:
    calendar.add("abc", NOW + 100, NOW)
    calendar.add("abc", NOW + 100, NOW)
    assert list(calendar.due(NOW + 200)) == ["abc"]
    assert list(calendar.due(NOW + 200)) == []


def test_names_come_in_the_order_of_their_moments(calendar: DatedLists) -> None:
    for number in (3, 1, 2):
        calendar.add(str(number), NOW + number * 100, NOW)
    assert list(calendar.due(NOW + 1000)) == ["1", "2", "3"]


def test_a_list_is_gone_once_it_was_read(calendar: DatedLists, folder: Path) -> None:
    calendar.add("abc", NOW + 100, NOW)
    list(calendar.due(NOW + 200))
    assert lists(folder) == []


def test_lists_that_are_not_due_are_not_read(calendar: DatedLists, folder: Path) -> None:
    for hour in range(10):
        calendar.add(str(hour), NOW + hour * 3600, NOW)
    for path in folder.iterdir():
        if int(path.name) > NOW + 3600 * 2 + LATE:
            path.unlink()
            path.mkdir()  # reading it would fail
    assert list(calendar.due(NOW + 3600 * 2 + LATE)) == ["0", "1", "2"]
    assert len(lists(folder)) == 7


def test_many_names_for_the_far_future_share_a_list(calendar: DatedLists, folder: Path) -> None:
    for second in range(600):
        calendar.add("abc", NOW + 86400 + second, NOW)
    assert len(lists(folder)) <= 11


def test_without_a_folder_nothing_is_due(calendar: DatedLists) -> None:
    assert list(calendar.due(NOW)) == []


def test_who_dies_on_the_way_through_a_list_is_followed_by_one_who_sees_all_of_it(
    calendar: DatedLists, folder: Path
) -> None:
    for name in ("abc", "abx", "abe"):
        calendar.add(name, NOW + 100, NOW)
    died: Iterator[str] = calendar.due(NOW + 200)
    next(died)
    assert set(a_calendar(folder).due(NOW + 200)) == {"abc", "abx", "abe"}
    assert lists(folder) == []


def test_names_noted_during_a_sweep_are_not_lost(calendar: DatedLists) -> None:
    calendar.add("abc", NOW - 10, NOW)
    found = []
    for name in calendar.due(NOW + 10):
        found.append(name)
        calendar.add("later", NOW + 9, NOW + 10)
    assert found == ["abc"]
    assert list(calendar.due(NOW + 20)) == ["later"]


def test_two_sweeps_at_once_miss_nobody(calendar: DatedLists, folder: Path) -> None:
    for number in range(100):
        calendar.add(f"{number}", NOW + number, NOW)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(a_calendar(folder).due(NOW + 1000))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {f"{number}" for number in range(100)}


def test_many_threads_note_names_without_losing_one(calendar: DatedLists) -> None:
    def note(thread: int) -> None:
        for number in range(200):
            calendar.add(f"{thread}-{number}", NOW + 50 + number % 20, NOW)

    threads = [threading.Thread(target=note, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calendar.due(NOW + 1000)) == sorted(f"{t}-{n}" for t in range(4) for n in range(200))


def test_two_processes_share_the_lists(calendar: DatedLists, folder: Path) -> None:
    other = a_calendar(folder)
    for number in range(5):
        calendar.add(f"a{number}", NOW + 100, NOW)
        other.add(f"b{number}", NOW + 100, NOW)
    assert len(list(calendar.due(NOW + 200))) == 10


def test_a_list_that_another_process_has_read_is_not_written_to_again(calendar: DatedLists, folder: Path) -> None:
    calendar.add("abc", NOW + 100, NOW)
    assert list(a_calendar(folder).due(NOW + 200)) == ["abc"]
    calendar.add("abx", NOW + 100, NOW)  # a clock that was set back, or a folder that was lost
    assert list(calendar.due(NOW + 200)) == ["abx"]


def test_what_is_overdue_is_named_at_once(calendar: DatedLists) -> None:
    calendar.add_overdue("abc", NOW)
    assert list(calendar.due(NOW)) == ["abc"]


def test_files_that_are_no_lists_are_left_alone(calendar: DatedLists, folder: Path) -> None:
    calendar.mark_complete("boot")
    (folder / "README").write_text("?")
    assert list(calendar.due(NOW)) == []
    assert lists(folder) == ["README", "covers"]


def test_the_lists_cover_everything_under_the_run_of_the_machine_that_said_so(calendar: DatedLists) -> None:
    assert not calendar.is_complete("boot")
    calendar.mark_complete("boot")
    assert calendar.is_complete("boot")
    assert not calendar.is_complete("another")


def test_no_file_is_kept_open_by_a_calendar_that_is_gone(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        a_calendar(folder).add("abc", NOW + 100, NOW)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_name_that_was_written_too_late_for_its_list_is_listed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be stopped, or the machine be busy, between the choice of a list and the writing."""
    passed = [0.0]
    calendar, sweeper = (a_calendar(folder, lambda: passed[0]) for _ in range(2))
    write = files.write_line

    def swept_before(fd: int, name: str) -> None:
        if not passed[0]:
            passed[0] = 5.0
            assert list(sweeper.due(NOW + 5)) == []
        write(fd, name)

    monkeypatch.setattr(files, "write_line", swept_before)
    calendar.add("late", NOW + 1, NOW)
    assert list(sweeper.due(NOW + LATE)) == ["late"]


# far lists -----------------------------------------------------------------------------------------------------------

DAY = 86400


@pytest.mark.parametrize("days", [1, 30, 365, 3650, 36500])
def test_the_number_of_lists_does_not_grow_with_the_time_that_uploads_are_kept(
    calendar: DatedLists, folder: Path, days: int
) -> None:
    for number in range(2000):
        calendar.add(f"{number}", NOW + days * DAY * number / 2000, NOW)
    assert len(lists(folder)) <= 500


def test_lists_that_were_split_are_no_more_than_before(calendar: DatedLists, folder: Path) -> None:
    calendar.add_all([(f"{number}", NOW + 365 * DAY * number / 5000) for number in range(5000)], NOW)
    found, most = 0, 0
    for hour in range(0, 40 * 24, 6):
        found += len(list(calendar.due(NOW + hour * 3600)))
        most = max(most, len(lists(folder)))
    assert most <= 500
    assert 500 < found < 560


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(days=st.floats(0.05, 400), sweeps=st.integers(1, 40))
def test_a_far_look_comes_neither_early_nor_late_however_often_lists_are_read(
    calendar: DatedLists, days: float, sweeps: int
) -> None:
    """Its list is split on the way, by each sweep that comes by."""
    calendar.add("abc", NOW + days * DAY, NOW)
    for sweep in range(1, sweeps):
        assert list(calendar.due(NOW + days * DAY * sweep / sweeps)) == []
    assert list(calendar.due(NOW + days * DAY + LATE)) == ["abc"]
    assert list(calendar.due(NOW + 2 * days * DAY + LATE)) == []


def test_a_split_writes_to_each_list_once(calendar: DatedLists, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calendar.add_all([(f"{number}", NOW + 30 * DAY + number % 100) for number in range(3000)], NOW)
    writes: list[str] = []
    real = files.write_line

    def write(fd: int, lines: str) -> None:
        writes.append(lines)
        real(fd, lines)

    monkeypatch.setattr(files, "write_line", write)
    for path in folder.iterdir():
        assert list(calendar.due(float(path.name) + 2)) == []
    assert len(writes) <= 4
    assert sum(len(lines.split("\n")) for lines in writes) == 3000


def test_who_dies_while_a_list_is_split_loses_nobody(calendar: DatedLists, folder: Path) -> None:
    names = {f"{number}" for number in range(50)}
    calendar.add_all([(name, NOW + 30 * DAY + 3600 * int(name)) for name in names], NOW)
    opened = min(int(path.name) for path in folder.iterdir()) + 2
    died = calendar.batches(opened)
    next(died)  # it has put them on finer lists, and not removed the first one
    died.close()
    assert any(path.suffix == ".claimed" for path in folder.iterdir())
    assert set(a_calendar(folder).due(NOW + 40 * DAY)) == names


def test_a_full_disk_splits_no_list_and_names_what_is_due(
    calendar: DatedLists, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calendar.add_all([("late", NOW + 30 * DAY + 50_000), ("soon", NOW + 30 * DAY)], NOW)

    def full(fd: int, lines: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "write_line", full)
    assert list(calendar.due(NOW + 30 * DAY + LATE)) == ["soon"]
    monkeypatch.undo()
    assert set(calendar.due(NOW + 31 * DAY + LATE)) == {"soon", "late"}


def test_lists_of_older_versions_are_read(calendar: DatedLists, folder: Path) -> None:
    folder.mkdir()
    (folder / str(int(NOW) + 90 * DAY)).write_text("\nfar\n\nfar\n")
    (folder / str(int(NOW) - 9)).write_text("\nnear\n")
    (folder / f"{int(NOW) - 99}.claimed").write_text("\nclaimed\n")
    assert list(calendar.due(NOW)) == ["claimed", "near"]
    assert list(calendar.due(NOW + 89 * DAY)) == []
    assert list(calendar.due(NOW + 90 * DAY + LATE)) == ["far"]


def test_an_older_version_takes_a_far_list_for_one_of_ids(calendar: DatedLists, folder: Path) -> None:
    """Its words are ids to it, which get an early look: nobody is lost by going back."""
    calendar.add("abc", NOW + 30 * DAY, NOW)
    [path] = folder.iterdir()
    assert int(path.name) <= NOW + 30 * DAY
    assert "abc" in path.read_text().split()


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 100_000,
        b"\xff\xfe\n" * 1000,
        b"x" * 3_000_000,
        b"\nabc 17",
        b"\n \n",
        b"\nabc " + b"9" * 400,
        b"\n a b c",
    ],
    ids=["zeros", "no text", "no line", "torn", "blank", "huge", "words"],
)
@pytest.mark.parametrize("where", ["before", "behind"])
def test_what_is_damaged_keeps_no_id_from_a_look(calendar: DatedLists, folder: Path, damage: bytes, where: str) -> None:
    calendar.add_all([("good", NOW + 30 * DAY), ("fine", NOW + 30 * DAY + 1)], NOW)
    [path] = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage + content if where == "before" else content + damage)
    found = set(calendar.due(NOW + 30 * DAY + LATE))
    assert {"good", "fine"} <= found
    assert lists(folder) == []


def test_a_list_that_cannot_be_read_does_not_keep_the_others(calendar: DatedLists, folder: Path) -> None:
    calendar.add("first", NOW + 100, NOW)
    calendar.add("last", NOW + 200, NOW)
    real, first = files.read_lines, min(lists(folder))

    def read(path: str, size: int) -> Iterator[list[bytes]]:
        if Path(path).name.startswith(first):
            raise OSError(errno.EIO, "broken")
        return real(path, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "read_lines", read)
        due = calendar.due(NOW + 300)
        assert next(due) == "last"
        with pytest.raises(OSError, match="broken"):
            next(due)
    assert list(calendar.due(NOW + 300)) == ["first"]


# memory --------------------------------------------------------------------------------------------------------------


def test_a_list_is_never_held_whole(calendar: DatedLists, folder: Path) -> None:
    folder.mkdir()
    with (folder / str(int(NOW) - 60)).open("w") as names:
        names.writelines(f"\n{number:032x}\n" for number in range(100_000))
    found = 0
    tracemalloc.start()
    try:
        for _ in calendar.due(NOW):
            found += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == 100_000
    assert peak < 6 << 20, "the list alone has 3.4 MB, its names as objects 9"


def test_lists_that_are_not_due_take_no_memory(calendar: DatedLists, folder: Path) -> None:
    """Older versions had one for each minute of a year."""
    folder.mkdir()
    for minute in range(5000):
        (folder / str(int(NOW) + minute * 60)).touch()
    tracemalloc.start()
    try:
        assert list(calendar.due(NOW - 60)) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_what_another_process_writes_to_a_list_until_it_was_read_is_named(calendar: DatedLists, folder: Path) -> None:
    """It had it open when the list was claimed."""
    calendar.add("abc", NOW + 1, NOW)
    [path] = folder.iterdir()
    with path.open("a") as writer:
        batches = calendar.batches(NOW + 10)
        assert next(batches) == ["abc"]
        writer.write("\nlate\n")
        writer.flush()
        assert [name for batch in batches for name in batch] == ["late"]
