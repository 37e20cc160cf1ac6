"""Ends bodies that come in too slowly. One timer checks all of them, so that none needs a timer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from tusserver.service.intake import Intake


class MinimumRate:
    """Checks `intakes` every `interval` seconds while there are any: each must have got `minimum` bytes since."""

    def __init__(self, intakes: Collection[Intake], minimum: float, interval: float) -> None:
        self._intakes = intakes
        self._minimum = minimum
        self._interval = interval
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_scheduled(self) -> bool:
        """Whether another check is to come."""
        return self._loop is not None and not self._loop.is_closed()

    def start(self) -> None:
        """Start checking, as there is a new body."""
        if self._minimum > 0 and not self.is_scheduled:  # an app may be started more than once, on another loop
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(self._interval, self._check)

    def _check(self) -> None:
        loop, self._loop = self._loop, None
        for intake in self._intakes:
            intake.check_rate(self._minimum)
        if self._intakes and loop is not None:
            self._loop = loop
            loop.call_later(self._interval, self._check)
