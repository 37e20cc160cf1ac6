"""One ASGI app for every verb: read, run, write. The only place that catches a refusal."""

from __future__ import annotations

import logging
import time
from functools import partial

from starlette.types import Receive, Scope, Send

from tusserver.protocol.dialect import Dialect, Reply, RequestContext, RequestHead
from tusserver.protocol.errors import (
    ClientDisconnected,
    HeaderTooLarge,
    InternalError,
    StoreUnavailable,
    TusError,
    UploadNotFound,
)
from tusserver.protocol.messages import Content
from tusserver.service.uploads import UploadService
from tusserver.web import download
from tusserver.web.body import RequestBody
from tusserver.web.forwarded import LISTS, PublicUrl
from tusserver.web.replies import Responder

logger = logging.getLogger("tusserver.web")

_WITH_BODY = ("POST", "PATCH")
"""Methods whose body counts."""
_CONCAT = b"upload-concat"
_JOINED = LISTS | {"trailer"}
"""Headers of which several lines are one list."""


class UploadEndpoint:
    """The collection at the root path and the uploads below it.

    `header_size`: bytes of one header value; `head_size`: bytes of all headers, with their names and the target.
    """

    def __init__(
        self, service: UploadService, dialect: Dialect, public_url: PublicUrl, *, header_size: int, head_size: int
    ) -> None:
        self._service = service
        self._dialect = dialect
        self._public_url = public_url
        self._header_size = header_size
        self._head_size = head_size
        self._responder = Responder()

    def open(self) -> None:
        """Take requests, again if need be: an app may be started more than once."""
        self._service.open()
        self._responder.open()

    def close(self) -> None:
        """End what is under way: bodies are cut off with their bytes kept, nobody lingers."""
        self._service.close()
        self._responder.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        body = RequestBody(scope, receive, self._dialect)
        try:
            await self._serve(body, scope, receive, send)
        finally:
            body.close()

    async def _serve(self, body: RequestBody, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        head = self._head(scope, body)
        context = RequestContext(head=head, find_client=partial(self._public_url.client, scope, head.headers))
        outcome = None
        try:
            self._check_sizes(scope)
            command = self._dialect.read(head)
            outcome = await self._service.run(command, body, context)
            reply = self._dialect.write(outcome, head)
        except TusError as error:
            reply = self._refuse(error, head)
        except ClientDisconnected:
            logger.info("client went away", extra={"method": head.method, "upload_id": head.name or None})
            # Nobody reads it, but middleware around us would take silence for a broken app.
            reply = Reply(499, closes=True)
        except Exception:
            logger.exception("a request failed", extra={"method": head.method, "upload_id": head.name or None})
            reply = self._dialect.refuse(InternalError(), head)
        if isinstance(outcome, Content):
            headers = {**reply.headers, "X-Content-Type-Options": "nosniff"}
            try:
                await download.respond(outcome, scope, headers)(scope, receive, send)
            except (UploadNotFound, StoreUnavailable, InternalError) as error:  # nothing was sent
                await self._responder.respond(self._refuse(error, head), head, body, scope, send)
        else:
            await self._responder.respond(reply, head, body, scope, send)
        if logger.isEnabledFor(logging.DEBUG):
            facts = {"method": head.method, "upload_id": head.name or None, "status": reply.status}
            logger.debug("answered", extra={**facts, "duration": time.monotonic() - began})

    def _refuse(self, error: TusError, head: RequestHead) -> Reply:
        facts = {"method": head.method, "upload_id": head.name or None, "status": error.status}
        logger.info("refused: %s", error.code, extra=facts)
        return self._dialect.refuse(error, head)

    def _head(self, scope: Scope, body: RequestBody) -> RequestHead:
        """Return the request without its body."""
        headers: dict[str, str] = {}
        repeated: set[str] = set()
        for raw_name, raw_value in scope["headers"]:
            name = raw_name.decode("latin-1")
            value = raw_value.decode("latin-1").strip(" \t")
            if name in headers:
                repeated.add(name)
                if name in _JOINED:
                    value = f"{headers[name]}, {value}"
            headers[name] = value
        if (
            "content-length" not in headers
            and scope["method"] in _WITH_BODY
            and scope.get("http_version", "1.1") >= "2"
        ):
            headers["transfer-encoding"] = "chunked"  # so to speak: HTTP/2 and 3 tell the end of a body by themselves
        base_url, base_paths = self._public_url.locate(scope, headers)
        path: str = scope["path"]
        return RequestHead(
            method=(headers.get("x-http-method-override") or scope["method"]).upper(),
            name=path.removeprefix(scope.get("root_path", "")).removeprefix("/").removesuffix("/"),
            headers=headers,
            repeated=frozenset(repeated),
            base_url=base_url,
            base_paths=base_paths,
            trailers=body.wire is not None
            and body.wire.trailers is not None
            and self._public_url.passes_trailers(scope),
        )

    def _check_sizes(self, scope: Scope) -> None:
        """Refuse a head that is too large, or a field of it. Upload-Concat has as many URLs as the rules allow.

        Raises:
            HeaderTooLarge: it is.
        """
        total, longest, its_name = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")), 0, b""
        for name, value in scope["headers"]:
            total += len(name) + len(value)
            if len(value) > self._header_size and name != _CONCAT:
                limit = f"limits.header_size is {self._header_size} bytes for the value of one header"
                raise HeaderTooLarge(f"{_shown(name)} has {len(value)}, and {limit}")
            if len(value) > longest:
                longest, its_name = len(value), name
        if total > self._head_size:
            limit = f"limits.head_size is {self._head_size} bytes for a whole request head"
            raise HeaderTooLarge(f"{limit}, and this one has {total}; the longest part of it is {_shown(its_name)}")


def _shown(name: bytes) -> str:
    return name.decode("latin-1").title()
