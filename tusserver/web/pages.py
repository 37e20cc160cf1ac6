"""The upload page, as an app of a few small files that do not change while the server runs.

The page may do what it needs and nothing else (`POLICY`): load its own scripts, styles and pictures and send requests
to its uploads. Nothing inline, nothing from other sites, and no text that becomes HTML: trusted types are switched off.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping
from importlib.resources import files
from urllib.parse import urlsplit

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from tusserver.web.replies import NEVER_CACHED

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {uploads}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The Content-Security-Policy; `{uploads}` is where the page may send requests to."""

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE = "upload.html"
PATHS = ("/", "/upload.js", "/transfer.js", "/files.js", "/resume-db.js", "/format.js", "/page.css", "/icon.svg")
"""The files of the upload page. They refer to each other without a leading slash, so it works below any path."""


class UploadPage:
    """The upload page as an ASGI app, to be mounted at any path.

        app.mount("/upload", UploadPage(endpoint="/files"))

    `endpoint` is where uploads are created: a path, or a URL whose server allows this page by CORS. `download` says
    whether GET returns finished uploads, that is, whether the page links them.
    """

    def __init__(self, endpoint: str = "/files", *, download: bool = True) -> None:
        folder = files("tusserver.web") / "static"
        values = {"endpoint": endpoint, "download": "yes" if download else "no"}
        uploads = urlsplit(endpoint)
        allowed = f"'self' {uploads.scheme}://{uploads.netloc}" if uploads.netloc else "'self'"
        headers = {
            "content-security-policy": POLICY.format(uploads=allowed),
            "cache-control": "no-cache",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        self._files: dict[str, _File] = {}
        for path in PATHS:
            name = path.removeprefix("/") or _PAGE
            content = (folder / name).read_bytes()
            if name == _PAGE:
                content = _filled(content.decode(), values).encode()
            self._files[path] = _File(content, {**headers, "content-type": _TYPES[name.rsplit(".", 1)[1]]})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] == "http":
            await self._answer(scope)(scope, receive, send)

    def has(self, path: str) -> bool:
        """Whether this path, as seen from where the page is mounted, belongs to it."""
        return path in self._files

    def _answer(self, scope: Scope) -> Response:
        path = get_route_path(scope)
        if not path:  # mounted by a route that does not redirect: relative links would lead one level up
            return RedirectResponse(scope.get("root_path", "").rsplit("/", 1)[-1] + "/", headers=NEVER_CACHED)
        file = self._files.get(path)
        if file is None:
            return PlainTextResponse("Not Found", 404, NEVER_CACHED)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Method Not Allowed", 405, {"allow": "GET, HEAD", **NEVER_CACHED})
        return file.answer(Headers(scope=scope))


class _File:
    """One file in memory, and the headers that go with it."""

    def __init__(self, content: bytes, headers: Mapping[str, str]) -> None:
        self._content = content
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        self._headers = {**headers, "etag": self._tag}

    def answer(self, asked: Headers) -> Response:
        known = [tag.strip().removeprefix("W/") for tag in asked.get("if-none-match", "").split(",")]
        if self._tag in known or "*" in known:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers)


def _filled(page: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        page = page.replace(f"{{{{ {name} }}}}", html.escape(value))
    return page
