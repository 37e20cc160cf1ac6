"""What is under way can be listed: each request until it is answered, each body until it has ended."""

from __future__ import annotations

import asyncio

from tests.service.world import Feed, World, a_request
from tusserver.protocol.messages import Append, Discover


async def test_a_request_and_its_body_are_listed_while_they_last(world: World) -> None:
    upload_id, feed = await world.upload(10), Feed(b"hello")
    activity, context = world.service.activity, a_request("PATCH", upload_id)
    append = Append(id=upload_id, offset=0, body_length=10)
    running = asyncio.create_task(world.service.run(append, feed, context))
    await feed.taken()
    assert activity.requests == {context}
    assert [(intake.received, request) for intake, request in activity.bodies.items()] == [(5, context)]
    feed.send(b"world")
    await running
    assert (activity.requests, activity.bodies) == (set(), {})


async def test_two_requests_with_the_same_head_are_two(world: World) -> None:
    first, second = a_request("OPTIONS"), a_request("OPTIONS")
    world.service.activity.requests.add(first)
    await world.service.run(Discover(), Feed(), second)
    assert world.service.activity.requests == {first}
