"""Limits of connections: how many at once, in all and by address, and how long request heads may take.

A `ConnectionLimiter` serves one event loop, and reads the counts of the other workers from shared memory. One timer
serves all connections whose head is not complete; there is none while there are no such connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Final, Protocol

from tusserver.addresses import TrustedProxies, client_key, parse_address
from tusserver.protocol.errors import TooManyConnections
from tusserver.server.heads import HeadBudget
from tusserver.server.options import ConnectionLimits
from tusserver.server.shared_counts import ProcessCounts

logger = logging.getLogger("tusserver.connections")

CHECKS_PER_TIMEOUT: Final = 8
"""Checks for overdue heads within `head_timeout`: a head gets at most an eighth more than that."""
WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings about the same limit."""
MAX_REJECTED: Final = 64
"""Rejected connections that may be open at once to get an answer, unless there are too few descriptors."""


class Connection(Protocol):
    """A connection, as the limiter sees it."""

    def reject(self, refusal: TooManyConnections, *, answer: bool) -> None:
        """Answer its first request with the refusal, then close; without `answer` close at once."""

    def abort_head(self) -> None:
        """Close: the head of its request came too slowly, or uses too much memory."""


class ConnectionLimiter:
    """Counts connections and times request heads.

    Connections from `trusted` proxies carry requests of many clients: they count in all, and not by address.
    `counts`: those of the other workers, if there are any. `per_process`: how many this process may have, if fewer than
    all together. `max_rejected`: rejected connections that may be open at once to get an answer; further ones are
    closed without one.
    """

    def __init__(
        self,
        limits: ConnectionLimits | None = None,
        trusted: TrustedProxies | None = None,
        counts: ProcessCounts | None = None,
        *,
        per_process: int | None = None,
        max_rejected: int = MAX_REJECTED,
    ) -> None:
        self._limits = limits or ConnectionLimits()
        self._per_process = per_process
        self._max_rejected = max_rejected
        timeout = self._limits.head_timeout
        self._head_timeout = None if timeout is None else timeout.total_seconds()
        self._counts = counts
        self._trusted = trusted or TrustedProxies()
        self._admitted: dict[Connection, str] = {}
        """Each with the key that it counts under; empty if it does not count by address."""
        self._by_key: Counter[str] = Counter()
        self._rejected: set[Connection] = set()
        """Those that are not closed yet."""
        self._awaiting_head: dict[Connection, float] = {}
        """Since when; the oldest first, as all have the same timeout."""
        self._timer: asyncio.TimerHandle | None = None
        self._warned_at: dict[str, float] = {}
        self.closing = False
        """Whether the server stops: a connection that is admitted now gets one answer at most."""
        self.times_heads = self._head_timeout is not None
        """Whether `head_started` does anything."""
        self.heads: HeadBudget[Connection] | None = (
            None if self._limits.buffers is None else HeadBudget(self._limits.buffers)
        )
        """The memory that large request heads use."""

    @property
    def connections(self) -> int:
        """How many are admitted."""
        return len(self._admitted)

    # start and end of a connection -----------------------------------------------------------------------------------

    def admit(self, connection: Connection, peer: str | None) -> bool:
        """Admit a new connection or reject it; return which. `peer`: its address, None on a Unix socket."""
        limits = self._limits
        if limits.connections is not None and self._is_full(limits.connections):
            self._warn("limits.connections", f"there are {limits.connections} connections")
            self._reject(connection, "")
            return False
        key = ""
        if limits.connections_per_address is not None and peer is not None:
            address = parse_address(peer)
            if address is not None and not self._trusted.trusts(address):
                key = client_key(address)
                if not self._count(key, limits.connections_per_address):
                    remedy = "; if it is a proxy, name it in proxies.trusted"
                    problem = f"{key} has {limits.connections_per_address} connections"
                    self._warn("limits.connections_per_address", problem, remedy)
                    self._reject(connection, "from this address")
                    self._publish()
                    return False
        self._admitted[connection] = key
        self.head_started(connection)
        return True

    def release(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._rejected.discard(connection)
        self._awaiting_head.pop(connection, None)
        if self.heads is not None:
            self.heads.hold(connection, 0)
        if key := self._admitted.pop(connection, ""):
            self._uncount(key)
        self._publish()

    def _is_full(self, limit: int) -> bool:
        """Return whether one more would exceed a limit. It is published before the others' counts are read."""
        here, per_process = len(self._admitted) + 1, self._per_process
        others = 0
        if self._counts is not None:
            self._counts.put(here)
            others = self._counts.others()
        full = here + others > limit or (per_process is not None and here > per_process)
        if full:
            self._publish()
        return full

    def _publish(self) -> None:
        if self._counts is not None:
            self._counts.put(len(self._admitted))

    def _count(self, key: str, limit: int) -> bool:
        """Count one more connection under a key, unless that exceeds the limit; return whether it is counted."""
        self._by_key[key] += 1
        others = 0
        if self._counts is not None:
            self._counts.add(key, 1)
            others = self._counts.others_of(key)
        if self._by_key[key] + others > limit:
            self._uncount(key)
            return False
        return True

    def _uncount(self, key: str) -> None:
        self._by_key[key] -= 1
        if not self._by_key[key]:
            del self._by_key[key]
        if self._counts is not None:
            self._counts.add(key, -1)

    def _reject(self, connection: Connection, why: str) -> None:
        self._rejected.add(connection)
        connection.reject(TooManyConnections(why), answer=len(self._rejected) <= self._max_rejected)

    def _warn(self, limit: str, problem: str, remedy: str = "", effect: str = "further ones are rejected") -> None:
        now = asyncio.get_running_loop().time()
        if now - self._warned_at.get(limit, -WARNING_INTERVAL) >= WARNING_INTERVAL:
            self._warned_at[limit] = now
            logger.warning("%s, %s: %s is reached%s", problem, effect, limit, remedy)

    # request heads ---------------------------------------------------------------------------------------------------

    def head_started(self, connection: Connection) -> None:
        """Time the head of the next request from now on."""
        timeout = self._head_timeout
        if timeout is not None:
            loop = asyncio.get_running_loop()
            self._awaiting_head[connection] = loop.time()
            if self._timer is None:
                self._timer = loop.call_later(timeout / CHECKS_PER_TIMEOUT, self._abort_overdue)

    def head_complete(self, connection: Connection) -> None:
        """Stop timing the head."""
        self._awaiting_head.pop(connection, None)

    def set_head_cost(self, connection: Connection, cost: int) -> None:
        """Note the bytes of memory that the heads of a connection use; abort the largest if that is too much in all."""
        if self.heads is not None and (aborted := self.heads.hold(connection, cost)):
            problem = f"request heads use {self._limits.buffers} bytes"
            self._warn("limits.buffers", problem, effect="the oldest large ones are aborted")
            for other in aborted:
                self._awaiting_head.pop(other, None)
                other.abort_head()

    def _abort_overdue(self) -> None:
        timeout = self._head_timeout
        assert timeout is not None
        loop = asyncio.get_running_loop()
        latest = loop.time() - timeout
        overdue = []
        for connection, since in self._awaiting_head.items():
            if since > latest:
                break
            overdue.append(connection)
        for connection in overdue:
            del self._awaiting_head[connection]
            connection.abort_head()
        waiting = bool(self._awaiting_head)
        self._timer = loop.call_later(timeout / CHECKS_PER_TIMEOUT, self._abort_overdue) if waiting else None
