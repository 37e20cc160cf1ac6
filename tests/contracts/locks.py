"""What every locker must do. Subclass `LockerContract`, or `LeaseContract` if leases can be lost, and say in a fixture
`locker` which one is meant."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tusserver.locks.base import Locker, Preempt
from tusserver.protocol.errors import OffsetMismatch, UploadLocked
from tusserver.protocol.upload import UploadId

ID = UploadId("abc")
OTHER = UploadId("xyz")
ALWAYS = Preempt()
AT_FIVE = Preempt(5)
SOON = 0.01
"""Seconds: the timeout of those who shall not get the lock."""
LONG = 30.0
"""Seconds: the timeout of those who shall."""


class Holder:
    """Whoever holds the upload in a test: notes who asked, and answers as it is told."""

    def __init__(self, *answers: bool) -> None:
        self.asked: list[Preempt] = []
        self.requested = asyncio.Event()
        """Set once somebody asked."""
        self._answers = list(answers)

    def ask(self, preempt: Preempt) -> bool:
        self.asked.append(preempt)
        self.requested.set()
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


async def take(locker: Locker, preempt: Preempt | None = ALWAYS, waits: float = LONG, upload_id: UploadId = ID) -> None:
    """Hold the upload for a moment."""
    async with locker.hold(upload_id, preempt, waits):
        pass


class LockerContract:
    """Tests that every locker passes."""

    @pytest.fixture
    def locker(self) -> Locker:
        """Return a fresh locker."""
        raise NotImplementedError

    async def test_it_says_the_same_domain_whenever_it_is_asked(self, locker: Locker) -> None:
        domain = locker.domain
        async with locker.hold(ID):
            assert locker.domain == domain != ""

    # one at a time ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("preempt", [None, ALWAYS, AT_FIVE])
    async def test_a_free_upload_is_held_at_once(self, locker: Locker, preempt: Preempt | None) -> None:
        async with locker.hold(ID, preempt):
            with pytest.raises(UploadLocked):
                await take(locker, None, 0)

    async def test_two_uploads_are_held_side_by_side(self, locker: Locker) -> None:
        async with locker.hold(ID), locker.hold(OTHER):
            pass

    async def test_an_upload_is_free_after_it_was_held(self, locker: Locker) -> None:
        await take(locker)
        await take(locker, None, 0)

    async def test_an_upload_is_free_after_its_holder_failed(self, locker: Locker) -> None:
        with pytest.raises(ZeroDivisionError):
            async with locker.hold(ID):
                raise ZeroDivisionError
        await take(locker, None, 0)

    async def test_an_upload_is_free_after_its_holder_was_cancelled(self, locker: Locker) -> None:
        holds = asyncio.Event()

        async def hold_for_ever() -> None:
            async with locker.hold(ID):
                holds.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold_for_ever())
        await holds.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await take(locker, None, 0)

    async def test_who_was_refused_leaves_the_holder_its_lock(self, locker: Locker) -> None:
        async with locker.hold(ID):
            for _ in range(2):
                with pytest.raises(UploadLocked):
                    await take(locker, ALWAYS, 0)

    async def test_a_holder_cannot_hold_twice(self, locker: Locker) -> None:
        async with locker.hold(ID):
            with pytest.raises(UploadLocked):
                await take(locker, ALWAYS, SOON)

    async def test_of_many_who_want_an_upload_one_has_it_at_a_time(self, locker: Locker) -> None:
        inside: list[int] = []
        most = 0
        turns = 0

        async def work(number: int) -> None:
            nonlocal most, turns
            async with locker.hold(ID, ALWAYS, LONG):
                inside.append(number)
                most = max(most, len(inside))
                await asyncio.sleep(0)
                turns += 1
                inside.remove(number)

        await asyncio.gather(*map(work, range(20)))
        assert (most, turns) == (1, 20)

    # taking over -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("waits", [0, SOON])
    async def test_a_newcomer_that_does_not_want_to_take_over_asks_nobody(self, locker: Locker, waits: float) -> None:
        holder = Holder(True)
        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            with pytest.raises(UploadLocked):
                await take(locker, None, waits)
        assert holder.asked == []

    async def test_it_may_wait_for_the_holder_all_the_same(self, locker: Locker) -> None:
        async with locker.hold(ID):
            waiting = asyncio.create_task(take(locker, None, LONG))
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting

    @pytest.mark.parametrize("preempt", [ALWAYS, AT_FIVE])
    async def test_a_holder_is_asked_as_the_newcomer_says(self, locker: Locker, preempt: Preempt) -> None:
        holder = Holder(False)
        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            with pytest.raises(UploadLocked):
                await take(locker, preempt, 0)
        assert set(holder.asked) == {preempt}

    async def test_a_holder_that_cannot_be_asked_stays(self, locker: Locker) -> None:
        async with locker.hold(ID):
            with pytest.raises(UploadLocked):
                await take(locker, ALWAYS, 0)

    async def test_a_holder_that_stays_is_waited_for_for_its_timeout(self, locker: Locker) -> None:
        holder = Holder(False)
        loop = asyncio.get_running_loop()
        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            began = loop.time()
            with pytest.raises(UploadLocked):
                await take(locker, ALWAYS, 0.2)
            assert 0.19 < loop.time() - began < 2

    async def test_a_newcomer_that_waits_has_the_upload_once_it_is_free(self, locker: Locker) -> None:
        holder = Holder(False)
        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            newcomer = asyncio.create_task(take(locker))
            await holder.requested.wait()
            assert not newcomer.done()
        await newcomer

    async def test_a_holder_that_goes_is_waited_for_also_without_a_timeout(self, locker: Locker) -> None:
        holder = Holder(True)
        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            newcomer = asyncio.create_task(take(locker, ALWAYS, 0))
            await holder.requested.wait()
            assert not newcomer.done()
        await newcomer

    async def test_a_holder_that_stays_is_asked_again(self, locker: Locker) -> None:
        gone = asyncio.Event()

        def ask(preempt: Preempt) -> bool:
            asked.append(preempt)
            if len(asked) == 3:
                gone.set()
            return len(asked) >= 3

        asked: list[Preempt] = []
        async with AsyncExitStack() as held:
            (await held.enter_async_context(locker.hold(ID))).on_release_request(ask)
            newcomer = asyncio.create_task(take(locker))
            await gone.wait()
        await newcomer

    async def test_of_two_who_wait_each_has_its_turn(self, locker: Locker) -> None:
        holder = Holder(True)
        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            newcomers = [asyncio.create_task(take(locker)) for _ in range(2)]
            await holder.requested.wait()
        await asyncio.gather(*newcomers)

    # fences ----------------------------------------------------------------------------------------------------------

    async def test_fences_rise_from_holder_to_holder_or_are_all_zero(self, locker: Locker) -> None:
        fences: list[int] = []
        for _ in range(3):
            async with locker.hold(ID) as lease:
                fences.append(lease.fence)
            await take(locker, upload_id=OTHER)
        assert fences == [0, 0, 0] or 0 < fences[0] < fences[1] < fences[2]

    async def test_a_fence_stays_the_same_while_the_upload_is_held(self, locker: Locker) -> None:
        async with locker.hold(ID) as lease:
            fence = lease.fence
            await take(locker, upload_id=OTHER)
            assert lease.fence == fence

    async def test_a_lease_is_not_lost_by_being_held_or_released(self, locker: Locker) -> None:
        lost: list[str] = []
        async with locker.hold(ID) as lease:
            lease.on_lost(lambda: lost.append("lost"))
            await asyncio.sleep(LONG)
            assert not lease.lost
        await take(locker)
        assert lost == []

    # leading ---------------------------------------------------------------------------------------------------------

    async def test_who_leads_leads_until_it_closes_its_locker(self, locker: Locker) -> None:
        assert await locker.is_leader()
        assert await locker.is_leader()
        await locker.aclose()
        assert await locker.is_leader()

    async def test_a_locker_that_was_closed_opens_again(self, locker: Locker) -> None:
        await take(locker)
        await locker.aclose()
        await locker.check()
        await take(locker)

    # reports ---------------------------------------------------------------------------------------------------------

    async def test_a_holder_tells_how_far_it_is(self, locker: Locker) -> None:
        async def report() -> int | None:
            return 5

        async with locker.hold(ID) as lease:
            lease.on_report(report)
            assert await locker.report(ID) == 5
            lease.on_report(None)
            assert await locker.report(ID) is None

    async def test_who_holds_nothing_tells_nothing(self, locker: Locker) -> None:
        assert await locker.report(ID) is None
        async with locker.hold(ID):
            assert await locker.report(ID) is None
            assert await locker.report(OTHER) is None

    # cancelled while waiting -----------------------------------------------------------------------------------------

    async def test_a_newcomer_that_gives_up_leaves_no_trace(self, locker: Locker) -> None:
        holder = Holder(False)
        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            newcomer = asyncio.create_task(take(locker))
            await holder.requested.wait()
            newcomer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await newcomer
            with pytest.raises(UploadLocked):
                await take(locker, None, 0)
        await take(locker, None, 0)

    async def test_a_newcomer_that_gives_up_costs_the_next_one_nothing(self, locker: Locker) -> None:
        holder = Holder(False)
        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            gives_up, waits = (asyncio.create_task(take(locker)) for _ in range(2))
            await holder.requested.wait()
            gives_up.cancel()
        await waits
        with pytest.raises(asyncio.CancelledError):
            await gives_up

    # looking before asking -------------------------------------------------------------------------------------------

    async def test_a_newcomer_may_look_before_it_disturbs_anybody(self, locker: Locker) -> None:
        holder = Holder(True)
        order: list[str] = []

        async def look() -> None:
            order.append(f"looked, {len(holder.asked)} asked")

        async def newcomer() -> None:
            async with locker.hold(ID, ALWAYS, LONG, look):
                order.append("holds")

        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            task = asyncio.create_task(newcomer())
            await holder.requested.wait()
            order.append("asked")
        await task
        assert order == ["looked, 0 asked", "asked", "holds"]

    async def test_what_the_look_raises_ends_the_attempt_and_nobody_is_disturbed(self, locker: Locker) -> None:
        holder = Holder(True)

        async def look() -> None:
            raise OffsetMismatch(expected=1, provided=2)

        async with locker.hold(ID) as lease:
            lease.on_release_request(holder.ask)
            with pytest.raises(OffsetMismatch):
                async with locker.hold(ID, ALWAYS, LONG, look):
                    pytest.fail("it was let in")
        assert holder.asked == []

    async def test_where_nobody_holds_there_is_no_look(self, locker: Locker) -> None:
        async def look() -> None:
            pytest.fail("it looked")

        async with locker.hold(ID, ALWAYS, LONG, look):
            pass

    async def test_a_holder_that_goes_during_the_look_leaves_a_free_upload(self, locker: Locker) -> None:
        looking, gone = asyncio.Event(), asyncio.Event()

        async def look() -> None:
            looking.set()
            await gone.wait()

        async def newcomer() -> None:
            async with locker.hold(ID, ALWAYS, 0, look):
                pass

        async with locker.hold(ID):
            task = asyncio.create_task(newcomer())
            await looking.wait()
        gone.set()
        await task


class LeaseContract(LockerContract):
    """Tests that a locker whose leases can be lost passes as well."""

    async def lose(self, locker: Locker, upload_id: UploadId) -> None:
        """Let the lease of whoever holds an upload be lost; return once that is known to its holder."""
        raise NotImplementedError

    async def test_fences_are_not_zero(self, locker: Locker) -> None:
        async with locker.hold(ID) as lease:
            assert lease.fence > 0

    async def test_who_loses_its_lease_is_called_at_once_and_once(self, locker: Locker) -> None:
        lost: list[str] = []
        async with locker.hold(ID) as lease:
            lease.on_lost(lambda: lost.append("lost"))
            await self.lose(locker, ID)
            assert (lease.lost, lost) == (True, ["lost"])
            await asyncio.sleep(LONG)
        assert lost == ["lost"]

    async def test_who_asks_to_be_called_after_its_lease_was_lost_is_called_at_once(self, locker: Locker) -> None:
        lost: list[str] = []
        async with locker.hold(ID) as lease:
            await self.lose(locker, ID)
            lease.on_lost(lambda: lost.append("lost"))
            assert lost == ["lost"]

    async def test_an_upload_whose_lease_was_lost_is_held_by_the_next_with_a_higher_fence(self, locker: Locker) -> None:
        async with locker.hold(ID) as lost:
            await self.lose(locker, ID)
            async with locker.hold(ID, ALWAYS, LONG) as lease:
                assert lease.fence > lost.fence
                assert (lost.lost, lease.lost) == (True, False)

    async def test_who_lost_its_lease_does_not_release_that_of_its_successor(self, locker: Locker) -> None:
        async with AsyncExitStack() as held:
            async with locker.hold(ID):
                await self.lose(locker, ID)
                await held.enter_async_context(locker.hold(ID, ALWAYS, LONG))
            with pytest.raises(UploadLocked):
                await take(locker, None, 0)

    async def test_a_lost_lease_leaves_that_of_another_upload_alone(self, locker: Locker) -> None:
        async with locker.hold(ID), locker.hold(OTHER) as other:
            await self.lose(locker, ID)
            assert not other.lost
