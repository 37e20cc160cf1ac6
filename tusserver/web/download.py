"""GET of a finished upload: whole or in ranges, exactly its bytes, and safe for whatever was uploaded.

starlette's FileResponse would send what the file has, and not what the upload has; and each of its versions reads
ranges in another way.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from email.utils import format_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import anyio
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tusserver.protocol.errors import InternalError, StoreUnavailable, TusError, UploadNotFound
from tusserver.protocol.messages import Content
from tusserver.text import safe_filename
from tusserver.threads import Threads
from tusserver.web.media import is_shown, type_of
from tusserver.web.ranges import Plan, plan

logger = logging.getLogger("tusserver.web")

CHUNK = 256 * 1024
"""Bytes read at once where the server cannot send a file by itself."""
THREADS = 8
"""Calls for downloads at the same time; the rest of an app has threads of its own, also while a disk hangs."""

_threads = Threads(THREADS, "tusserver-read")  # started when they are needed, and shared by the process


def respond(content: Content, scope: Scope, headers: dict[str, str]) -> ASGIApp:
    """Make the response for a finished upload. `headers` are added to it."""
    media_type = type_of(content.upload.metadata.type or "")
    described = {
        **headers,
        "ETag": f'"{content.etag}"',
        "Content-Disposition": disposition(content.upload.metadata.name, media_type),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Last-Modified": format_datetime(content.upload.created_at, usegmt=True),
    }
    if _matches(Headers(scope=scope).get("if-none-match", ""), described["ETag"]):
        return Response(status_code=304, headers=described)
    described["Content-Type"] = media_type
    return Download(content, described, headers)


class Download:
    """Answers with the bytes of an upload, or with ranges of them, and with no others.

    `bare` are the headers of an answer without content.

    Raises:
        UploadNotFound: the bytes were removed in the last moment; nothing was sent.
        StoreUnavailable: they cannot be read now; nothing was sent.
        InternalError: there are fewer than the upload has; nothing was sent.
        EOFError: they ended in the middle, and the answer cannot be completed.
    """

    def __init__(self, content: Content, headers: Mapping[str, str], bare: Mapping[str, str]) -> None:
        self._content = content
        self._headers = headers
        self._bare = bare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # RFC 9110 §14.2: "A server MUST ignore a Range header field received with a request method" other than GET.
        asked = Headers(scope=scope) if scope["method"] == "GET" else {}
        planned = plan(asked, self._content.size, self._headers, self._bare)
        if self._content.path is None:
            await _while_connected(self._send_stream(planned, scope, send), receive)
            return
        with await _threads.run(_open, self._content.path, discard=io.FileIO.close) as opened:
            file = _File(self._content, opened)
            file.require_whole()
            by_server = "http.response.zerocopysend" in (scope.get("extensions") or {})
            await _while_connected(_answer(planned, scope, send, file.hand_over if by_server else file.send), receive)

    async def _send_stream(self, planned: Plan, scope: Scope, send: Send) -> None:
        answer = _LateStart(send)
        try:
            await _answer(planned, scope, answer, _Stream(self._content).send)
        except (TusError, EOFError) as error:
            if answer.started:
                raise EOFError("the bytes of the upload ended") from error
            if isinstance(error, TusError):
                raise
            raise InternalError from error


class SendRange(Protocol):
    """Sends a range of an upload as body; `more`: whether other bytes follow."""

    async def __call__(self, start: int, stop: int, send: Send, *, more: bool) -> None: ...


async def _answer(planned: Plan, scope: Scope, send: Send, send_range: SendRange) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in planned.headers.items()]
    await send({"type": "http.response.start", "status": planned.status, "headers": headers})
    if scope["method"] == "HEAD":
        await send({"type": "http.response.body", "body": b""})
        return
    for number, (before, start, stop) in enumerate(planned.pieces, 1):
        more = number < len(planned.pieces)
        if before or stop == start:
            await send({"type": "http.response.body", "body": before, "more_body": more or stop > start})
        if stop > start:
            await send_range(start, stop, send, more=more)


class _File:
    """The file of an upload.

    Where the server can, it sends the file by itself (ASGI, "Zero Copy Send" extension). "Path Send" cannot be used: it
    sends what the file has.
    """

    def __init__(self, content: Content, file: io.FileIO) -> None:
        self._content = content
        self._file = file

    def require_whole(self) -> None:
        """Refuse a file that is shorter than its upload.

        Raises:
            InternalError
        """
        there = os.fstat(self._file.fileno()).st_size
        if there < self._content.size:
            _log_damage(self._content, f"its file has {there}")
            raise InternalError

    async def hand_over(self, start: int, stop: int, send: Send, *, more: bool) -> None:
        """Let the server send a range; see `SendRange`."""
        message = {"type": "http.response.zerocopysend", "file": self._file, "offset": start, "count": stop - start}
        try:
            await send({**message, "more_body": more})
        except EOFError:
            self._log_end()
            raise

    async def send(self, start: int, stop: int, send: Send, *, more: bool) -> None:
        """Read and send a range; see `SendRange`."""
        while start < stop:
            read = await _threads.run(os.pread, self._file.fileno(), min(CHUNK, stop - start), start)
            if not read:
                self._log_end()
                raise EOFError("the file is shorter than the upload")
            start += len(read)
            await send({"type": "http.response.body", "body": read, "more_body": more or start < stop})

    def _log_end(self) -> None:
        _log_damage(self._content, f"its file has {os.fstat(self._file.fileno()).st_size}")


class _Stream:
    """The bytes of an upload as its store yields them: one chunk is in memory at a time, and no more than is asked."""

    def __init__(self, content: Content) -> None:
        self._content = content

    async def send(self, start: int, stop: int, send: Send, *, more: bool) -> None:
        """See `SendRange`."""
        assert self._content.read is not None
        at = start
        async with aclosing(self._content.read(start, stop)) as chunks:
            async for chunk in chunks:
                piece = chunk[: stop - at]
                at += len(piece)
                if piece:
                    await send({"type": "http.response.body", "body": piece, "more_body": more or at < stop})
                if at == stop:
                    return
        _log_damage(self._content, f"its bytes from {start} to {stop} ended at {at}")
        raise EOFError("there are fewer bytes than the upload has")


class _LateStart:
    """Sends the start of an answer together with its first bytes: until they are read it can become a refusal."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self.started = False

    async def __call__(self, message: Message) -> None:
        """Send a message of an answer, or keep it while it is the start alone."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None:
            start, self._start = self._start, None
            self.started = True
            await self._send(start)
        await self._send(message)


def _log_damage(content: Content, what: str) -> None:
    text = "upload %s has %d bytes, but %s: it is damaged and cannot be downloaded"
    logger.error(text, content.upload.id, content.size, what, extra={"upload_id": content.upload.id})


async def _while_connected(answering: Coroutine[None, None, None], receive: Receive) -> None:
    """Run `answering`; end it when the client disconnects: servers of older ASGI versions drop what is sent then."""
    failed: Exception | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            await answering
        except Exception as error:  # raised below: a task group would wrap it
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed


def _open(path: Path) -> io.FileIO:
    """Open a file; what is no regular file counts as missing.

    Raises:
        UploadNotFound: it is missing.
        StoreUnavailable: it cannot be opened now, for instance because too many files are open.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise UploadNotFound from None
        logger.error("a file cannot be opened for a download: %s", error)
        raise StoreUnavailable from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UploadNotFound
    return io.FileIO(fd, "rb")


def disposition(name: str | None, media_type: str) -> str:
    """Write Content-Disposition (RFC 6266). Nothing in a name can end the header or the quotes.

    >>> disposition("na\\r\\nïve.txt", "text/html")
    "attachment; filename=\\"na_ve.txt\\"; filename*=UTF-8''na_%C3%AFve.txt"
    """
    kind = "inline" if is_shown(media_type) else "attachment"
    name = safe_filename(name or "")
    if not name:
        return kind
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_")
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _matches(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]
