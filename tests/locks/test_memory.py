"""Locks within one process."""

from __future__ import annotations

import asyncio

import pytest

from tests.contracts.locks import ID, Holder, LockerContract, take
from tusserver.locks.base import RELEASE_TIMEOUT, Locker, Preempt
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.errors import UploadLocked


class TestMemoryLocker(LockerContract):
    @pytest.fixture
    def locker(self) -> Locker:
        return MemoryLocker()


async def test_a_holder_that_says_it_goes_and_does_not_is_given_up_after_a_while() -> None:
    locker, loop = MemoryLocker(), asyncio.get_running_loop()
    async with locker.hold(ID) as lease:
        lease.on_release_request(Holder(True).ask)
        began = loop.time()
        with pytest.raises(UploadLocked):
            await take(locker, Preempt(), 0)
        assert RELEASE_TIMEOUT <= loop.time() - began < RELEASE_TIMEOUT + 0.1


async def test_a_longer_timeout_than_a_release_may_take_holds_with_a_holder_that_goes() -> None:
    locker, loop = MemoryLocker(), asyncio.get_running_loop()
    async with locker.hold(ID) as lease:
        lease.on_release_request(Holder(True).ask)
        began = loop.time()
        with pytest.raises(UploadLocked):
            await take(locker, Preempt(), 2 * RELEASE_TIMEOUT)
        assert loop.time() - began >= 2 * RELEASE_TIMEOUT


async def test_a_holder_that_changes_its_mind_is_waited_for_as_long_as_the_timeout() -> None:
    locker, loop = MemoryLocker(), asyncio.get_running_loop()
    async with locker.hold(ID) as lease:
        lease.on_release_request(Holder(True, False).ask)
        began = loop.time()
        with pytest.raises(UploadLocked):
            await take(locker, Preempt(), 0)
        assert loop.time() - began < 1


async def test_a_silent_holder_is_found_out_within_a_fraction_of_a_second() -> None:
    # "a stalled writer never blocks a resuming one for more than a second"
    locker, loop = MemoryLocker(), asyncio.get_running_loop()
    silent_from = loop.time() + 2.0
    goes = asyncio.Event()

    def ask(preempt: Preempt) -> bool:
        if loop.time() >= silent_from:
            goes.set()
        return goes.is_set()

    async with locker.hold(ID) as lease:
        lease.on_release_request(ask)
        newcomer = asyncio.create_task(take(locker))
        await goes.wait()
    await newcomer
    assert loop.time() - silent_from < 0.25


async def test_a_newcomer_has_a_freed_upload_without_waiting_for_its_next_question() -> None:
    locker, loop = MemoryLocker(), asyncio.get_running_loop()
    holder = Holder(False)
    async with locker.hold(ID) as lease:
        lease.on_release_request(holder.ask)
        newcomer = asyncio.create_task(take(locker))
        await holder.requested.wait()
        freed = loop.time()
    await newcomer
    assert loop.time() == freed


async def test_two_lockers_know_nothing_of_each_other() -> None:
    async with MemoryLocker().hold(ID):
        await take(MemoryLocker(), None, 0)
    assert MemoryLocker().domain != MemoryLocker().domain


async def test_nothing_is_kept_of_uploads_that_nobody_holds() -> None:
    locker = MemoryLocker()
    holder = Holder(False)
    async with locker.hold(ID) as lease:
        lease.on_release_request(holder.ask)
        with pytest.raises(UploadLocked):
            await take(locker, Preempt(), 0)
    assert locker._leases == {}
