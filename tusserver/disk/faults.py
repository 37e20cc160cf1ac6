"""What goes wrong with a storage: translated for clients, and logged without end."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tusserver.protocol.errors import OutOfSpace, StoreUnavailable

logger = logging.getLogger("tusserver.store")

_FULL = {errno.ENOSPC, errno.EDQUOT}
EVERY = 30.0
"""Seconds between two lines of the log about the same trouble."""
QUIET = 10.0
"""Seconds without a failure after which it is over."""


class FaultLog:
    """What goes wrong with one storage: told to clients in general, and to the log in detail but not without end.

    Of each kind of trouble the log hears at once, then every `EVERY` seconds how often it came, and when it is over.
    `clock`: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._troubles: dict[str, _Outage] = {}
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def translating(self, doing: str) -> Iterator[None]:
        """Turn what the operating system says into what a client may read.

        Raises:
            OutOfSpace, StoreUnavailable
        """
        try:
            yield
        except OSError as error:
            full = error.errno in _FULL
            self._note(doing, error, full)
            raise (OutOfSpace if full else StoreUnavailable) from error
        if self._troubles:  # else nothing is worth a look
            self._note_success(doing)

    def _note(self, doing: str, error: OSError, full: bool) -> None:
        now = self._clock()
        with self._guard:
            trouble = self._troubles.setdefault(doing, _Outage(since=now))
            trouble.count += 1
            trouble.last = now
            if trouble.full is full and now - trouble.told < EVERY:
                return
            trouble.full, trouble.told = full, now
            often = f" ({trouble.count} times in {now - trouble.since:.0f} s)" if trouble.count > 1 else ""
        if full:
            logger.warning("storage is full while %s%s", doing, often)
        else:
            logger.error("storage failed while %s: %s%s", doing, error, often)

    def _note_success(self, doing: str) -> None:
        now = self._clock()
        with self._guard:
            trouble = self._troubles.get(doing)
            if trouble is None or now - trouble.last < QUIET:  # a small upload may fit where a large one does not
                return
            del self._troubles[doing]
        logger.info("storage works again while %s; it had failed %d times", doing, trouble.count)


@dataclass(slots=True, kw_only=True)
class _Outage:
    since: float
    count: int = 0
    last: float = 0.0
    told: float = -math.inf
    full: bool | None = None
