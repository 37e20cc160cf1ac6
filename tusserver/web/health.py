"""Health: `/livez` says that requests are answered, `/readyz` that uploads can be taken."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tusserver.protocol.errors import TusError
from tusserver.web.replies import NEVER_CACHED

logger = logging.getLogger("tusserver.health")

LIVE = "/livez"
READY = "/readyz"

_OK = "ok"

Check = Callable[[], Awaitable[None]]
"""Raises a `TusError` whose text says what is wrong."""


class Health:
    """An ASGI app for the two paths. `checks` have names that operators know.

    `fresh`: seconds for which a result is used again, so that many probes cost the disk one check.
    `timeout`: seconds for all checks; a disk that does not answer within them is not ready.
    """

    def __init__(self, checks: Mapping[str, Check], *, fresh: float = 1.0, timeout: float = 2.0) -> None:
        self._checks = checks
        self._fresh = fresh
        self._timeout = timeout
        self._found: dict[str, str] = {}
        self._found_at = -fresh
        self._checking: asyncio.Task[None] | None = None
        self._closed = False

    def close(self) -> None:
        """Report that the server stops: it is not ready any more."""
        self._closed = True

    def open(self) -> None:
        """Report readiness, also after `close`: an app may be started more than once."""
        self._closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe."""
        response: Response
        if scope["method"] not in ("GET", "HEAD"):
            response = Response(status_code=405, headers={"Allow": "GET, HEAD"})
        elif scope["path"].endswith(LIVE):
            response = JSONResponse({"status": _OK})
        else:
            found = await self.check()
            ready = all(result == _OK for result in found.values())
            response = JSONResponse({"status": _OK if ready else "unavailable", "checks": found}, 200 if ready else 503)
        response.headers.update(NEVER_CACHED)
        response.headers["X-Content-Type-Options"] = "nosniff"
        await response(scope, receive, send)

    async def check(self) -> dict[str, str]:
        """Return the result of each check by its name: "ok", or what is wrong."""
        if self._closed:
            return {"server": "it is stopping"}
        if time.monotonic() - self._found_at < self._fresh:
            return self._found
        if self._checking is None:  # one that hangs is waited for; no second one is started
            self._checking = asyncio.get_running_loop().create_task(self._run())
        checking = self._checking
        await asyncio.wait({checking}, timeout=self._timeout)
        if not checking.done():
            self._note(dict.fromkeys(self._checks, f"no answer within {self._timeout:g} seconds"))
        return self._found

    async def _run(self) -> None:
        try:
            self._note({name: await _result_of(check) for name, check in self._checks.items()})
        finally:
            self._checking = None

    def _note(self, found: dict[str, str]) -> None:
        for name, result in found.items():
            if result != self._found.get(name, _OK):
                if result == _OK:
                    logger.info("ready again: %s", name)
                else:
                    logger.warning("not ready: %s: %s", name, result)
        self._found, self._found_at = found, time.monotonic()


async def _result_of(check: Check) -> str:
    try:
        await check()
    except TusError as error:
        return str(error)
    except Exception:
        logger.exception("a check failed")
        return "the check itself failed"
    return _OK
