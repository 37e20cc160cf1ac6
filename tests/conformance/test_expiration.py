"""Section X: expiration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.conftest import Configured, Embed, Offers, at_once, seconds_until
from tests.conformance.expired import CONTENT, Expired
from tests.conformance.profiles import SWEPT
from tests.support.tus import Tus, eventually

DATE = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT"
)
"""IMF-fixdate of RFC 9110."""

DAY = 24 * 60 * 60
"""Seconds; the default time of an embedded server."""


@pytest.fixture(autouse=True)
def expiring(offers: Offers) -> None:
    offers("expiration")


def assert_future(date: str | None) -> None:
    """tus 1.0.0: "The value of the Upload-Expires header MUST be in RFC 9110 datetime format"."""
    assert date is not None
    assert DATE.fullmatch(date)
    assert seconds_until(date) > 0


def test_x1_the_creation_tells_when_the_upload_expires(tus: Tus) -> None:
    """tus 1.0.0: "If the expiration is known at the creation, the Upload-Expires header MUST be included in the
    response to the initial POST request".
    """
    assert_future(tus.create(10)["Upload-Expires"])


def test_x2_a_patch_tells_when_the_upload_expires(tus: Tus) -> None:
    """tus 1.0.0: "This header MUST be included in every PATCH response if the upload is going to expire"."""
    url = tus.upload(10)
    assert_future(tus.patch(url, 0, b"01234")["Upload-Expires"])
    assert_future(tus.patch(url, 5)["Upload-Expires"])


def test_x3_a_complete_upload_does_not_expire(tus: Tus) -> None:
    url = tus.upload(10)
    assert tus.patch(url, 0, b"0123456789")["Upload-Expires"] is None
    assert tus.head(url)["Upload-Expires"] is None


def test_x4_head_tells_when_the_upload_expires(tus: Tus) -> None:
    assert_future(tus.head(tus.upload(10))["Upload-Expires"])


def test_x5_an_expired_upload_is_gone(expired: Expired) -> None:
    """tus 1.0.0: "The Server SHOULD return 410 Gone status if it is keeping track of expired uploads … 404
    otherwise".
    """
    tus, url = expired.tus, expired.unfinished
    assert tus.head(url).status in (404, 410)
    answer = tus.patch(url, 0, b"01234")
    assert answer.status in (404, 410)
    assert answer["Upload-Offset"] is None


def test_x6_an_expired_upload_may_be_deleted(expired: Expired) -> None:
    assert expired.tus.delete(expired.to_be_deleted).status in (204, 404, 410)


def test_x7_bytes_move_the_date(embed: Embed) -> None:
    """tus 1.0.0: "its value MAY change over time"."""
    site = embed()
    url = site.tus.upload(10, body=b"01")  # one that never got a byte lives for an hour
    before = seconds_until(site.tus.head(url)["Upload-Expires"] or "")
    site.clock.advance(DAY / 2)
    after = seconds_until(site.tus.patch(url, 2, b"234")["Upload-Expires"] or "")
    assert after - before == pytest.approx(DAY / 2, abs=2)
    site.clock.advance(DAY - 1)
    assert site.tus.patch(url, 5, b"56789").status == 204


def test_x8_a_complete_upload_is_there_after_its_time(expired: Expired) -> None:
    """tus 1.0.0: "The Server MAY remove unfinished uploads once they expire", and no others."""
    assert expired.tus.head(expired.complete).status == 200
    assert expired.tus.holds(expired.complete, CONTENT)


def test_x9_a_sweep_removes_what_is_unfinished_and_expired(configured: Configured) -> None:
    tus, server = configured(SWEPT)
    before = set(server.files())
    complete = at_once(tus, b"0123456789")
    unfinished = [at_once(tus, b"01234", 20) for _ in range(3)]

    def left() -> list[Path]:
        return [path for path in set(server.files()) - before if complete.rsplit("/", 1)[1] not in path.name]

    assert eventually(lambda: left() == []), left()
    assert {tus.head(url).status for url in unfinished} <= {404, 410}
    assert tus.holds(complete, b"0123456789")


def test_x10_a_sweep_steps_over_an_upload_that_is_being_written(embed: Embed) -> None:
    site = embed()
    url = site.tus.upload(10)
    with site.tus.begin_patch(url, 0, 10, headers={"Expect": "100-continue"}) as patch:
        assert eventually(patch.readable)  # so the server waits for the body
        site.clock.advance(10 * DAY)
        assert site.call(site.app.sweep) == 0
        patch.send(b"0123456789")
        assert patch.answer().status == 204
    assert site.tus.holds(url, b"0123456789")


def test_x11_a_sweep_counts_uploads(embed: Embed) -> None:
    site = embed()
    complete = site.tus.complete(b"0123456789")
    for _ in range(3):
        site.tus.upload(20, body=b"01234")
    assert site.call(site.app.sweep) == 0
    site.clock.advance(DAY + 1)
    assert site.call(site.app.sweep) == 3
    assert site.call(site.app.sweep) == 0
    assert site.tus.head(complete).status == 200


def test_x12_the_parts_of_a_final_that_waits_keep_their_own_time(embed: Embed) -> None:
    site = embed()
    done, open_part = site.tus.part(b"01234"), site.tus.part(b"567", 5)
    final = site.tus.located(site.tus.join(done, open_part))
    site.clock.advance(DAY - 1)
    assert site.call(site.app.sweep) == 0
    assert site.tus.patch(open_part, 3, b"89").status == 204
    assert site.tus.holds(final, b"0123456789")
