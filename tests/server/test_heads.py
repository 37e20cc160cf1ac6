"""Request heads that are as large as the settings allow, at a server in its own process."""

from __future__ import annotations

from urllib.parse import urlsplit

from tests.conftest import StartServer
from tests.support.tus import Tus

HOST = {"Host": "uploads." + "department-of-storage." * 3 + "example.org"}


def parts_of(tus: Tus, data: bytes) -> list[str]:
    """One partial upload for each byte, by the absolute URLs that the server gave."""
    urls = []
    for byte in data:
        answer = tus.create(1, {"Upload-Concat": "partial", **HOST}, bytes([byte]))
        assert answer.status == 201
        urls.append(answer["Location"] or "")
    assert min(map(len, urls)) > 120
    return urls


def test_as_many_parts_as_are_allowed_can_be_named_by_absolute_urls(start_server: StartServer) -> None:
    tus = Tus(start_server("--durability", "none").url)
    final = tus.join(*parts_of(tus, b"0123456789") * 100, headers=HOST)
    assert final.status == 201, final.body
    assert tus.get(urlsplit(final["Location"] or "").path, HOST).body == b"0123456789" * 100


def test_more_parts_than_are_allowed_are_no_matter_of_the_head(start_server: StartServer) -> None:
    tus = Tus(start_server("--durability", "none").url)
    refused = tus.join(*parts_of(tus, b"01") * 501, headers=HOST)
    assert (refused.status, refused.body.split(b":")[0]) == (400, b"ERR_INVALID_CONCAT")


def test_the_size_of_heads_can_be_set(start_server: StartServer) -> None:
    server = start_server("--limits.head_size", "1MiB", "--limits.header_size", "900KiB")
    tus = Tus(server.url)
    assert tus.create(1, {"X-Filler": "x" * 800_000}).status == 201
    tight = Tus(start_server("--limits.head_size", "50KiB", "--limits.parts", "500").url)
    refused = tight.create(1, {f"X-{n}": "x" * (15_000 + n) for n in range(4)})
    assert (refused.status, refused["Cache-Control"]) == (431, "no-store")
    assert b"limits.head_size is 51200 bytes for a whole request head; the longest part of it is X-" in refused.body
    refused = tight.create(1, {"X-Filler": "x" * 20_000})
    assert refused.status == 431
    assert b"X-Filler has 20000, and limits.header_size is 17408 bytes" in refused.body
