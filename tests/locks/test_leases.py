"""Leases that expire: the contract, by the locker of `tests.support.leases`."""

from __future__ import annotations

import asyncio

import pytest

from tests.contracts.locks import ALWAYS, ID, LONG, LeaseContract, take
from tests.support.leases import TERM, ExpiringLocker, LeaseServer
from tusserver.locks.base import Locker
from tusserver.protocol.errors import UploadLocked
from tusserver.protocol.upload import UploadId


class TestExpiringLocker(LeaseContract):
    @pytest.fixture
    def locker(self) -> Locker:
        return ExpiringLocker(LeaseServer())

    async def lose(self, locker: Locker, upload_id: UploadId) -> None:
        assert isinstance(locker, ExpiringLocker)
        locker.lease(upload_id).lose()


@pytest.fixture
def nodes() -> tuple[ExpiringLocker, ExpiringLocker]:
    """Two nodes of one service."""
    server = LeaseServer()
    return ExpiringLocker(server), ExpiringLocker(server)


async def test_two_nodes_exclude_each_other(nodes: tuple[ExpiringLocker, ExpiringLocker]) -> None:
    one, two = nodes
    assert one.domain == two.domain
    async with one.hold(ID):
        with pytest.raises(UploadLocked):
            await take(two, None, 0)
    await take(two, None, 0)


async def test_a_node_that_is_frozen_loses_its_lease_after_its_term(
    nodes: tuple[ExpiringLocker, ExpiringLocker],
) -> None:
    one, two = nodes
    loop = asyncio.get_running_loop()
    lost: list[float] = []
    async with one.hold(ID) as lease:
        lease.on_lost(lambda: lost.append(loop.time()))
        one.lease(ID).frozen = True
        began = loop.time()
        async with two.hold(ID, ALWAYS, LONG) as successor:
            assert TERM / 2 < loop.time() - began <= TERM + 1
            assert (lease.lost, lost, successor.fence > lease.fence) == (True, [], True)
            lease.thaw()
            assert lost == [loop.time()]


async def test_of_two_nodes_one_leads(nodes: tuple[ExpiringLocker, ExpiringLocker]) -> None:
    one, two = nodes
    assert [await one.is_leader(), await two.is_leader()] == [True, False]
    await one.aclose()
    assert [await two.is_leader(), await one.is_leader()] == [True, False]
