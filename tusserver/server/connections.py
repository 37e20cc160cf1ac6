"""Who comes in and for how long: connections in all and for each address, and the time until a request is asked.

A gate serves one event loop, and knows how many connections the other workers have. It has one timer for all
connections that wait, and none while nobody does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Final, Protocol

from tusserver.addresses import TrustedProxies, client_key, parse_address
from tusserver.protocol.errors import TooManyConnections
from tusserver.server.heads import Heads
from tusserver.server.shared_counts import Row

logger = logging.getLogger("tusserver.gate")

LOOKS: Final = 8
"""Looks at those who wait within the time that they have, so that none of them gets much more."""
SELDOM: Final = 60.0
"""Seconds between two lines of the log that say the same."""
SPARE: Final = 64
"""Connections beyond the limit that are told why, as a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many connections are taken, and how long they may wait. None means no limit."""

    connections: int | None = None
    """By all workers together."""
    per_process: int | None = None
    """By each of them."""
    per_address: int | None = None
    """From one IPv4 address, or one /64 of IPv6."""
    head_timeout: float | None = None
    """Seconds until a request head is complete: from the connection's begin, or from the head's first byte."""
    spare: int = SPARE
    """Connections beyond the limits that are told why; who comes on top of them is cut off."""
    heads: int | None = None
    """Bytes that request heads of more than the usual size may cost together."""


class Guest(Protocol):
    """A connection, as the gate sees it."""

    def turn_away(self, refusal: TooManyConnections, *, politely: bool) -> None:
        """Tell why, once its request has begun, and close; or close at once."""

    def give_up_on_head(self) -> None:
        """Close: the head of its request did not come in time."""


class Gate:
    """Counts connections and times heads. Peers that are `trusted` as proxies stand for many clients: they are counted
    in all, and not by address. `row`: what is known of the other workers, if there are any."""

    def __init__(
        self, limits: Limits | None = None, trusted: TrustedProxies | None = None, row: Row | None = None
    ) -> None:
        self._limits = limits or Limits()
        self._row = row
        self._trusted = trusted or TrustedProxies()
        self._inside: dict[Guest, str] = {}
        """Who was let in, and the key that it counts for, if it does."""
        self._by_key: Counter[str] = Counter()
        self._outside: set[Guest] = set()
        """Who was turned away and is not gone yet."""
        self._waiting: dict[Guest, float] = {}
        """Whose head is not complete, and since when: in this order, as all have the same time."""
        self._timer: asyncio.TimerHandle | None = None
        self._told: dict[str, float] = {}
        self.closing = False
        """Whether the server stops: whoever comes in now may ask once."""
        self.times_heads = self._limits.head_timeout is not None
        """Whether `expect` does anything."""
        self.heads: Heads[Guest] | None = None if self._limits.heads is None else Heads(self._limits.heads)
        """What large request heads cost."""

    @property
    def connections(self) -> int:
        """Those that were let in."""
        return len(self._inside)

    # coming and going ------------------------------------------------------------------------------------------------

    def enter(self, guest: Guest, peer: str | None) -> bool:
        """Let a new connection in, or turn it away; say which. `peer`: its address, None on a Unix socket."""
        limits = self._limits
        if limits.connections is not None and self._is_full(limits.connections):
            self._tell("limits.connections", f"there are {limits.connections} connections")
            self._turn_away(guest, "there are too many")
            return False
        key = ""
        if limits.per_address is not None and peer is not None:
            address = parse_address(peer)
            if address is not None and not self._trusted.trusts(address):
                key = client_key(address)
                if not self._count(key, limits.per_address):
                    remedy = "; if it is a proxy, name it in proxies.trusted"
                    problem = f"{key} has {limits.per_address} connections"
                    self._tell("limits.connections_per_address", problem, remedy)
                    self._turn_away(guest, "there are too many from this address")
                    self._publish()
                    return False
        self._inside[guest] = key
        self.expect(guest)
        return True

    def leave(self, guest: Guest) -> None:
        """Forget a connection that ended."""
        self._outside.discard(guest)
        self._waiting.pop(guest, None)
        if self.heads is not None:
            self.heads.hold(guest, 0)
        if key := self._inside.pop(guest, ""):
            self._uncount(key)
        self._publish()

    def _is_full(self, most: int) -> bool:
        """Whether there is no room for one more. If there is, the others know of it before it is looked for."""
        here, limits = len(self._inside) + 1, self._limits
        others = 0
        if self._row is not None:
            self._row.put(here)
            others = self._row.others()
        full = here + others > most or (limits.per_process is not None and here > limits.per_process)
        if full:
            self._publish()
        return full

    def _publish(self) -> None:
        if self._row is not None:
            self._row.put(len(self._inside))

    def _count(self, key: str, most: int) -> bool:
        """Count one more connection of a key, unless it has too many; say which."""
        self._by_key[key] += 1
        others = 0
        if self._row is not None:
            self._row.move(key, 1)
            others = self._row.others_of(key)
        if self._by_key[key] + others > most:
            self._uncount(key)
            return False
        return True

    def _uncount(self, key: str) -> None:
        self._by_key[key] -= 1
        if not self._by_key[key]:
            del self._by_key[key]
        if self._row is not None:
            self._row.move(key, -1)

    def _turn_away(self, guest: Guest, why: str) -> None:
        self._outside.add(guest)
        guest.turn_away(TooManyConnections(why), politely=len(self._outside) <= self._limits.spare)

    def _tell(self, limit: str, problem: str, remedy: str = "", what: str = "further ones are turned away") -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told.get(limit, -SELDOM) >= SELDOM:
            self._told[limit] = now
            logger.warning("%s, %s: %s is reached%s", problem, what, limit, remedy)

    # heads -----------------------------------------------------------------------------------------------------------

    def expect(self, guest: Guest) -> None:
        """Time the head of the next request from now on."""
        timeout = self._limits.head_timeout
        if timeout is not None:
            loop = asyncio.get_running_loop()
            self._waiting[guest] = loop.time()
            if self._timer is None:
                self._timer = loop.call_later(timeout / LOOKS, self._look)

    def weigh(self, guest: Guest, cost: int) -> None:
        """Note what the heads of a connection cost in memory, in bytes; give up those that are too much for all."""
        if self.heads is not None and (given_up := self.heads.hold(guest, cost)):
            problem, what = f"request heads cost {self._limits.heads} bytes", "the oldest large ones are cut off"
            self._tell("limits.buffers", problem, what=what)
            for other in given_up:
                self._waiting.pop(other, None)
                other.give_up_on_head()

    def welcome(self, guest: Guest) -> None:
        """Stop timing: the head is complete."""
        self._waiting.pop(guest, None)

    def _look(self) -> None:
        timeout = self._limits.head_timeout
        assert timeout is not None
        loop = asyncio.get_running_loop()
        late = loop.time() - timeout
        overdue = []
        for guest, since in self._waiting.items():
            if since > late:
                break
            overdue.append(guest)
        for guest in overdue:
            del self._waiting[guest]
            guest.give_up_on_head()
        self._timer = loop.call_later(timeout / LOOKS, self._look) if self._waiting else None
