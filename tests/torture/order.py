"""Whether what clients saw of one upload can be explained by one order of events.

The upload is a small machine: it is there with an offset, or it is gone. Requests that overlap may have happened in
any order, and one without an answer at any moment after it was sent, or never. A PATCH enters, moves the offset on
while nobody else may, and leaves; without a 204 nobody knows how far it came, so the offset is an interval until
somebody looks.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

SLACK = 1.0
"""Seconds by which an upload may go before its time: deadlines are told in whole seconds."""


class Verb(Enum):
    """What a client asked."""

    HEAD = "HEAD"
    GET = "GET"
    PATCH = "PATCH"
    DELETE = "DELETE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One request for an upload, as its client saw it. Times are seconds of one clock."""

    verb: Verb
    begin: float
    end: float = math.inf
    """When the answer was there; never, if none came."""
    status: int | None = None
    offset: int | None = None
    """What the answer said (of a GET: how much it gave)."""
    at: int = 0
    """Of a PATCH: the offset it was sent for."""
    sent: int = 0
    """Of a PATCH: most bytes that may have arrived."""
    whole: bool = False
    """Of a PATCH: it has a checksum, so all or nothing is kept."""

    def __str__(self) -> str:
        asked = self.verb.value
        if self.verb is Verb.PATCH:
            asked += f" {self.sent} bytes at {self.at}{', all or nothing' if self.whole else ''}"
        said = "no answer" if self.status is None else f"{self.status}"
        if self.offset is not None:
            said += f", offset {self.offset}"
        end = "" if math.isinf(self.end) else f"{self.end:.3f}"
        return f"[{self.begin:.3f} .. {end}] {asked}: {said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Born:
    """How an upload began, and how long it may live."""

    at: float
    """When its creation was asked for."""
    offset: int
    total: int
    """Its whole length."""
    life: float
    """Seconds it lives after it was last written to."""


class _Phase(Enum):
    THERE = "there"
    EXPIRED = "expired"
    """Nobody can go on with it, but it was not swept yet; it may be deleted."""
    GONE = "gone"


class _State(NamedTuple):
    phase: _Phase
    low: int
    high: int
    holder: int
    """Which PATCH is in it; -1 if none."""
    touched: float

    @property
    def there(self) -> bool:
        return self.phase is _Phase.THERE

    @property
    def free(self) -> bool:
        return self.holder < 0


class _Stage(Enum):
    WAITING = 0
    INSIDE = 1
    DONE = 2


_Pending = frozenset[tuple[int, _Stage]]
_World = tuple[_State, _Pending]
"""One way in which things may be: the upload, and how far each request under way is."""


def unexplained(born: Born, ops: Sequence[Op]) -> str | None:
    """Return why no order of events explains what was answered, or None if one does."""
    moments = [(op.begin, 0, i) for i, op in enumerate(ops)]
    moments += [(op.end, 1, i) for i, op in enumerate(ops) if op.status is not None]
    worlds: set[_World] = {(_State(_Phase.THERE, born.offset, born.offset, -1, born.at), frozenset())}
    for _, answered, i in sorted(moments):
        if not answered:
            worlds = {(state, pending | {(i, _Stage.WAITING)}) for state, pending in worlds}
            continue
        reached = {
            (state, pending - {(i, _Stage.DONE)})
            for state, pending in _closure(worlds, ops, born)
            if (i, _Stage.DONE) in pending
        }
        if not reached:
            states = sorted({_told(state) for state, _ in worlds})
            story = "\n".join(f"  {op}" for op in sorted(ops, key=lambda op: op.begin) if op.begin <= ops[i].end)
            return f"{ops[i]}\n when before it was {' or '.join(states)}; of {born}:\n{story}"
        worlds = {(state, _relevant(state, pending, ops)) for state, pending in reached}
    return None


def _told(state: _State) -> str:
    return f"at {state.low}..{state.high}" if state.there else state.phase.value


def _relevant(state: _State, pending: _Pending, ops: Sequence[Op]) -> _Pending:
    """Without the requests that will never be answered and can no longer do anything."""
    return frozenset(
        (i, stage)
        for i, stage in pending
        if ops[i].status is not None
        or stage is _Stage.INSIDE
        or (ops[i].verb is Verb.DELETE and state.phase is not _Phase.GONE)
        or (ops[i].verb is Verb.PATCH and state.there and state.low <= ops[i].at)
    )


