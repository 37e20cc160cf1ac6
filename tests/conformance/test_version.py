"""Section B: Tus-Resumable, the version both sides speak."""

from __future__ import annotations

import pytest

from tests.support.tus import Tus, patching
from tests.support.wire import Answer, NoAnswer

REQUESTS = {"POST": {"Upload-Length": "10"}, "PATCH": patching(0), "DELETE": {}, "HEAD": {}}


def ask(tus: Tus, method: str, version: str | None) -> tuple[str, Answer]:
    """Send an otherwise good request with another version; return the upload it was for."""
    url = tus.upload(10)
    body = b"hello" if method == "PATCH" else b""
    answer = tus.request(
        method, "" if method == "POST" else url, {**REQUESTS[method], "Tus-Resumable": version}, body or None
    )
    return url, answer


def assert_refused(answer: Answer) -> None:
    """tus 1.0.0: "it MUST respond with the 412 Precondition Failed status and MUST include the Tus-Version
    header into the response. In addition, the Server MUST NOT process the request".
    """
    assert answer.status == 412
    assert "1.0.0" in answer.listed("Tus-Version")
    assert answer["Location"] is None


@pytest.mark.parametrize("method", REQUESTS)
def test_b1_a_request_without_version_is_refused(tus: Tus, method: str) -> None:
    """tus 1.0.0: "The Tus-Resumable header MUST be included in every request and response except for OPTIONS
    requests".
    """
    url, answer = ask(tus, method, None)
    if method != "HEAD" or answer.status == 412:  # HEAD may be answered as GET is, which needs no version
        assert_refused(answer)
    else:
        assert answer.status == tus.get(url).status
    assert tus.offset(url) == 0


def test_b2_a_creation_in_another_version_is_refused(tus: Tus) -> None:
    _, answer = ask(tus, "POST", "0.2.2")
    assert_refused(answer)


def test_b3_a_patch_in_another_version_is_refused_and_changes_nothing(tus: Tus) -> None:
    url, answer = ask(tus, "PATCH", "0.2.2")
    assert answer.status == 412
    assert tus.offset(url) == 0


def test_b4_a_delete_in_another_version_is_refused_and_deletes_nothing(tus: Tus) -> None:
    url, answer = ask(tus, "DELETE", "0.2.2")
    assert answer.status == 412
    assert tus.offset(url) == 0


def test_b5_a_head_in_another_version_is_refused(tus: Tus) -> None:
    _, answer = ask(tus, "HEAD", "0.2.2")
    assert answer.status == 412
    assert answer["Upload-Offset"] is None


@pytest.mark.parametrize("version", ["0", "1", "1.0", "1.0.1", "1.1.1", "1.0.0b", "1.0.0, 1.0.0"])
def test_b6_only_exactly_the_version_is_accepted(tus: Tus, version: str) -> None:
    _, answer = ask(tus, "POST", version)
    assert answer.status == 412


@pytest.mark.usefixtures("downloads")
def test_b7_a_download_needs_no_version(tus: Tus) -> None:
    """A browser that follows a link knows nothing of tus."""
    answer = tus.get(tus.complete(b"hello"), {"Tus-Resumable": None})
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize("status", [200, 201, 204, 400, 404, 405, 409, 412, 413, 415])
def test_b8_every_answer_names_the_version(tus: Tus, status: int) -> None:
    """tus 1.0.0: "The Tus-Resumable header MUST be included in every request and response except for OPTIONS
    requests".
    """
    url = tus.upload(10)
    answers = {
        200: lambda: tus.head(url),
        201: lambda: tus.create(10),
        204: lambda: tus.patch(url, 0, b"hello"),
        400: lambda: tus.create("many"),
        404: lambda: tus.head(tus.child("unknown")),
        405: lambda: tus.request("PUT", "", body=b""),
        409: lambda: tus.patch(url, 7, b"abc"),
        412: lambda: tus.patch(url, 0, b"hello", {"Tus-Resumable": "0.2.2"}),
        413: lambda: tus.patch(url, 0, b"more than ten bytes"),
        415: lambda: tus.patch(url, 0, b"hello", {"Content-Type": "text/plain"}),
    }
    answer = answers[status]()
    assert answer["Tus-Resumable"] == "1.0.0"


def test_b9_after_a_refused_body_the_connection_is_in_step_or_closed(tus: Tus) -> None:
    """A body that nobody reads must not be taken for the next request."""
    url = tus.upload(10)
    with tus.connect() as connection:
        tus.ask(connection, "PATCH", url, {**patching(0), "Tus-Resumable": "0.2.2"}, b"GET / HTTP")
        assert 400 <= connection.answer().status < 500
        try:
            tus.ask(connection, "HEAD", url)
            answer = connection.answer()
        except (NoAnswer, OSError):
            return
        assert (answer.status, answer["Upload-Offset"]) == (200, "0")
    assert tus.offset(url) == 0
