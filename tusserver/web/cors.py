"""CORS: starlette's middleware, filled with what tus clients need, and a preflight that is a tus OPTIONS as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tusserver.protocol.tus import REQUEST_HEADERS, RESPONSE_HEADERS

_METHODS = ("POST", "HEAD", "PATCH", "DELETE", "GET", "OPTIONS")
_ALWAYS_ALLOWED = ("Authorization", "X-Request-ID", "X-Requested-With")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Which web pages may use the server. The default lets every page, without its user's cookies."""

    origins: Sequence[str] = ("*",)
    """Like `https://app.example.org`; `*` for all."""
    credentials: bool = False
    """Whether cookies and other credentials may come along."""
    allow_headers: Sequence[str] = ()
    """Further request headers."""
    expose_headers: Sequence[str] = ()
    """Further response headers."""
    max_age: int = 86400
    """Seconds for which browsers may remember a preflight."""


class CorsMiddleware(CORSMiddleware):
    """`options` are the headers of a tus OPTIONS, which a preflight answers at the same time."""

    def __init__(self, app: ASGIApp, cors: Cors, options: Mapping[str, str]) -> None:
        super().__init__(
            app,
            allow_origins=cors.origins,
            allow_methods=_METHODS,
            allow_headers=(*REQUEST_HEADERS, *_ALWAYS_ALLOWED, *cors.allow_headers),
            allow_credentials=cors.credentials,
            expose_headers=(*RESPONSE_HEADERS, *cors.expose_headers),
            max_age=cors.max_age,
        )
        self._options = options
        # Answers differ by origin, and have to say so, only if not every origin gets the same one.
        self._same_for_all = "*" in cors.origins and not cors.credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on at once what comes from no web page."""

        async def varied(message: Message) -> None:
            """Say so too where older versions of Starlette do not: without an origin, and to one that is refused."""
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
        """Answer both questions in one."""
        response = super().preflight_response(request_headers)
        response.headers.update(self._options)
        return response
