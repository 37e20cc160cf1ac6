"""GET of a finished upload: whole or in ranges, exactly its bytes, and safe for whatever was uploaded.

starlette's FileResponse would send what the file has, and not what the upload has; and each of its versions reads
ranges in another way.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import stat
from collections.abc import Coroutine, Mapping
from email.utils import format_datetime
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

import anyio
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tusserver.protocol.errors import InternalError, StoreUnavailable, UploadNotFound
from tusserver.protocol.messages import Content
from tusserver.text import safe_filename
from tusserver.threads import Threads
from tusserver.web.media import is_shown, type_of

logger = logging.getLogger("tusserver.web")

CHUNK = 256 * 1024
"""Bytes read at once where the server cannot send a file by itself."""
THREADS = 8
"""Calls for downloads at the same time; the rest of an app has threads of its own, whatever the disk does."""
MAX_RANGES = 100
"""Ranges in one request; one that names more gets the whole."""

_RANGE = re.compile(r"([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19})", re.ASCII)


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
    if content.path is not None:
        return FileDownload(content, content.path, described, headers)
    assert content.read is not None
    described["Content-Length"] = str(content.size)
    return StreamingResponse(content.read(0, content.size), headers=described)


class FileDownload:
    """Answers with the bytes of a file that the upload has, or with ranges of them, and with no others.

    Where the server can, it sends the file by itself (ASGI, "Zero Copy Send" extension). "Path Send" is of no use: it
    sends what the file has. `bare` are the headers of an answer without content.

    Raises:
        UploadNotFound: the file went away in the last moment; nothing was sent.
        StoreUnavailable: it cannot be opened now; nothing was sent.
        InternalError: it is shorter than the upload; nothing was sent.
        EOFError: it became so, and the answer cannot be completed.
    """

    def __init__(self, content: Content, path: Path, headers: Mapping[str, str], bare: Mapping[str, str]) -> None:
        self._upload_id = content.upload.id
        self._size = content.size
        self._path = path
        self._headers = dict(headers)
        self._bare = dict(bare)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with await _threads.run(_open, self._path, discard=io.FileIO.close) as file:
            there = os.fstat(file.fileno()).st_size
            if there < self._size:
                self._complain(there)
                raise InternalError
            await _while_connected(self._answer(file, scope, send), receive)

    async def _answer(self, file: io.FileIO, scope: Scope, send: Send) -> None:
        # RFC 9110 §14.2: "A server MUST ignore a Range header field received with a request method" other than GET.
        ranges = self._ranges(Headers(scope=scope)) if scope["method"] == "GET" else []
        if ranges is None:
            refused = {**self._bare, "Content-Range": f"bytes */{self._size}", "Content-Length": "0"}
            await _start(send, 416, refused)
            await send({"type": "http.response.body", "body": b""})
            return
        status, headers, pieces = self._plan(ranges)
        await _start(send, status, headers)
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        zero_copy = "http.response.zerocopysend" in (scope.get("extensions") or {})
        for number, (before, start, stop) in enumerate(pieces, 1):
            more = number < len(pieces)
            if before or stop == start:
                await send({"type": "http.response.body", "body": before, "more_body": more or stop > start})
            if stop == start:
                continue
            if zero_copy:
                await self._send_file(file, start, stop, send, more=more)
            else:
                await self._send_bytes(file, start, stop, send, more=more)

    def _ranges(self, asked: Headers) -> list[tuple[int, int]] | None:
        """Return what was asked for; None if there is no such thing."""
        text, condition = asked.get("range"), asked.get("if-range")
        the_same = condition is None or condition in (self._headers["ETag"], self._headers["Last-Modified"])
        return [] if text is None or not the_same else ranges_of(text, self._size)

    def _plan(self, ranges: list[tuple[int, int]]) -> tuple[int, dict[str, str], list[tuple[bytes, int, int]]]:
        """Say what to answer: status, headers, and pieces, each of bytes of ours and a range of the file."""
        headers = {**self._headers, "Accept-Ranges": "bytes"}
        if not ranges:
            headers["Content-Length"] = str(self._size)
            return 200, headers, [(b"", 0, self._size)]
        if len(ranges) == 1:
            ((start, stop),) = ranges
            headers["Content-Range"] = self._content_range(start, stop)
            headers["Content-Length"] = str(stop - start)
            return 206, headers, [(b"", start, stop)]
        boundary = token_hex(13)
        pieces = []
        for start, stop in ranges:
            told = f"Content-Type: {headers['Content-Type']}\r\nContent-Range: {self._content_range(start, stop)}"
            pieces.append((f"\r\n--{boundary}\r\n{told}\r\n\r\n".encode("latin-1"), start, stop))
        pieces.append((f"\r\n--{boundary}--\r\n".encode(), 0, 0))
        headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
        headers["Content-Length"] = str(sum(len(before) + stop - start for before, start, stop in pieces))
        return 206, headers, pieces

    def _content_range(self, start: int, stop: int) -> str:
        return f"bytes {start}-{stop - 1}/{self._size}"

    async def _send_file(self, file: io.FileIO, start: int, stop: int, send: Send, *, more: bool) -> None:
        message = {"type": "http.response.zerocopysend", "file": file, "offset": start, "count": stop - start}
        try:
            await send({**message, "more_body": more})
        except EOFError:
            self._complain(os.fstat(file.fileno()).st_size)
            raise

    async def _send_bytes(self, file: io.FileIO, start: int, stop: int, send: Send, *, more: bool) -> None:
        while start < stop:
            read = await _threads.run(os.pread, file.fileno(), min(CHUNK, stop - start), start)
            if not read:
                self._complain(os.fstat(file.fileno()).st_size)
                raise EOFError("the file is shorter than the upload")
            start += len(read)
            await send({"type": "http.response.body", "body": read, "more_body": more or start < stop})

    def _complain(self, there: int) -> None:
        text = "upload %s has %d bytes, but its file has %d: it is damaged and cannot be downloaded"
        logger.error(text, self._upload_id, self._size, there, extra={"upload_id": self._upload_id})


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _while_connected(answering: Coroutine[None, None, None], receive: Receive) -> None:
    """Run `answering`, but end it when the client goes: servers of older ASGI versions drop what is sent to nobody."""
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
    """Open a file; what is not one is as if it were not there.

    Raises:
        UploadNotFound: there is none.
        StoreUnavailable: it cannot be opened now, as when too many are.
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


