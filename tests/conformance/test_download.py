"""Section G: GET of what was uploaded. tus does not speak of it; browsers, users and attackers do."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest

from tests.conformance.conftest import Configured, Embed
from tests.conformance.profiles import SPARTAN
from tests.support.server import TusServer
from tests.support.tus import Tus, metadata

TEN = b"0123456789"

pytestmark = pytest.mark.usefixtures("downloads")


@pytest.fixture(params=["files", "memory"])
def tus(request: pytest.FixtureRequest) -> Tus:
    """A client of the server under test, and one of ours over a store that has no files."""
    if request.param == "files":
        served: Tus = request.getfixturevalue("tus")
        return served
    embed: Embed = request.getfixturevalue("embed")
    return embed().tus


def test_g1_a_complete_upload_is_given_back(tus: Tus) -> None:
    data = bytes(range(256)) * 1000
    answer = tus.get(tus.complete(data))
    assert answer.status == 200
    assert answer["Content-Length"] == str(len(data))
    assert answer.body == data


def test_g2_an_unfinished_upload_is_not_given_back(tus: Tus) -> None:
    """Half a file looks like a whole one to whoever downloads it."""
    answer = tus.get(tus.upload(10, body=b"01234"))
    assert answer.status in (404, 409, 423)
    assert b"01234" not in answer.body


def test_g2_its_state_is_told_as_to_head(tus: Tus, own: TusServer) -> None:
    """Caches turn HEAD into GET; on a 404 clients forget the upload."""
    url = tus.upload(10, body=b"01234")
    answer = tus.get(url)
    assert (answer.status, answer["Retry-After"] is not None) == (423, True)
    head = tus.head(url)
    for field in ("Upload-Offset", "Upload-Length", "Upload-Expires", "Cache-Control"):
        assert answer[field] == head[field]


def test_g3_an_unknown_upload_is_not_found(tus: Tus) -> None:
    assert tus.get(tus.child("0123456789abcdef")).status == 404


def test_g4_a_name_in_any_script_is_kept(tus: Tus) -> None:
    """RFC 6266: filename* "allows … characters not present in ISO-8859-1"."""
    name = "Übung 日本語 €.txt"
    answer = tus.get(tus.complete(TEN, {"Upload-Metadata": metadata(filename=name)}))
    assert (answer.status, answer.body) == (200, TEN)
    disposition = answer["Content-Disposition"] or ""
    assert disposition.isascii()
    found = re.search(r"filename\*=UTF-8''([^;\s]+)", disposition, re.IGNORECASE)
    assert found, disposition
    assert unquote_to_bytes(found[1]).decode() == name


@pytest.mark.parametrize(
    "name", ["a\r\nX-Evil: 1", 'a"; filename="b.exe', "a\0b", "../../etc/passwd", "\\", "a;b=c", "x" * 5000]
)
def test_g5_a_name_does_no_harm(tus: Tus, name: str) -> None:
    answer = tus.get(tus.complete(TEN, {"Upload-Metadata": metadata(filename=name)}))
    assert (answer.status, answer.body) == (200, TEN)
    assert answer["X-Evil"] is None
    disposition = answer["Content-Disposition"] or ""
    assert not re.search(r"[\x00-\x1f\x7f]", disposition)
    assert len(re.findall(r'filename="(?:[^"\\]|\\.)*"', disposition)) <= 1


def test_g5_a_name_is_no_path(tus: Tus, own: TusServer) -> None:
    """RFC 6266: recipients strip the path; we do not count on that."""
    answer = tus.get(tus.complete(TEN, {"Upload-Metadata": metadata(filename="../../etc/pass\\wd")}))
    disposition = unquote_to_bytes(answer["Content-Disposition"] or "").decode()
    assert "/" not in disposition
    assert "\\" not in disposition


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("page.html", "text/html"),
        ("page.html", "TEXT/HTML; charset=utf-8"),
        ("image.svg", "image/svg+xml"),
        ("code.js", "text/javascript"),
        ("code.js", "application/javascript"),
        ("page.xhtml", "application/xhtml+xml"),
        ("page.xml", "text/xml"),
        ("image.png", "text/html"),
        ("page.html", "image/png"),
        ("page.html", "made/up"),
    ],
)
def test_g6_what_a_browser_would_run_is_an_attachment(tus: Tus, name: str, media_type: str) -> None:
    """Shown in place it would run with the rights of the site that serves it."""
    answer = tus.get(tus.complete(TEN, {"Upload-Metadata": metadata(filename=name, filetype=media_type)}))
    assert answer.status == 200
    disposition = answer["Content-Disposition"] or "inline"
    passive = (answer["Content-Type"] or "").split(";")[0].strip().lower() == "image/png"
    assert disposition.lower().startswith("attachment") or passive


def test_g7_browsers_are_told_not_to_guess(tus: Tus) -> None:
    assert tus.get(tus.complete(TEN))["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(("wanted", "start", "stop"), [("2-5", 2, 6), ("7-", 7, 10), ("-3", 7, 10), ("8-99", 8, 10)])
def test_g8_a_range_is_given_back(tus: Tus, wanted: str, start: int, stop: int) -> None:
    answer = tus.get(tus.complete(TEN), {"Range": f"bytes={wanted}"})
    assert answer.status == 206
    assert answer["Content-Range"] == f"bytes {start}-{stop - 1}/10"
    assert answer.body == TEN[start:stop]


def test_g9_a_range_beyond_the_end_is_refused(tus: Tus) -> None:
    answer = tus.get(tus.complete(TEN), {"Range": "bytes=10-20"})
    assert answer.status == 416
    assert answer["Content-Range"] == "bytes */10"


def test_g10_what_the_client_has_is_not_sent_again(tus: Tus) -> None:
    url = tus.complete(TEN)
    etag = tus.get(url)["ETag"]
    assert etag
    answer = tus.get(url, {"If-None-Match": etag})
    assert answer.status == 304
    assert tus.get(url, {"If-None-Match": '"other"'}).status == 200


def test_g11_old_and_rude_clients_do_no_harm(tus: Tus) -> None:
    url = tus.complete(bytes(1_000_000))
    target = tus.target(url)
    for version, headers in (("HTTP/1.0", {}), ("HTTP/1.1", {"Connection": "close"})):
        with tus.connect(url) as connection:
            connection.ask("GET", target, tus.fields(headers), version=version)
            answer = connection.answer()
            assert (answer.status, len(answer.body)) == (200, 1_000_000)
            assert connection.closes()
    for _ in range(5):
        connection = tus.connect(url)
        connection.ask("GET", target, tus.fields())
        connection.cut()
    assert tus.get(url).status == 200


def test_g12_a_page_of_another_origin_may_read_it(tus: Tus) -> None:
    answer = tus.get(tus.complete(TEN), {"Origin": "http://page.example"})
    assert answer["Access-Control-Allow-Origin"] in ("*", "http://page.example")


def test_g13_downloads_may_be_switched_off(configured: Configured) -> None:
    tus, _ = configured(SPARTAN)
    url = tus.upload(10, body=TEN)
    answer = tus.get(url)
    assert answer.status in (404, 405)
    assert TEN not in answer.body


def test_g14_an_empty_upload_is_given_back(tus: Tus) -> None:
    answer = tus.get(tus.complete(b""))
    assert (answer.status, answer.body) == (200, b"")
