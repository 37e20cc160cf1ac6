"""The checker of histories: true ones pass, and each kind of broken promise is found."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import pytest

from tests.torture.order import REFUSED, Born, Op, Verb, unexplained

BORN = Born(at=0.0, offset=0, total=100, life=50.0)


def patch(
    begin: float, end: float | None, at: int, sent: int, status: int | None = 204, whole: bool = False, told: int = -1
) -> Op:
    offset = at + sent if status == 204 else None if told < 0 else told
    end = math.inf if end is None else end
    return Op(verb=Verb.PATCH, begin=begin, end=end, at=at, sent=sent, status=status, offset=offset, whole=whole)


def lost(begin: float, at: int, sent: int, whole: bool = False) -> Op:
    """A PATCH without an answer."""
    return patch(begin, None, at, sent, None, whole)


def head(begin: float, end: float, offset: int | None = None, status: int = 200) -> Op:
    return Op(verb=Verb.HEAD, begin=begin, end=end, status=status, offset=offset)


def lost_head(begin: float) -> Op:
    """A HEAD without an answer."""
    return Op(verb=Verb.HEAD, begin=begin)


def delete(begin: float, end: float | None, status: int | None = 204) -> Op:
    return Op(verb=Verb.DELETE, begin=begin, end=math.inf if end is None else end, status=status)


def get(begin: float, end: float, status: int = 200, told: int | None = None) -> Op:
    return Op(verb=Verb.GET, begin=begin, end=end, status=status, offset=100 if status == 200 else told)


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([patch(1, 2, 0, 60), head(3, 4, 60), patch(5, 6, 60, 40), get(7, 8)], id="plain"),
        pytest.param([lost(1, 0, 60), head(3, 4, 17), patch(5, 6, 17, 83)], id="cut in the middle"),
        pytest.param([lost(1, 0, 60), head(3, 4, 0), head(5, 6, 60)], id="its bytes arrive late"),
        pytest.param([patch(1, 9, 0, 100), head(2, 3, 20), head(4, 5, 50), head(6, 7, 50)], id="seen while it runs"),
        pytest.param([patch(1, 5, 0, 50), patch(1, 5, 0, 50, 409)], id="two writers, one refused"),
        pytest.param([patch(1, 5, 50, 50), patch(1, 5, 0, 50)], id="two pieces, the later was sent first"),
        pytest.param([lost(1, 0, 60, True), head(2, 3, 60)], id="a checksum and all"),
        pytest.param([lost(1, 0, 60, True), head(2, 3, 0)], id="a checksum and nothing"),
        pytest.param([patch(1, 2, 0, 9, 460, True), head(3, 4, 0)], id="a wrong checksum"),
        pytest.param([delete(1, 2), head(3, 4, status=404)], id="deleted"),
        pytest.param([delete(1, None, None), head(3, 4, 0), head(5, 6, status=404)], id="deleted late"),
        pytest.param([head(51, 52, status=404), head(53, 54, status=404)], id="expired"),
        pytest.param([patch(30, 31, 0, 10), head(81, 82, status=404)], id="expired later, as it was written to"),
        pytest.param([head(51, 52, status=404), delete(53, 54), head(55, 56, status=404)], id="expired, then deleted"),
        pytest.param([get(1, 2, 423, told=0), patch(3, 4, 0, 100), get(5, 6)], id="nothing to download yet"),
        pytest.param([lost(t, 0, 10) for t in range(1, 30)] + [head(31, 32, 5)], id="many cuts"),
        pytest.param([head(1, 2, status=423), patch(3, 4, 0, 60, 423), get(5, 6, 423)], id="busy"),
    ],
)
def test_what_can_have_happened_is_explained(ops: list[Op]) -> None:
    assert unexplained(BORN, ops) is None


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([patch(1, 2, 0, 60), head(3, 4, 59)], id="an acknowledged byte was lost"),
        pytest.param([lost(1, 0, 60), head(3, 4, 40), head(5, 6, 39)], id="the offset went back"),
        pytest.param([lost(1, 0, 60), head(3, 4, 61)], id="more than was sent"),
        pytest.param([patch(1, 9, 0, 60), head(2, 3, 40), head(4, 5, 30)], id="the offset went back while it ran"),
        pytest.param([patch(1, 5, 0, 50), patch(1, 5, 0, 50)], id="two writers of one range"),
        pytest.param([patch(1, 5, 0, 50), patch(2, 6, 30, 50)], id="two writers of ranges that overlap"),
        pytest.param([head(1, 2, 10)], id="bytes that nobody sent"),
        pytest.param([patch(1, 2, 10, 10)], id="a gap was accepted"),
        pytest.param([patch(1, 2, 0, 10, 409)], id="the right offset was refused"),
        pytest.param([lost(1, 0, 60, True), head(2, 3, 30)], id="half of what has a checksum"),
        pytest.param([patch(1, 2, 0, 60, 460, True), head(3, 4, 60)], id="bytes with a wrong checksum were kept"),
        pytest.param([delete(1, 2), head(3, 4, 0)], id="deleted and there again"),
        pytest.param([delete(1, 2), delete(3, 4)], id="deleted twice"),
        pytest.param([head(1, 2, status=404), head(3, 4, 0)], id="gone before its time"),
        pytest.param([head(51, 52, status=404), head(53, 54, 0)], id="expired and there again"),
        pytest.param([head(51, 52, status=404), delete(53, 54), delete(55, 56)], id="expired and deleted twice"),
        pytest.param([head(51, 52, status=410)], id="an expired upload is told from one that never was"),
        pytest.param([patch(30, 31, 0, 10), head(60, 61, status=404)], id="expired too early"),
        pytest.param([patch(1, 2, 0, 100), get(3, 4, 404)], id="complete and not given back"),
        pytest.param([get(1, 2, 404)], id="there and not found by a download"),
        pytest.param([patch(1, 2, 0, 60), get(3, 4)], id="given back before it was complete"),
        pytest.param([head(1, 2, status=500)], id="an answer that is none"),
    ],
)
def test_a_broken_promise_is_found(ops: list[Op]) -> None:
    assert unexplained(BORN, ops)


# who may take over ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([patch(1, 5, 0, 60, 423), head(2, 3, 30), patch(3, 8, 30, 70)], id="from where it was told"),
        pytest.param([patch(1, 5, 0, 60, 423), patch(2, 8, 0, 100)], id="from the start, as nobody was told more"),
        pytest.param([patch(1, 9, 0, 60, 423), patch(2, 8, 0, 30), head(8, 9, 30)], id="its bytes are taken back"),
        pytest.param([lost(1, 0, 60), patch(2, 3, 0, 30), head(4, 5, 30)], id="from one that has ended untold"),
        pytest.param(
            [patch(1, 9, 0, 60), head(2, 3, 30), patch(4, 5, 0, 100, 409, told=40), head(6, 7, 40)],
            id="refused below what was told, and told more",
        ),
        pytest.param(
            [patch(1, 9, 0, 90, 423), head(2, 3, 30), patch(4, 8, 30, 50, 423), patch(5, 6, 30, 10), head(7, 8, 40)],
            id="twice",
        ),
        pytest.param([patch(1, 9, 0, 60), head(2, 3, 30), get(4, 5, 423, told=45), head(6, 7, 45)], id="told to a GET"),
        pytest.param([lost(1, 0, 60), lost_head(2), patch(3, 4, 0, 60, 409, told=40)], id="told, but nobody heard it"),
        pytest.param(
            [lost(1, 0, 60), patch(2, None, 10, 9, None), patch(3, 4, 0, 60, 409, told=40)], id="a 409 that was lost"
        ),
        pytest.param([lost(1, 0, 60), patch(2, 3, 0, 60, 409, told=60)], id="a 204 that was lost"),
        pytest.param([patch(1, 2, 0, 100, 423), patch(3, 4, 0, 100, 409, told=100)], id="complete, and that is final"),
        pytest.param([lost(1, 0, 60, True), head(2, 3, 0), patch(4, 5, 0, 40)], id="from one with a checksum"),
        pytest.param([patch(1, 9, 0, 60, 423), head(2, 3, 30), patch(4, 5, 30, 9, 460, True)], id="and then is wrong"),
    ],
)
def test_what_nobody_was_told_can_be_taken_back(ops: list[Op]) -> None:
    assert unexplained(BORN, ops) is None


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([patch(1, 9, 0, 60, 423), head(2, 3, 30), patch(4, 5, 0, 40)], id="what was told is taken back"),
        pytest.param([patch(1, 9, 0, 60), head(2, 3, 30), patch(4, 5, 30, 40)], id="two of them are told 204"),
        pytest.param(
            [patch(1, 9, 0, 60), head(2, 3, 30), patch(4, 5, 30, 40, 409, told=40)], id="the told offset is refused"
        ),
        pytest.param(
            [patch(1, 9, 0, 60), patch(4, 5, 20, 40, 409, told=40), head(6, 7, 30)], id="less than a 409 has told"
        ),
        pytest.param([patch(1, 9, 0, 60), get(4, 5, 423, told=40), head(6, 7, 30)], id="less than a GET was told"),
        pytest.param([patch(1, 9, 0, 60), head(2, 3, 30), patch(4, 8, 50, 50)], id="from an offset that was not told"),
        pytest.param(
            [patch(1, 9, 0, 60, 423), patch(2, 8, 0, 30), head(9.5, 10, 60)], id="bytes of the one that was ousted"
        ),
        pytest.param(
            [patch(1, 9, 0, 60), lost_head(2), patch(3, 4, 0, 60, 409, told=40), patch(5, 6, 40, 9, 409, told=50)],
            id="one lost answer does not explain two",
        ),
        pytest.param([patch(1, 9, 0, 60, 423), patch(2, 3, 0, 60, 409, told=10)], id="nobody was told anything"),
        pytest.param(
            [patch(1, 9, 0, 60, 423, True), patch(2, 3, 0, 30), head(4, 5, 60)], id="a checksum that was ousted counts"
        ),
        pytest.param([patch(1, 9, 0, 60, 204, True), head(2, 3, 30)], id="told within a body that has a checksum"),
    ],
)
def test_a_broken_rule_of_takeover_is_found(ops: list[Op]) -> None:
    assert unexplained(BORN, ops)


# made of parts -------------------------------------------------------------------------------------------------------

JOINED = replace(BORN, joined=True)


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([head(1, 2), get(3, 4, 423), head(5, 6, 100), get(7, 8)], id="pending, then whole"),
        pytest.param([head(1, 2), delete(3, 4), head(5, 6, status=404)], id="deleted before it was whole"),
        pytest.param([head(1, 4), head(2, 3, 100)], id="whole while somebody asks"),
    ],
)
def test_a_final_upload_is_pending_and_then_whole(ops: list[Op]) -> None:
    assert unexplained(JOINED, ops) is None


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([head(1, 2, 100), head(3, 4)], id="whole, then pending"),
        pytest.param([get(1, 2), head(3, 4)], id="given back, then pending"),
        pytest.param([head(1, 2, 60)], id="half of it"),
        pytest.param([head(1, 2, 0)], id="an offset before it was whole"),
        pytest.param([head(1, 2, status=404), head(3, 4)], id="gone before its time"),
    ],
)
def test_a_broken_promise_about_a_final_upload_is_found(ops: list[Op]) -> None:
    assert unexplained(JOINED, ops)


def test_another_upload_always_has_an_offset() -> None:
    assert unexplained(BORN, [head(1, 2)])


# an app that is called -----------------------------------------------------------------------------------------------

CALLED = replace(BORN, called=True)
UNWANTED = replace(CALLED, refused=True)


@pytest.mark.parametrize(
    ("born", "ops"),
    [
        pytest.param(CALLED, [patch(1, 2, 0, 100, 500), get(3, 4, 404), head(5, 6, 100), get(7, 8)], id="told later"),
        pytest.param(CALLED, [lost(1, 0, 100), get(3, 4, 404), patch(5, 6, 100, 0), get(7, 8)], id="asked to again"),
        pytest.param(CALLED, [patch(1, 4, 0, 100, 500), patch(2, 3, 0, 100, 409, told=100)], id="and not taken back"),
        pytest.param(UNWANTED, [patch(1, 4, 0, 100, REFUSED), patch(2, 3, 0, 9, 409)], id="refused, and another waits"),
        pytest.param(UNWANTED, [patch(1, 2, 0, 100, REFUSED), head(3, 4, status=404)], id="refused"),
        pytest.param(UNWANTED, [lost(1, 0, 100), head(3, 4, status=404)], id="refused, and nobody heard it"),
    ],
)
def test_an_app_is_waited_for_and_may_refuse(born: Born, ops: list[Op]) -> None:
    assert unexplained(born, ops) is None


@pytest.mark.parametrize(
    ("born", "ops"),
    [
        pytest.param(CALLED, [patch(1, 2, 0, 100), get(3, 4, 404)], id="called complete and not given back"),
        pytest.param(CALLED, [patch(1, 2, 0, 60), get(3, 4, 404)], id="not complete and not found"),
        pytest.param(CALLED, [patch(1, 2, 0, 100, 500), patch(3, 4, 0, 9)], id="complete and written to"),
        pytest.param(CALLED, [patch(1, 2, 0, 60, 500)], id="failed before it was complete"),
        pytest.param(CALLED, [patch(1, 2, 0, 100, REFUSED)], id="refused by nobody"),
        pytest.param(CALLED, [lost(1, 0, 100), head(3, 4, status=404)], id="gone before its time"),
        pytest.param(UNWANTED, [patch(1, 2, 0, 60), head(3, 4, status=404)], id="refused before it was complete"),
        pytest.param(UNWANTED, [patch(1, 2, 0, 100, REFUSED), get(3, 4)], id="refused and given back"),
        pytest.param(UNWANTED, [patch(1, 2, 0, 100, REFUSED), delete(3, 4)], id="refused and still there"),
    ],
)
def test_a_broken_promise_about_an_app_is_found(born: Born, ops: list[Op]) -> None:
    assert unexplained(born, ops)


# any true history ----------------------------------------------------------------------------------------------------


@dataclass
class Truth:
    """A server that keeps the rule, and clients of whom some hear no answer. `now` passes with each event."""

    rng: random.Random
    total: int = 100
    offset: int = 0
    told: int = 0
    now: float = 0.0
    writing: dict[str, int] | None = None
    begun: float = 0.0
    ops: list[Op] = field(default_factory=list)

    def history(self, steps: int) -> list[Op]:
        """What was asked and answered; the last one is still at it."""
        for _ in range(steps):
            self.step()
        if self.writing is not None:
            at, end = self.writing["at"], self.writing["end"]
            self.ops.append(Op(verb=Verb.PATCH, begin=self.begun, at=at, sent=end - at))
        return self.ops

    def step(self) -> None:
        self.now += 0.01
        choices = [self._look, self._look, self._patch, self._patch]
        if self.writing is not None:
            choices += [self._write, self._write, self._end]
        self.rng.choice(choices)()

    def _heard(self) -> bool:
        return self.rng.random() < 0.8

    def _note(
        self, verb: Verb, begin: float, status: int, offset: int | None = None, at: int = 0, sent: int = 0
    ) -> None:
        if self._heard():
            end = self.now + self.rng.random() * 0.005
            self.ops.append(Op(verb=verb, begin=begin, end=end, status=status, offset=offset, at=at, sent=sent))
        else:
            self.ops.append(Op(verb=verb, begin=begin, at=at, sent=sent))

    def _tell(self) -> int:
        self.told = self.offset
        return self.offset

    def _look(self) -> None:
        self._note(Verb.HEAD, self.now - self.rng.random() * 0.05, 200, self._tell())

    def _write(self) -> None:
        assert self.writing is not None
        self.offset = min(self.offset + self.rng.randint(1, 10), self.writing["end"])

    def _end(self) -> None:
        assert self.writing is not None
        at, sent = self.writing["at"], self.writing["end"] - self.writing["at"]
        self.writing = None
        if self.rng.random() < 0.5:
            self.offset = at + sent
            self._note(Verb.PATCH, self.begun, 204, self._tell(), at, sent)
        else:
            self._note(Verb.PATCH, self.begun, 503, None, at, sent)

    def _patch(self) -> None:
        at = self.rng.choice([self.told, self.offset, self.rng.randrange(self.total + 1)])
        sent = self.rng.randint(0, min(40, self.total - at))
        begin = self.now - self.rng.random() * 0.05
        if at != self.told and (self.writing is not None or at != self.offset):
            self._note(Verb.PATCH, begin, 409, self._tell(), at, sent)
            return
        if self.writing is not None:
            size = self.writing["end"] - self.writing["at"]
            self._note(Verb.PATCH, self.begun, 423, None, self.writing["at"], size)
        if self.offset < self.total:
            self.offset = at
        self.writing, self.begun = {"at": at, "end": at + sent}, begin


@pytest.mark.parametrize("seed", range(60))
def test_whatever_a_true_server_does_is_explained(seed: int) -> None:
    history = Truth(random.Random(seed)).history(30)

    assert unexplained(replace(BORN, at=-1.0), history) is None
