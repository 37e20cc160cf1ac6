"""tuspy, the Python client of the tus project. It opens a new connection for every request."""

from __future__ import annotations

import io
import threading
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from tusclient.storage.filestorage import FileStorage

from tests.interop.goods import HEADERS, KIB, MIB, assert_arrived, head, make_bytes, wait_for_offset
from tests.support.proxy import Fault, Proxy
from tests.support.server import TusServer
from tests.support.wire import TIMEOUT

OpenProxy = Callable[[TusServer], Proxy]
StartServer = Callable[..., TusServer]

PATIENT: dict[str, Any] = {"retries": 200, "retry_delay": 0.05}
"""Retries for as long as a server needs to come back, in a rhythm that suits tests."""


def uploader(endpoint: str, source: bytes, **options: Any) -> Any:
    """A client of `source`; any, since the hints of tuspy take its URL for None."""
    return TusClient(endpoint).uploader(file_stream=io.BytesIO(source), **options)


def open_urls(path: Path) -> closing[Any]:
    storage: Any = FileStorage  # without hints of its own
    return closing(storage(str(path)))


def test_a_file_in_one_piece_arrives(server: TusServer) -> None:
    source = make_bytes(5 * MIB + 1)
    client = uploader(server.url, source)
    client.upload()
    assert_arrived(client.url, source)


def test_a_file_in_many_chunks_arrives(server: TusServer) -> None:
    source = make_bytes(3 * MIB + 1)
    client = uploader(server.url, source, chunk_size=100_003)
    client.upload()
    assert_arrived(client.url, source)


def test_an_empty_file_arrives(server: TusServer) -> None:
    client = uploader(server.url, b"")
    client.upload()
    assert_arrived(client.url, b"")


def test_chunks_with_checksums_arrive(server: TusServer) -> None:
    source = make_bytes(3 * MIB)
    client = uploader(server.url, source, chunk_size=MIB, upload_checksum=True)
    client.upload()
    assert_arrived(client.url, source)


