"""Where clients see the server, and who they are: from the connection, and from proxies that are trusted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import quote

from starlette.types import Scope

_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?", re.ASCII
)
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*", re.ASCII)
_SCHEMES = ("http", "https")
_IN_PATHS = "/~!$&'()*+,;=:@"
"""What stands in paths as it is, beside letters and digits (RFC 3986 §3.3)."""
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.~-]+)?)\]|([0-9.]+))(?::\d{1,5})?", re.ASCII)
_MAPPED_BITS = 96
"""Bits of IPv6 that stand before an IPv4 address inside it."""

X_FORWARDED: Final = "x-forwarded"
FORWARDED: Final = "forwarded"
FAMILIES: Final = (X_FORWARDED, FORWARDED)
"""Headers by which proxies tell whom they serve: X-Forwarded-*, as most do, or Forwarded (RFC 7239)."""
LISTS: Final = frozenset(("forwarded", *(f"x-forwarded-{name}" for name in ("for", "host", "proto", "port", "prefix"))))
"""Headers that are lists, so that several lines of one are one list (RFC 9110 §5.3): some proxies add a line."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def address_of(text: str) -> Address | None:
    """Read an address, without its zone. IPv4 inside IPv6, as a socket for both hears it, is the IPv4 one."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def party_of(address: Address) -> str:
    """Name whom an address stands for: itself, or its /64 in IPv6, of which everybody gets at least one."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _network_of(text: str) -> Network:
    """Read a network, as `address_of` reads the addresses in it."""
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


