"""The door: connections in turn, and no wait for a worker that takes none."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.wire import PATIENCE
from tusserver.server import accept
from tusserver.server.accept import Door, Tally


class Inside(asyncio.Protocol):
    """A connection of a worker."""

    def __init__(self, worker: set[Inside]) -> None:
        self.worker = worker
        self.transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.worker.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.discard(self)


class Hall:
    """Workers on one event loop, and the clients before their port."""

    def __init__(self, workers: int) -> None:
        self.tally = Tally(workers)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.clients = ExitStack()
        self.doors: list[Door] = []

    def open(self, number: int, listener: socket.socket | None = None) -> set[Inside]:
        """Let a worker take connections; return the set of them."""
        worker: set[Inside] = set()
        # A copy, as a fork makes one: a loop watches a descriptor once.
        listener = self.clients.enter_context(listener or self.listener.dup())
        self.doors.append(
            Door(
                [listener],
                self.tally,
                number,
                count=lambda: len(worker),
                make=lambda: Inside(worker),
            )
        )
        self.doors[-1].publish()
        return worker

    def arrive(self, clients: int) -> None:
        """Let so many clients connect at once."""
        for _ in range(clients):
            self.clients.enter_context(socket.create_connection(self.listener.getsockname()))


async def until(workers: list[set[Inside]], connections: int) -> list[int]:
    """Wait until all are inside; return how many each worker has."""
    async with asyncio.timeout(PATIENCE):
        while sum(map(len, workers)) < connections:  # noqa: ASYNC110 - nothing tells when a door took somebody in
            await asyncio.sleep(0.001)
    return [len(worker) for worker in workers]


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    """Two workers may come."""
    made = Hall(2)
    yield made
    for opened in made.doors:
        opened.close()
    made.clients.close()
    made.listener.close()
    await asyncio.sleep(0)


async def test_clients_that_come_at_once_are_shared(hall: Hall) -> None:
    workers = [hall.open(1), hall.open(2)]
    hall.arrive(32)
    shares = await until(workers, 32)
    assert min(shares) >= 12, shares
    end(workers)


async def test_who_has_more_lets_the_others_go_first(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "YIELD", 0.1)
    old = hall.open(1)
    hall.arrive(16)
    await until([old], 16)
    new = hall.open(2)
    hall.arrive(16)
    shares = await until([old, new], 32)
    assert shares[1] >= 13, shares
    end([old, new])


async def test_nobody_waits_for_a_worker_that_takes_none(hall: Hall) -> None:
    worker = hall.open(1)
    hall.tally.note(2, 0)  # it hangs
    hall.arrive(20)
    assert await until([worker], 20) == [20]
    end([worker])


async def test_a_worker_that_is_gone_is_not_let_go_first(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "YIELD", 3600.0)
    worker = hall.open(1)
    hall.tally.note(2, 0)
    hall.tally.forget(2)
    hall.arrive(20)
    assert await until([worker], 20) == [20]
    end([worker])


async def test_a_door_that_is_closed_leaves_who_comes_to_the_others(hall: Hall) -> None:
    closed, worker = hall.open(1), hall.open(2)
    hall.doors[0].close()
    hall.tally.forget(1)
    hall.doors[0].publish()
    hall.arrive(8)
    assert await until([closed, worker], 8) == [0, 8]
    end([worker])


async def test_too_many_open_files_are_told_and_waited_for(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(socket.socket):
        failures = 1

        def accept(self) -> Any:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    monkeypatch.setattr(accept, "PAUSE", 0.001)
    with caplog.at_level(logging.ERROR, "tusserver.workers"):
        worker = hall.open(1, Full(fileno=hall.listener.dup().detach()))
        hall.arrive(3)
        assert await until([worker], 3) == [3]
        end([worker])
    assert [record.message for record in caplog.records] == [
        "no connection can be taken: [Errno 24] Too many open files"
    ]


def end(workers: list[set[Inside]]) -> None:
    """Hang up."""
    for worker in workers:
        for inside in worker:
            inside.transport.abort()
