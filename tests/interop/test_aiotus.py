"""aiotus, an asyncio client. It keeps its connections, asks HEAD after every failure and names parts by their paths."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import aiohttp
import aiotus
import pytest

from tests.interop.goods import HEADERS, KIB, MIB, assert_arrived, head, make_bytes, terminate
from tests.support.proxy import Fault, Proxy
from tests.support.server import TusServer
from tests.support.wire import TIMEOUT

OpenProxy = Callable[[TusServer], Proxy]
StartServer = Callable[..., TusServer]

PATIENT = aiotus.RetryConfiguration(retry_attempts=200, max_retry_period_seconds=0.05)
"""Retries for as long as a server needs to come back, in a rhythm that suits tests."""
ONCE = aiotus.RetryConfiguration(retry_attempts=1)


async def upload(endpoint: str, source: bytes, **options: Any) -> str | None:
    """The URL of the upload, as aiotus knows it in the end, or None if it gave up."""
    options.setdefault("config", ONCE)
    location = await aiotus.upload(endpoint, io.BytesIO(source), **options)
    return None if location is None else str(location)


@pytest.mark.parametrize("size", [0, 1, 4 * MIB, 5 * MIB + 1], ids=["empty", "a byte", "a chunk", "two chunks"])
async def test_a_file_arrives(server: TusServer, size: int) -> None:
    source = make_bytes(size)
    assert_arrived(await upload(server.url, source, chunksize=MIB), source)


async def test_many_chunks_arrive_over_one_connection(server: TusServer) -> None:
    source = make_bytes(2 * MIB + 1)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        url = await upload(server.url, source, client_session=session, chunksize=10_007)
    assert_arrived(url, source)


async def test_metadata_of_any_bytes_comes_back(server: TusServer) -> None:
    metadata = {"filename": "Πρόγραμμα 計画 🗂".encode(), "raw": bytes(range(256)), "bare": None, "last": b"\r\n\0"}
    url = await upload(server.url, b"x", metadata=metadata)
    assert url is not None
    assert await aiotus.metadata(url, config=ONCE) == metadata


async def test_no_metadata_is_no_metadata(server: TusServer) -> None:
    url = await upload(server.url, b"x")
    assert url is not None
    assert await aiotus.metadata(url, config=ONCE) == {}


async def test_parts_become_one_in_their_order(server: TusServer) -> None:
    sources = [make_bytes(MIB + 7 * number, seed=number) for number in range(5)] + [b""]
    location = await aiotus.upload_multiple(
        server.url, [io.BytesIO(source) for source in sources], {"filename": b"whole"}, config=ONCE, chunksize=300_000
    )
    assert location is not None
    assert_arrived(str(location), b"".join(sources))
    assert await aiotus.metadata(str(location), config=ONCE) == {"filename": b"whole"}
    named = head(str(location))["Upload-Concat"].removeprefix("final;").split(" ")
    assert len(named) == 6
    assert all(part.startswith("/files/") for part in named), "parts are named by paths, and come back so"


async def test_parts_go_when_their_final_is_done_if_wanted(start_server: StartServer) -> None:
    server = start_server("--tus.delete_parts", "true")
    sources = [make_bytes(MIB, seed=number) for number in range(3)]
    location = await aiotus.upload_multiple(server.url, [io.BytesIO(source) for source in sources], config=ONCE)
    assert location is not None
    assert_arrived(str(location), b"".join(sources))
    kept = sum(path.stat().st_size for path in server.files())
    assert 3 * MIB <= kept < 3 * MIB + 64 * KIB, "only the final is left"
    terminate(str(location))
    assert server.files() == []


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET, Fault.HALF_CLOSE])
async def test_a_cut_connection_costs_a_retry(server: TusServer, open_proxy: OpenProxy, fault: Fault) -> None:
    source = make_bytes(4 * MIB)
    proxy = open_proxy(server)
    proxy.fail(fault, after=3 * MIB)
    url = await upload(proxy.through(server.url), source, chunksize=MIB, config=PATIENT)
    assert proxy.failed.is_set()
    assert proxy.sent < 6 * MIB, "no chunk that was acknowledged is sent again"
    assert_arrived(url, source)


async def test_parts_cut_again_and_again_become_one(server: TusServer, open_proxy: OpenProxy) -> None:
    sources = [make_bytes(MIB, seed=number) for number in range(4)]
    proxy = open_proxy(server)
    proxy.fail(Fault.CLOSE, after=500_009, times=8)
    location = await aiotus.upload_multiple(
        proxy.through(server.url), [io.BytesIO(source) for source in sources], config=PATIENT
    )
    assert proxy.failed.is_set()
    assert_arrived(None if location is None else str(location), b"".join(sources))


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET, Fault.HALF_CLOSE])
async def test_lost_answers_cost_no_bytes(server: TusServer, open_proxy: OpenProxy, fault: Fault) -> None:
    source = make_bytes(MIB)
    proxy = open_proxy(server)
    proxy.fail(fault, after=1500, answers=True, times=2)  # the creation is heard, some PATCHes are not
    url = await upload(proxy.through(server.url), source, chunksize=30_000, config=PATIENT)
    assert proxy.failed.is_set()
    assert proxy.sent < MIB + HEADERS
    assert_arrived(url, source)


async def test_a_trickling_upload_arrives(server: TusServer, open_proxy: OpenProxy) -> None:
    source = make_bytes(20 * KIB)
    proxy = open_proxy(server)
    proxy.slow(piece=97, pause=0.001)
    assert_arrived(await upload(proxy.through(server.url), source), source)


async def test_a_silent_client_is_cut_off_and_its_bytes_are_kept(
    start_server: StartServer, open_proxy: OpenProxy
) -> None:
    server = start_server("--limits.idle_timeout", "1s")
    source = make_bytes(3 * MIB)
    proxy = open_proxy(server)
    proxy.fail(Fault.STALL, after=5 * MIB // 2)
    url = await upload(proxy.through(server.url), source, chunksize=MIB, config=PATIENT)
    assert proxy.failed.is_set()
    assert proxy.sent < 3 * MIB + HEADERS
    assert_arrived(url, source)


async def test_a_killed_server_comes_back_and_the_client_goes_on(
    start_server: StartServer, open_proxy: OpenProxy
) -> None:
    server = start_server()
    source = make_bytes(5 * MIB)
    proxy = open_proxy(server)
    proxy.fail(Fault.STALL, after=7 * MIB // 2)
    running = asyncio.create_task(upload(proxy.through(server.url), source, chunksize=MIB, config=PATIENT))
    assert await asyncio.to_thread(proxy.failed.wait, TIMEOUT)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    url = await running
    assert proxy.sent < 6 * MIB, "three chunks were acknowledged and need not be sent again"
    assert_arrived(url, source)


async def test_parts_outlive_a_killed_server(start_server: StartServer, open_proxy: OpenProxy) -> None:
    server = start_server()
    sources = [make_bytes(MIB, seed=number) for number in range(6)]
    proxy = open_proxy(server)
    proxy.fail(Fault.STALL, after=7 * MIB // 2)
    running = asyncio.create_task(
        aiotus.upload_multiple(
            proxy.through(server.url),
            [io.BytesIO(source) for source in sources],
            config=PATIENT,
            chunksize=200_000,
        )
    )
    assert await asyncio.to_thread(proxy.failed.wait, TIMEOUT)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    location = await running
    assert_arrived(None if location is None else str(location), b"".join(sources))


async def test_many_uploads_over_one_session_do_not_mix(server: TusServer) -> None:
    sources = [make_bytes(MIB + number, seed=number) for number in range(16)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=4)) as session:
        urls = await asyncio.gather(
            *(upload(server.url, source, client_session=session, chunksize=100_000) for source in sources)
        )
    assert len(set(urls)) == len(sources)
    for url, source in zip(urls, sources, strict=True):
        assert_arrived(url, source)
