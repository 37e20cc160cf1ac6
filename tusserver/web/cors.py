"""CORS: starlette's middleware with what the dialects need; a preflight is answered as their OPTIONS as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tusserver.protocol.dialect import Dialect, RequestHead, discovery

_ALWAYS_ALLOWED = ("Authorization", "X-Request-ID", "X-Requested-With")
_OPTIONS = RequestHead(method="OPTIONS", name="", headers={}, base_url="", base_paths=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Which web pages may use the server. By default every page, without its user's cookies."""

    origins: Sequence[str] = ("*",)
    """Like `https://app.example.org`; `*` for all."""
    credentials: bool = False
    """Whether cookies and other credentials may be sent."""
    allow_headers: Sequence[str] = ()
    """Further request headers."""
    expose_headers: Sequence[str] = ()
    """Further response headers."""
    max_age: timedelta = timedelta(hours=24)
    """For which browsers may remember a preflight."""


class CorsMiddleware(CORSMiddleware):
    """Lets the pages that `cors` names use `app`, which speaks these dialects."""

    def __init__(self, app: ASGIApp, cors: Cors, dialects: Sequence[Dialect]) -> None:
        super().__init__(
            app,
            allow_origins=cors.origins,
            allow_methods=_each(dialect.methods for dialect in dialects),
            allow_headers=(
                *_each(dialect.request_headers for dialect in dialects),
                *_ALWAYS_ALLOWED,
                *cors.allow_headers,
            ),
            allow_credentials=cors.credentials,
            expose_headers=(*_each(dialect.response_headers for dialect in dialects), *cors.expose_headers),
            max_age=int(cors.max_age.total_seconds()),
        )
        self._options = discovery(_OPTIONS, dialects).headers
        # Answers differ by origin, and have to say so, unless every origin gets the same.
        self._same_for_all = "*" in cors.origins and not cors.credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; one that no web page sends is passed on at once."""

        async def varied(message: Message) -> None:
            """Add `Vary: Origin` where older versions of Starlette do not: without an origin, and if it is refused."""
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                told = ",".join(headers.getlist("vary")).lower()
                if "origin" not in {name.strip() for name in told.split(",")}:
                    headers.add_vary_header("Origin")
            await send(message)

        if not self._same_for_all:
            await super().__call__(scope, receive, varied)
        elif all(name != b"origin" for name, _ in scope["headers"]):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight, with the headers of OPTIONS as well."""
        response = super().preflight_response(request_headers)
        response.headers.update(self._options)
        return response


def _each(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the names of all lists, each once."""
    return tuple(dict.fromkeys(chain.from_iterable(lists)))
