"""A dialect: a translator between headers and the commands, outcomes and refusals of the ground."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tusserver.protocol.checksum import Checksum
from tusserver.protocol.errors import TusError
from tusserver.protocol.messages import Command, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """A request without its body."""

    method: str
    """Upper case; the overriding one, if X-HTTP-Method-Override says so."""
    name: str
    """What follows the collection's path: an upload's id, or empty for the collection itself."""
    headers: Mapping[str, str]
    """Lower-case names; values as latin-1 text without outer blanks."""
    repeated: frozenset[str] = frozenset()
    """Names that stood more than once."""
    base_url: str
    """The collection as clients reach it, without a trailing slash: https://host/files, or /files if relative."""
    base_paths: tuple[str, ...]
    """Every path the collection is known by, outside and inside a proxy."""
    trailers: bool = False
    """Whether trailers can arrive: the server delivers them, and no proxy in front drops them."""

    @property
    def body_length(self) -> int | None:
        """Bytes the body has; None if it is chunked. The HTTP parser has checked the digits."""
        if "transfer-encoding" in self.headers:
            return None
        return int(self.headers.get("content-length", "0"))

    @property
    def has_body(self) -> bool:
        """Whether bytes follow (a chunked body may turn out empty)."""
        return self.body_length != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Where a request comes from, past proxies that are trusted."""

    address: str = ""
    """Its IP address; "" where nobody can tell, as behind a Unix socket."""
    key: str = ""
    """Whom limits count: the address, or its /64 in IPv6; "" where nobody can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a request, as far as that was proved."""

    id: str


SendInterim = Callable[[Outcome], Awaitable[None]]
"""Sends a 1xx answer, if the dialect has one for that outcome and the client can take one."""


def _unknown() -> Client:
    return Client()


@dataclass(slots=True, kw_only=True, eq=False)
class RequestContext:
    """A request, for everything that it causes. The endpoint makes one for every request; every event has it.

    It outlives the request where what that caused does, such as a copy under way.
    """

    head: RequestHead
    caller: Caller | None = None
    """None: nobody had to prove who it is."""
    send_interim: SendInterim | None = None
    """None where the server cannot send 1xx answers."""
    find_client: Callable[[], Client] = _unknown
    """Finds out where the request comes from. Use `client`, which remembers that."""
    _client: Client | None = None

    @property
    def client(self) -> Client:
        """Where the request comes from; found out when it is first asked for, as most requests need it not."""
        if self._client is None:
            self._client = self.find_client()
        return self._client


@dataclass(slots=True)
class Reply:
    """An answer without a server: status, headers, body."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    closes: bool = False
    """Whether the connection ends with this answer."""


class Dialect(Protocol):
    """One protocol on the wire."""

    def read(self, head: RequestHead) -> Command:
        """Understand a request, before anything is done for it.

        Raises:
            TusError: it is not valid.
        """

    def read_trailers(self, trailers: Mapping[str, str]) -> Checksum | None:
        """Find the checksum among the trailers.

        Raises:
            TusError: it is there and not valid.
        """

    def write(self, outcome: Outcome, head: RequestHead) -> Reply:
        """Say what was done."""

    def refuse(self, error: TusError, head: RequestHead) -> Reply:
        """Say what was not done, and why."""
