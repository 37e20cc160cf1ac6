"""The wall clock that other tests set: it is shifted where it should be, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clock import Clock, NoCompiler
from tests.support.wire import TIMEOUT

HOUR = 3600.0
YEARS = 10 * 365 * 24 * HOUR
NEAR = 30.0
"""Seconds within which two clocks that are read one after the other are taken for the same."""

TELL = """
import ctypes, datetime, json, os, sys, time

libc = ctypes.CDLL(None)
libc.time.restype = ctypes.c_long

def tell():
    pair = (ctypes.c_long * 2)()
    libc.gettimeofday(pair, None)
    exact = (ctypes.c_long * 2)()
    libc.clock_gettime(time.CLOCK_REALTIME, exact)
    return {
        "clock_gettime": time.clock_gettime(time.CLOCK_REALTIME),
        "time.time": time.time(),
        "datetime": datetime.datetime.now(datetime.UTC).timestamp(),
        "time": libc.time(None),
        "gettimeofday": pair[0] + pair[1] / 1e6,
        "nanoseconds": exact[1],
        "monotonic": time.clock_gettime(time.CLOCK_MONOTONIC),
        "boottime": time.clock_gettime(time.CLOCK_BOOTTIME),
    }

for line in sys.stdin:
    if line.strip() == "fork":
        if os.fork() == 0:
            print(json.dumps(tell()), flush=True)
            os._exit(0)
        os.wait()
    else:
        print(json.dumps(tell()), flush=True)
"""
WALL = ["clock_gettime", "time.time", "datetime", "time", "gettimeofday"]
STEADY = ["monotonic", "boottime"]


class Teller:
    """A process that tells what its clocks say, or what those of a child do."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TELL],
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str = "self") -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        told: dict[str, float] = json.loads(self.process.stdout.readline())
        return told


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    try:
        clock = Clock(tmp_path)
    except NoCompiler as reason:
        pytest.skip(str(reason))
    yield clock
    clock.close()


@pytest.fixture
def teller(clock: Clock) -> Iterator[Teller]:
    teller = Teller(clock.env)
    yield teller
    teller.process.communicate(timeout=TIMEOUT)


def difference(before: dict[str, float], after: dict[str, float], clock: str) -> float:
    """By how much a clock went further than the monotonic one."""
    return (after[clock] - before[clock]) - (after["monotonic"] - before["monotonic"])


@pytest.mark.parametrize("step", [HOUR, -HOUR, YEARS])
def test_a_step_moves_every_wall_clock_and_no_other(clock: Clock, teller: Teller, step: float) -> None:
    before = teller.ask()
    with clock.shifted(step):
        after = teller.ask()

    assert {name: difference(before, after, name) for name in WALL} == pytest.approx(
        dict.fromkeys(WALL, step), abs=NEAR
    )
    assert {name: difference(before, after, name) for name in STEADY} == pytest.approx(
        dict.fromkeys(STEADY, 0), abs=NEAR
    )


def test_after_a_step_the_clock_is_as_before(clock: Clock, teller: Teller) -> None:
    before = teller.ask()
    with clock.shifted(YEARS):
        teller.ask()
    after = teller.ask()

    assert difference(before, after, "time.time") == pytest.approx(0, abs=NEAR)


def test_a_child_that_is_forked_has_the_same_clock(clock: Clock, teller: Teller) -> None:
    before = teller.ask()
    with clock.shifted(HOUR):
        after = teller.ask("fork")

    assert difference(before, after, "time.time") == pytest.approx(HOUR, abs=NEAR)


@pytest.mark.parametrize("step", [0.999_999_999, -0.999_999_999])
def test_a_moment_has_less_than_a_second_of_nanoseconds(clock: Clock, teller: Teller, step: float) -> None:
    with clock.shifted(step):
        told = [teller.ask()["nanoseconds"] for _ in range(20)]

    assert all(0 <= nanoseconds < 1_000_000_000 for nanoseconds in told), told
