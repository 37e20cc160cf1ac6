"""New connections are shared evenly, and wait for no worker that accepts none."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.wire import TIMEOUT
from tusserver.server.accept import Acceptor, ConnectionCounts


class Accepted(asyncio.Protocol):
    """A connection of a worker."""

    def __init__(self, worker: set[Accepted]) -> None:
        self.worker = worker
        self.transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.worker.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.discard(self)


class Workers:
    """Workers on one event loop, and clients of their port."""

    def __init__(self, workers: int) -> None:
        self.counts = ConnectionCounts(workers)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.clients = ExitStack()
        self.acceptors: list[Acceptor] = []

    def open(self, number: int, listener: socket.socket | None = None, **seconds: float) -> set[Accepted]:
        """Let a worker accept connections; return the set of them."""
        worker: set[Accepted] = set()
        # A copy, as a fork makes one: a loop watches a descriptor once.
        listener = self.clients.enter_context(listener or self.listener.dup())
        self.acceptors.append(
            Acceptor(
                [listener],
                self.counts,
                number,
                count=lambda: len(worker),
                make=lambda: Accepted(worker),
                **seconds,
            )
        )
        self.acceptors[-1].publish()
        return worker

    def arrive(self, clients: int) -> None:
        """Let so many clients connect at once."""
        for _ in range(clients):
            self.clients.enter_context(socket.create_connection(self.listener.getsockname()))


async def until(workers: list[set[Accepted]], connections: int) -> list[int]:
    """Wait until all are accepted; return how many each worker has."""
    async with asyncio.timeout(TIMEOUT):
        while sum(map(len, workers)) < connections:  # noqa: ASYNC110 - nothing tells when a connection was accepted
            await asyncio.sleep(0.001)
    return [len(worker) for worker in workers]


@pytest.fixture
async def group() -> AsyncIterator[Workers]:
    """Two workers may come."""
    made = Workers(2)
    yield made
    for acceptor in made.acceptors:
        acceptor.close()
    made.clients.close()
    made.listener.close()
    await asyncio.sleep(0)


async def test_clients_that_come_at_once_are_shared(group: Workers) -> None:
    workers = [group.open(1), group.open(2)]
    group.arrive(32)
    shares = await until(workers, 32)
    assert min(shares) >= 12, shares
    end(workers)


async def test_a_worker_with_more_connections_lets_the_others_go_first(group: Workers) -> None:
    old = group.open(1, yield_seconds=0.1)
    group.arrive(16)
    await until([old], 16)
    new = group.open(2)
    group.arrive(16)
    shares = await until([old, new], 32)
    assert shares[1] >= 13, shares
    end([old, new])


async def test_nobody_waits_for_a_worker_that_takes_none(group: Workers) -> None:
    worker = group.open(1)
    group.counts.put(2, 0)  # it hangs
    group.arrive(20)
    assert await until([worker], 20) == [20]
    end([worker])


async def test_a_worker_that_is_gone_is_not_let_go_first(group: Workers) -> None:
    worker = group.open(1, yield_seconds=3600.0)
    group.counts.put(2, 0)
    group.counts.remove(2)
    group.arrive(20)
    assert await until([worker], 20) == [20]
    end([worker])


async def test_a_closed_acceptor_leaves_new_connections_to_the_others(group: Workers) -> None:
    closed, worker = group.open(1), group.open(2)
    group.acceptors[0].close()
    group.counts.remove(1)
    group.acceptors[0].publish()
    group.arrive(8)
    assert await until([closed, worker], 8) == [0, 8]
    end([worker])


async def test_too_many_open_files_are_logged_and_waited_for(group: Workers, caplog: pytest.LogCaptureFixture) -> None:
    class Full(socket.socket):
        failures = 1

        def accept(self) -> Any:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    with caplog.at_level(logging.ERROR, "tusserver.workers"):
        worker = group.open(1, Full(fileno=group.listener.dup().detach()), pause_seconds=0.001)
        group.arrive(3)
        assert await until([worker], 3) == [3]
        end([worker])
    assert [record.message for record in caplog.records] == [
        "no connection can be accepted: [Errno 24] Too many open files"
    ]


def end(workers: list[set[Accepted]]) -> None:
    """Hang up."""
    for worker in workers:
        for accepted in worker:
            accepted.transport.abort()
