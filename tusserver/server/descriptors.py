"""How many descriptors this process may have, and how many connections fit into them.

The requests of every connection that is admitted get the descriptors that they need: without one no file could be
opened, and an upload that was created would get 503.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from dataclasses import dataclass, replace

from tusserver.server.connections import MAX_REJECTED
from tusserver.server.options import ConnectionLimits

logger = logging.getLogger("tusserver.server")

OPEN_FILES = 65_536
"""The limit that is asked for, at least: the usual 1,024 would be used up by a few hundred uploads."""
PER_CONNECTION = 3
"""An upload has its socket, its file and its record: the last one all the time in the weaker modes, with `ack` while it
commits. A download has its socket twice."""
_PER_PROCESS = 16
"""Of the event loop, the store and the locks, once requests are served."""
_FOR_THREADS = 128
"""At most, for what threads open for a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLimits:
    """What fits into a number of descriptors."""

    limits: ConnectionLimits
    per_process: int | None
    """Connections of one worker, if there are several."""
    max_rejected: int
    """Rejected connections that may be open at once to get an answer."""
    backlog: int
    """Connections that may wait to be accepted: all of them may be accepted at once, before any is rejected."""


def fit(limits: ConnectionLimits, backlog: int, files: int, used: int, workers: int = 1) -> FittedLimits:
    """Lower limits of connections to what fits into `files` descriptors, of which `used` are open.

    Each of the `workers` has as many.
    """
    free = max(0, files - used - _PER_PROCESS)
    per_process = max(1, (free - min(MAX_REJECTED + _FOR_THREADS, free * 3 // 8)) // PER_CONNECTION)
    in_all = per_process * workers
    if limits.connections is not None and limits.connections > in_all:
        logger.warning(
            "this process may have %d open files: it accepts %d connections and not limits.connections = %d; "
            "raise the limit for open files (ulimit -n), or lower that setting",
            *(files, per_process, limits.connections),
        )
    connections = in_all if limits.connections is None else min(in_all, limits.connections)
    left = max(0, free - PER_CONNECTION * min(per_process, connections))
    max_rejected = min(MAX_REJECTED, max(1, left // 4))
    return FittedLimits(
        limits=replace(limits, connections=connections),
        per_process=None if workers == 1 else per_process,
        max_rejected=max_rejected,
        backlog=max(1, min(backlog, left // 2)),
    )


def count_open() -> int:
    """Return how many descriptors are open, or a few more."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return _PER_PROCESS


def raise_limit(connections: int | None) -> int:
    """Raise the limit of open files to what so many connections need, as far as allowed; return the limit."""
    needed = max(
        OPEN_FILES, PER_CONNECTION * (connections or 0) + MAX_REJECTED + _FOR_THREADS + _PER_PROCESS + count_open()
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # the system has a lower limit than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return needed if soft == resource.RLIM_INFINITY else soft
