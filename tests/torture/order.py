"""Whether what clients saw of one upload can be explained by one order of events.

The upload is a small machine: it is there with an offset, or it is gone. Requests that overlap may have happened in
any order, and one without an answer at any moment after it was sent, or never. A PATCH enters, moves the offset on, and
leaves; without a 204 nobody knows how far it came, so the offset is an interval until somebody looks.

What was told is binding, what nobody was told can be taken back. So the machine also has the highest offset that was
told: by a 201, 204 or 409, or to a HEAD or GET. It is never lost again, and a PATCH at it is always accepted: it takes
over from whoever writes, and what that one brought beyond is gone. A PATCH at another offset gets 409 while somebody
writes; while nobody does, the one at the current offset is accepted too. An answer that was lost may have told
something, so the told offset is an interval as well.
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

REFUSED = 422
"""What an app answers that does not want a complete upload."""


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
    """What the answer said (of a GET that was served: how much it gave)."""
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
    """What its client was told."""
    total: int
    """Its whole length."""
    life: float
    """Seconds it lives after it was last written to."""
    joined: bool = False
    """It is made of parts: it has no offset, and later all of it."""
    called: bool = False
    """An app is told when it is complete; until then it is neither served nor called complete."""
    refused: bool = False
    """That app refuses it: it is gone once it is complete."""


class _Phase(Enum):
    THERE = "there"
    EXPIRED = "expired"
    """Nobody can go on with it, but it may not be swept yet, and then it can be deleted."""
    GONE = "gone"


class _State(NamedTuple):
    phase: _Phase
    told_low: int
    told_high: int
    """The highest offset that was told, to those who heard it and those who did not."""
    low: int
    high: int
    """The offset."""
    holder: int
    """Which PATCH is in it; -1 if none."""
    touched: float
    secrets: int = 0
    """Lost answers that may have told something, and were not used yet to explain anything."""
    called_whole: bool = False
    """Whether a client was told that it is complete and done with."""

    @property
    def there(self) -> bool:
        return self.phase is _Phase.THERE

    @property
    def free(self) -> bool:
        return self.holder < 0

    def stands_at(self, offset: int) -> bool:
        """Whether nobody writes and this may be the offset."""
        return self.free and self.low <= offset <= self.high

    def has_told(self, offset: int) -> bool:
        """Whether this may be the highest offset that was told."""
        return self.told_low <= offset <= self.told_high

    def must_accept(self, offset: int) -> bool:
        """Whether a PATCH there cannot be refused."""
        return self.told_low == self.told_high == offset or (self.free and self.low == self.high == offset)

    def covers(self, other: _State) -> bool:
        """Whether whatever can follow from the other can follow from this one, which is in the same phase and hands."""
        return (
            self.told_low <= other.told_low
            and self.told_high >= other.told_high
            and self.low <= other.low
            and self.high >= other.high
            and self.touched <= other.touched
            and self.secrets >= other.secrets
            and self.called_whole <= other.called_whole
        )

    def telling(self, offset: int) -> _State | None:
        """Return it after an answer with this offset; None if there is no such answer."""
        if not self.there or not self.low <= offset <= self.high:
            return None
        high = offset if self.free else self.high
        return self._replace(told_low=offset, told_high=offset, low=offset, high=high)


class _Stage(Enum):
    WAITING = 0
    INSIDE = 1
    OUSTED = 2
    """Another one took over; only its own client does not know yet."""
    DONE = 3


_Pending = frozenset[tuple[int, _Stage]]
_World = tuple[_State, _Pending]
"""One way in which things may be: the upload, and how far each request under way is."""

_ENTERING = {None, 204, 423, 460, 500, 503, REFUSED}
"""Answers to a PATCH that may have written."""
_OUSTED = {None, 423, 503}
"""Answers to a PATCH that another one has ended."""


def unexplained(born: Born, ops: Sequence[Op]) -> str | None:
    """Return why no order of events explains what was answered, or None if one does."""
    telling = [i for i, op in enumerate(ops) if not _says_nothing(op)]
    moments = [(ops[i].begin, 0, i) for i in telling]
    moments += [(ops[i].end, 1, i) for i in telling if ops[i].status is not None]
    worlds: set[_World] = {(_first(born), frozenset())}
    for _, answered, i in sorted(moments):
        if not answered:
            worlds = {_sent(world, i, ops[i], born) for world in worlds}
            continue
        reached = {
            (state, pending - {(i, _Stage.DONE)})
            for state, pending in _closure(worlds, ops, born)
            if (i, _Stage.DONE) in pending
        }
        if not reached:
            states = sorted({_in_words(state) for state, _ in worlds})
            story = "\n".join(f"  {op}" for op in sorted(ops, key=lambda op: op.begin) if op.begin <= ops[i].end)
            return f"{ops[i]}\n when before it was {' or '.join(states)}; of {born}:\n{story}"
        worlds = {(state, _relevant(state, pending, ops)) for state, pending in reached}
    return None


def _sent(world: _World, i: int, op: Op, born: Born) -> _World:
    """Add a request that is under way from now on."""
    state, pending = world
    if op.status is None and op.verb is not Verb.DELETE and state.there and state.told_low < born.total:
        state = state._replace(secrets=state.secrets + 1)
    if op.status is None and op.verb in (Verb.HEAD, Verb.GET):
        return state, pending
    return state, pending | {(i, _Stage.WAITING)}


def _first(born: Born) -> _State:
    high = born.total if born.joined else born.offset
    return _State(_Phase.THERE, born.offset, born.offset, born.offset, high, -1, born.at)


def _says_nothing(op: Op) -> bool:
    """Whether an answer fits always: "come again"."""
    return op.verb in (Verb.HEAD, Verb.GET) and op.status in (423, 503) and op.offset is None


def _in_words(state: _State) -> str:
    if not state.there:
        return state.phase.value
    told = f"{state.told_low}" + (f"..{state.told_high}" if state.told_high > state.told_low else "")
    return f"at {state.low}..{state.high} (told {told}{'' if state.free else ', written to'})"


def _relevant(state: _State, pending: _Pending, ops: Sequence[Op]) -> _Pending:
    """Without the requests that will never be answered and can no longer do anything."""
    return frozenset(
        (i, stage)
        for i, stage in pending
        if ops[i].status is not None
        or stage is _Stage.INSIDE
        or (ops[i].verb is Verb.DELETE and stage is _Stage.WAITING and state.phase is not _Phase.GONE)
        or (ops[i].verb is Verb.PATCH and stage is _Stage.WAITING and state.there and state.told_low <= ops[i].at)
    )


def _closure(worlds: set[_World], ops: Sequence[Op], born: Born) -> set[_World]:
    """Everything that can have become of some worlds, when requests under way go on in any order."""
    found: dict[object, list[tuple[_State, _Pending, _Pending]]] = {}
    fresh: deque[_World] = deque(sorted(worlds, key=lambda world: -len(world[1])))
    while fresh:
        state, pending = fresh.popleft()
        # Worlds that differ only in requests which may still happen, and need not, may cover each other.
        free = frozenset(one for one in pending if one[1] is _Stage.WAITING and ops[one[0]].status is None)
        known = found.setdefault((state.phase, state.holder, pending - free), [])
        if any(other.covers(state) and more >= free for other, _, more in known):
            continue
        known[:] = [one for one in known if not (state.covers(one[0]) and free >= one[2])]
        known.append((state, pending, free))
        if state.secrets and state.there and state.told_high < state.high:
            fresh.append((state._replace(told_high=state.high, secrets=state.secrets - 1), pending))
        alike: set[tuple[object, ...]] = set()
        for i, stage in sorted(pending, key=lambda one: one[0]):
            op = ops[i]
            if op.status is None and stage is _Stage.WAITING:
                if (kind := (op.verb, op.at, op.sent, op.whole)) in alike:
                    continue  # it does not matter which of them
                alike.add(kind)
            for after, reached in _moves(state, i, op, stage, born):
                left = pending - {(i, stage)} | {(i, reached)}
                if reached is _Stage.INSIDE and state.holder not in (-1, i):
                    if ops[state.holder].status not in _OUSTED:
                        continue
                    ousted = _Stage.OUSTED if ops[state.holder].status is not None else _Stage.WAITING
                    left = left - {(state.holder, _Stage.INSIDE)} | {(state.holder, ousted)}
                if not any(_too_late(after, ops[j], at) for j, at in left):
                    fresh.append((after, _relevant(after, left, ops)))
    return {(state, pending) for known in found.values() for state, pending, _ in known}


def _too_late(state: _State, op: Op, stage: _Stage) -> bool:
    """Whether an answer can no longer be true, whatever follows: the upload is gone, or was told to be further on."""
    if stage in (_Stage.DONE, _Stage.OUSTED):
        return False
    if op.status == 204 and op.verb is Verb.PATCH:
        begun = op.at if stage is _Stage.WAITING else op.offset
        return not state.there or begun is None or begun < state.told_low
    if op.verb is Verb.DELETE or op.status not in (200, 409, 423, 460) or (op.status == 423 and op.offset is None):
        return False
    reached = op.offset if op.status != 460 else op.at
    return not state.there or (reached is not None and reached < state.told_low)


def _moves(state: _State, i: int, op: Op, stage: _Stage, born: Born) -> Iterator[tuple[_State, _Stage]]:
    """What one request can do next to an upload, if its answer is true."""
    match stage:
        case _Stage.DONE:
            return
        case _Stage.INSIDE:
            # One without an answer may come back: that explains little more, and spares us to remember it.
            left = _Stage.DONE if op.status is not None else _Stage.WAITING
            yield from ((after, left) for after in _leave(state, op, born))
            if op.at + op.sent == born.total and state.told_low < born.total:
                yield _complete(state, born), _Stage.INSIDE  # what follows then, takes its time
            return
        case _Stage.OUSTED:
            yield state, _Stage.DONE
            return
    if op.verb is Verb.PATCH and op.status in _ENTERING:
        if (entered := _enter(state, i, op)) is not None:
            yield entered, _Stage.INSIDE
        if op.status in (423, 503):
            yield state, _Stage.DONE
    else:
        yield from ((after, _Stage.DONE) for after in _at_once(state, op, born))


def _enter(state: _State, i: int, op: Op) -> _State | None:
    """Begin to write, from where nobody else wrote or where the client was told to."""
    if not state.there:
        return None
    if state.stands_at(op.at):
        told = state.told_low
    elif state.has_told(op.at):
        told = op.at
    else:
        return None
    high = op.at if op.whole else op.at + op.sent
    return state._replace(told_low=told, told_high=op.at, low=op.at, high=high, holder=i)


def _complete(state: _State, born: Born) -> _State:
    """Nothing of what is complete is taken back, whoever was told."""
    return state._replace(told_low=born.total, told_high=born.total, low=born.total, high=born.total)


def _leave(state: _State, op: Op, born: Born) -> Iterator[_State]:
    free = state._replace(holder=-1)
    match op.status:
        case 204:
            right = op.at + op.sent if op.whole else op.offset
            if (
                op.offset is not None
                and op.offset == right
                and state.low <= op.offset <= max(state.high, op.at + op.sent)
            ):
                at = op.offset
                touched = max(state.touched, op.begin)
                whole = at == born.total
                yield free._replace(told_low=at, told_high=at, low=at, high=at, touched=touched, called_whole=whole)
        case 460:
            if op.whole:
                yield free
        case code if code == REFUSED:
            if born.refused and op.at + op.sent == born.total:
                yield free._replace(phase=_Phase.GONE)
        case 500:  # all is here, but what the app does then failed
            if born.called and op.at + op.sent == born.total:
                yield _complete(free, born)
        case _:
            ends = [(op.at, op.at), (op.at + op.sent, op.at + op.sent)] if op.whole else [(state.low, state.high)]
            for low, high in ends if state.told_low < born.total else [(state.low, state.high)]:
                yield free._replace(low=low, high=high)
                if high == born.total:
                    yield _complete(free, born)


def _at_once(state: _State, op: Op, born: Born) -> Iterator[_State]:
    """The requests, and the answers to PATCH, that are one event."""
    match op.verb, op.status:
        case _, 404:
            yield from _missing(state, op, born)
        case Verb.HEAD, 200 if op.offset is None:
            if born.joined and state.there and state.told_low < born.total:
                yield state._replace(told_high=state.told_low)
        case Verb.HEAD | Verb.GET, 200 | 423:
            fits = op.offset == born.total if born.joined or (op.verb is Verb.GET and op.status == 200) else True
            if op.offset is not None and fits and (after := state.telling(op.offset)) is not None:
                whole = op.status == 200 and op.offset == born.total
                yield after._replace(called_whole=after.called_whole or whole)
        case Verb.PATCH, 409:
            if state.there and not state.must_accept(op.at):
                if op.offset is None:
                    yield state
                elif (op.offset != op.at or not state.free) and (after := state.telling(op.offset)) is not None:
                    yield after
        case Verb.DELETE, 204 | None:
            if state.free and state.phase is not _Phase.GONE:
                yield state._replace(phase=_Phase.GONE)
        case Verb.DELETE, 423 | 503:
            yield state
            if state.free and state.phase is not _Phase.GONE:
                yield state._replace(phase=_Phase.GONE)
        case _, 503:
            yield state


def _missing(state: _State, op: Op, born: Born) -> Iterator[_State]:
    """What explains that there is nothing: it is gone, its time is over, or an app does not want it, or not yet."""
    if not state.there:
        yield state if op.verb is not Verb.DELETE else state._replace(phase=_Phase.GONE)
        return
    if state.free and op.end >= state.touched + born.life - SLACK:
        yield state._replace(phase=_Phase.GONE if op.verb is Verb.DELETE else _Phase.EXPIRED)
    if born.refused and state.free and state.high == born.total:
        yield state._replace(phase=_Phase.GONE)
    if born.called and op.verb is Verb.GET and state.high == born.total and not state.called_whole:
        yield state
