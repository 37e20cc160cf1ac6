"""The checker of histories: true ones pass, and each kind of broken promise is found."""

from __future__ import annotations

import math

import pytest

from tests.torture.order import Born, Op, Verb, unexplained

BORN = Born(at=0.0, offset=0, total=100, life=50.0)


def patch(begin: float, end: float | None, at: int, sent: int, status: int | None = 204, whole: bool = False) -> Op:
    offset = at + sent if status == 204 else None
    end = math.inf if end is None else end
    return Op(verb=Verb.PATCH, begin=begin, end=end, at=at, sent=sent, status=status, offset=offset, whole=whole)


def lost(begin: float, at: int, sent: int, whole: bool = False) -> Op:
    """A PATCH without an answer."""
    return patch(begin, None, at, sent, None, whole)


def head(begin: float, end: float, offset: int | None = None, status: int = 200) -> Op:
    return Op(verb=Verb.HEAD, begin=begin, end=end, status=status, offset=offset)


def delete(begin: float, end: float | None, status: int | None = 204) -> Op:
    return Op(verb=Verb.DELETE, begin=begin, end=math.inf if end is None else end, status=status)


def get(begin: float, end: float, status: int = 200) -> Op:
    return Op(verb=Verb.GET, begin=begin, end=end, status=status, offset=100 if status == 200 else None)


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([patch(1, 2, 0, 60), head(3, 4, 60), patch(5, 6, 60, 40), get(7, 8)], id="plain"),
        pytest.param([lost(1, 0, 60), head(3, 4, 17), patch(5, 6, 17, 83)], id="cut in the middle"),
        pytest.param([lost(1, 0, 60), head(3, 4, 0), head(5, 6, 60)], id="its bytes arrive late"),
        pytest.param([patch(1, 9, 0, 100), head(2, 3, 20), head(4, 5, 50), head(6, 7, 50)], id="seen while it runs"),
        pytest.param([patch(1, 5, 0, 60, 423), head(2, 6, 30), patch(3, 8, 30, 70)], id="a takeover"),
        pytest.param([patch(1, 5, 0, 50), patch(1, 5, 0, 50, 409)], id="two writers, one refused"),
        pytest.param([patch(1, 5, 50, 50), patch(1, 5, 0, 50)], id="two pieces, the later was sent first"),
        pytest.param([lost(1, 0, 60, True), head(2, 3, 60)], id="a checksum and all"),
        pytest.param([lost(1, 0, 60, True), head(2, 3, 0)], id="a checksum and nothing"),
        pytest.param([patch(1, 2, 0, 9, 460, True), head(3, 4, 0)], id="a wrong checksum"),
        pytest.param([delete(1, 2), head(3, 4, status=404)], id="deleted"),
        pytest.param([delete(1, None, None), head(3, 4, 0), head(5, 6, status=404)], id="deleted late"),
        pytest.param([head(51, 52, status=410), head(53, 54, status=404)], id="expired"),
        pytest.param([patch(30, 31, 0, 10), head(81, 82, status=410)], id="expired later, as it was written to"),
        pytest.param([head(51, 52, status=410), delete(53, 54), head(55, 56, status=404)], id="expired, then deleted"),
        pytest.param([get(1, 2, 404), patch(3, 4, 0, 100), get(5, 6)], id="nothing to download yet"),
        pytest.param([lost(t, 0, 10) for t in range(1, 30)] + [head(31, 32, 5)], id="many cuts"),
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
        pytest.param([head(51, 52, status=410), head(53, 54, 0)], id="expired and there again"),
        pytest.param([head(51, 52, status=410), delete(53, 54), delete(55, 56)], id="expired and deleted twice"),
        pytest.param([delete(51, 52), head(53, 54, status=410)], id="deleted, and expired afterwards"),
        pytest.param([patch(30, 31, 0, 10), head(60, 61, status=410)], id="expired too early"),
        pytest.param([patch(1, 2, 0, 100), get(3, 4, 404)], id="complete and not given back"),
        pytest.param([patch(1, 2, 0, 60), get(3, 4)], id="given back before it was complete"),
        pytest.param([head(1, 2, status=500)], id="an answer that is none"),
    ],
)
def test_a_broken_promise_is_found(ops: list[Op]) -> None:
    assert unexplained(BORN, ops)
