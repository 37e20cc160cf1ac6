"""Section S: the URL a client gets, behind whatever proxy, and whoever lies about it."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.conformance.conftest import Configured, Embed
from tests.conformance.profiles import PROXIED, SPARTAN, STANDARD
from tests.support.tus import Tus
from tests.support.wire import Answer, Field

POST = {"Upload-Length": "10"}


def location(answer: Answer) -> str:
    assert answer.status == 201
    assert answer["Location"]
    return answer["Location"]


def test_s1_the_location_is_where_the_client_came_to(tus: Tus) -> None:
    """tus 1.0.0: "This URL MAY be absolute or relative"."""
    where = location(tus.post({**POST, "Host": "upload.example:81"}))
    scheme = urlsplit(tus.endpoint).scheme
    assert where.startswith((f"{scheme}://upload.example:81{tus.path}/", f"{tus.path}/"))


FORWARDED = {
    "proto": {"X-Forwarded-Proto": "https"},
    "host": {"X-Forwarded-Host": "evil.example"},
    "standard": {"Forwarded": "for=1.2.3.4;proto=https;host=evil.example"},
    "prefix": {"X-Forwarded-Prefix": "/evil"},
}


@pytest.mark.parametrize("header", FORWARDED)
def test_s2_what_a_stranger_says_of_the_url_is_not_believed(tus: Tus, header: str) -> None:
    where = location(tus.post({**POST, **FORWARDED[header]}))
    assert "evil" not in where
    assert urlsplit(where).scheme in ("", urlsplit(tus.endpoint).scheme)


def test_s3_what_a_trusted_proxy_says_is_believed(configured: Configured) -> None:
    tus, _ = configured(PROXIED)
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "upload.example"}
    assert location(tus.post({**POST, **headers})).startswith("https://upload.example/files/")
    assert location(tus.post({**POST, "X-Forwarded-Proto": "https"})).startswith(f"https://{tus.host}/files/")


@pytest.mark.parametrize("proto", ["ftp", "https,http", "", "javascript", ",", 'ht"tp'])
def test_s4_nonsense_of_a_proxy_is_no_mistake_of_the_client(tus: Tus, proto: str) -> None:
    where = location(tus.post({**POST, "X-Forwarded-Proto": proto}))
    assert urlsplit(where).scheme in ("", "http", "https")


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [("ftp", "http"), ("https,http", "http"), ("http, https", "https"), ("", "http"), (",", "http")],
)
def test_s4_nonsense_of_a_trusted_proxy_is_ignored(configured: Configured, proto: str, scheme: str) -> None:
    tus, _ = configured(PROXIED)
    assert location(tus.post({**POST, "X-Forwarded-Proto": proto})).startswith(f"{scheme}://{tus.host}/files/")


@pytest.mark.parametrize(
    "value",
    [
        'proto=https;host="upload.example"',
        'for="[2001:db8::1]:4711";Proto=HTTPS;Host=upload.example, for=127.0.0.1',
        "for=1.2.3.4;proto=http;host=evil.example, for=1.2.3.4;proto=https;host=upload.example",
    ],
)
def test_s5_the_standard_header_of_a_trusted_proxy_is_believed(configured: Configured, value: str) -> None:
    """RFC 7239."""
    tus, _ = configured(STANDARD)
    assert location(tus.post({**POST, "Forwarded": value})).startswith("https://upload.example/files/")


def test_s6_prefix_and_port_of_a_trusted_proxy_are_believed(configured: Configured) -> None:
    tus, _ = configured(PROXIED)
    proxy = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "upload.example",
        "X-Forwarded-Port": "8443",
        "X-Forwarded-Prefix": "/api",
    }
    where = location(tus.post({**POST, **proxy}))
    assert where.startswith("https://upload.example:8443/api/files/")
    part = location(tus.create(5, {**proxy, "Upload-Concat": "partial"}, b"01234"))
    assert tus.post({**proxy, "Upload-Concat": f"final;{part}"}).status == 201


def test_s7_a_server_mounted_deeper_gives_urls_that_work(embed: Embed) -> None:
    tus = embed(path="/api/up").tus
    where = location(tus.create(10))
    assert urlsplit(where).path.startswith("/api/up/")
    parts = tus.part(b"01234"), tus.part(b"56789")
    assert tus.holds(tus.located(tus.join(*parts)), b"0123456789")
    relative = [urlsplit(part).path for part in parts]
    assert tus.holds(tus.located(tus.join(*relative)), b"0123456789")


def test_s7_a_root_path_is_part_of_the_url(embed: Embed) -> None:
    tus = embed(root_path="/outside").tus
    where = location(tus.create(10))
    assert urlsplit(where).path.startswith("/outside/files/")
    part = location(tus.create(5, {"Upload-Concat": "partial"}, b"01234"))
    assert tus.join(part).status == 201


def test_s8_the_location_may_be_a_path(configured: Configured) -> None:
    tus, _ = configured(SPARTAN)
    where = location(tus.create(10))
    assert where.startswith("/files/")
    assert tus.offset(tus.located(tus.create(10))) == 0


EVIL = ['evil"><x', "a.b/evil?x", "evil\\x", "user@evil", "evil x", "evil:port", "evil:99999", "<script>", "a,evil"]


@pytest.mark.parametrize("host", EVIL)
def test_s9_a_host_that_is_none_is_never_repeated(tus: Tus, host: str) -> None:
    answer = tus.post({**POST, "Host": host})
    assert answer.status in (201, 400)
    assert host not in f"{answer.fields} {answer.body.decode('latin-1')}"
    if answer.status == 201:
        assert location(answer).startswith(f"{tus.path}/")


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("host", ["", None])
def test_s9_no_host_makes_no_broken_url(tus: Tus, version: str, host: str | None) -> None:
    lines: list[Field] = tus.fields({**POST, "Content-Length": "0", "Host": host})
    with tus.connect() as connection:
        connection.ask("POST", tus.target(), lines, version=version)
        answer = connection.answer()
    assert answer.status in (201, 400)
    if answer.status == 201:
        assert location(answer).startswith(f"{tus.path}/")
