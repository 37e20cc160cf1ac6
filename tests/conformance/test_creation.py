"""Section C: creation."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import Configured, Embed
from tests.conformance.profiles import SPARTAN
from tests.support.server import TusServer
from tests.support.tus import Tus
from tests.support.wire import Answer

TRACES = ("Traceback", "/site-packages/", 'File "')


def assert_created(tus: Tus, answer: Answer, length: int) -> str:
    assert answer.status == 201
    url = tus.located(answer)
    head = tus.head(url)
    assert (head.status, head["Upload-Offset"], head["Upload-Length"]) == (200, "0", str(length))
    return url


def test_c1_a_creation_answers_201_with_a_location(tus: Tus) -> None:
    """tus 1.0.0: "The Server MUST acknowledge a successful upload creation with the 201 Created status. The
    Server MUST set the Location header to the URL of the created resource. This URL MAY be absolute or
    relative".
    """
    answer = tus.create(10)
    assert answer.status == 201
    assert answer["Location"]


def test_c2_a_new_upload_is_found_and_empty(tus: Tus) -> None:
    """tus 1.0.0: "An empty POST request is used to create a new upload resource", "implicit offset of 0"."""
    assert_created(tus, tus.create(10), 10)


def test_c3_a_thousand_uploads_have_a_thousand_urls(tus: Tus) -> None:
    with tus.connect() as connection:
        locations = set()
        for _ in range(1000):
            tus.ask(connection, "POST", "", {"Upload-Length": "10"}, b"")
            locations.add(tus.located(connection.answer()))
    assert len(locations) == 1000


def test_c4_an_empty_upload_is_complete_at_once(tus: Tus) -> None:
    """tus 1.0.0: "Upload-Length: 0 … the Client MAY create an empty upload, which is complete immediately"."""
    assert_created(tus, tus.create(0), 0)


def test_c4_an_empty_upload_is_told_as_finished(embed: Embed) -> None:
    site = embed()
    site.tus.upload(0)
    assert [upload.length for upload in site.finished] == [0]


def test_c5_a_creation_needs_a_length(tus: Tus) -> None:
    """tus 1.0.0: "The request MUST include one of the following headers: Upload-Length, Upload-Defer-Length"."""
    assert tus.post({}).status == 400


def test_c6_a_length_is_either_known_or_deferred(tus: Tus) -> None:
    assert tus.post({"Upload-Length": "10", "Upload-Defer-Length": "1"}).status == 400


@pytest.mark.parametrize("length", ["-1", "abc", "1.5", "", "0x10", "1e3"])
def test_c7_a_length_is_a_number(tus: Tus, length: str) -> None:
    """tus 1.0.0: "The value MUST be a non-negative integer"."""
    answer = tus.post({"Upload-Length": length})
    assert answer.status == 400
    assert answer["Location"] is None


@pytest.mark.parametrize("length", ["+5", "007"])
def test_c8_a_length_is_written_in_digits_alone(tus: Tus, length: str) -> None:
    assert tus.post({"Upload-Length": length}).status == 400


def test_c9_a_length_beyond_63_bits_is_refused(tus: Tus) -> None:
    answer = tus.create(99999999999999999999)
    assert answer.status == (400 if tus.options()["Tus-Max-Size"] is None else answer.status)
    assert answer.status in (400, 413)


def test_c10_more_than_the_maximum_size_is_refused(limited: tuple[Tus, int]) -> None:
    """tus 1.0.0: "If the length of the upload exceeds the maximum … the Server MUST respond with the 413
    Request Entity Too Large status".
    """
    tus, size = limited
    answer = tus.create(size + 1)
    assert answer.status == 413
    assert answer["Location"] is None


def test_c11_exactly_the_maximum_size_is_accepted(limited: tuple[Tus, int]) -> None:
    tus, size = limited
    assert_created(tus, tus.create(size), size)


@pytest.mark.parametrize("value", ["0", "2", "true"])
def test_c12_a_length_is_deferred_by_1_and_nothing_else(tus: Tus, value: str) -> None:
    """tus 1.0.0: "The Upload-Defer-Length … value MUST be 1"; "any other value … 400 Bad Request"."""
    assert tus.post({"Upload-Defer-Length": value}).status == 400


def test_c13_deferring_is_refused_where_it_is_not_offered(configured: Configured) -> None:
    tus, _ = configured(SPARTAN)
    assert tus.create(None).status in (400, 501)


def test_c14_a_trailing_slash_makes_no_difference(tus: Tus) -> None:
    """And is no redirect: clients follow none on POST."""
    answer = tus.request("POST", f"{tus.path}/", {"Upload-Length": "10"}, b"")
    assert_created(tus, answer, 10)


def test_c15_the_query_of_the_creation_is_not_part_of_the_location(tus: Tus) -> None:
    answer = tus.request("POST", f"{tus.target()}?x=1", {"Upload-Length": "10"}, b"")
    assert_created(tus, answer, 10)
    assert "?" not in (answer["Location"] or "?")


def test_c16_an_upload_is_not_created_below_the_collection(tus: Tus) -> None:
    answer = tus.request("POST", tus.child("something"), {"Upload-Length": "10"}, b"")
    assert answer.status in (404, 405)
    assert answer.status == 404 or answer["Allow"]
    assert answer["Location"] is None


def test_c17_an_upload_is_not_created_beside_the_collection(tus: Tus) -> None:
    if not tus.path:
        pytest.skip("the whole server is the collection")
    assert tus.request("POST", "/other-than-uploads", {"Upload-Length": "10"}, b"").status == 404


def test_c18_a_method_that_means_nothing_here_is_named_so(tus: Tus) -> None:
    """RFC 9110: "The origin server MUST generate an Allow header field in a 405 response"."""
    answer = tus.request("PUT", "", {"Upload-Length": "10"}, b"")
    assert answer.status == 405
    assert "POST" in answer.listed("Allow")


def test_c19_a_body_that_is_no_upload_is_ignored(tus: Tus) -> None:
    """And read to its end: the next request on the connection is understood."""
    with tus.connect() as connection:
        tus.ask(connection, "POST", "", {"Upload-Length": "10"}, b"5 bytes and more")
        url = assert_created(tus, connection.answer(), 10)
        tus.ask(connection, "HEAD", url)
        assert connection.answer().status == 200


def test_c20_the_type_of_no_body_is_ignored(tus: Tus) -> None:
    """aiotus, for one, sends a type with every POST."""
    answer = tus.create(10, {"Content-Type": "application/json"})
    assert_created(tus, answer, 10)


def test_c21_a_header_of_12_kb_is_accepted(tus: Tus) -> None:
    assert_created(tus, tus.create(10, {"X-Long": "x" * 12_000}), 10)


def test_c21_a_header_of_20_kb_is_refused_and_the_server_lives(tus: Tus, foreign: str | None) -> None:
    """Our limit is 17 KiB; another server may have a higher one."""
    assert tus.create(10, {"X-Long": "x" * 20_000}).status in ((201, 400, 431) if foreign else (431,))
    assert_created(tus, tus.create(10), 10)


def test_c22_an_id_that_exists_is_not_taken_again(embed: Embed, tmp_path: Path) -> None:
    """The first upload keeps its bytes, whatever a naming hook does."""
    site = embed(store=tmp_path, new_id=lambda *_: "always-the-same-id")
    first = site.tus.complete(b"hello")
    answer = site.tus.create(7)
    assert answer.status == 409 or site.tus.located(answer) != first
    assert site.tus.offset(first) == 5
    assert site.tus.get(first).body == b"hello"


@pytest.mark.parametrize("name", ["..", "../out", "a/../../out", "/tmp/out", "a/b", "nul\0", "", "x" * 300, "ü", "a b"])
def test_c23_an_id_that_is_no_name_is_refused(embed: Embed, tmp_path: Path, name: str) -> None:
    site = embed(store=tmp_path / "data", new_id=lambda *_: name)
    answer = site.tus.create(10)
    assert answer.status in (400, 500)
    assert not any(trace in answer.body.decode() for trace in TRACES)
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]
    assert list((tmp_path / "data" / "uploads").iterdir()) == []


def test_c24_blanks_around_a_length_do_not_matter(tus: Tus) -> None:
    """RFC 9110: "a field line value does not include leading or trailing whitespace"."""
    assert_created(tus, tus.post({"Upload-Length": "  10\t "}), 10)


def test_c25_two_lengths_are_refused(tus: Tus) -> None:
    with tus.connect() as connection:
        lines = [*tus.fields({"Content-Length": "0"}), ("Upload-Length", "10"), ("Upload-Length", "20")]
        connection.ask("POST", tus.target(), lines)
        assert connection.answer().status == 400


@pytest.fixture
def small_disk(foreign: str | None, tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, three quarters full."""
    if foreign:
        pytest.skip("needs to look inside the server")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.decode().strip()}")
    (disk / "ballast").write_bytes(bytes(6 << 20))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def cramped(small_disk: Path, exchanges: list[str]) -> Iterator[tuple[Tus, TusServer]]:
    """A server that stores there."""
    with TusServer(small_disk / "storage") as server:
        yield Tus(server.url, exchanges), server


def test_c26_a_full_disk_is_told_at_once_and_leaves_nothing(cramped: tuple[Tus, TusServer]) -> None:
    tus, server = cramped
    assert tus.create(4 << 20).status in (503, 507)
    assert server.files() == []
    (server.storage.parent / "ballast").unlink()
    data = bytes(range(256)) * (4 << 12)
    assert tus.holds(tus.complete(data), data)


def test_c26_a_disk_that_fills_on_the_way_keeps_what_is_there(cramped: tuple[Tus, TusServer]) -> None:
    """A length that is not known cannot be reserved, so the end of the disk shows only while bytes arrive."""
    tus, server = cramped
    data = bytes(range(256)) * (4 << 12)
    url = tus.upload(None)
    answer = tus.patch(url, 0, [data[at : at + 65536] for at in range(0, len(data), 65536)])
    assert answer.status in (503, 507)
    assert tus.offset(url) < len(data)
    (server.storage.parent / "ballast").unlink()
    assert tus.resume(url, data)
    assert tus.patch(url, len(data), b"", {"Upload-Length": str(len(data))}).status == 204
    assert tus.holds(url, data)
