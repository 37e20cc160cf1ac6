"""tus-js-client in Node.js: what browsers and Uppy run, without the browser."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interop.goods import (
    HEADERS,
    KIB,
    MIB,
    assert_arrived,
    assert_gone,
    head,
    make_bytes,
    terminate,
    wait_for_offset,
)
from tests.interop.node import Client, Node
from tests.support.proxy import Fault, Proxy
from tests.support.server import TusServer
from tests.support.wire import TIMEOUT

pytestmark = pytest.mark.node

OpenProxy = Callable[[TusServer], Proxy]
StartServer = Callable[..., TusServer]

PATIENT = [0] + [50] * 200
"""retryDelays that outlast a server's restart, in a rhythm that suits tests."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of 3 MiB and a bit, which is no multiple of any chunk size used here."""
    path = tmp_path / "source.bin"
    path.write_bytes(make_bytes(3 * MIB + 11))
    return path


def offsets(client: Client) -> list[str]:
    """The offsets of its PATCHes."""
    return [event["headers"]["Upload-Offset"] for event in client.all("request") if event["method"] == "PATCH"]


def test_a_file_in_one_piece_arrives(server: TusServer, node: Node, source: Path) -> None:
    client = node.run(source, options={"endpoint": server.url})
    assert client.methods == ["POST", "PATCH"]
    assert_arrived(client.url, source.read_bytes())


def test_a_buffer_in_chunks_arrives(server: TusServer, node: Node, source: Path) -> None:
    client = node.run(source, source="buffer", options={"endpoint": server.url + "/", "chunkSize": MIB})
    assert offsets(client) == ["0", str(MIB), str(2 * MIB), str(3 * MIB)]
    assert_arrived(client.url, source.read_bytes())


@pytest.mark.parametrize("during_creation", [False, True])
def test_an_empty_file_needs_a_creation_only(
    server: TusServer, node: Node, tmp_path: Path, during_creation: bool
) -> None:
    path = tmp_path / "empty"
    path.touch()
    # A buffer: of an empty file the client itself can not send data with the creation.
    options = {"endpoint": server.url, "uploadDataDuringCreation": during_creation}
    client = node.run(path, source="buffer", options=options)
    assert client.methods == ["POST"], client.events
    assert_arrived(client.url, b"")


def test_metadata_of_any_script_comes_back(server: TusServer, node: Node, source: Path) -> None:
    metadata = {"filename": "Πρόγραμμα 計画 🗂.pdf", "empty": "", "filetype": "application/pdf"}
    client = node.run(source, options={"endpoint": server.url, "metadata": metadata})
    pairs = [f"{key} {b64encode(value.encode()).decode()}" for key, value in metadata.items()]
    assert head(client.url)["Upload-Metadata"] == ",".join(pairs)
    assert_arrived(client.url, source.read_bytes())


def test_request_ids_are_welcome(server: TusServer, node: Node, source: Path) -> None:
    client = node.run(source, options={"endpoint": server.url, "addRequestId": True})
    assert len({event["headers"]["X-Request-ID"] for event in client.all("request")}) == 2
    assert_arrived(client.url, source.read_bytes())


# ── Stopped and taken up again ──────────────────────────────────────────────────────────────────────────────────────


def test_a_new_process_finds_the_previous_upload_and_goes_on(
    server: TusServer, node: Node, source: Path, tmp_path: Path, open_proxy: OpenProxy
) -> None:
    proxy = open_proxy(server)
    options = {"endpoint": proxy.through(server.url), "chunkSize": MIB}
    urls = str(tmp_path / "urls.json")
    first = node.run(source, options=options, urls=urls, abortAt=2 * MIB)
    assert first.all("aborted")
    second = node.run(source, options=options, urls=urls)
    assert second.all("previous") == [{"event": "previous", "count": 1}]
    assert second.methods[0] == "HEAD"
    assert second.url == first.all("aborted")[0]["url"]
    assert offsets(second)[0] == str(2 * MIB)
    assert_arrived(second.url, source.read_bytes())


def test_an_upload_aborted_in_the_middle_of_a_request_goes_on_where_it_stopped(
    server: TusServer, node: Node, source: Path, open_proxy: OpenProxy
) -> None:
    proxy = open_proxy(server)
    endpoint = proxy.through(server.url)
    proxy.fail(Fault.STALL, after=2 * MIB)
    first = node.start(source, options={"endpoint": endpoint})
    url = first.wait_for("url")["url"]
    assert proxy.failed.wait(TIMEOUT)
    first.tell("abort")
    first.finish()
    wait_for_offset(proxy.around(url), 2 * MIB - HEADERS)
    second = node.run(source, options={"endpoint": endpoint, "uploadUrl": url, "retryDelays": PATIENT})
    assert second.methods == ["HEAD", "PATCH"]
    assert proxy.sent < source.stat().st_size + HEADERS, "no byte is sent twice"
    assert_arrived(url, source.read_bytes())


