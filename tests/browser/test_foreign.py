"""tus-js-client and Uppy as their users run them: in a browser, on a page of another origin than the server's."""

from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser import Browser
from tests.browser.conftest import Hold
from tests.interop.goods import KIB, MIB, assert_arrived, assert_gone, head, make_bytes
from tests.support.server import TusServer
from tests.support.tus import Tus

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SIZE = 24 * MIB + 11
"""See test_page.py."""
CHUNK = SIZE // 3


@pytest.fixture
def goods(tmp_path: Path) -> Path:
    """A file with a name that is no ASCII."""
    path = tmp_path / "Größe 試験.bin"
    path.write_bytes(make_bytes(SIZE))
    return path


def metadata(url: str) -> dict[str, str]:
    pairs = (pair.split(" ") for pair in head(url)["Upload-Metadata"].split(","))
    return {name: b64decode(value).decode() for name, value in pairs}


def methods(seen: dict[str, Any]) -> list[str]:
    return [request["method"] for request in seen["requests"]]


# tus-js-client -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, ["POST", "PATCH"]),
        ({"chunkSize": CHUNK}, ["POST"] + ["PATCH"] * 4),
        ({"uploadDataDuringCreation": True}, ["POST"]),
        ({"overridePatchMethod": True}, ["POST", "POST"]),
        ({"addRequestId": True}, ["POST", "PATCH"]),
    ],
    ids=lambda value: next(iter(value), "plain") if isinstance(value, dict) else "",
)
def test_tus_js_client_uploads(
    browser: Browser, server: TusServer, goods: Path, options: dict[str, Any], wanted: list[str]
) -> None:
    told = {"endpoint": server.url, "metadata": {"filename": goods.name, "mood": "😀"}, **options}
    seen = browser.run("foreign.tusUpload", file=str(goods), options=told)

    assert seen["error"] is None
    assert_arrived(seen["url"], goods.read_bytes())
    assert methods(seen) == wanted
    assert metadata(seen["url"]) == {"filename": goods.name, "mood": "😀"}


def test_tus_js_client_uploads_in_parallel(browser: Browser, server: TusServer, goods: Path) -> None:
    told = {"endpoint": server.url, "parallelUploads": 3, "metadata": {"filename": goods.name}}
    seen = browser.run("foreign.tusUpload", file=str(goods), options=told)

    assert seen["error"] is None
    assert_arrived(seen["url"], goods.read_bytes())
    assert sorted(methods(seen)) == ["PATCH"] * 3 + ["POST"] * 4
    assert metadata(seen["url"]) == {"filename": goods.name}


def test_tus_js_client_uploads_a_stream_of_unknown_length(browser: Browser, server: TusServer, goods: Path) -> None:
    told = {"endpoint": server.url, "uploadLengthDeferred": True, "chunkSize": CHUNK}
    seen = browser.run("foreign.tusUpload", file=str(goods), options=told, stream=True)

    assert seen["error"] is None
    assert_arrived(seen["url"], goods.read_bytes())
    assert methods(seen).count("PATCH") >= 4


@pytest.mark.parametrize("parallel", [1, 2], ids=["one", "parallel"])
@pytest.mark.parametrize("how", ["abort", "reload"])
def test_tus_js_client_goes_on_where_it_was(
    browser: Browser, server: TusServer, goods: Path, how: str, parallel: int, hold: Hold
) -> None:
    line = hold(server, times=parallel)
    told = {"endpoint": line.url, "parallelUploads": parallel}
    seen = browser.run("foreign.tusCut", line.ask, file=str(goods), options=told, how=how)

    assert seen["error"] is None
    assert_arrived(seen["url"], goods.read_bytes())
    offsets = [int(request["offset"]) for request in seen["requests"] if request["method"] == "PATCH"]
    assert sum(offsets) > 256 * KIB
    assert methods(seen).count("POST") == (0 if parallel == 1 else 1)  # the one that joins


def test_tus_js_client_terminates(browser: Browser, server: TusServer, goods: Path, hold: Hold) -> None:
    line = hold(server)
    told = {"endpoint": line.url}
    seen = browser.run("foreign.tusCut", line.ask, file=str(goods), options=told, how="terminate")

    assert seen["status"] == 204
    assert_gone(seen["url"])


def test_a_file_that_was_downloaded_can_be_sent_again(browser: Browser, server: TusServer, goods: Path) -> None:
    """Chromium answers a HEAD from its cache after a GET, if the file has not changed for long: so the GET must tell
    what HEAD tells, and each use must ask the server.
    """
    url = Tus(server.url).complete(goods.read_bytes())
    record = server.storage / "uploads" / url.rsplit("/", 1)[1][:2] / f"{url.rsplit('/', 1)[1]}.record"
    created = re.compile(rb'"created_at":(\d+)')
    record.write_bytes(created.sub(lambda found: b'"created_at":%d' % (int(found[1]) - 10**6), record.read_bytes()))
    told = {"endpoint": server.url, "uploadUrl": url}
    seen = browser.run("foreign.tusAgainAfterDownload", file=str(goods), options=told)

    assert (seen["error"], seen["got"], seen["url"]) == (None, SIZE, url)
    assert set(methods(seen)) <= {"GET", "HEAD"}


# Uppy ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"parallelUploads": 2}, {"chunkSize": CHUNK}], ids=["plain", "parallel", "chunks"]
)
def test_uppy_uploads(
    browser: Browser, server: TusServer, goods: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    second = tmp_path / "second.txt"
    second.write_bytes(b"second")
    told = {"endpoint": server.url, **options}
    seen = browser.run("foreign.uppyUpload", files=[str(goods), str(second)], options=told)

    assert seen["failed"] == []
    urls = {metadata(url)["filename"]: url for url in seen["urls"]}
    assert_arrived(urls[goods.name], goods.read_bytes())
    assert_arrived(urls["second.txt"], b"second")


@pytest.mark.parametrize("how", ["pause", "reload"])
def test_uppy_goes_on_where_it_was(browser: Browser, server: TusServer, goods: Path, how: str, hold: Hold) -> None:
    line = hold(server)
    seen = browser.run("foreign.uppyCut", line.ask, files=[str(goods)], options={"endpoint": line.url}, how=how)

    assert seen["failed"] == []
    assert_arrived(seen["urls"][0], goods.read_bytes())
    assert "POST" not in methods(seen)
    assert max(int(request["offset"]) for request in seen["requests"] if request["method"] == "PATCH") > 256 * KIB


def test_uppy_cancels(browser: Browser, server: TusServer, goods: Path, hold: Hold) -> None:
    line = hold(server)
    seen = browser.run("foreign.uppyCut", line.ask, files=[str(goods)], options={"endpoint": line.url}, how="cancel")

    assert seen["status"] == 204
