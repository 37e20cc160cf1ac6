"""Addresses: read, counted, trusted."""

from __future__ import annotations

import pytest

from tusserver.addresses import Address, TrustedProxies, client_key, parse_address


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_client_counts_as_its_address_or_its_network(text: str, key: str) -> None:
    address = parse_address(text)
    assert address is not None
    assert client_key(address) == key


def test_what_is_no_address_is_none() -> None:
    assert parse_address("example.org") is None


@pytest.mark.parametrize(
    ("entries", "address", "trusted"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
        (["10.0.0.0/8"], None, False),
        (["unix"], None, True),
        (["*"], None, True),
        (["*"], "1.2.3.4", True),
    ],
)
def test_a_proxy_is_trusted_by_address_network_or_kind(entries: list[str], address: str | None, trusted: bool) -> None:
    assert TrustedProxies(entries).trusts(parse_address(address) if address else None) is trusted


def test_of_a_long_list_no_more_is_read_than_up_to_the_client() -> None:
    read: list[str] = []

    def reading(element: str) -> Address | None:
        read.append(element)
        return parse_address(element)

    hops = ["10.0.0.9"] * 2000 + ["1.2.3.4", "10.0.0.7"]
    assert TrustedProxies(["10.0.0.0/8"]).count_hops(hops, reading) == 1
    assert read == ["10.0.0.7", "1.2.3.4"]