class Trusted:
    """Proxies that are believed: addresses and networks, `unix` for sockets without an address, `*` for all.

    Raises:
        ValueError: one of them is no address.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        entries = tuple(entries)
        self.all = "*" in entries
        self._unix = "unix" in entries
        self._networks: list[Network] = [_network_of(entry) for entry in entries if entry not in ("*", "unix")]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self.all or self._unix or bool(self._networks)

    def has(self, address: Address | None) -> bool:
        """Whether the peer with this address is one of them; a Unix socket has none."""
        if address is None:
            return self.all or self._unix
        return self.all or any(address in network for network in self._networks)

    def before(self, elements: Sequence[str], read: Callable[[str], Address | None]) -> int:
        """Count the proxies behind the outermost one that is trusted, in a list that each of them appends its peer to.

        From the right, since what stands left of the word of a trusted proxy may be made up by its client; and `read`
        no further, as that may be thousands.
        """
        if self.all:
            return max(0, len(elements) - 1)
        count = 0
        while count < len(elements) - 1 and (hop := read(elements[-count - 1])) is not None and self.has(hop):
            count += 1
        return count


class Origin:
    """Knows how to name the collection to clients, and clients to limits.

    `trusted`: proxies that are believed; `family`: by which headers, one of `FAMILIES`. The other ones may come from
    anybody, as a proxy passes on what it does not know. `relative`: name the collection by its path alone;
    `trailers`: whether these proxies pass on the trailers of requests.

    Raises:
        ValueError: one of `trusted` is no address, or `family` is none.
    """

    def __init__(
        self,
        trusted: Iterable[str] = (),
        *,
        family: str = X_FORWARDED,
        relative: bool = False,
        trailers: bool = False,
    ) -> None:
        if family not in FAMILIES:
            raise ValueError(f"proxy_headers: {family!r} is none; there are {', '.join(FAMILIES)}")
        self._trusted = Trusted(trusted)
        self._standard = family == FORWARDED
        self.relative = relative
        self._trailers = trailers

    def passes_trailers(self, scope: Scope) -> bool:
        """Whether a request's trailers got as far as this server: most proxies drop them."""
        return self._trailers or not self._trusted or not self._trusted.has(_peer(scope))

    def locate(self, scope: Scope, headers: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
        """Return the collection's URL as clients see it, and all paths it is known by, decoded; no trailing slashes.

        Without a host that can be believed the URL is relative: nothing a client made up is ever reflected.
        """
        inside: str = scope.get("root_path", "").rstrip("/")
        outside = inside
        scheme, host = str(scope.get("scheme", "http")), headers.get("host", "")
        if self._trusted and self._trusted.has(_peer(scope)):
            scheme, host, prefix = self._forwarded(headers, scheme, host)
            outside = prefix + inside
        paths = (inside,) if inside == outside else (outside, inside)
        encoded = outside if _PREFIX.fullmatch(outside) else quote(outside, safe=_IN_PATHS)
        if self.relative or not _is_host(host):
            return encoded, paths
        return f"{scheme}://{host}{encoded}", paths

    def party(self, scope: Scope, headers: Mapping[str, str]) -> str:
        """Name whom a request comes from (see `party_of`), past proxies that are trusted; "" where nobody can tell."""
        address = _peer(scope)
        if self._trusted and self._trusted.has(address):
            elements, read = self._way(headers)
            if elements:
                address = read(elements[-self._trusted.before(elements, read) - 1]) or address
        return "" if address is None else party_of(address)

    def _way(self, headers: Mapping[str, str]) -> tuple[list[str], Callable[[str], Address | None]]:
        """Return the peers that proxies named, the nearest one last, and how to read one of them."""
        if self._standard:
            return _list(headers.get("forwarded", "")), _read_for
        return _list(headers.get("x-forwarded-for", "")), _read_hop

    def _forwarded(self, headers: Mapping[str, str], scheme: str, host: str) -> tuple[str, str, str]:
        """Return scheme, host and path prefix as clients of the outermost trusted proxy used them.

        A value that is not valid is as if it were not there. Forwarded has no word for a prefix.
        """
        elements, read = self._way(headers)
        before = self._trusted.before(elements, read)
        if self._standard:
            named = _read_element(elements[-before - 1]) if elements else {}
            return _scheme(named.get("proto", ""), scheme), _host(named.get("host", ""), host), ""

        def outermost(name: str) -> str:
            # A proxy that finds the field may leave it as it is, so the list can be shorter than the way.
            values = _list(headers.get(name, ""))
            return values[0 if self._trusted.all else max(0, len(values) - 1 - before)] if values else ""

        scheme = _scheme(outermost("x-forwarded-proto"), scheme)
        host = _host(outermost("x-forwarded-host"), host)
        port = outermost("x-forwarded-port")
        has_port = re.search(r":\d+$", host) is not None
        if re.fullmatch("[0-9]{1,5}", port) and not has_port and port != {"http": "80", "https": "443"}[scheme]:
            host = f"{host}:{port}"
        prefix = outermost("x-forwarded-prefix").rstrip("/")
        if _PREFIX.fullmatch(prefix) is None:
            prefix = ""
        return scheme, host, prefix


def _scheme(told: str, otherwise: str) -> str:
    return told.lower() if told.lower() in _SCHEMES else otherwise


def _host(told: str, otherwise: str) -> str:
    return told if _is_host(told) else otherwise


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    return found is not None and int(found[1] or 0) < 65536


def _peer(scope: Scope) -> Address | None:
    client = scope.get("client")
    return address_of(client[0]) if client else None


def _list(value: str) -> list[str]:
    """Items of a list; an empty one is none (RFC 9110 §5.6.1.2)."""
    return [item for item in map(str.strip, value.split(",")) if item] if value else []


def _read_hop(element: str) -> Address | None:
    """Read an address with or without its port: `1.2.3.4`, `1.2.3.4:567`, `::1`, `[::1]:567`."""
    found = _NODE.fullmatch(element)
    return address_of(found[1] or found[2]) if found else address_of(element)


def _read_for(element: str) -> Address | None:
    return _read_hop(_read_element(element).get("for", ""))


def _read_element(element: str) -> dict[str, str]:
    """Read an element of Forwarded (RFC 7239): `for=1.2.3.4;proto=https;host="example.org"`."""
    found: dict[str, str] = {}
    for pair in element.split(";"):
        name, _, text = pair.strip().partition("=")
        found[name.lower()] = text.strip('"')
    return found