def test_a_byte_spoiled_on_the_way_is_found_by_its_checksum_and_sent_again(
    server: TusServer, open_proxy: OpenProxy
) -> None:
    source = make_bytes(3 * MIB)
    proxy = open_proxy(server)
    client = uploader(proxy.through(server.url), source, chunk_size=MIB, upload_checksum=True, **PATIENT)
    proxy.fail(Fault.SPOIL, after=3 * MIB // 2)
    client.upload()
    assert proxy.failed.is_set()
    assert 4 * MIB < proxy.sent < 4 * MIB + HEADERS, "one chunk is sent twice, the others are not"
    assert_arrived(client.url, source)


def test_metadata_of_any_script_comes_back_as_it_was_sent(server: TusServer) -> None:
    metadata = {"filename": "Πρόγραμμα 計画 🗂.pdf", "empty": "", "filetype": "application/pdf"}
    client = uploader(server.url, b"x", metadata=metadata)
    client.upload()
    assert head(client.url)["Upload-Metadata"] == ",".join(client.encode_metadata())
    assert_arrived(client.url, b"x")


def test_metadata_that_is_not_utf8_comes_back_as_it_was_sent(server: TusServer) -> None:
    client = uploader(server.url, b"x", metadata={"filename": "Öl"}, metadata_encoding="latin-1")
    client.upload()
    assert head(client.url)["Upload-Metadata"] == "filename " + b64encode(b"\xd6l").decode()


def test_no_metadata_is_an_empty_header_and_welcome(server: TusServer) -> None:
    client = uploader(server.url, b"x")
    assert client.get_url_creation_headers()["upload-metadata"] == ""
    client.upload()
    assert "Upload-Metadata" not in head(client.url)
    assert_arrived(client.url, b"x")


# Given a path, tuspy leaves its files to the garbage collector; given a stream, it can not store URLs.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_new_client_resumes_from_its_url_storage(server: TusServer, tmp_path: Path, open_proxy: OpenProxy) -> None:
    source = make_bytes(4 * MIB)
    path = tmp_path / "source.bin"
    path.write_bytes(source)
    proxy = open_proxy(server)

    def resume(urls: Any) -> Any:
        return TusClient(proxy.through(server.url)).uploader(str(path), store_url=True, url_storage=urls)

    with open_urls(tmp_path / "urls.json") as urls:
        first = resume(urls)
        first.chunk_size = MIB
        first.upload(stop_at=3 * MIB)
    with open_urls(tmp_path / "urls.json") as urls:
        second = resume(urls)
        assert (second.url, second.offset) == (first.url, 3 * MIB)
        second.upload()
    assert proxy.sent < 4 * MIB + HEADERS, "nothing is sent twice"
    assert_arrived(second.url, source)


def test_a_finished_upload_is_not_sent_again(server: TusServer, open_proxy: OpenProxy) -> None:
    source = make_bytes(MIB)
    proxy = open_proxy(server)
    first = uploader(proxy.through(server.url), source)
    first.upload()
    second = uploader(proxy.through(server.url), source, url=first.url)
    second.upload()
    assert second.offset == MIB
    assert proxy.sent < MIB + HEADERS


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET, Fault.HALF_CLOSE])
def test_a_cut_connection_costs_no_bytes(server: TusServer, open_proxy: OpenProxy, fault: Fault) -> None:
    source = make_bytes(6 * MIB)
    proxy = open_proxy(server)
    first = uploader(proxy.through(server.url), source)
    proxy.fail(fault, after=4 * MIB)
    with pytest.raises(TusCommunicationError):
        first.upload()
    wait_for_offset(proxy.around(first.url), 4 * MIB - HEADERS)
    second = uploader(server.url, source, url=first.url)
    second.upload()
    assert proxy.sent < 6 * MIB + HEADERS
    assert_arrived(first.url, source)


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET, Fault.HALF_CLOSE])
def test_an_upload_cut_again_and_again_arrives(server: TusServer, open_proxy: OpenProxy, fault: Fault) -> None:
    source = make_bytes(4 * MIB)
    proxy = open_proxy(server)
    client = uploader(proxy.through(server.url), source, **PATIENT)
    proxy.fail(fault, after=700_001, times=5)
    client.upload()
    assert proxy.failed.is_set()
    assert_arrived(client.url, source)


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET, Fault.HALF_CLOSE])
def test_a_lost_answer_costs_no_bytes(server: TusServer, open_proxy: OpenProxy, fault: Fault) -> None:
    source = make_bytes(2 * MIB)
    proxy = open_proxy(server)
    client = uploader(proxy.through(server.url), source, **PATIENT)
    client.set_url(client.create_url())
    proxy.fail(fault, after=1, answers=True)
    client.upload()
    assert proxy.failed.is_set()
    assert proxy.sent < 2 * MIB + HEADERS, "the client learns that all has arrived"
    assert_arrived(client.url, source)


def test_a_trickling_upload_arrives(server: TusServer, open_proxy: OpenProxy) -> None:
    source = make_bytes(20 * KIB)
    proxy = open_proxy(server)
    proxy.slow(piece=97, pause=0.001)
    client = uploader(proxy.through(server.url), source)
    client.upload()
    assert_arrived(client.url, source)


def test_a_silent_client_is_cut_off_and_its_bytes_are_kept(start_server: StartServer, open_proxy: OpenProxy) -> None:
    server = start_server("--limits.idle_timeout", "1s")
    source = make_bytes(3 * MIB)
    proxy = open_proxy(server)
    client = uploader(proxy.through(server.url), source, **PATIENT)
    proxy.fail(Fault.STALL, after=2 * MIB)
    client.upload()  # has no timeout of its own: it is the server that ends the silence
    assert proxy.failed.is_set()
    assert proxy.sent < 3 * MIB + HEADERS
    assert_arrived(client.url, source)


