"""A request's body over ASGI: no byte is lost when somebody stops waiting for it."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from tusserver.protocol.dialect import Offer
from tusserver.protocol.extensions import Extension
from tusserver.protocol.tus import TusDialect
from tusserver.web.body import RequestBody

DIALECT = TusDialect(Offer(extensions=frozenset(Extension)))


class Lossy:
    """A server whose `receive` loses the message that it has in hand when it is cancelled; granian's does."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)
        self.handing_over = asyncio.Event()
        self.cancelled = False

    async def receive(self) -> Message:
        chunk = self._chunks.pop(0)
        try:
            await self.handing_over.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}


async def abandoned(body: RequestBody) -> None:
    """Wait for bytes, and stop waiting before they come."""
    waiting = asyncio.ensure_future(body.receive())
    for _ in range(5):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_nobody_waited_for_any_more_is_received_later() -> None:
    """Somebody who asks how far an upload is has what is in hand written at once; the body goes on afterwards."""
    server = Lossy(b"first", b"second")
    body = RequestBody({}, server.receive, DIALECT)
    await abandoned(body)
    server.handing_over.set()
    assert [await body.receive(), await body.receive(), await body.receive()] == [b"first", b"second", b""]


async def test_an_answered_request_waits_for_nothing() -> None:
    server = Lossy(b"first")
    body = RequestBody({}, server.receive, DIALECT)
    await abandoned(body)
    body.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert server.cancelled
