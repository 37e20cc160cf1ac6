"""Limits of connections across workers."""

from __future__ import annotations

from typing import Any

import pytest

from tusserver.addresses import TrustedProxies
from tusserver.protocol.errors import TooManyConnections
from tusserver.server.connections import ConnectionLimiter
from tusserver.server.options import ConnectionLimits
from tusserver.server.shared_counts import ProcessCounts, SharedCounts


class Client:
    """A connection that remembers whether it was rejected."""

    def __init__(self) -> None:
        self.refusal: TooManyConnections | None = None

    def reject(self, refusal: TooManyConnections, *, answer: bool) -> None:
        self.refusal = refusal

    def abort_head(self) -> None:
        """See `connections.Connection`."""


@pytest.fixture
def shared() -> SharedCounts:
    return SharedCounts(4, 2)


def limiters(
    shared: SharedCounts,
    trusted: TrustedProxies | None = None,
    *,
    per_process: int | None = None,
    **limits: Any,
) -> list[ConnectionLimiter]:
    counts = [ProcessCounts(shared, process) for process in range(3)]
    options = ConnectionLimits(**limits)
    return [ConnectionLimiter(options, trusted, of_one, per_process=per_process) for of_one in counts]


async def test_connections_count_in_all_workers_and_make_room_when_they_end(shared: SharedCounts) -> None:
    one, two, three = limiters(shared, connections=3)
    inside = [Client() for _ in range(3)]
    assert all(limiter.admit(client, "1.2.3.4") for limiter, client in zip((one, two, two), inside, strict=True))
    assert not any(limiter.admit(Client(), None) for limiter in (one, two, three))
    one.release(inside[0])
    assert three.admit(Client(), "1.2.3.4")
    assert not two.admit(Client(), "1.2.3.4")


async def test_connections_of_one_address_count_in_all_workers(shared: SharedCounts) -> None:
    one, two, three = limiters(shared, connections_per_address=2)
    first = Client()
    assert one.admit(first, "::ffff:1.2.3.4")
    assert two.admit(Client(), "1.2.3.4")
    for limiter in (one, two, three):
        assert not limiter.admit(Client(), "1.2.3.4")
        assert limiter.admit(Client(), "5.6.7.8") is (limiter is not three)
    one.release(first)
    assert three.admit(Client(), "1.2.3.4")
    assert not one.admit(Client(), "1.2.3.4")


async def test_a_process_takes_no_more_than_it_can_whatever_the_others_have(shared: SharedCounts) -> None:
    one, two, _ = limiters(shared, connections=10, per_process=1)
    assert [one.admit(Client(), None), one.admit(Client(), None), two.admit(Client(), None)] == [True, False, True]


async def test_trusted_proxies_and_sockets_without_an_address_count_in_all_alone(shared: SharedCounts) -> None:
    one, two, _ = limiters(shared, TrustedProxies(["10.0.0.0/8"]), connections_per_address=1, connections=4)
    for limiter in (one, two):
        assert limiter.admit(Client(), "10.0.0.1")
        assert limiter.admit(Client(), None)
    assert not one.admit(Client(), "10.0.0.1")


async def test_what_a_process_had_that_is_gone_does_not_count(shared: SharedCounts) -> None:
    one, two, _ = limiters(shared, connections_per_address=1, connections=1)
    assert one.admit(Client(), "1.2.3.4")
    assert not two.admit(Client(), "1.2.3.4")
    shared.clear(0)
    assert two.admit(Client(), "1.2.3.4")
