"""How many descriptors this process may have, and how many connections fit into them.

Whoever is let in finds the descriptors that its request needs: without one no file could be opened for it, and the
server could say no more than 503 to an upload that it had taken.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from dataclasses import dataclass, replace

from tusserver.server.connections import MAX_REJECTED, ConnectionLimits

logger = logging.getLogger("tusserver.server")

OPEN_FILES = 65_536
"""Asked for at least; the usual 1,024 would be gone at a few hundred uploads."""
EACH = 3
"""Descriptors of a connection. An upload has its socket and its file, and its record: in the weaker modes all the time,
with `ack` while it commits. A download has its socket twice."""
_OWN = 16
"""Of the event loop, of the store and of the locks, once they are at work."""
_WORK = 128
"""At most, for what threads open for a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What fits into a number of descriptors."""

    limits: ConnectionLimits
    backlog: int
    """Connections that may wait to be accepted: all of them may be accepted at once, before any is turned away."""


def fit(limits: ConnectionLimits, backlog: int, files: int, used: int, workers: int = 1) -> Share:
    """Lower the numbers of connections to what there are descriptors for: `files`, of which so many are `used`.

    Each of the `workers` has as many.
    """
    free = max(0, files - used - _OWN)
    most = max(1, (free - min(MAX_REJECTED + _WORK, free * 3 // 8)) // EACH)
    all_of_them = most * workers
    if limits.connections is not None and limits.connections > all_of_them:
        logger.warning(
            "this process may have %d open files: it takes %d connections and not limits.connections = %d; "
            "raise the limit for open files (ulimit -n), or lower that setting",
            *(files, most, limits.connections),
        )
    connections = all_of_them if limits.connections is None else min(all_of_them, limits.connections)
    left = max(0, free - EACH * min(most, connections))
    spare = min(MAX_REJECTED, max(1, left // 4))
    per_process = None if workers == 1 else most
    limits = replace(limits, connections=connections, connections_per_process=per_process, max_rejected=spare)
    return Share(limits=limits, backlog=max(1, min(backlog, left // 2)))


def in_use() -> int:
    """Return how many descriptors are open; at most a few more than there are."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return _OWN


def ask_for(connections: int | None) -> int:
    """Return how many files this process may have open, after it asked for what so many connections need."""
    needed = max(OPEN_FILES, EACH * (connections or 0) + MAX_REJECTED + _WORK + _OWN + in_use())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # the system knows a lower bound than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return needed if soft == resource.RLIM_INFINITY else soft
