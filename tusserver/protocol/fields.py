"""Codecs of header fields: text in, value out, or a refusal that names the field and the rule."""

from __future__ import annotations

import base64
import functools
import re
from datetime import datetime
from email.utils import formatdate

from tusserver.protocol.errors import BadRequest

_INTEGER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_LIMIT = 2**63
# Checked here: b64decode takes "YWJj=" for Base64, depending on the version of Python even when told to validate.
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", re.ASCII)

OFFSET_TYPE = "application/offset+octet-stream"
"""tus 1.0.0, PATCH: "All PATCH requests MUST use Content-Type: application/offset+octet-stream"."""


def integer(name: str, text: str, refusal: type[BadRequest]) -> int:
    """Read a non-negative integer below 2^63: ASCII digits, no sign, no leading zeros.

    Raises:
        BadRequest: as the class `refusal`, with the field's `name` and the rule.
    """
    if _INTEGER.fullmatch(text) is None or (value := int(text)) >= _LIMIT:
        raise refusal(f"{name} must be a whole number from 0 to 2^63-1, in plain digits")
    return value


def base64_bytes(text: str) -> bytes:
    """Decode Base64 with padding, without blanks or anything else.

    Raises:
        ValueError: it is none.
    """
    if _BASE64.fullmatch(text) is None:
        raise ValueError("not Base64 with padding")
    return base64.b64decode(text)


def is_offset_type(text: str | None) -> bool:
    """Whether a Content-Type announces upload bytes. Media types ignore case; parameters say nothing here."""
    return text is not None and text.partition(";")[0].strip().lower() == OFFSET_TYPE


def http_date(moment: datetime) -> str:
    """Write an IMF-fixdate (RFC 9110 §5.6.7).

    >>> http_date(datetime(2014, 6, 25, 16, tzinfo=UTC))
    'Wed, 25 Jun 2014 16:00:00 GMT'
    """
    # Without the part of a second: far ahead a float would round it up.
    return _http_date(int(moment.replace(microsecond=0).timestamp()))


@functools.lru_cache(maxsize=256)
def _http_date(seconds: int) -> str:
    """Many answers of one second name the same moment, and writing it takes longer than reading most headers."""
    return formatdate(seconds, usegmt=True)
