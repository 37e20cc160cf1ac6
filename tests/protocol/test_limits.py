from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.uploads import changed
from tusserver.protocol.limits import MAX_RETRY_PAUSE, Expiry
from tusserver.protocol.upload import Role, Upload, UploadId

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def an_upload(**values: Any) -> Upload:
    return changed(Upload(id=UploadId("abc"), created_at=NOW, length=10), **values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"offset": 4}, NOW + DAY),
        ({"offset": 4, "updated_at": NOW - SECOND}, NOW - SECOND + DAY),
        ({"offset": 4, "updated_at": NOW + DAY}, NOW + DAY),  # a clock was wrong
        ({"updated_at": NOW - SECOND}, NOW - SECOND + HOUR),
        ({"role": Role.FINAL, "length": None, "updated_at": NOW}, NOW + DAY),
        ({"offset": 10, "finished": True, "updated_at": NOW - SECOND}, NOW - SECOND + 2 * DAY),
        ({"offset": 10, "finished": True, "unclaimed": True, "updated_at": NOW}, NOW + DAY),
        ({"offset": 10, "finished": True, "role": Role.PARTIAL, "updated_at": NOW}, NOW + 7 * DAY),
    ],
)
def test_a_deadline_by_new_rules_counts_from_the_last_bytes(values: dict[str, Any], expected: datetime) -> None:
    assert Expiry(after=DAY, keep_finished=2 * DAY).of(an_upload(**values), NOW) == expected


def test_where_nothing_expires_there_is_no_deadline() -> None:
    expiry = Expiry(after=None, keep_finished=None, keep_parts=None)
    assert expiry.of(an_upload(), NOW) is expiry.of(an_upload(offset=10, finished=True), NOW) is None
    assert expiry.longest == MAX_RETRY_PAUSE


def test_without_sliding_it_counts_from_the_creation() -> None:
    upload = an_upload(offset=4, updated_at=NOW + DAY)
    assert Expiry(after=DAY, sliding=False).of(upload, NOW + 2 * DAY) == NOW + DAY


def test_the_form_in_which_data_folders_keep_the_options_of_expiry_stays() -> None:
    """Else every upload would get a new deadline at an update, and whenever the interval of the sweeps is changed."""
    assert repr(Expiry(after=DAY, sweep_interval=HOUR)) == (
        "Expiry(after=datetime.timedelta(days=1), untouched=datetime.timedelta(seconds=3600), sliding=True, "
        "keep_finished=None, keep_parts=datetime.timedelta(days=7))"
    )
