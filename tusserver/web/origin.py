"""Where clients see the server: scheme, host and path, from the connection and from proxies that are trusted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from starlette.types import Scope

_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?", re.ASCII
)
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*", re.ASCII)
_SCHEMES = ("http", "https")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Origin:
    """Knows how to name the collection to clients.

    `trusted`: addresses and networks of proxies whose X-Forwarded-* and Forwarded are believed, `*` for all;
    `relative`: name it by its path alone.

    Raises:
        ValueError: one of `trusted` is no address.
    """

    def __init__(self, trusted: Iterable[str] = (), *, relative: bool = False) -> None:
        trusted = tuple(trusted)
        self._anyone = "*" in trusted
        self._networks: list[Network] = [
            ipaddress.ip_network(entry, strict=False) for entry in trusted if entry not in ("*", "unix")
        ]
        self._unix = "unix" in trusted
        self.relative = relative

    def locate(self, scope: Scope, headers: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
        """Return the collection's URL as clients see it, and all paths it is known by; no trailing slashes.

        Without a host that can be believed the URL is relative: nothing a client made up is ever reflected.
        """
        inside: str = scope.get("root_path", "").rstrip("/")
        outside = inside
        scheme, host = str(scope.get("scheme", "http")), headers.get("host", "")
        if (self._anyone or self._networks or self._unix) and self._trusts(scope):
            scheme, host, prefix = _forwarded(headers, scheme, host)
            outside = prefix + inside
        paths = (inside,) if inside == outside else (outside, inside)
        if self.relative or not _is_host(host):
            return outside, paths
        return f"{scheme}://{host}{outside}", paths

    def _trusts(self, scope: Scope) -> bool:
        if self._anyone:
            return True
        client = scope.get("client")
        try:
            address = ipaddress.ip_address(client[0] if client else "")
        except ValueError:
            return self._unix  # a Unix socket has no address
        return any(address in network for network in self._networks)


def _forwarded(headers: Mapping[str, str], scheme: str, host: str) -> tuple[str, str, str]:
    """Return scheme, host and path prefix as the nearest client of the outermost proxy used them.

    A value that is not valid is as if it were not there.
    """
    elements = _parse_forwarded(headers.get("forwarded", ""))
    proto = elements.get("proto") or _first(headers.get("x-forwarded-proto", ""))
    if proto.lower() in _SCHEMES:
        scheme = proto.lower()
    outer = elements.get("host") or _first(headers.get("x-forwarded-host", ""))
    if _is_host(outer):
        host = outer
    port = _first(headers.get("x-forwarded-port", ""))
    has_port = re.search(r":\d+$", host) is not None
    if re.fullmatch("[0-9]{1,5}", port) and not has_port and port != {"http": "80", "https": "443"}[scheme]:
        host = f"{host}:{port}"
    prefix = _first(headers.get("x-forwarded-prefix", "")).rstrip("/")
    if _PREFIX.fullmatch(prefix) is None:
        prefix = ""
    return scheme, host, prefix


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    return found is not None and int(found[1] or 0) < 65536


def _first(value: str) -> str:
    return value.partition(",")[0].strip()


def _parse_forwarded(value: str) -> dict[str, str]:
    """Read the first element of Forwarded (RFC 7239): `for=1.2.3.4;proto=https;host="example.org"`."""
    found: dict[str, str] = {}
    for pair in value.partition(",")[0].split(";"):
        name, _, text = pair.strip().partition("=")
        found[name.lower()] = text.strip('"')
    return found
