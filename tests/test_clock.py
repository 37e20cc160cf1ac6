"""The wall clock that is not believed until it has stayed where it was set."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tusserver.clock import AHEAD, LASTING, SWEEPS, WallClock, boot_clock, boot_id

HOUR = 3600.0
YEARS = 10 * 365 * 24 * HOUR


class Clocks:
    """A wall clock and a steady one, to be set."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.steady = 50.0

    def make(self) -> WallClock:
        return WallClock(lambda: self.wall, lambda: self.steady)

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_the_run_of_the_machine_has_one_short_name() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id().encode("ascii")) == 16


def test_the_clock_of_the_run_goes_on() -> None:
    assert boot_clock() <= boot_clock()


def test_time_that_goes_by_is_believed(clocks: Clocks) -> None:
    clock = clocks.make()
    clocks.pass_time(YEARS)
    assert (clock.seconds(), clock.jump, clock.confirm()) == (clocks.wall, 0.0, True)
    clocks.wall += AHEAD / 2
    assert (clock.seconds(), clock.jump) == (clocks.wall, 0.0)


@pytest.mark.parametrize("ahead", [AHEAD + 1, HOUR, YEARS])
def test_a_jump_ahead_is_not_believed_and_forgotten_when_it_is_taken_back(clocks: Clocks, ahead: float) -> None:
    clock = clocks.make()
    clocks.wall += ahead
    clocks.pass_time(5)
    assert clock.seconds() == clocks.wall - ahead
    assert clock.jump == pytest.approx(ahead)
    assert not clock.confirm()
    clocks.wall -= ahead
    assert (clock.seconds(), clock.jump, clock.confirm()) == (clocks.wall, 0.0, True)


def test_a_jump_that_lasts_is_believed_after_some_sweeps_and_some_time(clocks: Clocks) -> None:
    clock = clocks.make()
    clocks.wall += HOUR
    for _ in range(SWEEPS):
        clocks.pass_time(60)
        assert not clock.confirm()
    clocks.pass_time(60)
    assert clock.confirm()
    assert clock.seconds() == clocks.wall


def test_sweeps_that_come_fast_do_not_make_it_believed(clocks: Clocks) -> None:
    clock = clocks.make()
    clocks.wall += HOUR
    for _ in range(10 * SWEEPS):
        clocks.pass_time(LASTING / (20 * SWEEPS))
        assert not clock.confirm()


def test_each_jump_is_judged_anew(clocks: Clocks) -> None:
    clock = clocks.make()
    for _ in range(3 * SWEEPS):
        clocks.wall += HOUR
        clocks.pass_time(60)
        assert not clock.confirm()
        clocks.wall -= HOUR
        assert clock.confirm()


def test_a_clock_that_is_set_back_is_not_believed_at_once_either(clocks: Clocks) -> None:
    """Deadlines that it gave would be over once it is right again."""
    clock = clocks.make()
    clocks.wall -= HOUR
    clocks.pass_time(5)
    assert clock.seconds() == clocks.wall + HOUR
    assert clock.jump == pytest.approx(-HOUR)
    assert not clock.confirm()
    clocks.wall += HOUR
    assert (clock.seconds(), clock.jump, clock.confirm(), clock.take_step()) == (clocks.wall, 0.0, True, None)


def believed(clocks: Clocks, clock: WallClock, step: float) -> None:
    """Set the wall clock, and let it stay there until it is believed."""
    clocks.wall += step
    while not clock.confirm():
        clocks.pass_time(60)
    assert clock.seconds() == clocks.wall


def test_what_a_wrong_clock_did_is_known_when_it_is_right(clocks: Clocks) -> None:
    clock = clocks.make()
    before = clock()
    believed(clocks, clock, HOUR)
    since = clock.take_step()
    assert since is not None
    assert since == before + timedelta(seconds=HOUR)  # the same moment, by the clock of today
    assert clock.take_step() is None
    believed(clocks, clock, -HOUR)
    since = clock.take_step()
    assert since is not None
    assert since < before


def test_a_clock_that_was_set_back_by_mistake_was_wrong_since_then(clocks: Clocks) -> None:
    clock = clocks.make()
    began = clock()
    believed(clocks, clock, -HOUR)
    clock.take_step()
    clocks.pass_time(10 * HOUR)
    believed(clocks, clock, HOUR)
    assert clock.take_step() == began


def test_the_next_process_knows_of_a_jump_between_them(clocks: Clocks) -> None:
    noted = clocks.make().dump()
    clocks.pass_time(60)
    clocks.wall += YEARS
    clock = clocks.make()
    clock.restore(noted)
    assert clock.seconds() == pytest.approx(clocks.wall - YEARS)
    assert not clock.confirm()


def test_a_row_of_processes_that_sweep_once_each_believes_it_in_the_end(clocks: Clocks) -> None:
    """As `tusserver sweep` does, called by cron."""
    noted, sweeps = clocks.make().dump(), 0
    clocks.wall += HOUR
    while True:
        clocks.pass_time(60)
        clock = clocks.make()
        clock.restore(noted)
        if clock.confirm():
            break
        noted, sweeps = clock.dump(), sweeps + 1
    assert sweeps == SWEEPS
    assert clock.seconds() == clocks.wall


@pytest.mark.parametrize("text", ["", "nonsense", "another-run----- 5 - 0", "a b c d", "x" * 1000])
def test_a_note_of_another_run_or_of_none_says_nothing(clocks: Clocks, text: str) -> None:
    clock = clocks.make()
    clock.restore(text)
    assert clock.seconds() == clocks.wall


def test_one_process_follows_another_in_what_it_believes(clocks: Clocks) -> None:
    sweeping, other = clocks.make(), clocks.make()
    clocks.wall += HOUR
    assert not other.follow(sweeping.dump())
    while not sweeping.confirm():
        clocks.pass_time(60)
        other.confirm()
    assert other.follow(sweeping.dump())
    assert other.seconds() == clocks.wall
