"""The calendar: who wants a look, and when."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tusserver.stores import disk
from tusserver.stores.calendar import Calendar

NOW = 1_800_000_000.5
LATE = 62.0
"""Seconds by which a list may come after the moment it was asked for."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "calendar"


@pytest.fixture
def calendar(folder: Path) -> Calendar:
    return a_calendar(folder)


def a_calendar(folder: Path) -> Calendar:
    return Calendar(folder, 0o600, 0o700)


def lists(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(distance=st.floats(-1e6, 1e8))
def test_a_name_is_due_neither_before_its_moment_nor_long_after(calendar: Calendar, distance: float) -> None:
    at = NOW + distance
    calendar.add("abc", at, NOW)
    assert list(calendar.due(max(at, NOW) - 0.001)) == []
    assert list(calendar.due(max(at, NOW + 1) + LATE)) == ["abc"]


@pytest.mark.parametrize(("distance", "late"), [(5, 3), (30, 3), (600, 12), (3500, 12), (86400, LATE)])
def test_the_nearer_the_moment_the_sooner_after_it(calendar: Calendar, distance: float, late: float) -> None:
    calendar.add("abc", NOW + distance, NOW)
    assert list(calendar.due(NOW + distance + late)) == ["abc"]


def test_names_are_due_once(calendar: Calendar) -> None:
    calendar.add("abc", NOW + 100, NOW)
    calendar.add("abc", NOW + 100, NOW)
    assert list(calendar.due(NOW + 200)) == ["abc"]
    assert list(calendar.due(NOW + 200)) == []


def test_names_come_in_the_order_of_their_moments(calendar: Calendar) -> None:
    for number in (3, 1, 2):
        calendar.add(str(number), NOW + number * 100, NOW)
    assert list(calendar.due(NOW + 1000)) == ["1", "2", "3"]


def test_a_list_is_gone_once_it_was_read(calendar: Calendar, folder: Path) -> None:
    calendar.add("abc", NOW + 100, NOW)
    list(calendar.due(NOW + 200))
    assert lists(folder) == []


def test_lists_that_are_not_due_are_not_read(calendar: Calendar, folder: Path) -> None:
    for hour in range(10):
        calendar.add(str(hour), NOW + hour * 3600, NOW)
    for path in folder.iterdir():
        if int(path.name) > NOW + 3600 * 2 + LATE:
            path.unlink()
            path.mkdir()  # reading it would fail
    assert list(calendar.due(NOW + 3600 * 2 + LATE)) == ["0", "1", "2"]
    assert len(lists(folder)) == 7


def test_many_names_for_the_far_future_share_a_list(calendar: Calendar, folder: Path) -> None:
    for second in range(600):
        calendar.add("abc", NOW + 86400 + second, NOW)
    assert len(lists(folder)) <= 11


def test_without_a_folder_nothing_is_due(calendar: Calendar) -> None:
    assert list(calendar.due(NOW)) == []


def test_who_dies_on_the_way_through_a_list_is_followed_by_one_who_sees_all_of_it(
    calendar: Calendar, folder: Path
) -> None:
    for name in ("abc", "abx", "abe"):
        calendar.add(name, NOW + 100, NOW)
    died: Iterator[str] = calendar.due(NOW + 200)
    next(died)
    assert set(a_calendar(folder).due(NOW + 200)) == {"abc", "abx", "abe"}
    assert lists(folder) == []


def test_names_noted_during_a_sweep_are_not_lost(calendar: Calendar) -> None:
    calendar.add("abc", NOW - 10, NOW)
    found = []
    for name in calendar.due(NOW + 10):
        found.append(name)
        calendar.add("later", NOW + 9, NOW + 10)
    assert found == ["abc"]
    assert list(calendar.due(NOW + 20)) == ["later"]


def test_two_sweeps_at_once_miss_nobody(calendar: Calendar, folder: Path) -> None:
    for number in range(100):
        calendar.add(f"{number}", NOW + number, NOW)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(a_calendar(folder).due(NOW + 1000))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {f"{number}" for number in range(100)}


def test_many_threads_note_names_without_losing_one(calendar: Calendar) -> None:
    def note(thread: int) -> None:
        for number in range(200):
            calendar.add(f"{thread}-{number}", NOW + 50 + number % 20, NOW)

    threads = [threading.Thread(target=note, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calendar.due(NOW + 1000)) == sorted(f"{t}-{n}" for t in range(4) for n in range(200))


def test_two_processes_share_the_lists(calendar: Calendar, folder: Path) -> None:
    other = a_calendar(folder)
    for number in range(5):
        calendar.add(f"a{number}", NOW + 100, NOW)
        other.add(f"b{number}", NOW + 100, NOW)
    assert len(list(calendar.due(NOW + 200))) == 10


def test_a_list_that_another_process_has_read_is_not_written_to_again(calendar: Calendar, folder: Path) -> None:
    calendar.add("abc", NOW + 100, NOW)
    assert list(a_calendar(folder).due(NOW + 200)) == ["abc"]
    calendar.add("abx", NOW + 100, NOW)  # a clock that was set back, or a folder that was lost
    assert list(calendar.due(NOW + 200)) == ["abx"]


def test_what_is_overdue_is_named_at_once(calendar: Calendar) -> None:
    calendar.add_overdue("abc", NOW)
    assert list(calendar.due(NOW)) == ["abc"]


def test_files_that_are_no_lists_are_left_alone(calendar: Calendar, folder: Path) -> None:
    calendar.set_covers("boot")
    (folder / "README").write_text("?")
    assert list(calendar.due(NOW)) == []
    assert lists(folder) == ["README", "covers"]


def test_the_lists_cover_everything_under_the_run_of_the_machine_that_said_so(calendar: Calendar) -> None:
    assert not calendar.covers("boot")
    calendar.set_covers("boot")
    assert calendar.covers("boot")
    assert not calendar.covers("another")


def test_no_file_is_kept_open_by_a_calendar_that_is_gone(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        a_calendar(folder).add("abc", NOW + 100, NOW)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_name_that_was_written_too_late_for_its_list_is_listed_again(
    folder: Path, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be stopped, or the machine be busy, between the choice of a list and the writing."""
    sweeper, passed = a_calendar(folder), [0.0]
    write = disk.write_line

    def swept_before(fd: int, name: str) -> None:
        if not passed[0]:
            passed[0] = 5.0
            assert list(sweeper.due(NOW + 5)) == []
        write(fd, name)

    monkeypatch.setattr(disk, "write_line", swept_before)
    monkeypatch.setattr("tusserver.stores.calendar.time.monotonic", lambda: passed[0])
    calendar.add("late", NOW + 1, NOW)
    assert list(sweeper.due(NOW + LATE)) == ["late"]
