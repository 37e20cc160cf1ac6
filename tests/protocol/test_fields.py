"""Integers, media types and dates of header fields."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tusserver.protocol.errors import BadRequest, InvalidLength, InvalidOffset
from tusserver.protocol.fields import base64_bytes, http_date, integer, is_offset_type

PLAIN = re.compile(r"0|[1-9][0-9]*", re.ASCII)
BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", re.ASCII)

moments = st.datetimes(
    min_value=datetime(1970, 1, 3),  # noqa: DTZ001 - hypothesis adds the time zone
    max_value=datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=11))]),
)


# integers ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**63 - 1))
@example(0)
@example(2**53)
@example(2**63 - 1)
def test_every_number_below_2_to_the_63_is_read_exactly(number: int) -> None:
    assert integer("Upload-Length", str(number), InvalidLength) == number


@given(st.integers(2**63, 2**200))
@example(2**63)
@example(2**64)
def test_numbers_from_2_to_the_63_on_are_refused(number: int) -> None:
    with pytest.raises(InvalidLength):
        integer("Upload-Length", str(number), InvalidLength)


@given(st.integers(max_value=-1))
def test_negative_numbers_are_refused(number: int) -> None:
    with pytest.raises(InvalidOffset):
        integer("Upload-Offset", str(number), InvalidOffset)


@given(st.text() | st.text("0123456789+-_eExX. \t\n٣²", max_size=8))
@example("")
@example("+5")
@example("007")
@example("-0")
@example("1_000")
@example("1e3")
@example("0x10")
@example(" 1")
@example("1\n")
@example("٣")
@example("²")
def test_a_text_is_a_number_only_as_plain_digits(text: str) -> None:
    if PLAIN.fullmatch(text) is not None and int(text) < 2**63:
        assert str(integer("Upload-Offset", text, InvalidOffset)) == text
    else:
        with pytest.raises(InvalidOffset):
            integer("Upload-Offset", text, InvalidOffset)


def test_the_refusal_of_a_number_names_the_field_and_the_rule() -> None:
    with pytest.raises(BadRequest, match=r"Upload-Offset must be a whole number from 0 to 2\^63-1"):
        integer("Upload-Offset", "five", InvalidOffset)


def test_a_number_of_a_million_digits_is_refused_without_reading_it() -> None:
    with pytest.raises(InvalidLength):
        integer("Upload-Length", "9" * 1_000_000, InvalidLength)


# Base64 --------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=64))
def test_base64_gives_back_every_bytes(value: bytes) -> None:
    assert base64_bytes(base64.b64encode(value).decode()) == value


@given(st.text(max_size=12) | st.text("Ab0+/=-_ \n", max_size=12))
@example("YQ")
@example("YQ=")
@example("YQ===")
@example("YWJj=")
@example("YWJj====")
@example("YQ==YQ==")
@example("Y Q==")
@example("YQ==\n")
@example("YQ--")
@example("=")
@example("Ω===")
def test_base64_is_groups_of_four_with_padding_and_nothing_else(text: str) -> None:
    if BASE64.fullmatch(text) is None:
        with pytest.raises(ValueError, match="Base64"):
            base64_bytes(text)
    else:
        assert len(base64_bytes(text)) == len(text) * 3 // 4 - text.count("=")


# media types ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "application/offset+octet-stream",
        "Application/Offset+Octet-Stream",
        "application/offset+octet-stream; charset=utf-8",
        "application/offset+octet-stream ;a=b;c",
        " application/offset+octet-stream ",
    ],
)
def test_the_type_of_upload_bytes_is_known_in_any_case_and_with_parameters(text: str) -> None:
    assert is_offset_type(text)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "application/octet-stream",
        "text/plain",
        "application/offset octet-stream",
        "application/offset+octet-stream, text/plain",
        "text/plain; application/offset+octet-stream",
        "application/offset+octet-streams",
    ],
)
def test_every_other_type_is_not_that_of_upload_bytes(text: str | None) -> None:
    assert not is_offset_type(text)


@given(
    st.lists(st.booleans(), min_size=31, max_size=31),
    st.text(" \t", max_size=3),
    st.text(st.characters(max_codepoint=255), max_size=20),
)
def test_case_and_parameters_never_change_the_type(upper: list[bool], blanks: str, parameters: str) -> None:
    name = "application/offset+octet-stream"
    written = "".join(c.upper() if up else c for c, up in zip(name, upper, strict=True))
    assert is_offset_type(f"{blanks}{written}{blanks};{parameters}")


# dates ---------------------------------------------------------------------------------------------------------------


def test_a_date_is_written_as_the_tus_text_writes_it() -> None:
    # tus 1.0.0, Upload-Expires: "Upload-Expires: Wed, 25 Jun 2014 16:00:00 GMT"
    assert http_date(datetime(2014, 6, 25, 16, tzinfo=UTC)) == "Wed, 25 Jun 2014 16:00:00 GMT"


@given(moments)
@example(datetime(4148, 1, 1, 0, 0, 0, 999993, tzinfo=UTC))
def test_a_date_reads_back_as_the_same_second(moment: datetime) -> None:
    assert parsedate_to_datetime(http_date(moment)) == moment.astimezone(UTC).replace(microsecond=0)


@given(moments)
def test_a_date_has_the_fixed_form_of_http_in_every_time_zone(moment: datetime) -> None:
    days, months = "Mon|Tue|Wed|Thu|Fri|Sat|Sun", "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
    form = rf"(?:{days}), \d\d (?:{months}) \d{{4}} \d\d:\d\d:\d\d GMT"
    assert re.fullmatch(form, http_date(moment), re.ASCII)
