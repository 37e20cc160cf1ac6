"""Two ways to ask an app of this process: as an HTTP client does, and in plain ASGI, where everything can be bent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
from starlette.types import ASGIApp, Message, Scope

from tusserver import Tus

OCTETS = "application/offset+octet-stream"
Field = tuple[str, str | bytes]


class Client:
    """Speaks tus to an app. URLs are those of `Location`."""

    def __init__(self, app: ASGIApp, tus: Tus, path: str = "/files", root_path: str = "") -> None:
        self.app = app
        self.tus = tus
        self.path = path
        transport = httpx.ASGITransport(app, root_path=root_path)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://tus.test")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.http.aclose()

    async def ask(
        self,
        method: str,
        url: str | None = None,
        headers: dict[str, str] | Sequence[Field] = (),
        body: bytes | Iterable[bytes] | None = None,
        *,
        tus: bool = True,
    ) -> httpx.Response:
        """Ask; `tus`: whether Tus-Resumable comes along. A body in pieces goes chunked."""
        lines: list[Field] = [("Tus-Resumable", "1.0.0")] if tus else []
        lines += headers.items() if isinstance(headers, dict) else headers
        content = body if body is None or isinstance(body, bytes) else _each(body)
        return await self.http.request(
            method,
            self.path if url is None else url,
            headers=[(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in lines],
            content=content,
        )

    async def create(
        self, length: int | None, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> httpx.Response:
        """POST."""
        size = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        if body is not None:
            size["Content-Type"] = OCTETS
        return await self.ask("POST", headers={**size, **(headers or {})}, body=body)

    async def patch(
        self, url: str, offset: int, body: bytes | Iterable[bytes] = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """PATCH."""
        patching = {"Upload-Offset": str(offset), "Content-Type": OCTETS}
        return await self.ask("PATCH", url, {**patching, **(headers or {})}, body)

    async def head(self, url: str) -> httpx.Response:
        """HEAD."""
        return await self.ask("HEAD", url)

    async def get(self, url: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """GET, as a browser does: it does not know tus."""
        return await self.ask("GET", url, headers or {}, tus=False)

    async def upload(self, length: int | None, body: bytes = b"", headers: dict[str, str] | None = None) -> str:
        """Make an upload with its first bytes, as taken for granted; return its URL."""
        response = await self.create(length, headers)
        assert response.status_code == 201, response.text
        url = str(response.headers["Location"])
        if body:
            assert (await self.patch(url, 0, body)).status_code == 204
        return url

    async def complete(self, body: bytes, headers: dict[str, str] | None = None) -> str:
        """Make a whole upload; return its URL."""
        return await self.upload(len(body), body, headers)


async def _each(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


# plain ASGI ----------------------------------------------------------------------------------------------------------


def chunk(body: bytes, *, more: bool = True) -> Message:
    """A piece of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


@dataclass
class Exchange:
    """One request in plain ASGI. `incoming` is what the app receives; when it is used up the app waits."""

    app: ASGIApp
    method: str
    path: str
    headers: Sequence[Field] = ()
    incoming: Iterable[Message] = ()
    scope: Scope = field(default_factory=dict)
    sent: list[Message] = field(default_factory=list)
    received: int = 0
    """How often the app asked for something and got it."""

    def __post_init__(self) -> None:
        self._incoming = list(self.incoming)
        self._more = asyncio.Event()
        self.hungry = asyncio.Event()
        """Whether the app waits for more."""

    def feed(self, *messages: Message) -> None:
        """Let the app receive more."""
        self._incoming += messages
        self.hungry.clear()
        self._more.set()

    async def _receive(self) -> Message:
        while not self._incoming:
            self._more.clear()
            self.hungry.set()
            await self._more.wait()
        self.received += 1
        message = self._incoming.pop(0)
        if message["type"] == "http.disconnect":
            self._incoming.insert(0, message)
        return message

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self) -> Self:
        """Let the app answer."""
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.lower().encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1"))
                for name, value in (("Host", "tus.test"), *self.headers)
            ],
            "client": ("127.0.0.1", 5000),
            "server": ("127.0.0.1", 80),
            **self.scope,
        }
        await self.app(scope, self._receive, self._send)
        return self

    # what came back --------------------------------------------------------------------------------------------------

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    def header(self, name: str) -> str | None:
        """Value of a header of the answer."""
        found = [value.decode("latin-1") for key, value in self.sent[0]["headers"] if key.decode() == name.lower()]
        assert len(found) < 2, f"{name} stands twice"
        return found[0] if found else None

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def whole(self) -> bool:
        """Whether the answer came to its end."""
        return bool(self.sent) and self.sent[-1]["type"] == "http.response.body" and not self.sent[-1].get("more_body")


def patching(offset: int, length: int | None, *further: Field) -> list[Field]:
    """Headers of a PATCH; a length of None is a chunked body."""
    framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
    return [("Tus-Resumable", "1.0.0"), ("Upload-Offset", str(offset)), ("Content-Type", OCTETS), framing, *further]