def test_a_second_client_takes_a_stalled_upload_over(
    server: TusServer, open_proxy: OpenProxy, pool: ThreadPoolExecutor
) -> None:
    source = make_bytes(3 * MIB)
    proxy = open_proxy(server)
    stalled = uploader(proxy.through(server.url), source)
    stalled.set_url(stalled.create_url())
    url = proxy.around(stalled.url)
    proxy.fail(Fault.STALL, after=2 * MIB)
    first = pool.submit(stalled.upload)
    assert proxy.failed.wait(TIMEOUT)
    # Right after the last byte the first client still counts as alive, so the second may have to ask again.
    second = uploader(server.url, source, url=url, **PATIENT)
    second.upload()
    with pytest.raises(TusCommunicationError):
        first.result(TIMEOUT)
    assert_arrived(url, source)


def test_a_killed_server_comes_back_and_the_client_goes_on(
    start_server: StartServer, open_proxy: OpenProxy, pool: ThreadPoolExecutor
) -> None:
    server = start_server()
    source = make_bytes(5 * MIB)
    proxy = open_proxy(server)
    client = uploader(proxy.through(server.url), source, chunk_size=MIB, **PATIENT)
    proxy.fail(Fault.STALL, after=7 * MIB // 2)
    upload = pool.submit(client.upload)
    assert proxy.failed.wait(TIMEOUT)
    server.kill()
    server.start()
    upload.result(TIMEOUT)
    assert proxy.sent < 6 * MIB, "three chunks were acknowledged and need not be sent again"
    assert_arrived(client.url, source)


def test_a_stopped_server_comes_back_and_no_byte_is_sent_twice(
    start_server: StartServer, open_proxy: OpenProxy, pool: ThreadPoolExecutor
) -> None:
    server = start_server()
    source = make_bytes(4 * MIB)
    proxy = open_proxy(server)
    client = uploader(proxy.through(server.url), source, **PATIENT)
    proxy.fail(Fault.STALL, after=3 * MIB)
    upload = pool.submit(client.upload)
    assert proxy.failed.wait(TIMEOUT)
    server.stop()
    server.start()
    upload.result(TIMEOUT)
    assert proxy.sent < 4 * MIB + HEADERS
    assert_arrived(client.url, source)


def test_many_uploads_at_once_do_not_mix(server: TusServer, pool: ThreadPoolExecutor) -> None:
    sources = [make_bytes(MIB + number, seed=number) for number in range(12)]
    barrier = threading.Barrier(len(sources))

    def upload(source: bytes) -> str:
        client = uploader(server.url, source, chunk_size=200 * KIB, upload_checksum=True)
        barrier.wait(TIMEOUT)
        client.upload()
        return str(client.url)

    urls = list(pool.map(upload, sources))
    assert len(set(urls)) == len(sources)
    for url, source in zip(urls, sources, strict=True):
        assert_arrived(url, source)


async def test_the_async_uploader_works(server: TusServer) -> None:
    source = make_bytes(2 * MIB)
    client = TusClient(server.url).async_uploader(
        file_stream=io.BytesIO(source), chunk_size=300_000, metadata={"filename": "ünïcode"}, upload_checksum=True
    )
    await client.upload()
    assert_arrived(client.url, source)


async def test_the_async_uploader_goes_on_after_a_cut(server: TusServer, open_proxy: OpenProxy) -> None:
    source = make_bytes(4 * MIB)
    proxy = open_proxy(server)
    client = TusClient(proxy.through(server.url)).async_uploader(
        file_stream=io.BytesIO(source), chunk_size=MIB, **PATIENT
    )
    proxy.fail(Fault.CLOSE, after=7 * MIB // 2)
    await client.upload()
    assert proxy.failed.is_set()
    assert proxy.sent < 6 * MIB, "no chunk that was acknowledged is sent again"
    assert_arrived(client.url, source)
