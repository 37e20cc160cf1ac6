"""What request heads cost in memory: those of one connection, and a limit over all connections of a process.

A head of the usual size is not counted. Beyond that a connection counts with what its heads cost: the one that comes
in, those that wait for the answer to the one before, and the one that is being answered. When all of them together cost
too much, those connections that hold more than a fair part are closed, the oldest first: a client that sends a large
head in good faith has it complete in a moment, and gets an answer soon.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from tusserver.protocol.errors import HeaderTooLarge
from tusserver.server.answers import TOKEN

FIELD_COST: Final = 170
"""Bytes that a field costs beside those of its name and value, measured: a tuple that the garbage collector knows, two
strings, and their place in a list."""
REQUEST_COST: Final = 3 << 10
"""Bytes that a request costs while it waits for the answer to the one before, beside its head, measured."""
USUAL_BYTES: Final = 8 << 10
"""Of one connection's heads, that are not counted."""
FIELD_OVERHEAD: Final = 32
"""Bytes that a header field counts in `limits.head_size` beside its name and value, as in HTTP/2 (RFC 9113 §6.5.2). It
costs more: see `FIELD_COST`."""
SHOWN_BYTES: Final = 128
"""Of the start of a field's line, that are kept until the line is complete, to name the field in a refusal."""

Holder = TypeVar("Holder")


class HeadBudget(Generic[Holder]):
    """What the heads of connections may cost, `size` bytes in all."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[Holder, int] = {}
        """In the order in which they came to hold more than the usual."""
        self.total = 0
        """Bytes that all of them hold."""

    def hold(self, holder: Holder, cost: int) -> list[Holder]:
        """Note what the heads of a connection cost now; return those that must be closed for that."""
        more = max(0, cost - USUAL_BYTES)
        before = self._held.get(holder, 0)
        if more == before:
            return []
        self.total += more - before
        if more:
            self._held[holder] = more
        else:
            del self._held[holder]
        return self._release() if self.total > self._size else []

    def _release(self) -> list[Holder]:
        fair = self._size // len(self._held)
        released = []
        for holder, held in list(self._held.items()):
            if held > fair:
                del self._held[holder]
                self.total -= held
                released.append(holder)
            if self.total <= self._size:
                break
        return released


class HeadMeter:
    """The request heads of one connection: their bytes, up to `limit` of each, and what they cost in memory."""

    __slots__ = (
        *("_answered_cost", "_cost", "_field", "_line", "_queued", "_size", "_target"),
        *("in_head", "limit", "unparsed"),
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_head = False
        """Whether a head comes in."""
        self.unparsed = 0
        """Bytes fed to the parser in a row from which nothing came. It may hold all of them."""
        self._size = 0
        """What the newest head, or that which comes in, counts in `limit`."""
        self._cost = 0
        """What it costs in memory."""
        self._target = 0
        """Bytes of its request target."""
        self._field = b""
        """The start of the line that is not complete yet, if that line started in an earlier read."""
        self._line = 0
        """Bytes of a line that is not complete yet, which the parser may hold."""
        self._answered_cost = 0
        """What the head of the request costs that is being answered."""
        self._queued: deque[int] = deque()
        """The same, of each request that waits."""

    @property
    def cost(self) -> int:
        """What all heads cost, with what the parser holds of the next one or of trailers."""
        incoming = self._line + (self._cost if self.in_head else 0)
        return self._answered_cost + self.queued_cost + REQUEST_COST * len(self._queued) + incoming

    @property
    def queued_cost(self) -> int:
        """What the heads of requests that wait cost."""
        return sum(self._queued)

    # a head ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start with a new head."""
        self.in_head = True
        self._size = self._target = self._cost = 0

    def add_target(self, size: int) -> None:
        """Count a piece of the request target.

        Raises:
            ValueError: the head is too large.
        """
        self._target += size
        self._cost += size
        self._count(size)

    def add_field(self, size: int) -> None:
        """Count a field, of which name and value have so many bytes.

        Raises:
            ValueError: the head is too large.
        """
        self._count(size + FIELD_OVERHEAD)
        self._cost += size + FIELD_COST

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self.limit:
            raise ValueError("the request head is too large")

    def complete(self) -> None:
        """Note that the head is complete."""
        self.in_head = False
        self._field = b""

    def add_request(self, queued: int) -> None:
        """Note that its request is being answered, or waits as the last of `queued`."""
        if queued > len(self._queued):
            self._queued.appendleft(self._cost)
        else:
            self._answered_cost = self._cost

    def end_request(self, queued: int) -> None:
        """Note that a request was answered, and how many wait now."""
        self._answered_cost = 0
        while len(self._queued) > queued:
            self._answered_cost = self._queued.pop()

    def clear(self) -> None:
        """Forget requests that wait."""
        self._queued.clear()

    # what the parser was fed -----------------------------------------------------------------------------------------

    def note_read(self, data: bytes | memoryview, of_bodies: int, *, progress: bool) -> None:
        """Note what the parser was fed, how many bytes of that are of bodies, and whether it made anything of it."""
        self.unparsed = 0 if progress else self.unparsed + len(data)
        if self.in_head:
            self._note_field(bytes(data))
        framing = len(data) - of_bodies
        if not framing:
            self._line = 0
            return
        # At most, where the line is long.
        end = bytes(data[-USUAL_BYTES:])
        at = end.rfind(b"\n")
        self._line = self._line + framing if at < 0 else min(framing, len(end) - at - 1)

    def _note_field(self, data: bytes) -> None:
        """Keep the start of the line that is not complete."""
        start = data.rfind(b"\n") + 1
        if start:
            self._field = data[start : start + SHOWN_BYTES]
        elif len(self._field) < SHOWN_BYTES:
            self._field += data[: SHOWN_BYTES - len(self._field)]

    # refusals --------------------------------------------------------------------------------------------------------

    @property
    def is_too_large(self) -> bool:
        """Whether the head that comes in is too large."""
        return self.in_head and max(self._size, self.unparsed) > self.limit

    def too_large(self, fields: Sequence[tuple[bytes, bytes]]) -> HeaderTooLarge:
        """Say what of a head that is too large has the most bytes, as far as that is known. `fields`: those parsed."""
        sizes = [(len(name) + len(value), name) for name, value in fields]
        started = self._field.partition(b":")[0]
        sizes.append((self.unparsed - self._size, b"" if started == self._field else started))  # what was not counted
        size, name = max(sizes)
        text = name.decode("latin-1").title()
        if self._target >= size:
            text = "the request target"
        known = self._target >= size or TOKEN.fullmatch(text)
        named = f"; the longest part of it is {text}" if known else ""
        return HeaderTooLarge(f"limits.head_size is {self.limit} bytes for a whole request head{named}")
