"""Where a body ends, by its head alone: only what all servers understand in the same way."""

from __future__ import annotations

import pytest

from tusserver.server.framing import read_framing

HOST = (b"host", b"here")
LENGTH = (b"content-length", b"5")
CHUNKED = (b"transfer-encoding", b"Chunked")


@pytest.mark.parametrize(
    ("version", "fields", "length", "framing"),
    [
        ("1.1", [HOST], None, b""),
        ("1.0", [], None, b""),
        ("1.1", [HOST, LENGTH], 5, b"Content-Length: 5"),
        ("1.0", [LENGTH], 5, b"Content-Length: 5"),
        ("1.1", [HOST, (b"content-length", b"0")], None, b""),
        ("1.1", [HOST, CHUNKED], None, b"Transfer-Encoding: chunked"),
    ],
)
def test_the_end_of_a_body_is_found(
    version: str, fields: list[tuple[bytes, bytes]], length: int | None, framing: bytes
) -> None:
    assert read_framing(version, fields) == (length, framing)


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("1.1", []),
        ("1.1", [HOST, HOST]),
        ("1.0", [HOST, HOST]),
        ("2.0", [HOST]),
        ("1.0", [HOST, CHUNKED]),
        ("1.1", [HOST, LENGTH, CHUNKED]),
        ("1.1", [HOST, CHUNKED, CHUNKED]),
        ("1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")]),
    ],
)
def test_what_servers_may_understand_differently_is_refused(version: str, fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match=r"chunked|Host"):
        read_framing(version, fields)
