"""Which app answers which path: a table for `tusserver serve`, and a route for Starlette and FastAPI."""

from __future__ import annotations

from collections.abc import Mapping

from starlette._utils import get_route_path
from starlette.datastructures import URLPath
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import ASGIApp, Receive, Scope, Send

from tusserver.web.replies import NEVER_CACHED

_NOT_FOUND = PlainTextResponse("Not Found", 404, NEVER_CACHED)


class Router:
    """A table of paths as one ASGI app; a path that is in no row gets 404.

    `exact`: rows for one path each; `below`: rows for a path and all paths below it, which come second. What is no
    HTTP request (the lifespan, a WebSocket) goes to `other`.

    There is no redirect to or from a trailing slash: not every client follows one with a body. Starlette's router
    could do this, but for small requests it costs as much as reading their headers.
    """

    def __init__(self, *, exact: Mapping[str, ASGIApp], below: Mapping[str, ASGIApp], other: ASGIApp) -> None:
        self._exact = dict(exact)
        self._below = [(path, path + "/", app) for path, app in below.items()]
        self._other = other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app of a request, or of the lifespan."""
        if scope["type"] != "http":
            return await self._other(scope, receive, send)
        path = get_route_path(scope)
        if (app := self._exact.get(path)) is not None:
            return await app(scope, receive, send)
        for mounted, prefix, app in self._below:
            if path == mounted or path.startswith(prefix):
                scope["root_path"] = scope.get("root_path", "") + mounted
                return await app(scope, receive, send)
        return await _NOT_FOUND(scope, receive, send)


class UploadRoute(BaseRoute):
    """A route like Starlette's `Mount`, but the path itself is served too, not redirected.

    Raises:
        ValueError: `path` does not start with a slash.
    """

    def __init__(self, path: str, app: ASGIApp) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must start with /")
        self.path = path.rstrip("/")
        self.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `BaseRoute`."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path = get_route_path(scope)
        if path != self.path and not path.startswith(self.path + "/"):
            return Match.NONE, {}
        root_path = scope.get("root_path", "")
        child = {"root_path": root_path + self.path, "app_root_path": scope.get("app_root_path", root_path)}
        return Match.FULL, {**child, "endpoint": self.app}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `BaseRoute`."""
        await self.app(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: object) -> URLPath:
        """It has no name."""
        raise NoMatchFound(name, path_params)
