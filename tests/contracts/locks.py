"""What every locker must do. Subclass it, and say in a fixture `locker` which one is meant."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tusserver.locks.base import Locker, Manner
from tusserver.protocol.errors import OffsetMismatch, UploadLocked
from tusserver.protocol.upload import UploadId

ID = UploadId("abc")
OTHER = UploadId("xyz")
SOON = 0.01
"""Seconds: patience of those who shall lose it."""
LONG = 30.0
"""Seconds: patience of those who shall not."""


class Holder:
    """Whoever holds the upload in a test: notes who asked, and answers as it is told."""

    def __init__(self, *answers: bool) -> None:
        self.asked: list[Manner] = []
        self.wanted = asyncio.Event()
        """Set once somebody asked."""
        self._answers = list(answers)

    def ask(self, manner: Manner) -> bool:
        self.asked.append(manner)
        self.wanted.set()
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


async def take(
    locker: Locker, manner: Manner = Manner.RESUME, patience: float = LONG, upload_id: UploadId = ID
) -> None:
    """Hold the upload for a moment."""
    async with locker.hold(upload_id, manner, patience):
        pass


class LockerContract:
    """Tests that every locker passes."""

    @pytest.fixture
    def locker(self) -> Locker:
        """Return a fresh locker."""
        raise NotImplementedError

    async def test_it_says_the_same_scope_whenever_it_is_asked(self, locker: Locker) -> None:
        scope = locker.scope
        async with locker.hold(ID):
            assert locker.scope == scope != ""

    # one at a time ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("manner", Manner)
    async def test_a_free_upload_is_held_at_once(self, locker: Locker, manner: Manner) -> None:
        async with locker.hold(ID, manner):
            with pytest.raises(UploadLocked):
                await take(locker, Manner.POLITE, 0)

    async def test_two_uploads_are_held_side_by_side(self, locker: Locker) -> None:
        async with locker.hold(ID), locker.hold(OTHER):
            pass

    async def test_an_upload_is_free_after_it_was_held(self, locker: Locker) -> None:
        await take(locker)
        await take(locker, Manner.POLITE, 0)

    async def test_an_upload_is_free_after_its_holder_failed(self, locker: Locker) -> None:
        with pytest.raises(ZeroDivisionError):
            async with locker.hold(ID):
                raise ZeroDivisionError
        await take(locker, Manner.POLITE, 0)

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
        await take(locker, Manner.POLITE, 0)

    async def test_who_was_refused_leaves_the_holder_its_lock(self, locker: Locker) -> None:
        async with locker.hold(ID):
            for _ in range(2):
                with pytest.raises(UploadLocked):
                    await take(locker, Manner.RESUME, 0)

    async def test_a_holder_cannot_hold_twice(self, locker: Locker) -> None:
        async with locker.hold(ID):
            with pytest.raises(UploadLocked):
                await take(locker, Manner.RESUME, SOON)

    async def test_of_many_who_want_an_upload_one_has_it_at_a_time(self, locker: Locker) -> None:
        inside: list[int] = []
        most = 0
        turns = 0

        async def work(number: int) -> None:
            nonlocal most, turns
            async with locker.hold(ID, Manner.RESUME, LONG):
                inside.append(number)
                most = max(most, len(inside))
                await asyncio.sleep(0)
                turns += 1
                inside.remove(number)

        await asyncio.gather(*map(work, range(20)))
        assert (most, turns) == (1, 20)

    # manners ---------------------------------------------------------------------------------------------------------

    async def test_a_polite_newcomer_never_waits_and_never_asks(self, locker: Locker) -> None:
        holder = Holder(True)
        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            with pytest.raises(UploadLocked):
                await take(locker, Manner.POLITE, LONG)
        assert holder.asked == []

    @pytest.mark.parametrize("manner", [Manner.RESUME, Manner.INSIST])
    async def test_a_holder_is_asked_in_the_manner_of_the_newcomer(self, locker: Locker, manner: Manner) -> None:
        holder = Holder(False)
        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            with pytest.raises(UploadLocked):
                await take(locker, manner, 0)
        assert set(holder.asked) == {manner}

    @pytest.mark.parametrize("manner", [Manner.RESUME, Manner.INSIST])
    async def test_a_holder_that_cannot_be_asked_stays(self, locker: Locker, manner: Manner) -> None:
        async with locker.hold(ID):
            with pytest.raises(UploadLocked):
                await take(locker, manner, 0)

    async def test_a_holder_that_stays_is_waited_for_as_long_as_patience_lasts(self, locker: Locker) -> None:
        holder = Holder(False)
        loop = asyncio.get_running_loop()
        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            began = loop.time()
            with pytest.raises(UploadLocked):
                await take(locker, Manner.RESUME, 0.2)
            assert 0.19 < loop.time() - began < 2

    async def test_a_newcomer_with_patience_has_the_upload_once_it_is_free(self, locker: Locker) -> None:
        holder = Holder(False)
        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            newcomer = asyncio.create_task(take(locker))
            await holder.wanted.wait()
            assert not newcomer.done()
        await newcomer

    @pytest.mark.parametrize("manner", [Manner.RESUME, Manner.INSIST])
    async def test_a_holder_that_goes_is_waited_for_without_any_patience(self, locker: Locker, manner: Manner) -> None:
        holder = Holder(True)
        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            newcomer = asyncio.create_task(take(locker, manner, 0))
            await holder.wanted.wait()
            assert not newcomer.done()
        await newcomer

    async def test_a_holder_that_falls_silent_later_is_asked_again(self, locker: Locker) -> None:
        gone = asyncio.Event()

        def ask(manner: Manner) -> bool:
            asked.append(manner)
            if len(asked) == 3:
                gone.set()
            return len(asked) >= 3

        asked: list[Manner] = []
        async with AsyncExitStack() as held:
            (await held.enter_async_context(locker.hold(ID))).on_wanted(ask)
            newcomer = asyncio.create_task(take(locker))
            await gone.wait()
        await newcomer

    async def test_of_two_who_wait_each_has_its_turn(self, locker: Locker) -> None:
        holder = Holder(True)
        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            newcomers = [asyncio.create_task(take(locker)) for _ in range(2)]
            await holder.wanted.wait()
        await asyncio.gather(*newcomers)

    # cancelled while waiting -----------------------------------------------------------------------------------------

    async def test_a_newcomer_that_gives_up_leaves_no_trace(self, locker: Locker) -> None:
        holder = Holder(False)
        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            newcomer = asyncio.create_task(take(locker))
            await holder.wanted.wait()
            newcomer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await newcomer
            with pytest.raises(UploadLocked):
                await take(locker, Manner.POLITE, 0)
        await take(locker, Manner.POLITE, 0)

    async def test_a_newcomer_that_gives_up_costs_the_next_one_nothing(self, locker: Locker) -> None:
        holder = Holder(False)
        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            gives_up, waits = (asyncio.create_task(take(locker)) for _ in range(2))
            await holder.wanted.wait()
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
            async with locker.hold(ID, Manner.RESUME, LONG, look):
                order.append("holds")

        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            task = asyncio.create_task(newcomer())
            await holder.wanted.wait()
            order.append("asked")
        await task
        assert order == ["looked, 0 asked", "asked", "holds"]

    async def test_what_the_look_raises_ends_the_attempt_and_nobody_is_disturbed(self, locker: Locker) -> None:
        holder = Holder(True)

        async def look() -> None:
            raise OffsetMismatch(expected=1, provided=2)

        async with locker.hold(ID) as lease:
            lease.on_wanted(holder.ask)
            with pytest.raises(OffsetMismatch):
                async with locker.hold(ID, Manner.INSIST, LONG, look):
                    pytest.fail("it was let in")
        assert holder.asked == []

    async def test_where_nobody_holds_there_is_no_look(self, locker: Locker) -> None:
        async def look() -> None:
            pytest.fail("it looked")

        async with locker.hold(ID, Manner.RESUME, LONG, look):
            pass

    async def test_a_holder_that_goes_during_the_look_leaves_a_free_upload(self, locker: Locker) -> None:
        looking, gone = asyncio.Event(), asyncio.Event()

        async def look() -> None:
            looking.set()
            await gone.wait()

        async def newcomer() -> None:
            async with locker.hold(ID, Manner.RESUME, 0, look):
                pass

        async with locker.hold(ID):
            task = asyncio.create_task(newcomer())
            await looking.wait()
        gone.set()
        await task