def test_a_paused_upload_goes_on(server: TusServer, node: Node, source: Path) -> None:
    options = {"endpoint": server.url, "chunkSize": MIB, "retryDelays": PATIENT}
    client = node.run(source, options=options, abortAt=MIB, again=True)
    assert client.all("aborted")
    assert "HEAD" in client.methods
    assert_arrived(client.url, source.read_bytes())


def test_an_upload_that_is_gone_is_begun_anew(server: TusServer, node: Node, source: Path, tmp_path: Path) -> None:
    options = {"endpoint": server.url, "chunkSize": MIB}
    urls = str(tmp_path / "urls.json")
    first = node.run(source, options=options, urls=urls, abortAt=MIB)
    gone = first.all("aborted")[0]["url"]
    terminate(gone)
    second = node.run(source, options=options, urls=urls)
    assert second.methods[:2] == ["HEAD", "POST"]
    assert second.url != gone
    assert_arrived(second.url, source.read_bytes())


# ── Creation with data, unknown lengths, no PATCH ───────────────────────────────────────────────────────────────────


def test_data_sent_with_the_creation_arrives(server: TusServer, node: Node, source: Path) -> None:
    client = node.run(source, options={"endpoint": server.url, "uploadDataDuringCreation": True})
    assert client.methods == ["POST"]
    assert_arrived(client.url, source.read_bytes())


def test_the_first_chunk_sent_with_the_creation_arrives(server: TusServer, node: Node, source: Path) -> None:
    options = {"endpoint": server.url, "uploadDataDuringCreation": True, "chunkSize": MIB}
    client = node.run(source, options=options)
    assert client.methods == ["POST", "PATCH", "PATCH", "PATCH"]
    assert offsets(client)[0] == str(MIB)
    assert_arrived(client.url, source.read_bytes())


@pytest.mark.parametrize("during_creation", [False, True])
def test_a_stream_of_unknown_length_arrives(server: TusServer, node: Node, source: Path, during_creation: bool) -> None:
    options = {
        "endpoint": server.url,
        "uploadLengthDeferred": True,
        "chunkSize": MIB,
        "uploadDataDuringCreation": during_creation,
    }
    client = node.run(source, source="stream", options=options)
    first, *_, last = client.all("request")
    assert first["headers"] == {"Upload-Defer-Length": "1"}
    assert last["headers"]["Upload-Length"] == str(source.stat().st_size)
    assert_arrived(client.url, source.read_bytes())
    assert "Upload-Defer-Length" not in head(client.url)


