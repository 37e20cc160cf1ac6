"""Answers that are written without the app: refusals of what is not HTTP or too much of it, and 1xx responses."""

from __future__ import annotations

import http
import re
from collections.abc import Mapping
from typing import Final

from tusserver.protocol.dialect import plain_refusal
from tusserver.protocol.errors import TooManyConnections, TusError

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Names of fields (RFC 9110 §5.6.2)."""
FIRST_BYTES: Final = 64
"""Bytes of a request that are searched for its method before it is rejected; blank lines may stand before it."""

_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "upgrade", "trailer", "keep-alive"})
_PHRASES = {100: "Continue", 103: "Early Hints", 104: "Upload Resumption Supported"}


def interim(status: int, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a 1xx response.

    Raises:
        ValueError: it would not be one, or not only one.
    """
    if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
        raise ValueError(f"{status} is not an interim response")
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}"]
    for name, value in headers.items():
        if not TOKEN.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _FRAMING:
            raise ValueError(f"{name!r} cannot stand in an interim response")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def refusal(error: TusError, method: str = "") -> bytes:
    """Return the answer to a request that no dialect has read, after which the connection is closed."""
    reply = plain_refusal(error, method)
    fields = "".join(f"{name.lower()}: {value}\r\n" for name, value in reply.headers.items())
    if method != "HEAD":
        fields += f"content-length: {len(reply.body)}\r\n"
    return bare(reply.status, fields) + reply.body


def plain(status: int, text: str) -> bytes:
    """Return an answer of plain text, after which the connection is closed."""
    body = text.encode()
    return bare(status, f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(body)}\r\n") + body


def bare(status: int, fields: str = "") -> bytes:
    """Return the same without a body. `fields`: their lines."""
    known = http.HTTPStatus(status)
    return (
        f"HTTP/1.1 {known.value} {known.phrase}\r\ncache-control: no-store\r\n{fields}connection: close\r\n\r\n"
    ).encode("ascii")


class Rejection:
    """The answer to a connection that is rejected, once the method of its request is known (see `plain_refusal`)."""

    __slots__ = ("_count", "_error", "_start")

    def __init__(self, error: TooManyConnections) -> None:
        self._error = error
        self._start = b""
        """Of the request, without blank lines before it."""
        self._count = 0
        """Bytes that came, with those."""

    def feed(self, data: bytes | memoryview) -> bytes | None:
        """Take what came; return the answer, None if the method is not known yet."""
        self._start = (self._start + bytes(data[:FIRST_BYTES])).lstrip(b"\r\n")[:FIRST_BYTES]
        self._count += len(data)
        if b"HEAD ".startswith(self._start[:5]) and len(self._start) < 5 and self._count < FIRST_BYTES:
            return None
        return refusal(self._error, "HEAD" if self._start.startswith(b"HEAD ") else "")
