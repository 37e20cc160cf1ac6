"""The port of dialects: a dialect translates between headers and commands, outcomes and refusals.

Everything that differs from one protocol on the wire to another is said by a dialect; no other module asks which one a
request speaks. To add one takes a module with a class of these methods, and its name in `app.DIALECTS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from weakref import ReferenceType, ref

from tusserver.protocol.checksum import Checksum
from tusserver.protocol.errors import TusError
from tusserver.protocol.extensions import Extension
from tusserver.protocol.limits import Limits
from tusserver.protocol.messages import Command, Discovered, InterimOutcome, Outcome, Terminated


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """A request without its body."""

    method: str
    """As it was sent, in upper case."""
    name: str
    """The path below that of the collection: an upload's id, or empty for the collection itself."""
    headers: Mapping[str, str]
    """Lower-case names; values as latin-1 text without outer blanks."""
    repeated: frozenset[str] = frozenset()
    """Names that were sent more than once."""
    base_url: str
    """The collection as clients reach it, without a trailing slash: https://host/files, or /files if relative."""
    base_paths: tuple[str, ...]
    """Every path the collection is known by, outside and inside a proxy."""
    trailers: bool = False
    """Whether trailers can arrive: the server delivers them, and no proxy in front drops them."""

    @property
    def body_length(self) -> int | None:
        """Bytes of the body; None if it is chunked. The HTTP parser has checked the digits."""
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


SendInterim = Callable[[InterimOutcome], Awaitable[bool]]
"""Sends an interim answer, if the dialect has one for that outcome; returns whether it was sent."""


def _unknown() -> Client:
    return Client()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyChanges:
    """What an application wants to be otherwise in an answer, whatever the dialect."""

    status: int | None = None
    """Instead of the usual one; None: the usual one."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Besides the usual ones, which stand; Content-Type alone can be replaced."""
    body: bytes | None = None
    """Instead of the usual one, where the status can have one; None: the usual one."""

    def apply(self, reply: Reply) -> Reply:
        """Return the answer with these changes."""
        status = self.status or reply.status
        usual = {name.lower() for name in reply.headers} - {"content-type"}
        added = {name.title(): value for name, value in self.headers.items() if name.lower() not in usual}
        body = reply.body if self.body is None or status == 204 else self.body
        return replace(reply, status=status, headers={**reply.headers, **added}, body=body)


@dataclass(slots=True, kw_only=True, eq=False)
class RequestContext:
    """A request, for everything that it causes. The endpoint makes one for every request; every event has it.

    It outlives the request where what that caused does, such as a copy under way.
    """

    head: RequestHead
    caller: Caller | None = None
    """None: nobody had to prove who it is."""
    send_interim: SendInterim | None = None
    """None where the dialect has no interim answers, or the server cannot send any."""
    find_client: Callable[[], Client] = _unknown
    """Finds out where the request comes from. Use `client`, which remembers that."""
    takes_answer: bool = True
    """Whether a hook that is asked because of it may change its answer."""
    answer: ReplyChanges | None = None
    """How a hook wants the answer to this request to be otherwise. Use `changes`, as it may not be for that answer."""
    _refusal: ReferenceType[TusError] | None = None
    """With which `answer` came; weakly, as the traceback of a refusal holds the request."""
    _client: Client | None = None

    def set_answer(self, answer: ReplyChanges, refusal: TusError | None) -> None:
        """Note how a hook wants the answer to be otherwise, if it may say so; `refusal`: with which it came."""
        if self.takes_answer:
            self.answer, self._refusal = answer, None if refusal is None else ref(refusal)

    def changes(self, error: TusError | None) -> ReplyChanges | None:
        """Return how the answer is to be otherwise; `error`: why the request was refused, None: it succeeded.

        What came with an agreement is not for a refusal, nor what came with a refusal for anything else.
        """
        fits = error is None if self._refusal is None else error is not None and error is self._refusal()
        return self.answer if fits else None

    def apart(self) -> RequestContext:
        """Return this request for what it causes beside its own command: the answer does not depend on that."""
        return replace(self, takes_answer=False)

    @property
    def client(self) -> Client:
        """Where the request comes from; found out when it is first asked for, as most requests need it not."""
        if self._client is None:
            self._client = self.find_client()
        return self._client


