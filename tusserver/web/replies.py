"""Sends a Reply over ASGI, and leaves the connection in a state that client and server agree on."""

from __future__ import annotations

import anyio
from starlette.types import Scope, Send

from tusserver.protocol.dialect import Reply, RequestHead
from tusserver.protocol.errors import ClientDisconnected
from tusserver.web.body import RequestBody

NEVER_CACHED = {"Cache-Control": "no-store"}
"""In every answer but downloads and the files of pages: a cache that stored it would give an old offset."""
_SMALL = 64 * 1024
"""Bytes of an unread body that the server itself reads and discards, so that the connection can be used again."""
_LINGER = 5.0
"""Seconds for a client that is still sending to notice the answer."""
_PAUSE = 0.5
"""Seconds without bytes after which a client is no longer sending."""
_LINGER_WHILE_STOPPING = 0.25
"""The same, while the server stops."""
_HAS_CONNECTION = ("1.0", "1.1")
"""Versions of HTTP with a Connection header; the newer ones forbid it."""


class Responder:
    """Sends answers."""

    def __init__(self) -> None:
        self._linger = _LINGER
        self._lingering: set[anyio.CancelScope] = set()

    def close(self) -> None:
        """Let no connection linger for long any more: the server stops."""
        self._linger = _LINGER_WHILE_STOPPING
        for scope in self._lingering:
            scope.deadline = min(scope.deadline, anyio.current_time() + self._linger)

    def open(self) -> None:
        """Let connections linger again, also after `close`: an app may be started more than once."""
        self._linger = _LINGER

    async def respond(self, reply: Reply, head: RequestHead, body: RequestBody, scope: Scope, send: Send) -> None:
        """Send an answer.

        A client that is sending a large body gets its answer at once; then its bytes are discarded for a while before
        the connection closes. If it were closed at once, the kernel would reset it, and the client could not read the
        answer.
        """
        unread = head.has_body and not body.ended and body.received != head.body_length
        waits_for_100 = unread and not body.started and "100-continue" in head.headers.get("expect", "").lower()
        large = unread and (head.body_length is None or head.body_length > _SMALL)
        closes = reply.closes or waits_for_100 or large
        lingers = closes and unread and not waits_for_100
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
        headers.append((b"x-content-type-options", b"nosniff"))
        if reply.status != 204 and scope["method"] != "HEAD":
            headers.append((b"content-length", str(len(reply.body)).encode()))
        if closes and scope.get("http_version", "1.1") in _HAS_CONNECTION:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body, "more_body": lingers})
        if lingers:
            await self._discard(body)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _discard(self, body: RequestBody) -> None:
        with anyio.move_on_after(min(self._linger, _PAUSE)) as scope:
            self._lingering.add(scope)
            began = anyio.current_time()
            try:
                while await body.receive():
                    scope.deadline = min(began + self._linger, anyio.current_time() + _PAUSE)
            except ClientDisconnected:
                pass
            finally:
                self._lingering.discard(scope)
