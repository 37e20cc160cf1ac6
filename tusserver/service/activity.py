"""Requests and bodies under way in this process: to stop them at the end, and to be listed."""

from __future__ import annotations

from tusserver.protocol.dialect import RequestContext
from tusserver.protocol.errors import ShuttingDown
from tusserver.protocol.limits import Timeouts
from tusserver.service.intake import Intake
from tusserver.service.minimum_rate import MinimumRate


class Activity:
    """The requests that are being handled, and the bodies that are being received; `timeouts` bound how slowly."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.requests: set[RequestContext] = set()
        """Those whose command is running; not any more while the answer is sent."""
        self.bodies: dict[Intake, RequestContext] = {}
        """Those that are being received, each with its request; without those that arrived in one piece."""
        self.closing = False
        """Whether no further body is received."""
        idle_timeout = timeouts.idle_timeout.total_seconds()
        self._minimum_rate = MinimumRate(self.bodies, (timeouts.min_speed or 0) * idle_timeout, idle_timeout)

    def close(self) -> None:
        """Stop every body that is being received, and those that come later: their bytes are kept."""
        self.closing = True
        for intake in self.bodies:
            intake.stop(ShuttingDown())

    def open(self) -> None:
        """Receive bodies, also after `close`: an app may be started more than once."""
        self.closing = False

    def add(self, intake: Intake, context: RequestContext) -> None:
        """Note that a body is received from now on."""
        self.bodies[intake] = context
        self._minimum_rate.start()
        if self.closing:  # its request was waiting when the others were stopped
            intake.stop(ShuttingDown())

    def remove(self, intake: Intake) -> None:
        """Note that a body has ended."""
        self.bodies.pop(intake, None)
