"""What may happen to an upload."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.uploads import changed
from tusserver.protocol import rules
from tusserver.protocol.errors import (
    BodyTooLarge,
    FinalIsReadOnly,
    InconsistentLength,
    InvalidConcat,
    InvalidMetadata,
    MaxSizeExceeded,
    OffsetMismatch,
    ProtocolMismatch,
    SizeExceeded,
    TusError,
    UploadExpired,
    UploadWithheld,
)
from tusserver.protocol.limits import MAX_RETRY_PAUSE, Expiry, Limits
from tusserver.protocol.messages import Append, Create
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
ID = UploadId("abc")
UNLIMITED = Limits()


def an_upload(**values: Any) -> Upload:
    return changed(Upload(id=ID, created_at=NOW, length=10), **values)


def a_body(offset: int = 0, body_length: int | None = None, length: int | None = None) -> Append:
    return Append(id=ID, offset=offset, body_length=body_length, length=length)


def a_creation(length: int | None = 10, **values: Any) -> Create:
    return Create(length=length, metadata=values.pop("metadata", Metadata()), **values)


# creation ------------------------------------------------------------------------------------------------------------


def test_a_new_upload_has_all_that_its_creation_says() -> None:
    create = Create(
        length=10, metadata=Metadata("k YQ=="), role=Role.FINAL, concat="final;/files/a", parts=(UploadId("a"),)
    )
    assert rules.new_upload(create, ID, Expiry(after=DAY), NOW) == Upload(
        id=ID,
        created_at=NOW,
        length=10,
        metadata=Metadata("k YQ=="),
        role=Role.FINAL,
        concat="final;/files/a",
        parts=(UploadId("a"),),
        expires_at=NOW + DAY,
        unclaimed=True,
    )


def test_a_new_upload_never_expires_if_expiry_is_off() -> None:
    assert rules.new_upload(a_creation(), ID, Expiry(after=None), NOW).expires_at is None


@pytest.mark.parametrize("length", [None, 0, 10])
def test_a_creation_within_the_limits_is_welcome(length: int | None) -> None:
    rules.check_creation(a_creation(length), Limits(max_size=10))


def test_more_than_the_maximum_is_refused_at_creation() -> None:
    with pytest.raises(MaxSizeExceeded, match="11 bytes are more than 10"):
        rules.check_creation(a_creation(11), Limits(max_size=10))


def test_metadata_as_long_as_the_limit_are_welcome() -> None:
    rules.check_creation(a_creation(metadata=Metadata("k" * 100)), Limits(metadata_size=100))


def test_metadata_longer_than_the_limit_are_refused() -> None:
    with pytest.raises(InvalidMetadata, match="longer than 100 bytes"):
        rules.check_creation(a_creation(metadata=Metadata("k" * 101)), Limits(metadata_size=100))


def test_more_parts_than_the_limit_are_refused() -> None:
    create = a_creation(None, role=Role.FINAL, parts=(UploadId("a"),) * 3)
    rules.check_creation(create, Limits(parts=3))
    with pytest.raises(InvalidConcat, match=r"limits\.parts = 2"):
        rules.check_creation(create, Limits(parts=2))


def test_a_first_body_that_runs_over_the_length_is_refused() -> None:
    with pytest.raises(SizeExceeded, match="the body has 11 bytes, the upload lacks 10"):
        rules.check_creation(a_creation(10, first=a_body(body_length=11)), UNLIMITED)


def test_a_first_body_that_runs_over_the_maximum_is_refused() -> None:
    with pytest.raises(MaxSizeExceeded):
        rules.check_creation(a_creation(None, first=a_body(body_length=11)), Limits(max_size=10))


def test_a_first_body_larger_than_one_request_may_bring_is_refused() -> None:
    with pytest.raises(BodyTooLarge, match="one request may have 5 bytes"):
        rules.check_creation(a_creation(10, first=a_body(body_length=6)), Limits(body_size=5))
    rules.check_creation(a_creation(10, first=a_body(body_length=5)), Limits(body_size=5))


def test_a_first_body_of_unknown_length_is_let_in() -> None:
    rules.check_creation(a_creation(10, first=a_body(body_length=None)), UNLIMITED)


# bodies --------------------------------------------------------------------------------------------------------------


def test_a_body_at_the_offset_may_fill_what_is_left() -> None:
    upload = an_upload(offset=4)
    assert rules.plan_append(upload, a_body(4, 6), UNLIMITED, NOW) == rules.AppendPlan(upload, 6)


def test_a_body_larger_than_one_request_may_bring_is_refused_and_a_smaller_one_is_not() -> None:
    limits = Limits(body_size=5)
    with pytest.raises(BodyTooLarge):
        rules.plan_append(an_upload(offset=4), a_body(4, 6), limits, NOW)
    assert rules.plan_append(an_upload(offset=4), a_body(4, 5), limits, NOW).limit == 5


@pytest.mark.parametrize(
    ("limits", "length", "limit", "overflow"),
    [
        (Limits(), 10, 6, SizeExceeded),
        (Limits(), None, None, SizeExceeded),
        (Limits(max_size=20), None, 16, MaxSizeExceeded),
        (Limits(max_size=20, body_size=5), None, 5, BodyTooLarge),
        (Limits(max_size=20, body_size=5), 10, 5, BodyTooLarge),
        (Limits(max_size=20, body_size=50), 10, 6, SizeExceeded),
    ],
)
def test_a_body_of_unknown_length_gets_the_lowest_limit_and_its_refusal(
    limits: Limits, length: int | None, limit: int | None, overflow: type[TusError]
) -> None:
    plan = rules.plan_append(an_upload(offset=4, length=length), a_body(4), limits, NOW)
    assert (plan.limit, plan.overflow) == (limit, overflow)


@pytest.mark.parametrize("offset", [0, 3, 5, 10, 2**62])
@pytest.mark.parametrize("held", [False, True])
def test_a_body_anywhere_else_is_refused(offset: int, held: bool) -> None:
    # "If the offsets do not match, the Server MUST respond with the 409 Conflict status"
    with pytest.raises(OffsetMismatch) as refusal:
        rules.plan_append(an_upload(offset=4, told=4), a_body(offset, 1), UNLIMITED, NOW, held=held)
    assert (refusal.value.expected, refusal.value.provided) == (4, offset)


@pytest.mark.parametrize("held", [False, True])
def test_a_body_may_start_at_the_offset_that_was_told_whatever_is_beyond(held: bool) -> None:
    plan = rules.plan_append(an_upload(offset=6, told=4), a_body(4, 6), UNLIMITED, NOW, held=held)
    assert (plan.upload.offset, plan.upload.told, plan.limit) == (4, 4, 6)


def test_where_it_stands_a_body_may_go_only_while_nobody_else_is_at_it() -> None:
    assert rules.plan_append(an_upload(offset=6, told=4), a_body(6, 1), UNLIMITED, NOW).upload.offset == 6
    with pytest.raises(OffsetMismatch) as refusal:
        rules.plan_append(an_upload(offset=6, told=4), a_body(6, 1), UNLIMITED, NOW, held=True)
    assert refusal.value.expected == 4


@pytest.mark.parametrize("offset", [0, 3, 5, 7])
def test_between_and_beyond_them_none_may(offset: int) -> None:
    with pytest.raises(OffsetMismatch):
        rules.plan_append(an_upload(offset=6, told=4), a_body(offset, 1), UNLIMITED, NOW)


def test_a_wrong_offset_is_refused_before_a_wrong_length() -> None:
    with pytest.raises(OffsetMismatch):
        rules.plan_append(an_upload(offset=4), a_body(3, 1000, length=11), UNLIMITED, NOW)


def test_a_body_that_says_it_runs_over_is_refused() -> None:
    with pytest.raises(SizeExceeded, match="the body has 7 bytes, the upload lacks 6"):
        rules.plan_append(an_upload(offset=4), a_body(4, 7), UNLIMITED, NOW)


def test_a_body_of_unknown_length_may_have_what_the_upload_lacks() -> None:
    assert rules.plan_append(an_upload(offset=4), a_body(4, None), UNLIMITED, NOW).limit == 6


def test_a_body_for_a_complete_upload_may_have_no_byte() -> None:
    complete = an_upload(offset=10)
    assert rules.plan_append(complete, a_body(10, 0), UNLIMITED, NOW).limit == 0
    with pytest.raises(SizeExceeded):
        rules.plan_append(complete, a_body(10, 1), UNLIMITED, NOW)


def test_a_final_upload_takes_no_body() -> None:
    # "The Server MUST respond with a 403 Forbidden status to PATCH requests against a final upload URL"
    with pytest.raises(FinalIsReadOnly):
        rules.plan_append(an_upload(role=Role.FINAL), a_body(0, 1), UNLIMITED, NOW)


def test_an_expired_upload_takes_no_body() -> None:
    with pytest.raises(UploadExpired):
        rules.plan_append(an_upload(expires_at=NOW), a_body(0, 1), UNLIMITED, NOW)


def test_a_body_of_a_deferred_upload_is_limited_by_the_maximum() -> None:
    upload = an_upload(length=None, offset=4)
    assert rules.plan_append(upload, a_body(4, None), Limits(max_size=10), NOW).limit == 6
    with pytest.raises(MaxSizeExceeded, match="11 bytes are more than 10"):
        rules.plan_append(upload, a_body(4, 7), Limits(max_size=10), NOW)


def test_a_body_of_a_deferred_upload_has_no_limit_if_there_is_no_maximum() -> None:
    assert rules.plan_append(an_upload(length=None), a_body(0, 2**60), UNLIMITED, NOW).limit is None


@given(st.integers(0, 100), st.integers(0, 100), st.none() | st.integers(0, 100), st.none() | st.integers(0, 100))
def test_no_plan_ever_leads_past_the_length_or_the_maximum(
    offset: int, body_length: int, length: int | None, declared: int | None
) -> None:
    limits = Limits(max_size=50)
    upload = an_upload(offset=min(offset, 50 if length is None else length), length=length)
    try:
        plan = rules.plan_append(upload, a_body(upload.offset, body_length, declared), limits, NOW)
    except TusError:
        return
    assert plan.limit is not None
    assert body_length <= plan.limit
    end = plan.upload.offset + plan.limit
    assert end == (50 if plan.upload.length is None else plan.upload.length)


# when an upload is complete ------------------------------------------------------------------------------------------


def test_an_upload_of_tus_is_complete_when_its_offset_is_its_length() -> None:
    # "The Client MAY ... set Upload-Length to 0", and that is complete at once
    assert rules.new_upload(a_creation(0), ID, Expiry(), NOW).complete
    assert not rules.new_upload(a_creation(1), ID, Expiry(), NOW).complete
    assert not rules.new_upload(a_creation(None), ID, Expiry(), NOW).complete
    assert not rules.advance(an_upload(), 9, Expiry(), NOW).complete
    assert rules.advance(an_upload(), 10, Expiry(), NOW).complete
    assert not rules.advance(an_upload(length=None), 10, Expiry(), NOW, completes=True).complete


@pytest.mark.parametrize("length", [10, None])
def test_an_upload_of_another_protocol_is_complete_when_a_request_says_so(length: int | None) -> None:
    upload = an_upload(length=length, protocol="other", complete=False)
    assert not rules.new_upload(a_creation(0, protocol="other"), ID, Expiry(), NOW).complete
    assert not rules.advance(upload, 10, Expiry(), NOW).complete
    whole = rules.advance(upload, 10, Expiry(), NOW, completes=True)
    assert (whole.complete, whole.offset, whole.length, whole.told) == (True, 10, 10, 10)
    assert rules.advance(whole, 0, Expiry(), NOW) == whole


def test_a_body_that_is_shorter_than_the_length_completes_nothing() -> None:
    upload = an_upload(protocol="other")
    assert not rules.advance(upload, 9, Expiry(), NOW, completes=True).complete


def test_an_upload_takes_bytes_in_the_protocol_that_it_was_created_in() -> None:
    append = replace(a_body(0, 5), protocol="other")
    with pytest.raises(ProtocolMismatch):
        rules.plan_append(an_upload(), append, UNLIMITED, NOW)
    with pytest.raises(ProtocolMismatch):
        rules.plan_append(an_upload(protocol="other"), a_body(0, 5), UNLIMITED, NOW)
    rules.plan_append(an_upload(protocol="other"), append, UNLIMITED, NOW)


# a length that is declared late --------------------------------------------------------------------------------------


def test_a_deferred_upload_gets_its_length() -> None:
    upload = an_upload(length=None, offset=4)
    plan = rules.plan_append(upload, a_body(4, 3, length=10), UNLIMITED, NOW)
    assert plan == rules.AppendPlan(changed(upload, length=10), 6)


def test_a_length_may_be_where_the_upload_stands() -> None:
    plan = rules.plan_append(an_upload(length=None, offset=4), a_body(4, 0, length=4), UNLIMITED, NOW)
    assert plan.upload.complete


def test_a_declared_length_is_taken_back_with_its_body() -> None:
    upload = an_upload(length=None, offset=4)
    for length in (4, 9):
        plan = rules.plan_append(upload, a_body(4, 0, length=length), UNLIMITED, NOW)
        assert rules.undeclared(plan.upload, upload) == upload


def test_a_length_shorter_than_what_is_here_is_refused() -> None:
    with pytest.raises(InconsistentLength, match="it would be 3, but 4 bytes are here"):
        rules.plan_append(an_upload(length=None, offset=4), a_body(4, 0, length=3), UNLIMITED, NOW)


def test_a_length_once_set_is_not_changed() -> None:
    # "Once set the length MUST NOT be changed."
    with pytest.raises(InconsistentLength, match="it is 10 and cannot become 11"):
        rules.plan_append(an_upload(), a_body(0, 1, length=11), UNLIMITED, NOW)


def test_to_say_the_same_length_again_is_no_change() -> None:
    upload = an_upload()
    assert rules.plan_append(upload, a_body(0, 1, length=10), UNLIMITED, NOW).upload is upload


def test_a_length_beyond_the_maximum_is_refused() -> None:
    with pytest.raises(MaxSizeExceeded):
        rules.plan_append(an_upload(length=None), a_body(0, 1, length=11), Limits(max_size=10), NOW)


def test_a_body_that_runs_over_the_length_it_declares_is_refused() -> None:
    with pytest.raises(SizeExceeded):
        rules.plan_append(an_upload(length=None, offset=4), a_body(4, 7, length=10), UNLIMITED, NOW)


# progress ------------------------------------------------------------------------------------------------------------


def test_progress_moves_the_offset_and_a_sliding_deadline() -> None:
    upload = an_upload(expires_at=NOW + SECOND)
    assert rules.advance(upload, 4, Expiry(after=DAY), NOW) == changed(upload, offset=4, expires_at=NOW + DAY)


def test_progress_leaves_a_fixed_deadline_alone() -> None:
    upload = an_upload(offset=1, expires_at=NOW + SECOND)
    assert rules.advance(upload, 4, Expiry(after=DAY, sliding=False), NOW).expires_at == NOW + SECOND


def test_switching_expiry_off_leaves_the_deadlines_that_were_told() -> None:
    upload = an_upload(expires_at=NOW + SECOND)
    assert rules.advance(upload, 4, Expiry(after=None), NOW).expires_at == NOW + SECOND


def test_a_finished_upload_stays_for_ever() -> None:
    finished = rules.finish(an_upload(offset=10, expires_at=NOW + DAY), Expiry(after=DAY), NOW)
    assert (finished.finished, finished.expires_at) == (True, None)


def test_a_finished_upload_stays_for_its_retention() -> None:
    finished = rules.finish(an_upload(offset=10), Expiry(keep_finished=7 * DAY), NOW)
    assert finished.expires_at == NOW + 7 * DAY


@pytest.mark.parametrize(("keep", "until"), [(DAY, NOW + DAY), (None, None)])
def test_a_complete_part_has_a_life_of_its_own(keep: timedelta | None, until: datetime | None) -> None:
    part = an_upload(offset=10, role=Role.PARTIAL, expires_at=NOW + SECOND)
    assert rules.finish(part, Expiry(keep_finished=3 * DAY, keep_parts=keep), NOW).expires_at == until


# the end of time -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expired"),
    [
        ({"expires_at": None}, False),
        ({"expires_at": NOW + SECOND}, False),
        ({"expires_at": NOW}, True),
        ({"expires_at": NOW - SECOND}, True),
        ({"expires_at": NOW - SECOND, "offset": 10}, False),  # complete, but finishing it has not succeeded yet
        ({"expires_at": NOW - SECOND, "offset": 10, "finished": True}, True),  # its retention is over
        ({"expires_at": NOW + SECOND, "offset": 10, "finished": True}, False),
    ],
)
def test_an_upload_expires_at_its_deadline_unless_it_waits_to_be_finished(
    values: dict[str, Any], expired: bool
) -> None:
    assert rules.is_expired(an_upload(**values), NOW) is expired


def test_a_complete_upload_can_be_downloaded_and_an_incomplete_one_cannot() -> None:
    assert rules.may_download(an_upload(offset=10), NOW)
    assert not rules.may_download(an_upload(offset=9), NOW)


def test_an_expired_upload_cannot_be_downloaded() -> None:
    with pytest.raises(UploadExpired):
        rules.may_download(an_upload(offset=10, finished=True, expires_at=NOW), NOW)


def test_an_upload_that_its_application_has_not_taken_cannot_be_downloaded() -> None:
    with pytest.raises(UploadWithheld):
        rules.may_download(an_upload(offset=10, owed=True), NOW)
    assert rules.may_download(an_upload(offset=10, owed=True, finished=True), NOW)


# applications that fail ----------------------------------------------------------------------------------------------


def test_an_application_is_called_again_after_growing_pauses_and_not_for_ever() -> None:
    upload, pauses = an_upload(offset=10, owed=True), []
    while not rules.gave_up(upload):
        upload = rules.fail_to_finish(upload, Expiry(after=DAY), NOW)
        if upload.retry_at is not None:
            pauses.append(upload.retry_at - NOW)
            assert not rules.is_expired(changed(upload, expires_at=NOW), NOW)
    assert len(pauses) == rules.RETRIES
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (SECOND, MAX_RETRY_PAUSE)
    assert (upload.retry_at, upload.expires_at) == (None, NOW + DAY)
    assert rules.is_expired(upload, NOW + DAY)


# uploads that never got a byte ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("create", "life"),
    [
        (a_creation(10), HOUR),
        (a_creation(None), HOUR),
        (a_creation(10, role=Role.PARTIAL), HOUR),
        (a_creation(0), DAY),  # it is complete
        (a_creation(None, role=Role.FINAL, parts=(UploadId("a"),)), DAY),
        (a_creation(10, role=Role.FINAL, parts=(UploadId("a"),)), DAY),
    ],
)
def test_what_waits_for_its_first_byte_has_a_short_life(create: Create, life: timedelta) -> None:
    assert rules.new_upload(create, ID, Expiry(after=DAY), NOW).expires_at == NOW + life


@pytest.mark.parametrize(
    ("expiry", "life"),
    [
        (Expiry(after=2 * SECOND), 2 * SECOND),
        (Expiry(after=DAY, untouched=None), DAY),
        (Expiry(after=DAY, untouched=2 * DAY), DAY),
        (Expiry(after=DAY, untouched=SECOND), SECOND),
    ],
)
def test_that_life_is_never_longer_than_the_usual_one(expiry: Expiry, life: timedelta) -> None:
    assert rules.new_upload(a_creation(), ID, expiry, NOW).expires_at == NOW + life


def test_where_unfinished_uploads_never_expire_these_do_not_either() -> None:
    assert rules.new_upload(a_creation(), ID, Expiry(after=None, untouched=HOUR), NOW).expires_at is None


def test_the_first_byte_starts_the_usual_life() -> None:
    made = rules.new_upload(a_creation(), ID, Expiry(after=DAY), NOW)
    later = NOW + 10 * SECOND
    assert rules.advance(made, 1, Expiry(after=DAY), later).expires_at == later + DAY
    assert rules.advance(made, 1, Expiry(after=DAY, sliding=False), later).expires_at == NOW + DAY
    assert rules.advance(made, 0, Expiry(after=DAY), later).expires_at == NOW + HOUR


# joining -------------------------------------------------------------------------------------------------------------


def a_part(**values: Any) -> Upload:
    return an_upload(role=Role.PARTIAL, **values)


def test_a_final_upload_is_as_long_as_its_parts() -> None:
    # "The length of the final upload MUST be the sum of the length of all partial uploads."
    assert rules.final_length([a_part(length=3), a_part(length=0), a_part(length=4)], UNLIMITED, NOW) == 7


def test_the_length_is_unknown_while_that_of_a_part_is() -> None:
    assert rules.final_length([a_part(length=3), a_part(length=None, offset=2)], UNLIMITED, NOW) is None


def test_unfinished_parts_tell_the_length_too() -> None:
    assert rules.final_length([a_part(length=3, offset=1), a_part(length=4)], UNLIMITED, NOW) == 7


@pytest.mark.parametrize("role", [Role.REGULAR, Role.FINAL])
def test_only_partial_uploads_can_be_joined(role: Role) -> None:
    with pytest.raises(InvalidConcat, match="abc is not a partial upload"):
        rules.final_length([a_part(), an_upload(role=role)], UNLIMITED, NOW)


def test_an_expired_part_is_a_bad_request_and_not_a_missing_upload() -> None:
    # On a 404 tus-js-client would forget the final upload.
    with pytest.raises(InvalidConcat, match="has expired"):
        rules.final_length([a_part(expires_at=NOW)], UNLIMITED, NOW)


def test_parts_that_are_too_large_together_are_refused() -> None:
    assert rules.final_length([a_part(length=5), a_part(length=5)], Limits(max_size=10), NOW) == 10
    with pytest.raises(MaxSizeExceeded):
        rules.final_length([a_part(length=5), a_part(length=6)], Limits(max_size=10), NOW)


def test_a_part_of_unknown_length_counts_with_what_is_here() -> None:
    with pytest.raises(MaxSizeExceeded):
        rules.final_length([a_part(length=5), a_part(length=None, offset=6)], Limits(max_size=10), NOW)


@pytest.mark.parametrize(
    "append",
    [a_body(3, 1), a_body(0, 11), a_body(0, 1, length=9)],
    ids=["offset", "size", "length"],
)
def test_a_refusal_knows_the_deadline_of_its_upload(append: Append) -> None:
    with pytest.raises(TusError) as caught:
        rules.plan_append(an_upload(expires_at=NOW + DAY), append, UNLIMITED, NOW)
    assert caught.value.expires_at == NOW + DAY


def test_a_refusal_of_a_complete_upload_announces_no_deadline() -> None:
    """It is that of the retention, and no PATCH changes it."""
    with pytest.raises(OffsetMismatch) as caught:
        rules.plan_append(an_upload(offset=10, expires_at=NOW + DAY), a_body(3, 1), UNLIMITED, NOW)
    assert caught.value.expires_at is None