def ranges_of(text: str, size: int) -> list[tuple[int, int]] | None:
    """Read a Range header: starts and stops in order, none of which touch. None if nothing of it is there.

    RFC 9110 §14.2: an origin server "MUST ignore a Range header field that contains a range unit it does not
    understand", and may ignore one that is not valid, or asks for very many: then the list is empty.

    >>> ranges_of("bytes=0-4, 8-, -3", 10)
    [(0, 5), (7, 10)]
    """
    unit, _, wanted = text.partition("=")
    specs = [spec.strip(" \t") for spec in wanted.split(",")]
    specs = [spec for spec in specs if spec]
    if unit.strip().lower() != "bytes" or not 0 < len(specs) <= MAX_RANGES:
        return []
    found = []
    for spec in specs:
        read = _RANGE.fullmatch(spec)
        if read is None:
            return []
        if read[3]:
            start, stop = max(0, size - int(read[3])), size
        else:
            start, stop = int(read[1]), min(size, int(read[2]) + 1) if read[2] else size
            if read[2] and int(read[2]) < start:
                return []
        if start < stop:
            found.append((start, stop))
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged or None


def disposition(name: str | None, media_type: str) -> str:
    """Write Content-Disposition (RFC 6266): nothing in a name can end the header or the quotes.

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
