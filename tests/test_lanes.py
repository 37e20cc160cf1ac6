"""Calls to a disk: the loop waits for none that does not come back at once, and a short one for no long one."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tusserver.lanes import LIMIT, TOGETHER, TRY_AGAIN, Lane, Lanes, Latency, _Helper

TIMEOUT = 120.0


@pytest.fixture
def lanes() -> Lanes:
    return Lanes()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds up those who wait for it, until the end of the test at the latest."""
    gate = threading.Event()
    yield gate
    gate.set()


def where() -> str:
    return threading.current_thread().name


class Hanging:
    """A call that hangs until its gate opens, and says that it was begun."""

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate
        self.begun = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self._gate.wait(TIMEOUT)
        return "done"


async def turns() -> None:
    """Let calls be collected, and made."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_short_call_runs_in_one_helper_thread_and_not_on_the_loop(lanes: Lanes) -> None:
    names = {await lanes.run_inline(where) for _ in range(100)}
    # Where this machine is busy some come back late, and are made in the threads for that.
    assert {name.partition("_")[0] for name in names} <= {"tusserver-helper", "tusserver-brief"}


async def test_what_a_call_raises_is_raised(lanes: Lanes) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await lanes.run_inline(lambda: 1 // 0)


async def test_an_attempt_that_comes_back_is_not_awaited(lanes: Lanes) -> None:
    done: list[int] = []
    for number in range(10):
        if (pending := lanes.attempt(done.append, number)) is not None:
            await pending  # this machine is busy
    assert done == list(range(10))


async def test_the_loop_goes_on_while_a_call_hangs_and_waits_for_no_other(lanes: Lanes, gate: threading.Event) -> None:
    hanging = asyncio.create_task(lanes.run_inline(Hanging(gate)))
    await turns()
    assert lanes.slow
    assert (await lanes.run_inline(where)).startswith("tusserver-brief")
    assert not hanging.done()
    gate.set()
    assert await hanging == "done"
    assert lanes.latency.hanging == 0


async def test_an_attempt_that_hangs_counts_before_it_is_awaited(lanes: Lanes, gate: threading.Event) -> None:
    def call() -> None:
        gate.wait(TIMEOUT)

    pending = lanes.attempt(call)
    assert pending is not None
    assert lanes.slow
    gate.set()
    await pending


async def test_a_call_that_is_cancelled_has_ended_when_that_is_told(lanes: Lanes, gate: threading.Event) -> None:
    hanging = Hanging(gate)
    call = asyncio.create_task(lanes.run_inline(hanging))
    await turns()
    assert lanes.slow
    call.cancel()
    await turns()
    assert not call.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert lanes.latency.hanging == 0
    assert await lanes.run_inline(lambda: "again") == "again"


async def test_a_call_that_is_cancelled_before_it_is_made_is_made_and_waited_for(lanes: Lanes) -> None:
    made: list[int] = []
    calls = [asyncio.create_task(lanes.run_inline(made.append, number)) for number in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[1]
    assert 1 in made
    await asyncio.wait(calls)


async def test_what_a_call_opened_is_closed_if_nobody_is_left_to_take_it(lanes: Lanes) -> None:
    closed: list[str] = []
    call = asyncio.create_task(lanes.run_inline(lambda: "opened", discard=closed.append))
    for _ in range(2):  # then it was made, and its task does not know yet
        await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert closed == ["opened"]


async def test_calls_of_one_turn_go_to_the_helper_together(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[int] = []
    ask = _Helper.ask
    monkeypatch.setattr(_Helper, "ask", lambda helper, calls: ways.append(len(calls)) or ask(helper, calls))  # type: ignore[func-returns-value]

    def fail() -> int:
        raise ZeroDivisionError

    calls = [lanes.run_inline(fail if number == 3 else partial(int, number)) for number in range(TOGETHER + 2)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [value for value in found if isinstance(value, int)] == [0, 1, 2, *range(4, TOGETHER + 2)]
    assert isinstance(found[3], ZeroDivisionError)
    assert lanes.slow or ways == [TOGETHER, 2]  # unless this machine is busy


async def test_of_calls_that_go_together_one_that_hangs_keeps_no_other(lanes: Lanes, gate: threading.Event) -> None:
    before, hanging = asyncio.create_task(lanes.run_inline(where)), asyncio.create_task(lanes.run_inline(Hanging(gate)))
    behind = [asyncio.create_task(lanes.run_inline(where)) for _ in range(3)]
    done, _ = await asyncio.wait([before, *behind], timeout=TIMEOUT)
    assert len(done) == 4
    assert not hanging.done()
    assert all(call.result().startswith("tusserver-brief") for call in behind)
    assert lanes.slow
    gate.set()
    assert await hanging == "done"
    assert lanes.latency.hanging == 0


async def test_a_helper_that_comes_late_to_its_calls_finds_them_made(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processors are busy, say."""
    await lanes.run_inline(where)
    (helper,) = lanes._helpers
    asked = helper._asked
    late = threading.Event()

    class Late:
        def release(self) -> None:
            threading.Thread(target=self._release).start()

        def _release(self) -> None:
            late.wait(TIMEOUT)
            asked.release()

    helper._asked = Late()  # type: ignore[assignment]
    assert await asyncio.gather(*(lanes.run_inline(int, number) for number in range(3))) == [0, 1, 2]
    assert lanes.slow
    helper._asked = asked
    late.set()
    while helper not in lanes._helpers:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    assert await lanes.run_inline(where) == "tusserver-helper"