def test_a_stream_of_unknown_length_goes_on_after_a_cut(
    server: TusServer, node: Node, source: Path, open_proxy: OpenProxy
) -> None:
    proxy = open_proxy(server)
    proxy.fail(Fault.CLOSE, after=3 * MIB // 2)
    options = {
        "endpoint": proxy.through(server.url),
        "uploadLengthDeferred": True,
        "chunkSize": MIB,
        "retryDelays": PATIENT,
    }
    client = node.run(source, source="stream", options=options)
    assert "HEAD" in client.methods
    assert_arrived(client.url, source.read_bytes())


def test_post_may_stand_in_for_patch(server: TusServer, node: Node, source: Path) -> None:
    options = {"endpoint": server.url, "overridePatchMethod": True, "chunkSize": MIB}
    client = node.run(source, options=options)
    assert client.methods == ["POST"] * 5
    assert [event["headers"].get("X-HTTP-Method-Override") for event in client.all("request")] == [None] + ["PATCH"] * 4
    assert_arrived(client.url, source.read_bytes())


# ── In parallel ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_parallel_parts_become_one(server: TusServer, node: Node, source: Path) -> None:
    options = {
        "endpoint": server.url,
        "parallelUploads": 4,
        "chunkSize": 300 * KIB,
        "metadata": {"filename": "whole"},
        "metadataForPartialUploads": {"filename": "part"},
    }
    client = node.run(source, options=options)
    concat = [event["headers"]["Upload-Concat"] for event in client.all("request")]
    assert set(concat[:-1]) == {"partial"}, "on every request of a part, not on creations only"
    assert head(client.url)["Upload-Concat"] == concat[-1], "as it was sent"
    assert head(client.url)["Upload-Metadata"] == "filename " + b64encode(b"whole").decode()
    part = concat[-1].removeprefix("final;").split(" ")[0]
    assert head(part)["Upload-Metadata"] == "filename " + b64encode(b"part").decode()
    assert_arrived(client.url, source.read_bytes())


def test_parallel_parts_sent_with_their_creation_become_one(server: TusServer, node: Node, source: Path) -> None:
    options = {"endpoint": server.url, "parallelUploads": 3, "uploadDataDuringCreation": True}
    client = node.run(source, options=options)
    assert client.methods == ["POST"] * 4
    assert_arrived(client.url, source.read_bytes())


def test_parallel_parts_go_when_their_final_is_done_if_wanted(
    start_server: StartServer, node: Node, source: Path
) -> None:
    server = start_server("--tus.delete_parts", "true")
    client = node.run(source, options={"endpoint": server.url, "parallelUploads": 4})
    assert_arrived(client.url, source.read_bytes())
    kept = sum(path.stat().st_size for path in server.files())
    assert source.stat().st_size <= kept < source.stat().st_size + 64 * KIB, "only the final is left"


def test_parallel_parts_are_found_and_go_on(server: TusServer, node: Node, source: Path, tmp_path: Path) -> None:
    options = {"endpoint": server.url, "parallelUploads": 3, "chunkSize": 300 * KIB, "retryDelays": PATIENT}
    urls = str(tmp_path / "urls.json")
    first = node.run(source, options=options, urls=urls, abortAt=600 * KIB)
    assert first.all("aborted")
    assert not first.all("success")
    second = node.run(source, options=options, urls=urls)
    assert second.methods[:3] == ["HEAD"] * 3
    assert second.methods.count("POST") == 1, "the final only"
    assert_arrived(second.url, source.read_bytes())


def test_parallel_parts_cut_again_and_again_become_one(
    server: TusServer, node: Node, source: Path, open_proxy: OpenProxy
) -> None:
    proxy = open_proxy(server)
    # Resets, since a cut may fall into an answer here: the client (4.3.1 on Node.js) waits for ever for the rest of an
    # answer that ends early but orderly.
    proxy.fail(Fault.RESET, after=500_009, times=5)
    options = {"endpoint": proxy.through(server.url), "parallelUploads": 4, "retryDelays": PATIENT}
    client = node.run(source, options=options)
    assert "HEAD" in client.methods
    assert_arrived(client.url, source.read_bytes())


# ── Trouble ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET, Fault.HALF_CLOSE])
def test_a_cut_connection_costs_a_retry(
    server: TusServer, node: Node, source: Path, open_proxy: OpenProxy, fault: Fault
) -> None:
    proxy = open_proxy(server)
    proxy.fail(fault, after=2 * MIB)
    options = {"endpoint": proxy.through(server.url), "retryDelays": PATIENT}
    client = node.run(source, options=options)
    assert client.methods[:4] == ["POST", "PATCH", "HEAD", "PATCH"], client.events
    assert_arrived(client.url, source.read_bytes())


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET, Fault.HALF_CLOSE])
def test_lost_answers_cost_no_bytes(
    server: TusServer, node: Node, source: Path, open_proxy: OpenProxy, fault: Fault
) -> None:
    proxy = open_proxy(server)
    proxy.fail(fault, after=1500, answers=True, times=2)  # the creation is heard, some PATCHes are not
    options = {"endpoint": proxy.through(server.url), "chunkSize": 100_000, "retryDelays": PATIENT}
    client = node.run(source, options=options)
    assert proxy.failed.is_set()
    assert proxy.sent < source.stat().st_size + 8 * HEADERS
    assert_arrived(client.url, source.read_bytes())


def test_a_trickling_upload_arrives(server: TusServer, node: Node, tmp_path: Path, open_proxy: OpenProxy) -> None:
    source = tmp_path / "small"
    source.write_bytes(make_bytes(20_000))
    proxy = open_proxy(server)
    proxy.slow(piece=97, pause=0.001)
    assert_arrived(node.run(source, options={"endpoint": proxy.through(server.url)}).url, source.read_bytes())


def test_a_silent_client_is_cut_off_and_its_bytes_are_kept(
    start_server: StartServer, node: Node, source: Path, open_proxy: OpenProxy
) -> None:
    server = start_server("--limits.idle_timeout", "1s")
    proxy = open_proxy(server)
    proxy.fail(Fault.STALL, after=2 * MIB)
    client = node.run(source, options={"endpoint": proxy.through(server.url), "retryDelays": PATIENT})
    assert proxy.failed.is_set()
    assert proxy.sent < source.stat().st_size + 4 * HEADERS
    assert_arrived(client.url, source.read_bytes())


