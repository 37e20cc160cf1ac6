"""GET of a finished upload: starlette's FileResponse (ranges, If-Range), made safe for whatever was uploaded."""

from __future__ import annotations

import os
import re
import stat
from email.utils import format_datetime
from urllib.parse import quote

import anyio
import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse, MalformedRangeHeader, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.messages import Content
from tusserver.stores.naming import safe_name

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}", re.ASCII)
_INLINE = re.compile(r"(image/(?!svg)|audio/|video/)[a-z0-9.+-]+|text/plain|application/pdf", re.ASCII)
"""Types a browser shows without running anything; all others are saved to disk."""
_ON_EVERY_ANSWER = (b"tus-resumable", b"x-content-type-options")


def respond(content: Content, scope: Scope, headers: dict[str, str]) -> Response:
    """Make the response for a finished upload. `headers` are added to it."""
    media_type = (content.upload.metadata.type or "").lower()
    if _MEDIA_TYPE.fullmatch(media_type) is None:
        media_type = "application/octet-stream"
    headers = {
        **headers,
        "ETag": f'"{content.etag}"',
        "Content-Disposition": disposition(content.upload.metadata.name, media_type),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Last-Modified": format_datetime(content.upload.created_at, usegmt=True),
    }
    if _matches(Headers(scope=scope).get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if content.path is not None:
        return KernelFileResponse(content.path, headers=headers, media_type=media_type)
    assert content.read is not None
    headers["Content-Length"] = str(content.size)
    return StreamingResponse(content.read(0, content.size), headers=headers, media_type=media_type)


class KernelFileResponse(FileResponse):
    """A FileResponse that leaves the bytes to the kernel where the server can (ASGI, "Zero Copy Send" extension).

    Raises:
        UploadNotFound: the file went away in the last moment; nothing was sent.
    """

    chunk_size = 256 * 1024
    """Bytes read at once where it cannot."""
    _zero_copy = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._zero_copy = "http.response.zerocopysend" in (scope.get("extensions") or {})
        try:
            self.stat_result = await anyio.to_thread.run_sync(os.lstat, self.path)
        except FileNotFoundError:
            raise UploadNotFound from None
        if not stat.S_ISREG(self.stat_result.st_mode):
            raise UploadNotFound
        self.set_stat_headers(self.stat_result)

        async def send_as_ours(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 416:
                # starlette makes this one anew, without what all our answers have.
                ours = [pair for pair in self.raw_headers if pair[0] in _ON_EVERY_ANSWER]
                message = {**message, "headers": [*message["headers"], *ours]}
            await send(message)

        await super().__call__(scope, receive, send_as_ours)

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        """See FileResponse; but ignore what is no range of bytes.

        RFC 9110 §14.2: an origin server "MUST ignore a Range header field that contains a range unit it does not
        understand", and may ignore one that is not valid.
        """
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []

    async def _handle_simple(self, send: Send, send_header_only: bool, send_pathsend: bool) -> None:
        if not self._zero_copy or send_header_only:
            await super()._handle_simple(send, send_header_only, send_pathsend)
            return
        size = int(self.headers["content-length"])
        await self._send(send, self.status_code, self.headers, 0, size)

    async def _handle_single_range(
        self, send: Send, start: int, end: int, file_size: int, send_header_only: bool
    ) -> None:
        if not self._zero_copy or send_header_only:
            await super()._handle_single_range(send, start, end, file_size, send_header_only)
            return
        headers = MutableHeaders(raw=list(self.raw_headers))
        headers["content-range"] = f"bytes {start}-{end - 1}/{file_size}"
        headers["content-length"] = str(end - start)
        await self._send(send, 206, headers, start, end - start)

    async def _send(self, send: Send, status: int, headers: MutableHeaders, at: int, count: int) -> None:
        async with await anyio.open_file(self.path, "rb", opener=_without_links) as file:
            await send({"type": "http.response.start", "status": status, "headers": headers.raw})
            await send({"type": "http.response.zerocopysend", "file": file.wrapped, "offset": at, "count": count})


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


def disposition(name: str | None, media_type: str) -> str:
    """Write Content-Disposition (RFC 6266): nothing in a name can end the header or the quotes.

    >>> disposition("na\\r\\nïve.txt", "text/html")
    "attachment; filename=\\"na_ve.txt\\"; filename*=UTF-8''na_%C3%AFve.txt"
    """
    kind = "inline" if _INLINE.fullmatch(media_type) else "attachment"
    name = safe_name(name or "")
    if not name:
        return kind
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_")
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _matches(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]
