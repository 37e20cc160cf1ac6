"""Section R: CORS, without which a page of another origin sees only that something failed."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import Configured
from tests.conformance.profiles import ORIGIN, PROXIED, SPARTAN
from tests.support.tus import Tus
from tests.support.wire import Answer

PAGE = "http://page.example"

METHODS = {"POST", "HEAD", "PATCH", "DELETE", "GET", "OPTIONS"}

REQUEST_HEADERS = {
    "authorization",
    "content-type",
    "tus-resumable",
    "upload-checksum",
    "upload-concat",
    "upload-defer-length",
    "upload-length",
    "upload-metadata",
    "upload-offset",
    "x-http-method-override",
    "x-request-id",
    "x-requested-with",
}

RESPONSE_HEADERS = {
    "location",
    "tus-checksum-algorithm",
    "tus-extension",
    "tus-max-size",
    "tus-resumable",
    "tus-version",
    "upload-concat",
    "upload-defer-length",
    "upload-expires",
    "upload-length",
    "upload-metadata",
    "upload-offset",
}


def offered(tus: Tus, names: set[str]) -> set[str]:
    """Header names that matter to this server: those of an extension only where it is announced."""
    extensions = tus.options().listed("Tus-Extension")
    unused = set() if "checksum" in extensions else {"upload-checksum", "tus-checksum-algorithm"}
    return names - unused - (set() if "expiration" in extensions else {"upload-expires"})


def lower(answer: Answer, name: str) -> set[str]:
    return {member.lower() for member in answer.listed(name)}


def preflight(tus: Tus, url: str = "", origin: str = PAGE, headers: str = "tus-resumable,upload-offset") -> Answer:
    return tus.options(
        url,
        {"Origin": origin, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": headers},
    )


def test_r1_a_preflight_allows_all_of_tus(tus: Tus) -> None:
    asked = ",".join(sorted(REQUEST_HEADERS))
    for url in ("", tus.upload(10), tus.child("unknown")):
        answer = preflight(tus, url, headers=asked)
        assert answer.status in (200, 204)
        assert answer["Access-Control-Allow-Origin"] in ("*", PAGE)
        assert set(answer.listed("Access-Control-Allow-Methods")) >= METHODS
        assert lower(answer, "Access-Control-Allow-Headers") >= offered(tus, REQUEST_HEADERS)
        assert int(answer["Access-Control-Max-Age"] or "0") > 0


def test_r2_an_answer_lets_the_page_read_all_of_tus(tus: Tus) -> None:
    answer = tus.create(10, {"Origin": PAGE})
    assert answer.status == 201
    assert answer["Access-Control-Allow-Origin"] in ("*", PAGE)
    assert lower(answer, "Access-Control-Expose-Headers") >= offered(tus, RESPONSE_HEADERS)


@pytest.mark.parametrize("status", [400, 404, 405, 409, 412, 413, 415])
def test_r3_a_refusal_can_be_read_too(tus: Tus, status: int) -> None:
    """Else the page sees a network error, and tries again what cannot succeed."""
    url, page = tus.upload(10), {"Origin": PAGE}
    answer = {
        400: lambda: tus.create("many", page),
        404: lambda: tus.patch(tus.child("0123456789abcdef"), 0, b"", page),
        405: lambda: tus.request("PUT", "", page, b""),
        409: lambda: tus.patch(url, 7, b"abc", page),
        412: lambda: tus.patch(url, 0, b"hello", {**page, "Tus-Resumable": "0.2.2"}),
        413: lambda: tus.patch(url, 0, b"more than ten bytes", page),
        415: lambda: tus.patch(url, 0, b"hello", {**page, "Content-Type": "text/plain"}),
    }[status]()
    assert 400 <= answer.status < 500
    assert answer["Access-Control-Allow-Origin"] in ("*", PAGE)
    assert lower(answer, "Access-Control-Expose-Headers") >= offered(tus, RESPONSE_HEADERS)


def test_r4_a_listed_origin_is_named_and_caches_know(configured: Configured) -> None:
    tus, _ = configured(PROXIED)
    for answer in (preflight(tus, origin=ORIGIN), tus.create(10, {"Origin": ORIGIN})):
        assert answer["Access-Control-Allow-Origin"] == ORIGIN
        assert "origin" in lower(answer, "Vary")


@pytest.mark.parametrize("origin", [PAGE, "null", f"{ORIGIN}.evil", "https://evil-app.example", "http://app.example"])
def test_r5_another_origin_is_not_named(configured: Configured, origin: str) -> None:
    tus, _ = configured(PROXIED)
    for answer in (preflight(tus, origin=origin), tus.create(10, {"Origin": origin})):
        assert answer["Access-Control-Allow-Origin"] is None
        assert answer.status in (200, 201, 204, 400, 403)


def test_r6_credentials_are_allowed_to_a_named_origin_alone(configured: Configured) -> None:
    """Fetch: credentials and `*` do not go together."""
    tus, _ = configured(PROXIED)
    for answer in (preflight(tus, origin=ORIGIN), tus.create(10, {"Origin": ORIGIN, "Cookie": "a=b"})):
        assert answer["Access-Control-Allow-Origin"] == ORIGIN
        assert answer["Access-Control-Allow-Credentials"] == "true"
        assert "*" not in "".join(value for name, value in answer.fields if name.lower().startswith("access-control"))


def assert_silent(answer: Answer) -> None:
    assert not [name for name, _ in answer.fields if name.lower().startswith("access-control")]


def test_r7_cors_may_be_switched_off(configured: Configured) -> None:
    tus, _ = configured(SPARTAN)
    assert_silent(preflight(tus))
    assert_silent(tus.create(10, {"Origin": PAGE}))
    assert_silent(tus.create("many", {"Origin": PAGE}))


def test_r8_without_an_origin_there_is_nothing_to_allow(tus: Tus) -> None:
    assert_silent(tus.options())
    assert_silent(tus.create(10))


def test_r9_further_headers_may_be_allowed(configured: Configured) -> None:
    tus, _ = configured(PROXIED)
    assert lower(preflight(tus, origin=ORIGIN), "Access-Control-Allow-Headers") >= {*REQUEST_HEADERS, "x-in"}
    assert lower(tus.create(10, {"Origin": ORIGIN}), "Access-Control-Expose-Headers") >= {*RESPONSE_HEADERS, "x-out"}
