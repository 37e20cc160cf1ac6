"""Addresses of clients and proxies: which addresses limits count as one client, and which proxies are trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence

_MAPPED_BITS = 96
"""Bits of an IPv6 address before the IPv4 address that it may hold."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(text: str) -> Address | None:
    """Read an address without its zone; None if it is none. IPv4 mapped to IPv6 (of a dual-stack socket) is IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def client_key(address: Address) -> str:
    """Return what limits count an address under: itself in IPv4, its /64 in IPv6, the least that a client gets."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _parse_network(text: str) -> Network:
    """Read a network; IPv4 mapped to IPv6 is IPv4, as in `parse_address`."""
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


class TrustedProxies:
    """Proxies whose headers are believed: addresses and networks, `unix` for Unix sockets, `*` for all.

    Raises:
        ValueError: an entry is none of these.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        entries = tuple(entries)
        self.all = "*" in entries
        self._unix = "unix" in entries
        self._networks: list[Network] = [_parse_network(entry) for entry in entries if entry not in ("*", "unix")]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self.all or self._unix or bool(self._networks)

    def trusts(self, address: Address | None) -> bool:
        """Return whether the peer with this address is one of them; None is a Unix socket."""
        if address is None:
            return self.all or self._unix
        return self.all or any(address in network for network in self._networks)

    def count_hops(self, elements: Sequence[str], read: Callable[[str], Address | None]) -> int:
        """Count the trusted proxies at the end of a list of peers; the element before them is the client.

        Each proxy appends its peer. So it is read from the right: whatever is left of the client may be made up by it,
        and is not read, as it may be thousands of elements.
        """
        if self.all:
            return max(0, len(elements) - 1)
        count = 0
        while count < len(elements) - 1 and (hop := read(elements[-count - 1])) is not None and self.trusts(hop):
            count += 1
        return count
