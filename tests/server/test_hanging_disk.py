"""A real server whose disk is slow or hangs: its loop makes no call to it, and answers what needs no disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.faults import Faults
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually

CROWD = 30
"""Requests at once: more than there are threads for any kind of calls."""
BODIES = [os.urandom(size) for size in (5, 40_000, 700_000, 3 << 20)]
"""One that comes with its head, and some that are drained: less and more than what is worth a thread."""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module", params=["ack", "none"])
def server(
    request: pytest.FixtureRequest, faults: Faults, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TusServer]:
    storage = tmp_path_factory.mktemp("storage")
    with TusServer(storage, "--durability", request.param, env=faults.env) as running:
        yield running


@pytest.fixture
def tus(server: TusServer, faults: Faults) -> Iterator[Tus]:
    yield Tus(server.url)
    faults.end()


def everything(tus: Tus, body: bytes) -> bool:
    """Upload a body in two requests, ask for it, read it and remove it; return whether all of that was right."""
    url = tus.upload(len(body))
    half = len(body) // 2
    assert tus.patch(url, 0, body[:half]).status == 204
    assert tus.offset(url) == half
    assert tus.patch(url, half, [body[half:]]).status == 204  # in chunks
    right = tus.holds(url, body)
    return right and tus.delete(url).status == 204


@pytest.mark.parametrize("body", BODIES, ids=len)
def test_no_call_to_a_slow_disk_is_made_on_the_loop(tus: Tus, server: TusServer, faults: Faults, body: bytes) -> None:
    faults.delay(str(server.storage), 2)
    assert everything(tus, body)
    assert faults.hits
    assert [hit for hit in faults.hits if hit.startswith("main")] == []


def test_health_is_told_while_the_disk_hangs_and_all_goes_on_afterwards(
    tus: Tus, server: TusServer, faults: Faults
) -> None:
    health = server.url.rsplit("/", 1)[0]
    urls = [tus.upload(len(body)) for body in BODIES * (CROWD // len(BODIES) + 1)]
    with ThreadPoolExecutor(2 * CROWD) as clients:
        faults.hang(str(server.storage))
        try:
            made = [clients.submit(tus.create, 5) for _ in range(CROWD)]
            sent = [
                clients.submit(tus.patch, url, 0, body)
                for url, body in zip(urls, BODIES * (CROWD // len(BODIES)), strict=False)
            ]
            assert eventually(lambda: len(faults.hits) > 2)
            for _ in range(20):
                assert tus.request("GET", f"{health}/livez").status == 200
            assert tus.request("GET", f"{health}/readyz").status == 503
            assert not any(done.done() for done in (*made, *sent))
            assert [hit for hit in faults.hits if hit.startswith("main")] == []
        finally:
            faults.end()
        assert {answer.result().status for answer in made} == {201}
        assert {answer.result().status for answer in sent} == {204}
    assert eventually(lambda: tus.request("GET", f"{health}/readyz").status == 200)
    assert all(tus.holds(url, body) for url, body in zip(urls, BODIES * (CROWD // len(BODIES)), strict=False))