@dataclass(slots=True)
class Reply:
    """An answer, independent of the server: status, headers, body."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    closes: bool = False
    """Whether the connection ends with this answer."""


@dataclass(frozen=True, slots=True)
class Interim:
    """An interim answer (1xx): status and headers. It has no body, and the final answer follows."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 100 <= self.status <= 199:
            raise ValueError(f"an interim answer has a status from 100 to 199, not {self.status}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a server offers to its clients, in every dialect that can express it."""

    extensions: frozenset[Extension]
    """Those that are on and work."""
    limits: Limits = Limits()
    download: bool = True
    """Whether finished uploads can be read with GET."""


class Dialect(Protocol):
    """One protocol on the wire. A dialect has no state: the same head gives the same command.

    The sequences are read once, when an app is made.
    """

    @property
    def name(self) -> str:
        """The name in the records of uploads that are created in this dialect: it must stay the same for ever."""

    @property
    def methods(self) -> Sequence[str]:
        """Methods of its requests, in upper case, for CORS."""

    @property
    def request_headers(self) -> Sequence[str]:
        """Headers that its clients send, for CORS."""

    @property
    def response_headers(self) -> Sequence[str]:
        """Headers that its clients read, for CORS."""

    @property
    def list_headers(self) -> Collection[str]:
        """Request headers, in lower case, of which several lines are one list: they are joined with commas."""

    @property
    def long_headers(self) -> Collection[str]:
        """Request headers, in lower case, whose value may be longer than `header_size`."""

    @property
    def has_interim(self) -> bool:
        """Whether `interim` ever returns an answer. If not, nothing is made for it."""

    def speaks(self, head: RequestHead) -> bool:
        """Whether a request is in this dialect, as far as its head says so. Called for every request if there are more
        dialects than one."""

    def read(self, head: RequestHead) -> Command:
        """Return the command of a request, before anything is done for it.

        Raises:
            TusError: the request is not valid.
        """

    def read_trailers(self, trailers: Mapping[str, str]) -> Checksum | None:
        """Return the checksum among the trailers, if there is one.

        Raises:
            TusError: it is not valid.
        """

    def interim(self, outcome: InterimOutcome, head: RequestHead) -> Interim | None:
        """Return the interim answer for what has happened so far; None: there is none for that, or for this client.

        `outcome` is `Created` before the body is received, and `Progressed` now and then while it is received.
        """

    def write(self, outcome: Outcome, head: RequestHead) -> Reply:
        """Return the answer for what was done, with the headers that every answer of this dialect has."""

    def refuse(self, error: TusError, head: RequestHead) -> Reply:
        """Return the answer for what was not done, and why, with the headers of every answer as well."""


def choose(head: RequestHead, dialects: Sequence[Dialect]) -> Dialect:
    """Return the dialect of a request: the first one that speaks it, else the first one of all."""
    for dialect in dialects:
        if dialect.speaks(head):
            return dialect
    return dialects[0]


def writer_of(outcome: Outcome, head: RequestHead, chosen: Dialect, dialects: Sequence[Dialect]) -> Dialect:
    """Return the dialect of an answer: the one that was chosen; but if the request is in none, that of its upload."""
    upload = None if isinstance(outcome, Discovered | Terminated) else outcome.upload
    if upload is not None and upload.protocol != chosen.name and not chosen.speaks(head):
        return next((dialect for dialect in dialects if dialect.name == upload.protocol), chosen)
    return chosen


def discovery(head: RequestHead, dialects: Sequence[Dialect]) -> Reply:
    """Return the answer to OPTIONS, which says what all dialects offer. Of a header that several have, the values make
    one list."""
    replies = [dialect.write(Discovered(), head) for dialect in dialects]
    headers: dict[str, str] = {}
    for reply in replies:
        for name, value in reply.headers.items():
            other = headers.get(name, value)
            headers[name] = value if other == value else f"{other}, {value}"
    return Reply(min(reply.status for reply in replies), headers)


def plain_refusal(error: TusError, method: str) -> Reply:
    """Return a refusal in plain text, `CODE: message`, as tusd writes it; also for a request that nobody has read yet.

    After any other refusal of a HEAD than 423, tus-js-client forgets the upload and starts at byte 0. So what is
    transient, and what is an error of this server, is 423 there.
    """
    status, retry_after = error.status, error.retry_after
    if method == "HEAD" and status >= 500:
        status, retry_after = 423, retry_after or 5
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    body = b"" if method == "HEAD" else f"{error.code}: {error}\n".encode()
    return Reply(status, headers, body, error.closes)