def test_a_creation_cut_in_the_middle_of_its_data_is_retried(
    server: TusServer, node: Node, source: Path, open_proxy: OpenProxy
) -> None:
    proxy = open_proxy(server)
    proxy.fail(Fault.CLOSE, after=2 * MIB)
    options = {"endpoint": proxy.through(server.url), "uploadDataDuringCreation": True, "retryDelays": PATIENT}
    client = node.run(source, options=options)
    assert client.methods[:2] == ["POST", "POST"]
    assert_arrived(client.url, source.read_bytes())


def test_a_client_told_not_to_retry_can_be_followed_by_another(
    server: TusServer, node: Node, source: Path, open_proxy: OpenProxy
) -> None:
    proxy = open_proxy(server)
    proxy.fail(Fault.CLOSE, after=2 * MIB)
    options = {"endpoint": proxy.through(server.url), "retryDelays": PATIENT}
    first = node.run(source, options=options, retry=False)
    (error,) = first.all("error")
    assert error["status"] is None, "a network error"
    url = first.all("url")[0]["url"]
    wait_for_offset(proxy.around(url), 2 * MIB - HEADERS)
    second = node.run(source, options={**options, "uploadUrl": url})
    assert proxy.sent < source.stat().st_size + HEADERS, "no byte is sent twice"
    assert second.url == url
    assert_arrived(url, source.read_bytes())


def test_a_killed_server_comes_back_and_the_client_goes_on(
    start_server: StartServer, node: Node, source: Path, open_proxy: OpenProxy
) -> None:
    server = start_server()
    proxy = open_proxy(server)
    proxy.fail(Fault.STALL, after=5 * MIB // 2)
    options = {"endpoint": proxy.through(server.url), "chunkSize": MIB, "retryDelays": PATIENT}
    client = node.start(source, options=options)
    assert proxy.failed.wait(TIMEOUT)
    server.kill()
    server.start()
    client.finish()
    assert proxy.sent < source.stat().st_size + MIB, "two chunks were acknowledged and need not be sent again"
    assert_arrived(client.url, source.read_bytes())


def test_of_two_clients_on_one_upload_both_succeed(
    server: TusServer, node: Node, source: Path, open_proxy: OpenProxy
) -> None:
    proxy = open_proxy(server)
    proxy.fail(Fault.STALL, after=2 * MIB)
    # Told nothing of retries: the delays and the choice are those that every browser has.
    first = node.start(source, options={"endpoint": proxy.through(server.url)})
    url = first.wait_for("url")["url"]
    assert proxy.failed.wait(TIMEOUT)
    second = node.run(source, options={"endpoint": server.url, "uploadUrl": proxy.around(url)})
    assert second.url
    assert first.finish().url == url
    assert_arrived(url, source.read_bytes())


# ── Termination ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_finished_upload_can_be_terminated(start_server: StartServer, node: Node, source: Path) -> None:
    server = start_server()
    url = node.run(source, options={"endpoint": server.url}).url
    assert node.terminate(url).all("terminated")
    assert_gone(url)
    assert server.files() == []


@pytest.mark.parametrize("stalled", [False, True])
def test_an_upload_terminated_while_it_runs_leaves_nothing(
    start_server: StartServer, node: Node, source: Path, open_proxy: OpenProxy, stalled: bool
) -> None:
    server = start_server()
    proxy = open_proxy(server)
    if stalled:
        proxy.fail(Fault.STALL, after=2 * MIB)
    else:
        proxy.slow(piece=16 * KIB, pause=0.01)
    client = node.start(source, options={"endpoint": proxy.through(server.url), "retryDelays": PATIENT})
    url = client.wait_for("url")["url"]
    if stalled:
        assert proxy.failed.wait(TIMEOUT)
    client.tell("terminate")
    client.finish()
    assert client.all("response")[-1] == {"event": "response", "method": "DELETE", "status": 204}
    assert_gone(proxy.around(url))
    assert server.files() == []


def test_parallel_parts_terminated_while_they_run_leave_nothing(
    start_server: StartServer, node: Node, source: Path, open_proxy: OpenProxy
) -> None:
    server = start_server()
    proxy = open_proxy(server)
    proxy.slow(piece=16 * KIB, pause=0.005)
    options: dict[str, Any] = {
        "endpoint": proxy.through(server.url),
        "parallelUploads": 4,
        "chunkSize": 100 * KIB,
        "retryDelays": PATIENT,
    }
    client = node.run(source, options=options, abortAt=200 * KIB, abortTerminates=True)
    statuses = [event["status"] for event in client.all("response") if event["method"] == "DELETE"]
    assert statuses == [204] * 4
    assert server.files() == []
