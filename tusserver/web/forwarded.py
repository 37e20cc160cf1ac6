"""The server's URL as clients see it, and their addresses: from the connection, and from headers of trusted proxies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from starlette.types import Scope

from tusserver.addresses import Address, TrustedProxies, client_key, parse_address
from tusserver.protocol.dialect import Client

_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?", re.ASCII
)
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*", re.ASCII)
_SCHEMES = ("http", "https")
_IN_PATHS = "/~!$&'()*+,;=:@"
"""Characters of paths that are not escaped, besides letters and digits (RFC 3986 §3.3)."""
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.~-]+)?)\]|([0-9.]+))(?::\d{1,5})?", re.ASCII)

X_FORWARDED: Final = "x-forwarded"
FORWARDED: Final = "forwarded"
FAMILIES: Final = (X_FORWARDED, FORWARDED)
"""Headers in which proxies name their clients: X-Forwarded-*, as most do, or Forwarded (RFC 7239)."""
LISTS: Final = frozenset(("forwarded", *(f"x-forwarded-{name}" for name in ("for", "host", "proto", "port", "prefix"))))
"""Headers that are lists, so that several lines of one are one list (RFC 9110 §5.3): some proxies add a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Reverse proxies in front."""

    trusted: Sequence[str] = ()
    """Addresses and networks of proxies whose headers are believed, `unix` for sockets without an address, `*` for all.
    A server in front must then leave the client's address as it is (`uvicorn --no-proxy-headers`)."""
    headers: str = X_FORWARDED
    """Which headers, one of `FAMILIES`. Those of the other family are ignored: a client may have sent them, as a proxy
    forwards headers that it does not know."""
    trailers: bool = False
    """Whether they forward the trailers of requests. If not, checksum-trailer is not offered through them."""
    relative_location: bool = False
    """Whether Location is a path, without scheme and host."""


class PublicUrl:
    """Finds the URL of the collection as clients see it, and the address of the client.

    Raises:
        ValueError: an entry of `proxies.trusted` is no address, or `proxies.headers` is not one of `FAMILIES`.
    """

    def __init__(self, proxies: Proxies) -> None:
        if proxies.headers not in FAMILIES:
            raise ValueError(f"proxies.headers: {proxies.headers!r} is none; there are {', '.join(FAMILIES)}")
        self._trusted = TrustedProxies(proxies.trusted)
        self._standard = proxies.headers == FORWARDED
        self.relative = proxies.relative_location
        self._trailers = proxies.trailers

    def passes_trailers(self, scope: Scope) -> bool:
        """Return whether the trailers of a request reach this server: most proxies drop them."""
        return self._trailers or not self._trusted or not self._trusted.trusts(_peer(scope))

    def locate(self, scope: Scope, headers: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
        """Return the collection's URL as clients see it, and all paths it is known by, decoded; no trailing slashes.

        Without a valid host the URL is relative: nothing that a client made up is ever reflected.
        """
        inside: str = scope.get("root_path", "").rstrip("/")
        outside = inside
        scheme, host = str(scope.get("scheme", "http")), headers.get("host", "")
        if self._trusted and self._trusted.trusts(_peer(scope)):
            scheme, host, prefix = self._forwarded(headers, scheme, host)
            outside = prefix + inside
        paths = (inside,) if inside == outside else (outside, inside)
        encoded = outside if _PREFIX.fullmatch(outside) else quote(outside, safe=_IN_PATHS)
        if self.relative or not _is_host(host):
            return encoded, paths
        return f"{scheme}://{host}{encoded}", paths

    def client(self, scope: Scope, headers: Mapping[str, str]) -> Client:
        """Return where a request comes from, past trusted proxies."""
        address = _peer(scope)
        if self._trusted and self._trusted.trusts(address):
            elements, read = self._hops(headers)
            if elements:
                address = read(elements[-self._trusted.count_hops(elements, read) - 1]) or address
        return Client() if address is None else Client(address=str(address), key=client_key(address))

    def _hops(self, headers: Mapping[str, str]) -> tuple[list[str], Callable[[str], Address | None]]:
        """Return the peers that proxies named, the nearest one last, and the function that reads one of them."""
        if self._standard:
            return _list(headers.get("forwarded", "")), _read_for
        return _list(headers.get("x-forwarded-for", "")), _read_hop

    def _forwarded(self, headers: Mapping[str, str], scheme: str, host: str) -> tuple[str, str, str]:
        """Return scheme, host and path prefix as clients of the outermost trusted proxy used them.

        A value that is not valid is ignored. Forwarded has no parameter for a prefix.
        """
        elements, read = self._hops(headers)
        before = self._trusted.count_hops(elements, read)
        if self._standard:
            named = _read_element(elements[-before - 1]) if elements else {}
            return _scheme(named.get("proto", ""), scheme), _host(named.get("host", ""), host), ""

        def outermost(name: str) -> str:
            # A proxy may leave a field that is there as it is, so this list can be shorter than that of the peers.
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


def _scheme(value: str, otherwise: str) -> str:
    return value.lower() if value.lower() in _SCHEMES else otherwise


def _host(value: str, otherwise: str) -> str:
    return value if _is_host(value) else otherwise


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    return found is not None and int(found[1] or 0) < 65536


def _peer(scope: Scope) -> Address | None:
    client = scope.get("client")
    return parse_address(client[0]) if client else None


def _list(value: str) -> list[str]:
    """Return the items of a list without the empty ones (RFC 9110 §5.6.1.2)."""
    return [item for item in map(str.strip, value.split(",")) if item] if value else []


def _read_hop(element: str) -> Address | None:
    """Read an address with or without its port: `1.2.3.4`, `1.2.3.4:567`, `::1`, `[::1]:567`."""
    found = _NODE.fullmatch(element)
    return parse_address(found[1] or found[2]) if found else parse_address(element)


def _read_for(element: str) -> Address | None:
    return _read_hop(_read_element(element).get("for", ""))


def _read_element(element: str) -> dict[str, str]:
    """Read an element of Forwarded (RFC 7239): `for=1.2.3.4;proto=https;host="example.org"`."""
    found: dict[str, str] = {}
    for pair in element.split(";"):
        name, _, text = pair.strip().partition("=")
        found[name.lower()] = text.strip('"')
    return found
