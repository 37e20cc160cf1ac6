"""Section H: HEAD, where a client learns where to go on."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.conformance.conftest import Embed, Offers
from tests.conformance.expired import Expired
from tests.conftest import StartServer
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually
from tests.support.wire import TIMEOUT


def test_h1_a_fresh_upload_is_at_0(tus: Tus) -> None:
    """tus 1.0.0: "The Server MUST always include the Upload-Offset header in the response for a HEAD request,
    even if the offset is 0"; "The Server MUST prevent the client and/or proxies from caching the response by
    adding the Cache-Control: no-store header".
    """
    answer = tus.head(tus.upload(10))
    assert answer.status == 200
    assert answer["Upload-Offset"] == "0"
    assert answer["Upload-Length"] == "10"
    assert answer["Cache-Control"] == "no-store"


def test_h2_a_complete_upload_is_at_its_end(tus: Tus) -> None:
    """tus 1.0.0: "… or the upload is already considered completed"."""
    answer = tus.head(tus.complete(b"0123456789"))
    assert (answer["Upload-Offset"], answer["Upload-Length"]) == ("10", "10")


def test_h3_what_is_not_there_is_not_cached_either(tus: Tus) -> None:
    assert tus.head(tus.child("unknown"))["Cache-Control"] == "no-store"


def test_h4_a_deferred_length_is_told_as_such(tus: Tus, offers: Offers) -> None:
    """tus 1.0.0: "As long as the length of the upload is not known, the Server MUST set Upload-Defer-Length: 1
    in all responses to HEAD requests".
    """
    offers("creation-defer-length")
    answer = tus.head(tus.upload(None))
    assert answer["Upload-Defer-Length"] == "1"
    assert answer["Upload-Length"] is None


def test_h5_without_metadata_there_is_no_header(tus: Tus) -> None:
    assert tus.head(tus.upload(10))["Upload-Metadata"] is None


def test_h6_an_unknown_upload_is_not_found(tus: Tus) -> None:
    """tus 1.0.0: "If the resource is not found, the Server SHOULD return either the 404 Not Found, 410 Gone or
    403 Forbidden status without the Upload-Offset header".
    """
    with tus.connect() as connection:
        tus.ask(connection, "HEAD", tus.child("0123456789abcdef"))
        answer = connection.answer()
        assert answer.status == 404
        assert answer["Upload-Offset"] is None
        tus.ask(connection, "OPTIONS")
        assert connection.answer().status in (200, 204), "a body followed the answer to HEAD"


def test_h7_the_collection_has_no_offset(tus: Tus) -> None:
    answer = tus.head("")
    assert answer.status in (404, 405)
    assert answer["Upload-Offset"] is None


def test_h8_a_trailing_slash_makes_no_difference(tus: Tus) -> None:
    assert tus.head(f"{tus.upload(10)}/").status == 200


def test_h9_a_query_makes_no_difference(tus: Tus) -> None:
    assert tus.head(f"{tus.upload(10)}?x=1").status == 200


@pytest.mark.parametrize("name", ["file", "files", "f"])
def test_h10_an_id_may_occur_in_the_path(embed: Embed, name: str) -> None:
    site = embed(new_id=lambda *_: name)
    url = site.tus.upload(10)
    assert url == site.tus.child(name)
    assert site.tus.head(url).status == 200


def test_h11_a_terminated_upload_is_gone(tus: Tus, offers: Offers) -> None:
    """tus 1.0.0: "For all future requests to this URL, the Server SHOULD respond with the 404 Not Found or 410
    Gone".
    """
    offers("termination")
    url = tus.upload(10)
    tus.delete(url)
    answer = tus.head(url)
    assert answer.status in (404, 410)
    assert answer["Upload-Offset"] is None


def test_h12_an_expired_upload_is_gone(expired: Expired) -> None:
    """tus 1.0.0: "The Server SHOULD respond with 404 Not Found or 410 Gone status if it expired"."""
    answer = expired.tus.head(expired.unfinished)
    assert answer.status in (404, 410)
    assert answer["Upload-Offset"] is None


def test_h13_a_complete_upload_does_not_expire(expired: Expired) -> None:
    """tus 1.0.0: "The Server MAY remove unfinished uploads once they expire"."""
    assert expired.tus.head(expired.complete).status == 200


def test_h14_head_answers_while_a_patch_is_alive(tus: Tus) -> None:
    """And leaves it alone: a dashboard that looks must not cost the client its connection."""
    data = bytes(1000) * 100
    url = tus.upload(len(data))
    with tus.slow_patch(url, data, pieces=400) as patch:
        for _ in range(5):
            answer = tus.request("HEAD", url)
            assert answer.status == 200
            assert 0 <= int(answer["Upload-Offset"] or "-1") < len(data)
        answer = patch.answer()
    assert (answer.status, answer["Upload-Offset"]) == (204, str(len(data)))


def test_h14_head_leaves_a_patch_alone_that_pauses(tus: Tus) -> None:
    """A satellite link pauses for longer than any server can tell it from a dead one."""
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, b"hello") as patch:
        assert eventually(lambda: tus.offset(url) == 5)
        for _ in range(20):
            assert tus.offset(url) == 5
        assert patch.send(b"world")
        answer = patch.answer()
    assert (answer.status, answer["Upload-Offset"]) == (204, "10")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_h14_waiting_costs_no_cpu(tus: Tus, own: TusServer) -> None:
    """A server that asks again and again whether the next byte is there burns a core for each slow client."""

    def cpu() -> float:
        fields = Path(f"/proc/{own.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    url = tus.upload(1000)
    before, began = cpu(), time.monotonic()
    with tus.slow_patch(url, bytes(1000), pieces=40) as patch:
        assert patch.lingers.wait(TIMEOUT)
        share = (cpu() - before) / (time.monotonic() - began)
        assert patch.answer().status == 204
    assert share < 0.5, "of the time that the client took"


def test_h15_after_a_client_went_away_its_bytes_are_there(tus: Tus) -> None:
    """tus 1.0.0: "The Server SHOULD always attempt to store as much of the received data as possible"."""
    url = tus.upload(10_000)
    tus.begin_patch(url, 0, 10_000, bytes(5_000)).close()
    assert tus.reaches(url, 5_000)


def test_h15_after_a_connection_broke_the_offset_is_true(tus: Tus) -> None:
    url = tus.upload(10_000)
    data = bytes(range(250)) * 40
    tus.begin_patch(url, 0, 10_000, data[:5_000]).cut()
    assert tus.offset(url) <= 5_000
    assert tus.resume(url, data)
    assert tus.holds(url, data)


@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "name",
    [
        b"..%2f..%2fetc%2fpasswd",
        b"%00",
        b"x%00y",
        b"%2e%2e/x",
        b"%2e%2e",
        b"....//x",
        b"x" * 300,
        b"%ff%fe",
        b"\xff\xfe",
        b"a%20b",
        b"a%0d%0ab",
    ],
    ids=lambda name: name.decode("latin-1")[:24].encode("unicode_escape").decode() if isinstance(name, bytes) else None,
)
def test_h16_a_name_that_is_none_is_not_found(tus: Tus, name: bytes, method: str) -> None:
    with tus.connect() as connection:
        headers = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream", "Content-Length": "0"}
        connection.ask(method, tus.path.encode() + b"/" + name, tus.fields(headers if method == "PATCH" else {}))
        answer = connection.answer()
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body


def test_h16_a_path_that_climbs_is_not_followed(tus: Tus) -> None:
    with tus.connect() as connection:
        connection.ask("GET", f"{tus.path}/../../../../etc/passwd", tus.fields())
        answer = connection.answer()
    assert answer.status >= 300
    assert b"root:" not in answer.body


def test_h17_a_store_that_is_down_is_no_missing_upload(start_server: StartServer, inside: None) -> None:
    """On a 404 clients forget the upload and start from zero, so trouble of the server is 5xx."""
    server = start_server()
    tus = Tus(server.url)
    url = tus.upload(10)
    uploads, away = server.storage / "uploads", server.storage / "away"
    uploads.rename(away)
    uploads.symlink_to(uploads)  # from here on every system call below it fails, for root too
    answers = [tus.head(url), tus.patch(url, 0, b"hello"), tus.get(url), tus.create(10), tus.delete(url)]
    uploads.unlink()
    shutil.move(away, uploads)
    assert answers[0].status == 423, answers
    assert [answer.status >= 500 for answer in answers[1:]] == [True] * 4, answers
    assert not any(b"Traceback" in answer.body for answer in answers)
    assert tus.offset(url) == 0


@pytest.mark.usefixtures("downloads")
def test_h18_the_length_of_head_is_that_of_get_or_absent(tus: Tus) -> None:
    url = tus.complete(b"0123456789")
    assert tus.head(url)["Content-Length"] in (None, tus.get(url)["Content-Length"])


def test_h18_no_client_waits_for_a_body_of_head(tus: Tus) -> None:
    url = tus.upload(10)
    with tus.connect() as connection:
        for _ in range(3):
            tus.ask(connection, "HEAD", url)
            assert connection.answer().status == 200


def test_h19_what_head_tells_only_rises_and_stays_true(tus: Tus) -> None:
    data = bytes(range(250)) * 400
    url = tus.upload(len(data))
    told = [0]
    with tus.slow_patch(url, data, pieces=200) as patch:
        while told[-1] < len(data) // 10:
            told.append(tus.offset(url))
        patch.cut()
    told.append(tus.offset(url))
    assert told == sorted(told)
    assert told[-1] < len(data)
    assert tus.resume(url, data)
    assert tus.holds(url, data)
