"""Health: `/livez` says that requests are answered, `/readyz` that uploads can be taken."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tusserver.protocol.errors import TusError
from tusserver.web.replies import NEVER_KEPT

logger = logging.getLogger("tusserver.health")

LIVE = "/livez"
READY = "/readyz"

FRESH = 1.0
"""Seconds for which an answer counts: probes cost the disk no more than that."""
PATIENCE = 2.0
"""Seconds for the checks; a disk that hangs is an answer too."""

_OK = "ok"

Check = Callable[[], Awaitable[None]]
"""Raises a `TusError` whose words say what is wrong."""


class Health:
    """An ASGI app for the two paths. `checks` have names that operators know."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._found: dict[str, str] = {}
        self._found_at = -FRESH
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def close(self) -> None:
        """Be ready for nothing more: the server stops."""
        self._closed = True

    def open(self) -> None:
        """Be ready, again if need be."""
        self._closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe."""
        response: Response
        if scope["method"] not in ("GET", "HEAD"):
            response = Response(status_code=405, headers={"Allow": "GET, HEAD"})
        elif scope["path"].endswith(LIVE):
            response = JSONResponse({"status": _OK})
        else:
            found = await self.look()
            ready = all(word == _OK for word in found.values())
            response = JSONResponse({"status": _OK if ready else "unavailable", "checks": found}, 200 if ready else 503)
        response.headers.update(NEVER_KEPT)
        response.headers["X-Content-Type-Options"] = "nosniff"
        await response(scope, receive, send)

    async def look(self) -> dict[str, str]:
        """Return by name what was found: "ok", or words."""
        if self._closed:
            return {"server": "it is stopping"}
        if time.monotonic() - self._found_at < FRESH:
            return self._found
        if self._looking is None:  # else one that hangs is waited for, and not joined by more
            self._looking = asyncio.get_running_loop().create_task(self._look())
        looking = self._looking
        await asyncio.wait({looking}, timeout=PATIENCE)
        if not looking.done():
            self._note(dict.fromkeys(self._checks, f"no answer within {PATIENCE:g} seconds"))
        return self._found

    async def _look(self) -> None:
        try:
            self._note({name: await _words(check) for name, check in self._checks.items()})
        finally:
            self._looking = None

    def _note(self, found: dict[str, str]) -> None:
        for name, word in found.items():
            if word != self._found.get(name, _OK):
                if word == _OK:
                    logger.info("ready again: %s", name)
                else:
                    logger.warning("not ready: %s: %s", name, word)
        self._found, self._found_at = found, time.monotonic()


async def _words(check: Check) -> str:
    try:
        await check()
    except TusError as error:
        return str(error)
    except Exception:
        logger.exception("a check failed")
        return "the check itself failed"
    return _OK