def _closure(worlds: set[_World], ops: Sequence[Op], born: Born) -> set[_World]:
    """Everything that can have become of some worlds, when requests under way go on in any order."""
    found: dict[_State, list[_Pending]] = {}
    fresh: deque[_World] = deque(worlds)
    while fresh:
        state, pending = fresh.popleft()
        known = found.setdefault(state, [])
        if any(_covers(other, pending, ops) for other in known):
            continue
        known[:] = [other for other in known if not _covers(pending, other, ops)] + [pending]
        alike: set[tuple[int, int, bool]] = set()
        for i, stage in sorted(pending, key=lambda one: one[0]):
            if ops[i].status is None and ops[i].verb is Verb.PATCH and stage is _Stage.WAITING:
                # Of lost ones that are alike it does not matter which.
                if (kind := (ops[i].at, ops[i].sent, ops[i].whole)) in alike:
                    continue
                alike.add(kind)
            for after, reached in _moves(state, i, ops[i], stage, born):
                fresh.append((after, _relevant(after, pending - {(i, stage)} | {(i, reached)}, ops)))
    return {(state, pending) for state, known in found.items() for pending in known}


def _covers(more: _Pending, less: _Pending, ops: Sequence[Op]) -> bool:
    """Whether two worlds differ only in requests that may still happen in the first, and need not."""
    return more >= less and all(stage is _Stage.WAITING and ops[i].status is None for i, stage in more - less)


def _moves(state: _State, i: int, op: Op, stage: _Stage, born: Born) -> Iterator[tuple[_State, _Stage]]:
    """What one request can do next to an upload, if its answer is true."""
    if stage is _Stage.DONE:
        return
    if stage is _Stage.INSIDE:
        yield from ((after, _Stage.DONE) for after in _leave(state, op))
        return
    if op.verb is Verb.PATCH and op.status in (None, 204, 423, 503):
        if state.there and state.free and state.low <= op.at <= state.high:
            high = op.at if op.whole else op.at + op.sent
            yield _State(_Phase.THERE, op.at, high, i, state.touched), _Stage.INSIDE
        if op.status in (423, 503):
            yield state, _Stage.DONE
        return
    yield from ((after, _Stage.DONE) for after in _at_once(state, op, born))


def _leave(state: _State, op: Op) -> Iterator[_State]:
    reached = {op.at, op.at + op.sent} if op.whole else None
    if op.status != 204:
        if reached is None:
            yield state._replace(holder=-1)
        else:
            yield from (state._replace(holder=-1, low=offset, high=offset) for offset in sorted(reached))
    elif op.offset is not None and (op.offset == op.at + op.sent if op.whole else state.low <= op.offset <= state.high):
        touched = max(state.touched, op.begin)
        yield _State(_Phase.THERE, op.offset, op.offset, -1, touched)


def _at_once(state: _State, op: Op, born: Born) -> Iterator[_State]:
    """The requests, and the answers to PATCH, that are one event."""
    due = state.there and state.free and op.end >= state.touched + born.life - SLACK
    match op.verb, op.status:
        case Verb.GET, 404 if state.there and not state.low == state.high == born.total:
            yield state
            if due:
                yield state._replace(phase=_Phase.GONE)
        case _, 410:
            if due or state.phase is _Phase.EXPIRED:
                yield state._replace(phase=_Phase.EXPIRED)
        case _, 404:
            if due or not state.there:
                yield state._replace(phase=_Phase.GONE)
        case Verb.HEAD | Verb.GET, 200:
            if state.there and op.offset is not None and state.low <= op.offset <= state.high:
                yield state._replace(low=op.offset, high=op.offset if state.free else state.high)
        case Verb.PATCH, 409:
            if state.there and not state.low == state.high == op.at:
                yield state
        case Verb.PATCH, 460:
            if state.there and state.free and state.low <= op.at <= state.high:
                yield state._replace(low=op.at, high=op.at)
        case Verb.DELETE, 204 | None:
            if state.free and state.phase is not _Phase.GONE:
                yield state._replace(phase=_Phase.GONE)
        case Verb.DELETE, 423 | 503:
            yield state
            if state.free and state.phase is not _Phase.GONE:
                yield state._replace(phase=_Phase.GONE)
        case _, 423 | 503:
            yield state
