"""Section D: uploads whose length is told later."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import Embed, Offers
from tests.support.tus import Tus


@pytest.fixture(autouse=True)
def deferring(offers: Offers) -> None:
    offers("creation-defer-length")


def assert_state(tus: Tus, url: str, offset: int, length: int | None) -> None:
    answer = tus.head(url)
    assert answer.status == 200
    assert answer["Upload-Offset"] == str(offset)
    assert answer["Upload-Length"] == (None if length is None else str(length))
    assert answer["Upload-Defer-Length"] == ("1" if length is None else None)


def test_d1_bytes_may_come_before_the_length(tus: Tus) -> None:
    """tus 1.0.0: "As long as the length of the upload is not known, the Server MUST set Upload-Defer-Length: 1
    in all responses to HEAD requests".
    """
    url = tus.upload(None)
    answer = tus.patch(url, 0, b"01234")
    assert (answer.status, answer["Upload-Offset"]) == (204, "5")
    assert_state(tus, url, 5, None)


def test_d2_the_length_may_come_with_bytes(tus: Tus) -> None:
    """tus 1.0.0: "the Client MUST set the Upload-Length header in the next PATCH request, once the length is known"."""
    url = tus.upload(None, body=b"01234")
    answer = tus.patch(url, 5, b"567", {"Upload-Length": "10"})
    assert (answer.status, answer["Upload-Offset"]) == (204, "8")
    assert_state(tus, url, 8, 10)
    tus.patch(url, 8, b"89")
    assert tus.holds(url, b"0123456789")


def test_d3_a_length_below_the_offset_is_refused(tus: Tus) -> None:
    url = tus.upload(None, body=b"01234")
    assert tus.patch(url, 5, b"", {"Upload-Length": "4"}).status == 400
    assert_state(tus, url, 5, None)
    assert tus.patch(url, 5, b"56789", {"Upload-Length": "10"}).status == 204, "the upload is stuck"


def test_d4_a_length_above_the_maximum_is_refused(limited: tuple[Tus, int]) -> None:
    tus, size = limited
    url = tus.upload(None)
    assert tus.patch(url, 0, b"01234", {"Upload-Length": str(size + 1)}).status == 413
    assert_state(tus, url, 0, None)


def test_d5_a_length_is_told_once(tus: Tus) -> None:
    """tus 1.0.0: "Once set the length MUST NOT be changed"."""
    url = tus.upload(None)
    assert tus.patch(url, 0, b"01234", {"Upload-Length": "10"}).status == 204
    assert tus.patch(url, 5, b"567", {"Upload-Length": "20"}).status == 400
    assert_state(tus, url, 5, 10)


def test_d6_the_length_alone_may_complete_the_upload(tus: Tus) -> None:
    """The way of clients that learn only at the end of a stream that it has ended."""
    url = tus.upload(None, body=b"01234")
    answer = tus.patch(url, 5, b"", {"Upload-Length": "5"})
    assert (answer.status, answer["Upload-Offset"]) == (204, "5")
    assert_state(tus, url, 5, 5)
    assert tus.holds(url, b"01234")


def test_d6_completion_by_the_length_alone_is_told(embed: Embed) -> None:
    site = embed()
    url = site.tus.upload(None, body=b"01234")
    assert site.finished == []
    site.tus.patch(url, 5, b"", {"Upload-Length": "5"})
    assert [upload.length for upload in site.finished] == [5]


@pytest.mark.parametrize("body", [b"0123456789", [b"01234", b"56789"]], ids=["sized", "chunked"])
def test_d7_a_body_may_not_run_over_the_length_it_brings(tus: Tus, body: bytes | list[bytes]) -> None:
    url = tus.upload(None)
    assert tus.patch(url, 0, body, {"Upload-Length": "5"}).status == 413
    assert tus.offset(url) <= 5


@pytest.mark.parametrize("length", ["-1", "abc", "1.5", "", "+10", "99999999999999999999"])
def test_d8_a_length_told_later_is_a_number_too(tus: Tus, length: str) -> None:
    url = tus.upload(None)
    assert tus.patch(url, 0, b"01234", {"Upload-Length": length}).status == 400
    assert_state(tus, url, 0, None)


def test_d9_a_body_of_known_length_may_not_run_over_the_maximum(limited: tuple[Tus, int]) -> None:
    tus, size = limited
    url = tus.upload(None)
    with tus.begin_patch(url, 0, size + 10_000_000) as connection:
        assert connection.answer().status == 413
    assert tus.offset(url) == 0


def test_d10_a_chunked_body_may_not_run_over_the_maximum(reachable: tuple[Tus, int]) -> None:
    tus, size = reachable
    url = tus.upload(None)
    assert tus.patch(url, 0, [bytes(size), b"beyond"]).status == 413
    assert tus.offset(url) <= size


def test_d11_a_length_stays_when_its_body_is_cut(tus: Tus) -> None:
    url = tus.upload(None)
    tus.begin_patch(url, 0, 10, b"012", {"Upload-Length": "10"}).close()
    assert tus.reaches(url, 3)
    assert_state(tus, url, 3, 10)
