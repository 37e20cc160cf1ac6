"""One ASGI app for every method: read, run, write. The only place that catches a refusal."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial

from starlette.types import Receive, Scope, Send

from tusserver.protocol.dialect import Dialect, Reply, RequestContext, RequestHead, choose, discovery, writer_of
from tusserver.protocol.errors import (
    ClientDisconnected,
    HeaderTooLarge,
    InternalError,
    StoreUnavailable,
    TusError,
    UploadNotFound,
)
from tusserver.protocol.limits import Limits
from tusserver.protocol.messages import Content, Discovered, InterimOutcome
from tusserver.service.uploads import UploadService
from tusserver.streams import Wire
from tusserver.web import download
from tusserver.web.body import RequestBody, wire_of
from tusserver.web.forwarded import LISTS, PublicUrl
from tusserver.web.replies import Responder

logger = logging.getLogger("tusserver.web")

_SHAPED = ("POST", "PATCH", "DELETE")
"""Methods whose answers a hook may change."""
_WITHOUT_BODY = ("HEAD", "GET", "DELETE", "OPTIONS")
"""Methods whose requests have no body unless they say so."""


class UploadEndpoint:
    """The collection at the root path and the uploads below it.

    `dialects`: those that are spoken; a request that is in none of them is read by the first.
    """

    def __init__(
        self, service: UploadService, dialects: Sequence[Dialect], public_url: PublicUrl, limits: Limits
    ) -> None:
        self._service = service
        self._dialects = tuple(dialects)
        self._only = self._dialects[0] if len(self._dialects) == 1 else None
        self._lists = LISTS.union(*(dialect.list_headers for dialect in dialects))
        self._long = frozenset(name.encode() for dialect in dialects for name in dialect.long_headers)
        self._public_url = public_url
        self._header_size = limits.header_size
        self._head_size = limits.head_size
        self._responder = Responder()

    def open(self) -> None:
        """Accept requests, also after `close`: an app may be started more than once."""
        self._service.open()
        self._responder.open()

    def close(self) -> None:
        """End the requests under way: the bytes of their bodies that arrived are kept."""
        self._service.close()
        self._responder.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        head = self._head(scope)
        dialect = self._only or choose(head, self._dialects)
        body = RequestBody(scope, receive, dialect)
        try:
            await self._serve(dialect, head, body, scope, receive, send)
        finally:
            body.close()

    async def _serve(
        self, dialect: Dialect, head: RequestHead, body: RequestBody, scope: Scope, receive: Receive, send: Send
    ) -> None:
        began = time.monotonic()
        context = RequestContext(head=head, find_client=partial(self._public_url.client, scope, head.headers))
        if dialect.has_interim and body.wire is not None:
            context.send_interim = partial(_send_interim, dialect, head, body.wire)
        outcome = None
        try:
            self._check_sizes(scope)
            command = dialect.read(head)
            outcome = await self._service.run(command, body, context)
            if self._only is None:
                dialect = writer_of(outcome, head, dialect, self._dialects)
            discovered = isinstance(outcome, Discovered)
            reply = discovery(head, self._dialects) if discovered else dialect.write(outcome, head)
            reply = _shaped(reply, context, None)
        except TusError as error:
            reply = self._refuse(dialect, error, context)
        except ClientDisconnected:
            logger.info("client disconnected", extra={"method": head.method, "upload_id": head.name or None})
            # Nobody reads this, but middleware would take an app that sends nothing for a broken one.
            reply = Reply(499, closes=True)
        except Exception:
            logger.exception("a request failed", extra={"method": head.method, "upload_id": head.name or None})
            failure = InternalError()
            self._service.publish_refusal(failure, context)
            reply = dialect.refuse(failure, head)
        if isinstance(outcome, Content):
            headers = {**reply.headers, "X-Content-Type-Options": "nosniff"}
            try:
                await download.respond(outcome, scope, headers)(scope, receive, send)
            except (UploadNotFound, StoreUnavailable, InternalError) as error:  # nothing was sent
                await self._responder.respond(self._refuse(dialect, error, context), head, body, scope, send)
        else:
            await self._responder.respond(reply, head, body, scope, send)
        if logger.isEnabledFor(logging.DEBUG):
            facts = {"method": head.method, "upload_id": head.name or None, "status": reply.status}
            logger.debug("answered", extra={**facts, "duration": time.monotonic() - began})

    def _refuse(self, dialect: Dialect, error: TusError, context: RequestContext) -> Reply:
        head = context.head
        facts = {"method": head.method, "upload_id": head.name or None, "status": error.status}
        logger.info("refused: %s", error.code, extra=facts)
        self._service.publish_refusal(error, context)
        return _shaped(dialect.refuse(error, head), context, error)

    def _head(self, scope: Scope) -> RequestHead:
        """Return the request without its body."""
        wire = wire_of(scope)
        headers: dict[str, str] = {}
        repeated: set[str] = set()
        for raw_name, raw_value in scope["headers"]:
            name = raw_name.decode("latin-1")
            value = raw_value.decode("latin-1").strip(" \t")
            if name in headers:
                repeated.add(name)
                if name in self._lists:
                    value = f"{headers[name]}, {value}"
            headers[name] = value
        if (
            "content-length" not in headers
            and scope["method"] not in _WITHOUT_BODY
            and scope.get("http_version", "1.1") >= "2"
        ):
            headers["transfer-encoding"] = "chunked"  # as it were: HTTP/2 and 3 have their own end of a body
        base_url, base_paths = self._public_url.locate(scope, headers)
        path: str = scope["path"]
        return RequestHead(
            method=scope["method"].upper(),
            name=path.removeprefix(scope.get("root_path", "")).removeprefix("/").removesuffix("/"),
            headers=headers,
            repeated=frozenset(repeated),
            base_url=base_url,
            base_paths=base_paths,
            trailers=wire is not None and wire.trailers is not None and self._public_url.passes_trailers(scope),
        )

    def _check_sizes(self, scope: Scope) -> None:
        """Refuse a head, or one header of it, that is too large.

        Raises:
            HeaderTooLarge
        """
        total, longest, its_name = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")), 0, b""
        for name, value in scope["headers"]:
            total += len(name) + len(value)
            if len(value) > self._header_size and name not in self._long:
                limit = f"limits.header_size is {self._header_size} bytes for the value of one header"
                raise HeaderTooLarge(f"{_shown(name)} has {len(value)}, and {limit}")
            if len(value) > longest:
                longest, its_name = len(value), name
        if total > self._head_size:
            limit = f"limits.head_size is {self._head_size} bytes for a whole request head"
            raise HeaderTooLarge(f"{limit}, and this one has {total}; the longest part of it is {_shown(its_name)}")


def _shaped(reply: Reply, context: RequestContext, error: TusError | None) -> Reply:
    """Return an answer as the hook wants it that agreed, or that refused with this `error`."""
    if context.head.method not in _SHAPED or (changes := context.changes(error)) is None:
        return reply
    return changes.apply(reply)


async def _send_interim(dialect: Dialect, head: RequestHead, wire: Wire, outcome: InterimOutcome) -> bool:
    interim = dialect.interim(outcome, head)
    return interim is not None and await wire.send_interim(interim.status, interim.headers)


def _shown(name: bytes) -> str:
    return name.decode("latin-1").title()
