"""Which bytes of a download a request asks for, and how an answer with some of them looks (RFC 9110, section 14). Pure.

Files and streams of a store are answered by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import NamedTuple

MAX_RANGES = 100
"""Ranges in one request; one that names more gets the whole."""

_RANGE = re.compile(r"([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19})", re.ASCII)


class Piece(NamedTuple):
    """Bytes of ours, and behind them a range of the upload."""

    before: bytes
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An answer: its status, its headers and the pieces of its body, at least one."""

    status: int
    headers: Mapping[str, str]
    pieces: Sequence[Piece]


def plan(asked: Mapping[str, str], size: int, described: Mapping[str, str], bare: Mapping[str, str]) -> Plan:
    """Decide what a GET with the headers `asked` (names in lower case) gets of an upload of `size` bytes.

    `described`: headers of the whole, with ETag, Last-Modified and Content-Type; `bare`: those of an answer without
    content.
    """
    ranges = _wanted(asked, size, described)
    if ranges is None:
        refused = {**bare, "Content-Range": f"bytes */{size}", "Content-Length": "0"}
        return Plan(status=416, headers=refused, pieces=[Piece(b"", 0, 0)])
    headers = {**described, "Accept-Ranges": "bytes"}
    if not ranges:
        headers["Content-Length"] = str(size)
        return Plan(status=200, headers=headers, pieces=[Piece(b"", 0, size)])
    if len(ranges) == 1:
        ((start, stop),) = ranges
        headers["Content-Range"] = _content_range(start, stop, size)
        headers["Content-Length"] = str(stop - start)
        return Plan(status=206, headers=headers, pieces=[Piece(b"", start, stop)])
    boundary = token_hex(13)
    pieces = []
    for start, stop in ranges:
        part = f"Content-Type: {headers['Content-Type']}\r\nContent-Range: {_content_range(start, stop, size)}"
        pieces.append(Piece(f"\r\n--{boundary}\r\n{part}\r\n\r\n".encode("latin-1"), start, stop))
    pieces.append(Piece(f"\r\n--{boundary}--\r\n".encode(), 0, 0))
    headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    headers["Content-Length"] = str(sum(len(before) + stop - start for before, start, stop in pieces))
    return Plan(status=206, headers=headers, pieces=pieces)


def _wanted(asked: Mapping[str, str], size: int, described: Mapping[str, str]) -> list[tuple[int, int]] | None:
    """Return the ranges that are asked for, none for the whole; None if no byte of them exists."""
    text, condition = asked.get("range"), asked.get("if-range")
    unchanged = condition is None or condition in (described["ETag"], described["Last-Modified"])
    return [] if text is None or not unchanged else ranges_of(text, size)


def _content_range(start: int, stop: int, size: int) -> str:
    return f"bytes {start}-{stop - 1}/{size}"


def ranges_of(text: str, size: int) -> list[tuple[int, int]] | None:
    """Read a Range header: starts and stops in order, none of which touch. None if no byte of them exists.

    RFC 9110 §14.2: an origin server "MUST ignore a Range header field that contains a range unit it does not
    understand", and may ignore one that is not valid, or asks for very many: then the list is empty.

    >>> ranges_of("bytes=0-4, 8-, -3", 10)
    [(0, 5), (7, 10)]
    """
    unit, _, wanted = text.partition("=")
    specs = [spec.strip(" \t") for spec in wanted.split(",")]
    specs = [spec for spec in specs if spec]
    if unit.strip().lower() != "bytes" or not 0 < len(specs) <= MAX_RANGES:
        return []
    found = []
    for spec in specs:
        read = _RANGE.fullmatch(spec)
        if read is None:
            return []
        if read[3]:
            start, stop = max(0, size - int(read[3])), size
        else:
            start, stop = int(read[1]), min(size, int(read[2]) + 1) if read[2] else size
            if read[2] and int(read[2]) < start:
                return []
        if start < stop:
            found.append((start, stop))
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged or None
