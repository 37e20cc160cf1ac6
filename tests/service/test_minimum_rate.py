"""Bodies that trickle: cut off, with what they brought kept, while those that are merely slow are left alone."""

from __future__ import annotations

import asyncio

import pytest

from tests.service.conftest import MakeWorld
from tests.service.world import IDLE, Feed, World, elapse
from tusserver.protocol.errors import BodyTooLarge, BodyTooSlow
from tusserver.protocol.limits import Limits, Timeouts
from tusserver.service.intake import Intake

SPEED = 10
"""Bytes a second that a body must bring."""
LEAST = round(SPEED * IDLE)
"""Bytes that a body must bring between two looks."""


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(timeouts=Timeouts(min_speed=SPEED))


async def trickle(feed: Feed, a_second: int, seconds: int) -> None:
    """Send in small pieces, so that no silence is long."""
    for _ in range(seconds):
        feed.send(b"x" * a_second)
        await elapse(1.0)


async def test_a_client_that_trickles_is_cut_off_and_its_bytes_are_kept(world: World) -> None:
    upload_id, feed = await world.upload(10_000), Feed()
    appending = asyncio.create_task(world.append(upload_id, 0, feed))
    await trickle(feed, 1, round(3 * IDLE))
    with pytest.raises(BodyTooSlow) as refusal:
        await appending
    assert (refusal.value.status, refusal.value.closes) == (503, True)
    assert IDLE <= (await world.head(upload_id)).offset <= 2 * IDLE + 1


async def test_a_client_that_is_slow_but_fast_enough_is_left_alone(world: World) -> None:
    seconds = round(4 * IDLE)
    a_second = SPEED + 1
    length = seconds * a_second
    upload_id, feed = await world.upload(length), Feed()
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=length))
    await trickle(feed, a_second, seconds)
    assert (await appending).complete


async def test_a_client_may_have_a_slow_start_and_a_bad_moment(world: World) -> None:
    upload_id, feed = await world.upload(3 * LEAST), Feed()
    appending = asyncio.create_task(world.append(upload_id, 0, feed, announced=3 * LEAST))
    for _ in range(3):
        feed.send(b"x" * LEAST)
        for _ in range(round(IDLE) - 2):
            await elapse(1.0)
    assert (await appending).complete


async def test_a_body_is_not_called_slow_while_the_store_is() -> None:
    intake = Intake(Feed(b"hello"), limit=None, expected=None, idle_timeout=IDLE)
    await intake.read(5)  # what follows is the store's time
    for _ in range(5):
        intake.check_rate(LEAST)
    assert intake.stop_reason is None


async def test_nothing_looks_at_bodies_while_there_are_none(world: World) -> None:
    upload_id = await world.upload(5)
    await world.append(upload_id, 0, b"hello")
    before = asyncio.get_running_loop().time()
    await elapse(10 * IDLE)
    assert asyncio.get_running_loop().time() == pytest.approx(before + 10 * IDLE)
    assert not world.service.activity._minimum_rate.is_scheduled


@pytest.mark.parametrize("length", [10, None])
async def test_a_body_that_runs_over_what_one_request_may_bring_is_refused_and_leaves_nothing(
    make_world: MakeWorld, length: int | None
) -> None:
    world = make_world(limits=Limits(body_size=5))
    upload_id = await world.upload(length)
    with pytest.raises(BodyTooLarge):
        await world.append(upload_id, 0, Feed(b"hello", b"!", ends=True))
    assert (await world.head(upload_id)).offset == 0
    assert (await world.append(upload_id, 0, Feed(b"hello", ends=True))).offset == 5
