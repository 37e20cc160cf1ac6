"""The URL of the server as clients see it, and which proxies are believed about it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tusserver.protocol.dialect import Client
from tusserver.web.forwarded import FAMILIES, Proxies, PublicUrl

PROXY = "10.0.0.1"


def a_scope(*, root_path: str = "/files", scheme: str = "http", client: str | None = PROXY) -> dict[str, Any]:
    scope: dict[str, Any] = {"type": "http", "root_path": root_path, "scheme": scheme}
    if client is not None:
        scope["client"] = (client, 1234)
    return scope


def family_of(headers: dict[str, str]) -> str:
    return "forwarded" if "forwarded" in headers else "x-forwarded"


def url(headers: dict[str, str], trusted: str | None = PROXY, family: str | None = None, **scope: Any) -> str:
    public_url = PublicUrl(
        Proxies(trusted=[trusted] if trusted is not None else [], headers=family or family_of(headers))
    )
    return public_url.locate(a_scope(**scope), {"host": "inner:8080", **headers})[0]


# trailers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "client", "told", "passes"),
    [
        ([], PROXY, False, True),
        ([PROXY], PROXY, False, False),
        (["10.0.0.0/8"], PROXY, False, False),
        (["10.0.0.0/8"], "::ffff:10.0.0.7", False, False),
        (["*"], "1.2.3.4", False, False),
        (["unix"], None, False, False),
        ([PROXY], "1.2.3.4", False, True),
        ([PROXY], None, False, True),
        ([PROXY], PROXY, True, True),
    ],
)
def test_trailers_pass_where_no_proxy_is_that_drops_them(
    trusted: list[str], client: str | None, told: bool, passes: bool
) -> None:
    assert PublicUrl(Proxies(trusted=trusted, trailers=told)).passes_trailers(a_scope(client=client)) is passes


# the connection itself -----------------------------------------------------------------------------------------------


def test_the_url_has_the_scheme_the_host_and_the_path() -> None:
    assert url({"host": "example.org:8080"}, scheme="https") == "https://example.org:8080/files"


@pytest.mark.parametrize(
    ("root_path", "path"),
    [
        ("/my files", "/my%20files"),
        ("/\u65e5\u672c", "/%E6%97%A5%E6%9C%AC"),
        ("/100%", "/100%25"),
        ("/a:b@c~d", "/a:b@c~d"),
    ],
)
def test_a_path_that_an_app_is_mounted_at_is_encoded_in_the_url(root_path: str, path: str) -> None:
    assert url({"host": "example.org"}, root_path=root_path) == f"http://example.org{path}"
    assert PublicUrl(Proxies(relative_location=True)).locate(a_scope(root_path=root_path), {}) == (path, (root_path,))


def test_the_url_of_an_app_at_the_root_has_no_slash_at_the_end() -> None:
    assert url({"host": "example.org"}, root_path="") == "http://example.org"


@pytest.mark.parametrize(
    "host",
    [
        "example.org",
        "example.org:8080",
        "a",
        "127.0.0.1:1",
        "[::1]",
        "[2001:db8::1]:8080",
        "xn--nxasmq6b.example",
        "a_b.c",
    ],
)
def test_every_ordinary_host_is_taken(host: str) -> None:
    assert url({"host": host}) == f"http://{host}/files"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example/path",
        "evil.example?x",
        "user@evil.example",
        "evil.example\\x",
        "a b",
        "a,b",
        "a:b",
        "a:123456",
        "-a",
        "[::1",
        "[x]",
        "é.example",
        'a"b',
        "a<b>",
        "a\nb",
    ],
)
def test_a_host_that_is_none_is_left_out(host: str) -> None:
    assert url({"host": host}) == "/files"


def test_without_a_host_the_url_is_a_path() -> None:
    assert PublicUrl(Proxies()).locate(a_scope(), {})[0] == "/files"


def test_a_relative_location_never_names_a_host() -> None:
    assert PublicUrl(Proxies(relative_location=True)).locate(a_scope(), {"host": "example.org"}) == (
        "/files",
        ("/files",),
    )


@given(st.text(st.characters(max_codepoint=255), max_size=40))
@example("a\r\nX-Evil: 1")
def test_whatever_the_host_says_the_url_stays_one_of_this_collection(host: str) -> None:
    located = url({"host": host})
    assert re.fullmatch(r"[\x21-\x7e]+", located)
    assert located.endswith("/files")
    if located != "/files":
        assert located == f"http://{host}/files"
        assert "@" not in located


# proxies -------------------------------------------------------------------------------------------------------------

FORWARDED = {
    "x-forwarded-proto": "https",
    "x-forwarded-host": "example.org",
    "x-forwarded-port": "8443",
    "x-forwarded-prefix": "/up",
}


def test_a_trusted_proxy_says_how_clients_reach_the_server() -> None:
    assert url(FORWARDED) == "https://example.org:8443/up/files"


@pytest.mark.parametrize("client", ["10.0.0.2", "::1", None, "not an address"])
def test_nobody_else_is_believed(client: str | None) -> None:
    assert url({**FORWARDED, "forwarded": "proto=https;host=evil.example"}, client=client) == "http://inner:8080/files"


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert url(FORWARDED, trusted=None) == "http://inner:8080/files"


@pytest.mark.parametrize(
    ("trusted", "client"),
    [
        ("*", PROXY),
        ("*", None),
        ("10.0.0.0/8", PROXY),
        ("10.0.0.1/8", PROXY),  # not the network's own address, as people write it
        ("2001:db8::/32", "2001:db8::7"),
        ("unix", None),
        ("10.0.0.0/8", "::ffff:10.0.0.1"),  # as a socket for both families hears it
        ("::1", "::1"),
    ],
)
def test_proxies_are_trusted_by_address_network_socket_or_all(trusted: str, client: str | None) -> None:
    assert url(FORWARDED, trusted=trusted, client=client) == "https://example.org:8443/up/files"


def test_an_address_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="proxy"):
        PublicUrl(Proxies(trusted=["proxy"]))


def test_forwarded_says_the_same_in_one_header() -> None:
    assert url({"forwarded": 'for=1.2.3.4;Proto=HTTPS;host="example.org:8443"'}) == "https://example.org:8443/files"


SEVERAL = [
    {
        "x-forwarded-for": "5.6.7.8, 1.2.3.4, 10.0.0.2",
        "x-forwarded-proto": "ftp, https, http",
        "x-forwarded-host": "evil.example, example.org, inner",
    },
    {
        "forwarded": "for=5.6.7.8;proto=http;host=evil.example, for=1.2.3.4;proto=https;host=example.org, "
        "for=10.0.0.2;proto=http;host=inner"
    },
]
"""What a client made up, then the word of the outer proxy and of the inner one."""


@pytest.mark.parametrize("headers", SEVERAL)
def test_the_outermost_of_several_trusted_proxies_counts(headers: dict[str, str]) -> None:
    assert url(headers, trusted="10.0.0.0/8") == "https://example.org/files"


@pytest.mark.parametrize("headers", SEVERAL)
def test_what_stands_before_the_word_of_a_trusted_proxy_is_not_believed(headers: dict[str, str]) -> None:
    assert url(headers, trusted=PROXY) == "http://inner/files"


@pytest.mark.parametrize("headers", SEVERAL)
def test_where_all_are_trusted_the_first_one_counts(headers: dict[str, str]) -> None:
    assert "evil.example" in url(headers, trusted="*")


def test_one_value_stands_for_all_proxies_on_the_way() -> None:
    headers = {"x-forwarded-for": "1.2.3.4, 10.0.0.2, 10.0.0.3", "x-forwarded-proto": "https"}
    assert url(headers, trusted="10.0.0.0/8") == "https://inner:8080/files"


@pytest.mark.parametrize(("proto", "port"), [("http", "80"), ("https", "443")])
def test_the_usual_port_is_not_named(proto: str, port: str) -> None:
    headers = {"x-forwarded-proto": proto, "x-forwarded-host": "example.org", "x-forwarded-port": port}
    assert url(headers) == f"{proto}://example.org/files"


def test_a_port_named_with_the_host_is_not_named_twice() -> None:
    assert url({"x-forwarded-host": "example.org:1", "x-forwarded-port": "2"}) == "http://example.org:1/files"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-proto": "ftp"},
        {"x-forwarded-proto": "javascript:"},
        {"x-forwarded-host": "evil.example/x"},
        {"x-forwarded-host": "a b"},
        {"x-forwarded-port": "x"},
        {"x-forwarded-prefix": "up"},
        {"x-forwarded-prefix": "//evil.example"},
        {"x-forwarded-prefix": "/a/../b"},
        {"x-forwarded-prefix": "/.."},
        {"x-forwarded-prefix": "/a b"},
        {"x-forwarded-prefix": "https://evil.example"},
        {"forwarded": "proto=gopher"},
        {"forwarded": 'host="a b"'},
        {"forwarded": ";;=;=="},
    ],
)
def test_a_value_that_is_not_valid_is_as_if_it_were_not_there(headers: dict[str, str]) -> None:
    assert url(headers) == "http://inner:8080/files"


def test_the_collection_is_known_by_its_path_outside_and_inside() -> None:
    paths = PublicUrl(Proxies(trusted=[PROXY])).locate(a_scope(), {"host": "inner", "x-forwarded-prefix": "/up"})[1]
    assert paths == ("/up/files", "/files")


# who asks ------------------------------------------------------------------------------------------------------------


def key_of(headers: dict[str, str], *trusted: str, client: str | None = PROXY, family: str | None = None) -> str:
    public_url = PublicUrl(Proxies(trusted=trusted, headers=family or family_of(headers)))
    return public_url.client(a_scope(client=client), headers).key


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (None, ""),
        ("not an address", ""),
    ],
)
def test_a_client_is_its_address_or_the_network_that_it_has_for_itself(client: str | None, name: str) -> None:
    assert key_of({}, client=client) == name


def test_a_client_has_its_own_address_beside_the_network_that_limits_count() -> None:
    client = PublicUrl(Proxies(trusted=["10.0.0.7"])).client(
        a_scope(client="10.0.0.7"), {"x-forwarded-for": "2001:db8::1"}
    )
    assert client == Client(address="2001:db8::1", key="2001:db8::/64")


def test_nobody_talks_himself_into_another_client() -> None:
    assert key_of({"x-forwarded-for": "1.2.3.4", "forwarded": "for=1.2.3.4"}, client="5.6.7.8") == "5.6.7.8"


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"x-forwarded-for": "1.2.3.4"}, "1.2.3.4"),
        ({"x-forwarded-for": "9.9.9.9, 1.2.3.4"}, "1.2.3.4"),
        ({"x-forwarded-for": "9.9.9.9, 1.2.3.4, 10.0.0.7"}, "1.2.3.4"),
        ({"x-forwarded-for": "9.9.9.9, 1.2.3.4:567, ::ffff:10.0.0.7"}, "1.2.3.4"),
        ({"x-forwarded-for": "[2001:db8::1]:567"}, "2001:db8::/64"),
        ({"x-forwarded-for": "2001:db8::1"}, "2001:db8::/64"),
        ({"x-forwarded-for": "::ffff:1.2.3.4"}, "1.2.3.4"),
        ({"x-forwarded-for": "[::ffff:1.2.3.4]:567"}, "1.2.3.4"),
        ({"x-forwarded-for": "fe80::1%eth0"}, "fe80::/64"),
        ({"x-forwarded-for": "[fe80::1%eth0]:567, 10.0.0.7"}, "fe80::/64"),
        ({"x-forwarded-for": "9.9.9.9, 1.2.3.4, , "}, "1.2.3.4"),
        ({"forwarded": 'for="::ffff:1.2.3.4"'}, "1.2.3.4"),
        ({"forwarded": 'for=9.9.9.9, for="[2001:db8::1]:99";proto=https, for=10.0.0.7'}, "2001:db8::/64"),
        ({"forwarded": "For=1.2.3.4"}, "1.2.3.4"),
        ({"x-forwarded-for": "10.0.0.8, 10.0.0.7"}, "10.0.0.8"),  # a client inside
        ({"forwarded": "for=unknown"}, PROXY),
        ({"x-forwarded-for": "1.2.3.4, unix:"}, PROXY),
        ({"x-forwarded-for": ""}, PROXY),
        ({}, PROXY),
    ],
)
def test_behind_trusted_proxies_the_client_is_whom_the_outermost_of_them_saw(
    headers: dict[str, str], name: str
) -> None:
    assert key_of(headers, "10.0.0.0/8") == name


STANDARD, USUAL = {"forwarded": "for=5.6.7.8;host=evil.example"}, {"x-forwarded-for": "1.2.3.4"}


@pytest.mark.parametrize(
    ("family", "believed", "made_up", "client"),
    [
        ("x-forwarded", USUAL, STANDARD, "1.2.3.4"),
        ("forwarded", STANDARD, USUAL, "5.6.7.8"),
        ("x-forwarded", {}, STANDARD, PROXY),
        ("forwarded", {}, USUAL, PROXY),
    ],
)
def test_the_headers_that_a_proxy_does_not_set_change_nothing(
    family: str, believed: dict[str, str], made_up: dict[str, str], client: str
) -> None:
    assert key_of({**made_up, **believed}, PROXY, family=family) == client
    assert url({**made_up, **believed}, family=family) == url(believed, family=family)


@pytest.mark.parametrize("name", FORWARDED)
def test_who_is_known_by_forwarded_cannot_be_given_another_place_by_its_relatives(name: str) -> None:
    headers = {"forwarded": "for=1.2.3.4;proto=https;host=example.org", **FORWARDED, "x-forwarded-for": "1.2.3.4"}
    assert url({**headers, name: FORWARDED[name]}, family="forwarded") == "https://example.org/files"


def test_another_family_than_these_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"^proxies.headers: 'x-real-ip' is none; there are x-forwarded, forwarded$"):
        PublicUrl(Proxies(headers="x-real-ip"))


@pytest.mark.parametrize("trusted", ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1"])
def test_a_proxy_is_trusted_however_its_address_is_written(trusted: str) -> None:
    for client in (PROXY, f"::ffff:{PROXY}"):
        assert key_of(USUAL, trusted, client=client) == "1.2.3.4"


@given(st.lists(st.sampled_from(["1.2.3.4", "10.0.0.7", "unknown", "", "[::1]:9", "a=b", '"'])).map(", ".join))
def test_what_a_client_sends_along_does_not_change_who_it_is(made_up: str) -> None:
    before = f"{made_up}, " if made_up else ""
    assert key_of({"x-forwarded-for": f"{before}1.2.3.4, 10.0.0.7"}, "10.0.0.0/8") == "1.2.3.4"
    assert key_of({"forwarded": f"{before}for=1.2.3.4, for=10.0.0.7"}, "10.0.0.0/8") == "1.2.3.4"


texts = st.text(st.characters(max_codepoint=255), max_size=40)
nearly = st.lists(
    st.sampled_from(
        ["/", "..", ".", "a", "b.c", ":", "80", "99999", "[::1]", "@", "%2e", ",", ";", "host=", '"', "http"]
    ),
    max_size=6,
).map("".join)


@given(
    st.dictionaries(
        st.sampled_from(["host", "forwarded", *FORWARDED]),
        texts | nearly,
    ),
    st.sampled_from(FAMILIES),
)
def test_whatever_a_proxy_says_the_url_is_one_of_this_collection(headers: dict[str, str], family: str) -> None:
    located, paths = PublicUrl(Proxies(trusted=["*"], headers=family)).locate(a_scope(), headers)
    assert re.fullmatch(r"(?:https?://[^/?#@\\\s]+)?(?:/[A-Za-z0-9._~-]+)*/files", located, re.ASCII)
    assert urlsplit(located).path == paths[0]
    assert not {".", ".."} & set(paths[0].split("/"))
    assert "/files" in paths


labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=10)
names = st.lists(labels, min_size=1, max_size=3).map(".".join)


@given(
    st.sampled_from(["http", "https"]),
    names,
    st.none() | st.integers(1, 65535),
    st.lists(labels, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts)),
    st.booleans(),
)
def test_what_a_trusted_proxy_says_is_what_clients_are_told(
    scheme: str, name: str, port: int | None, prefix: str, in_one_header: bool
) -> None:
    host = name if port is None else f"{name}:{port}"
    if in_one_header:
        headers = {"forwarded": f'for="[2001:db8::1]:99";proto={scheme};host="{host}"'}
    else:
        headers = {"x-forwarded-proto": scheme, "x-forwarded-host": host}
        headers["x-forwarded-prefix"] = prefix
    assert url(headers) == f"{scheme}://{host}{'' if in_one_header else prefix}/files"
