"""Asks in tus: a small client that can also misbehave. Every request has its own connection unless told otherwise."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from urllib.parse import urljoin, urlsplit

from tests.support.wire import LAST_CHUNK, TIMEOUT, Answer, Connection, Field, chunk

VERSION = "1.0.0"
OCTETS = "application/offset+octet-stream"

Headers = Mapping[str, str | bytes | None]
"""None leaves out a header that would be sent otherwise."""

ALIVE = 0.02
"""Seconds between two pieces of a client that is slow but alive."""


class Tus:
    """A client of the server whose uploads are created at `endpoint`; `chunked`: it announces no length of a body."""

    def __init__(self, endpoint: str, exchanges: list[str] | None = None, *, chunked: bool = False) -> None:
        self.endpoint = endpoint
        self._chunked = chunked
        self.exchanges: list[str] = [] if exchanges is None else exchanges
        """What was said and answered, in order, to be shown by a failure."""
        self.created: list[str] = []
        """URLs of all uploads this client made."""

    # addresses -------------------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """host:port"""
        return urlsplit(self.endpoint).netloc

    @property
    def path(self) -> str:
        """Of the collection, without a trailing slash."""
        return urlsplit(self.endpoint).path.rstrip("/")

    def child(self, name: str) -> str:
        """URL of something below the collection."""
        return f"{self.endpoint.rstrip('/')}/{name}"

    def target(self, url: str = "") -> str:
        """What stands in the request line for a URL."""
        parts = urlsplit(urljoin(self.endpoint, url))
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def located(self, answer: Answer) -> str:
        """Absolute URL of the upload that an answer names."""
        location = answer["Location"]
        assert location, f"no Location in {answer}"
        url = urljoin(self.endpoint, location)
        self.created.append(url)
        return url

    # requests --------------------------------------------------------------------------------------------------------

    def connect(self, url: str = "") -> Connection:
        """Open a connection to where `url` lives."""
        return Connection(urljoin(self.endpoint, url), self.exchanges)

    def fields(self, headers: Headers | None = None) -> list[Field]:
        """Header lines of a request: Host and Tus-Resumable, unless `headers` says otherwise, and the rest."""
        given = {name.lower() for name in headers or {}}
        usual = [("Host", self.host), ("Tus-Resumable", VERSION)]
        lines: list[Field] = [(name, value) for name, value in usual if name.lower() not in given]
        return lines + [(name, value) for name, value in (headers or {}).items() if value is not None]

    def request(
        self,
        method: str,
        url: str = "",
        headers: Headers | None = None,
        body: bytes | Iterable[bytes] | None = None,
        within: float = TIMEOUT,
    ) -> Answer:
        """Ask and wait for the answer. A body in pieces goes chunked."""
        with self.connect(url) as connection:
            self.ask(connection, method, url, headers, body)
            return connection.answer(within)

    def ask(
        self,
        connection: Connection,
        method: str,
        url: str = "",
        headers: Headers | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> None:
        """Ask over a connection that is there already."""
        if self._chunked and body and isinstance(body, bytes) and "Content-Length" not in (headers or {}):
            body = [body]
        if body is None or isinstance(body, bytes):
            length: Headers = {} if body is None else {"Content-Length": str(len(body))}
            connection.ask(method, self.target(url), self.fields({**length, **(headers or {})}), body or b"")
            return
        connection.ask(method, self.target(url), self.fields({"Transfer-Encoding": "chunked", **(headers or {})}))
        if all(connection.send(chunk(piece)) for piece in body):
            connection.send(LAST_CHUNK)

    def options(self, url: str = "", headers: Headers | None = None) -> Answer:
        """Ask what the server can do."""
        return self.request("OPTIONS", url, {"Tus-Resumable": None, **(headers or {})})

    def create(
        self, length: int | str | None = None, headers: Headers | None = None, body: bytes | Iterable[bytes] = b""
    ) -> Answer:
        """Ask for a new upload; no length means a deferred one."""
        size: Headers = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        if not isinstance(body, bytes) or body:
            size = {**size, "Content-Type": OCTETS}
        return self.post({**size, **(headers or {})}, body)

    def post(self, headers: Headers, body: bytes | Iterable[bytes] = b"") -> Answer:
        """Send a POST to the collection with these headers and no others."""
        answer = self.request("POST", "", headers, body)
        if answer.status == 201 and answer["Location"]:
            self.located(answer)
        return answer

    def head(self, url: str, headers: Headers | None = None) -> Answer:
        """Ask how far an upload came."""
        return self.request("HEAD", url, headers)

    def patch(
        self, url: str, offset: int | str, body: bytes | Iterable[bytes] = b"", headers: Headers | None = None
    ) -> Answer:
        """Append to an upload."""
        return self.request("PATCH", url, {**patching(offset), **(headers or {})}, body)

    def delete(self, url: str, headers: Headers | None = None) -> Answer:
        """Remove an upload."""
        return self.request("DELETE", url, headers)

    def get(self, url: str, headers: Headers | None = None) -> Answer:
        """Download an upload."""
        return self.request("GET", url, {"Tus-Resumable": None, **(headers or {})})

    # what tests take for granted -------------------------------------------------------------------------------------

    def upload(self, length: int | None = None, headers: Headers | None = None, body: bytes = b"") -> str:
        """Create an upload, give it its first bytes, and return its URL."""
        answer = self.create(length, headers)
        assert answer.status == 201, f"an ordinary upload was not created: {answer}"
        url = urljoin(self.endpoint, answer["Location"] or "")
        if body:
            answer = self.patch(url, 0, body)
            assert answer.status == 204, f"an ordinary PATCH was refused: {answer}"
        return url

    def complete(self, data: bytes, headers: Headers | None = None) -> str:
        """Upload all of `data` and return its URL."""
        return self.upload(len(data), headers, data)

    def part(self, data: bytes, length: int | None = None) -> str:
        """Upload a partial upload; `length` is more than the data if it shall stay unfinished."""
        return self.upload(len(data) if length is None else length, {"Upload-Concat": "partial"}, data)

    def join(self, *parts: str, headers: Headers | None = None) -> Answer:
        """Ask for the final upload of some parts."""
        return self.post({"Upload-Concat": f"final;{' '.join(parts)}", **(headers or {})})

    def offset(self, url: str) -> int:
        """How far an upload came."""
        answer = self.head(url)
        assert answer.status in (200, 204), f"an upload that is there was not found: {answer}"
        assert answer["Upload-Offset"] is not None, f"no Upload-Offset in {answer}"
        return int(answer["Upload-Offset"])

    def reaches(self, url: str, offset: int, within: float = TIMEOUT) -> bool:
        """Whether an upload comes to exactly this offset in time."""
        return eventually(lambda: self.head(url)["Upload-Offset"] == str(offset), within)

    @cached_property
    def downloads(self) -> bool:
        """Whether finished uploads can be had back by GET (tus does not speak of it)."""
        return self.get(self.complete(b"download?")).status not in (404, 405, 501)

    def holds(self, url: str, data: bytes) -> bool:
        """Whether an upload is whole and, as far as that can be seen, has exactly this content."""
        if self.offset(url) != len(data):
            return False
        return not self.downloads or self.get(url).body == data

    def resume(self, url: str, data: bytes, within: float = TIMEOUT) -> bool:
        """Go on as a client does that was cut off: ask for the offset, send the rest, and again if told to wait."""

        def goes_on() -> bool:
            answer = self.head(url)
            if answer.status == 423:
                return False
            assert answer.status == 200, f"an upload that is there was not found: {answer}"
            offset = int(answer["Upload-Offset"] or "-1")
            if offset < len(data):
                answer = self.patch(url, offset, data[offset:])
                assert answer.status in (204, 409, 423), f"an ordinary PATCH was refused for good: {answer}"
            return answer.status in (200, 204) and answer["Upload-Offset"] == str(len(data))

        return eventually(goes_on, within)

    # bodies that take their time -------------------------------------------------------------------------------------

    def begin_patch(
        self, url: str, offset: int, announced: int, body: bytes = b"", headers: Headers | None = None
    ) -> Connection:
        """Begin a PATCH of `announced` bytes with only some of them, and leave it open."""
        connection = self.connect(url)
        connection.ask(
            "PATCH",
            self.target(url),
            self.fields({**patching(offset), "Content-Length": str(announced), **(headers or {})}),
            body,
        )
        return connection

    @contextmanager
    def slow_patch(self, url: str, data: bytes, pieces: int) -> Iterator[SlowPatch]:
        """Keep a PATCH@0 alive in the background, a piece at a time, until told to finish."""
        with self.begin_patch(url, 0, len(data)) as connection:
            patch = SlowPatch(connection, data, pieces)
            try:
                yield patch
            finally:
                patch.finish()


class SlowPatch:
    """A slow client that is alive: a piece goes out every few moments, the rest at once when told to finish.

    The last piece waits for that, so that the body never ends by itself, however slow everybody else is.
    """

    def __init__(self, connection: Connection, data: bytes, pieces: int) -> None:
        self._connection = connection
        step = -(-len(data) // pieces)
        self._pieces = [data[at : at + step] for at in range(0, len(data), step)]
        self.lingers = threading.Event()
        """Set when only the last piece is left."""
        self._hurry = threading.Event()
        self.longest_pause = 0.0
        """Seconds between two pieces, at most."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        sent = time.monotonic()
        last = len(self._pieces) - 1
        for number, piece in enumerate(self._pieces):
            if number == last:
                self.lingers.set()
                self._hurry.wait()
            if not self._connection.send(piece):
                return
            self.longest_pause = max(self.longest_pause, time.monotonic() - sent)
            sent = time.monotonic()
            self._hurry.wait(ALIVE)

    def cut(self) -> None:
        """Break the connection, between two pieces."""
        self._pieces.clear()
        self.finish()
        self._connection.cut()

    def finish(self) -> None:
        """Send what is left at once."""
        self._hurry.set()
        self._thread.join(TIMEOUT)

    def answer(self) -> Answer:
        """Send what is left and read the answer."""
        self.finish()
        return self._connection.answer()

    def ends(self, within: float = TIMEOUT) -> int | None:
        """Status with which it ends by itself; None if the server hung up. See `Connection.ends`."""
        return self._connection.ends(within)


def patching(offset: int | str) -> dict[str, str]:
    """Headers that make a request a PATCH of tus."""
    return {"Upload-Offset": str(offset), "Content-Type": OCTETS}


def metadata(**pairs: str | bytes) -> str:
    """Write Upload-Metadata."""
    return ",".join(f"{key} {base64_of(value)}" for key, value in pairs.items())


def base64_of(value: str | bytes) -> str:
    """Base64 of text (as UTF-8) or bytes."""
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def checksum(data: bytes, algorithm: str = "sha1") -> str:
    """Write Upload-Checksum."""
    return f"{algorithm} {base64_of(hashlib.new(algorithm, data).digest())}"


def eventually(true: Callable[[], bool], within: float = TIMEOUT) -> bool:
    """Ask again and again until it is true, for so many seconds at most."""
    until = time.monotonic() + within
    while not true():
        if time.monotonic() > until:
            return False
        threading.Event().wait(0.02)
    return True
