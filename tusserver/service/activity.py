"""What is under way in this process: to stop it at the end, and to be seen."""

from __future__ import annotations

from tusserver.protocol.errors import ShuttingDown
from tusserver.service.intake import Intake
from tusserver.service.minimum_rate import MinimumRate


class Activity:
    """The bodies that are being received.

    `min_speed`: bytes a second that each must bring, averaged over `idle_timeout` seconds; 0 for any speed.
    """

    def __init__(self, *, min_speed: float, idle_timeout: float) -> None:
        self.bodies: set[Intake] = set()
        """Those that are being received now."""
        self.closing = False
        """Whether no further body is received."""
        self._minimum_rate = MinimumRate(self.bodies, min_speed * idle_timeout, idle_timeout)

    def close(self) -> None:
        """Stop every body that is being received, and those that come later: their bytes are kept."""
        self.closing = True
        for intake in self.bodies:
            intake.stop(ShuttingDown())

    def open(self) -> None:
        """Receive bodies, again if need be: an app may be started more than once."""
        self.closing = False

    def add(self, intake: Intake) -> None:
        """Note that a body is received from now on."""
        self.bodies.add(intake)
        self._minimum_rate.start()
        if self.closing:  # it was waiting for something when the others were stopped
            intake.stop(ShuttingDown())

    def remove(self, intake: Intake) -> None:
        """Note that a body has ended."""
        self.bodies.discard(intake)
