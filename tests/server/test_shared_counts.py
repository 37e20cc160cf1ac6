"""What workers know of each other's connections."""

from __future__ import annotations

from typing import Any

import pytest

from tusserver.addresses import TrustedProxies
from tusserver.protocol.errors import TooManyConnections
from tusserver.server.connections import Gate, Limits
from tusserver.server.shared_counts import Census, Row


class Visitor:
    """A connection that remembers whether it was turned away."""

    def __init__(self) -> None:
        self.refusal: TooManyConnections | None = None

    def turn_away(self, refusal: TooManyConnections, *, politely: bool) -> None:
        self.refusal = refusal

    def give_up_on_head(self) -> None:
        """See `Guest`."""


@pytest.fixture
def census() -> Census:
    return Census(4, 2)


def gates(census: Census, trusted: TrustedProxies | None = None, **limits: Any) -> list[Gate]:
    return [Gate(Limits(**limits), trusted, Row(census, number)) for number in range(3)]


async def test_connections_count_in_all_workers_and_make_room_when_they_end(census: Census) -> None:
    one, two, three = gates(census, connections=3)
    inside = [Visitor() for _ in range(3)]
    assert [gate.enter(visitor, "1.2.3.4") for gate, visitor in zip((one, two, two), inside, strict=True)] == [True] * 3
    assert not any(gate.enter(Visitor(), None) for gate in (one, two, three))
    one.leave(inside[0])
    assert three.enter(Visitor(), "1.2.3.4")
    assert not two.enter(Visitor(), "1.2.3.4")


async def test_connections_of_one_address_count_in_all_workers(census: Census) -> None:
    one, two, three = gates(census, per_address=2)
    first = Visitor()
    assert one.enter(first, "::ffff:1.2.3.4")
    assert two.enter(Visitor(), "1.2.3.4")
    for gate in (one, two, three):
        assert not gate.enter(Visitor(), "1.2.3.4")
        assert gate.enter(Visitor(), "5.6.7.8") is (gate is not three)
    one.leave(first)
    assert three.enter(Visitor(), "1.2.3.4")
    assert not one.enter(Visitor(), "1.2.3.4")


async def test_a_process_takes_no_more_than_it_can_whatever_the_others_have(census: Census) -> None:
    one, two, _ = gates(census, connections=10, per_process=1)
    assert [one.enter(Visitor(), None), one.enter(Visitor(), None), two.enter(Visitor(), None)] == [True, False, True]


async def test_trusted_proxies_and_sockets_without_an_address_count_in_all_alone(census: Census) -> None:
    one, two, _ = gates(census, TrustedProxies(["10.0.0.0/8"]), per_address=1, connections=4)
    for gate in (one, two):
        assert gate.enter(Visitor(), "10.0.0.1")
        assert gate.enter(Visitor(), None)
    assert not one.enter(Visitor(), "10.0.0.1")


async def test_what_a_process_had_that_is_gone_does_not_count(census: Census) -> None:
    one, two, _ = gates(census, per_address=1, connections=1)
    assert one.enter(Visitor(), "1.2.3.4")
    assert not two.enter(Visitor(), "1.2.3.4")
    census.clear(0)
    assert two.enter(Visitor(), "1.2.3.4")