async def test_without_a_thread_a_call_fails_and_does_not_wait_for_ever(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(helper: _Helper) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_Helper, "__init__", none)
    calls = [asyncio.create_task(lanes.run_inline(where)) for _ in range(2)]
    await asyncio.wait(calls)
    assert [str(call.exception()) for call in calls] == ["can't start new thread"] * 2


def test_loops_that_share_a_disk_do_not_mix_their_calls(lanes: Lanes) -> None:
    async def many() -> list[int]:
        return await asyncio.gather(*(lanes.run_inline(int, number) for number in range(50)))

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: asyncio.run(many()), range(20)):
            assert found == list(range(50))


@pytest.mark.parametrize("lane", Lane)
async def test_no_lane_waits_for_another_that_is_full(lanes: Lanes, lane: Lane, gate: threading.Event) -> None:
    full = [asyncio.create_task(lanes.run(lane, gate.wait, TIMEOUT)) for _ in range(lane.threads + 1)]
    others = [asyncio.create_task(lanes.run(other, where)) for other in Lane if other is not lane]
    done, _ = await asyncio.wait(others, timeout=TIMEOUT)
    assert len(done) == len(others)
    assert not any(call.done() for call in full)
    gate.set()
    await asyncio.wait(full)


async def test_lanes_that_nobody_uses_any_more_leave_no_thread_and_no_object() -> None:
    class Store:
        def __init__(self) -> None:
            self.lanes = Lanes()

        def call(self) -> threading.Thread:
            return threading.current_thread()

    store = Store()
    thread = await store.lanes.run_inline(store.call)
    seen = weakref.ref(store)
    del store
    gc.collect()
    assert seen() is None
    thread.join(TIMEOUT)
    assert not thread.is_alive()


# the judgement -------------------------------------------------------------------------------------------------------


def test_a_disk_is_slow_from_the_limit_on_the_average() -> None:
    latency = Latency()
    for _ in range(1000):
        latency.note(0.8 * LIMIT)
    assert not latency.slow
    for _ in range(1000):
        latency.note(1.2 * LIMIT)
    assert latency.slow


def test_one_call_that_hung_is_enough_and_some_quick_ones_outweigh_it() -> None:
    latency = Latency()
    latency.note(10.0)
    assert latency.slow
    for _ in range(10):
        latency.note(0.0)
    assert not latency.slow


def test_now_and_then_a_call_is_waited_for_to_see_whether_a_disk_is_still_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tusserver.lanes.time.monotonic", lambda: now)
    latency = Latency()
    assert all(latency.worth_a_try() for _ in range(10))
    latency.note(10.0)
    assert [latency.worth_a_try() for _ in range(10)].count(True) == 1
    now += TRY_AGAIN
    assert [latency.worth_a_try() for _ in range(10)].count(True) == 1
    now += TRY_AGAIN
    latency.hanging = 1
    assert not any(latency.worth_a_try() for _ in range(10))
