"""How the body of a request is framed: only what all servers understand in the same way is accepted."""

from __future__ import annotations

from collections.abc import Iterable


def read_framing(version: str, fields: Iterable[tuple[bytes, bytes]]) -> tuple[int | None, bytes]:
    """Return the length of a body, if one is announced, and the field that says where it ends; b"" if there is none.

    Two lengths, or a length and chunks, are for the parser to refuse.

    Raises:
        ValueError: servers do not agree on what this means.
    """
    hosts, length, framing = 0, None, b""
    for name, value in fields:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            length = int(value)
            framing = b"Content-Length: " + value if length else b""
        elif name == b"transfer-encoding":
            # RFC 9112 §6.1: with an unknown coding it is not known where the body ends.
            if value.lower() != b"chunked" or framing or version != "1.1":
                raise ValueError("only chunked is understood")
            framing = b"Transfer-Encoding: chunked"
    # RFC 9112 §3.2: "MUST respond with a 400 ... to any HTTP/1.1 request message that lacks a Host header field
    # and to any request message that contains more than one".
    if version not in ("1.0", "1.1") or hosts > 1 or (not hosts and version == "1.1"):
        raise ValueError("neither HTTP/1.1 with one Host nor HTTP/1.0")
    return length or None, framing
