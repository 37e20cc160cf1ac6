"""The least speed of bodies: one look at all of them now and then, so that none has a timer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from tusserver.service.intake import Intake


class Pace:
    """Looks at `intakes` every `interval` seconds while there are any: each shall have got `least` bytes since."""

    def __init__(self, intakes: Collection[Intake], least: float, interval: float) -> None:
        self._intakes = intakes
        self._least = least
        self._interval = interval
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def at_work(self) -> bool:
        """Whether another look is to come."""
        return self._loop is not None and not self._loop.is_closed()

    def watch(self) -> None:
        """Notice that there is a new one."""
        if self._least > 0 and not self.at_work:  # an app may be started more than once, on another loop
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        loop, self._loop = self._loop, None
        for intake in self._intakes:
            intake.look(self._least)
        if self._intakes and loop is not None:
            self._loop = loop
            loop.call_later(self._interval, self._look)
