"""What time it is, for deadlines: a wall clock that is not believed until it has stayed where it was set.

A wall clock that is set ahead by mistake, for seconds, would make every upload overdue at once; while it is set back,
uploads would get deadlines that are over once it is right again. The steady clock (of this run of the machine, also
while it sleeps) says how much time really went by.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

AHEAD = 300.0
"""Seconds by which the wall clock may leave the steady one, either way, between two looks at them."""
SWEEPS = 5
"""Sweeps that must find the wall clock in its new place until it is believed."""
NOTE = "clock"
"""Name of the note by which one process lets the next one know (see `Store.write_note`)."""
LASTING = 10.0
"""Seconds for which it must have stayed there, however often sweeps come."""


def boot_clock() -> float:
    """Seconds of this run of the machine. All processes see the same clock; it never goes back."""
    return time.clock_gettime(_BOOT_CLOCK)


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_id() -> str:
    """Name of this run of the machine, 16 characters: what was not synced under another may be lost."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return "unknown---------"
    return text.strip().replace("-", "")[:16]


class WallClock:
    """`wall` and `steady`: seconds. Each call tells the time in UTC."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = boot_clock) -> None:
        self._wall = wall
        self._steady = steady
        self._boot = boot_id()
        self.believed = wall() - steady()
        """Seconds by which the wall clock is ahead of the steady one, as far as it is believed."""
        self._wrong_since: float | None = None
        """Since when, by the steady clock, deadlines came from a wall clock that was wrong, as is known now."""
        self._set_back_at: float | None = None
        """When it was set back, which may turn out to have been wrong."""
        self._since: float | None = None
        """When the wall clock was found too far away, by the steady one."""
        self._sweeps = 0

    def __call__(self) -> datetime:
        """The time that deadlines go by."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def seconds(self) -> float:
        """The same, in seconds since the epoch."""
        steady = self._steady()
        ahead = self._wall() - steady
        if abs(ahead - self.believed) > AHEAD:
            if self._since is None:
                self._since, self._sweeps = steady, 0
            return self.believed + steady
        self._since = None
        self.believed = ahead
        return self.believed + steady

    def steady(self) -> float:
        """Seconds of this run of the machine, whatever happens to the wall clock."""
        return self._steady()

    def take_step(self) -> datetime | None:
        """Return since when deadlines are known to have come from a wrong clock, in the time of today; once."""
        since, self._wrong_since = self._wrong_since, None
        if since is None:
            return None
        return datetime.min.replace(tzinfo=UTC) if since == -math.inf else self.at(since)

    def at(self, steady: float) -> datetime:
        """The time at a moment of this run of the machine, as it is seen today."""
        return datetime.fromtimestamp(self.believed + steady, UTC)

    @property
    def jump(self) -> float:
        """Seconds by which the wall clock is ahead of what is believed, negative behind it; 0 while it is believed."""
        self.seconds()
        return 0.0 if self._since is None else self._wall() - self._steady() - self.believed

    def confirm(self) -> bool:
        """Look at the clocks for a sweep; return whether the wall clock is believed, now or again."""
        if not self.jump or self._since is None:
            return True
        self._sweeps += 1
        if self._sweeps <= SWEEPS or self._steady() - self._since < LASTING:
            return False
        ahead = self._wall() - self._steady()
        if ahead < self.believed:
            self._wrong_since = -math.inf  # nobody knows since when it was wrong
            self._set_back_at = self._set_back_at or self._since
        else:
            self._wrong_since, self._set_back_at = self._set_back_at or self._since, None
        self.believed, self._since = ahead, None
        return True

    # between two processes -------------------------------------------------------------------------------------------

    def dump(self) -> str:
        """What the next process needs, to know of a jump between its time and ours."""
        since = "-" if self._since is None else f"{self._since:.3f}"
        return f"{self._boot} {self.believed:.3f} {since} {self._sweeps}"

    def restore(self, text: str) -> None:
        """Go on from what another process dumped, if that was in this run of the machine."""
        try:
            boot, believed, since, sweeps = text.split()
            state = float(believed), None if since == "-" else float(since), int(sweeps)
        except ValueError:
            return
        if boot == self._boot:
            self.believed, self._since, self._sweeps = state
            self.seconds()

    def follow(self, text: str) -> bool:
        """Believe what another process believes, by what it dumped; return whether that is the wall clock."""
        self.restore(text)
        return not self.jump
