"""The dialect of tus 1.0.0 and all its extensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never
from urllib.parse import unquote, urlsplit

from tusserver.protocol.checksum import ALGORITHMS, Checksum
from tusserver.protocol.dialect import Interim, Offer, Reply, RequestHead, plain_refusal
from tusserver.protocol.errors import (
    AmbiguousLength,
    ConcatenationUnsupported,
    ContentEncodingUnsupported,
    ExtensionDisabled,
    FinalIsReadOnly,
    InvalidChecksum,
    InvalidConcat,
    InvalidContentType,
    InvalidDeferLength,
    InvalidLength,
    InvalidOffset,
    MethodNotAllowed,
    OffsetMismatch,
    RepeatedHeader,
    TusError,
    UnsupportedVersion,
    UploadNotFound,
    UploadUnfinished,
)
from tusserver.protocol.extensions import Extension
from tusserver.protocol.fields import http_date, integer, is_offset_type
from tusserver.protocol.messages import (
    Append,
    Appended,
    Command,
    Content,
    Create,
    Created,
    Discover,
    Discovered,
    Download,
    Inspect,
    Inspected,
    InterimOutcome,
    Outcome,
    Terminate,
    Terminated,
    Unfinished,
)
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId, as_upload_id

VERSION = "1.0.0"

METHODS = ("POST", "HEAD", "PATCH", "DELETE", "GET", "OPTIONS")
REQUEST_HEADERS = (
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Defer-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Concat",
    "Upload-Checksum",
    "Content-Type",
    "X-HTTP-Method-Override",
)

RESPONSE_HEADERS = (
    "Location",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Defer-Length",
    "Upload-Metadata",
    "Upload-Concat",
    "Upload-Expires",
)

_ONCE = frozenset(
    {
        "content-type",
        "upload-checksum",
        "upload-concat",
        "upload-defer-length",
        "upload-length",
        "upload-metadata",
        "upload-offset",
        "x-http-method-override",
    }
)
_ALWAYS = {"Tus-Resumable": VERSION, "Cache-Control": "no-store"}
"""In every answer. A cache that kept one would answer with an old offset."""
_FINAL = "final;"
_LONG_CONCAT = 4096
"""Bytes above which Upload-Concat stays out of downloads: curl, Node.js and Python read no such answer."""
_NOT_OURS = "a partial upload's URL is not one of this server"


class TusDialect:
    """tus 1.0.0. URLs in Upload-Concat beyond `offer.limits.parts` are not read: one takes 10 µs, and a head may have
    many."""

    name = "tus"
    methods = METHODS
    request_headers = REQUEST_HEADERS
    response_headers = RESPONSE_HEADERS
    list_headers = frozenset({"trailer"})
    long_headers = frozenset({"upload-concat"})
    has_interim = False

    def __init__(self, offer: Offer) -> None:
        self._on = offer.extensions
        # Looked up for every request; hashing an Enum is slow.
        self._with_upload = Extension.CREATION_WITH_UPLOAD in self._on
        self._checksums = Extension.CHECKSUM in self._on
        self._expires = Extension.EXPIRATION in self._on
        self._max_size = offer.limits.max_size
        self._max_parts = offer.limits.parts
        self._download = offer.download
        on_collection = ["OPTIONS", "POST"] if Extension.CREATION in self._on else ["OPTIONS"]
        on_upload = ["OPTIONS", "HEAD", "PATCH"]
        if offer.download:
            on_upload.append("GET")
        if Extension.TERMINATION in self._on:
            on_upload.append("DELETE")
        self._allowed = {True: frozenset(on_upload), False: frozenset(on_collection)}
        self._allow = {True: ", ".join(on_upload), False: ", ".join(on_collection)}

    def _options(self, *, trailers: bool) -> dict[str, str]:
        headers = {"Tus-Version": VERSION}
        names = [e for e in Extension if e in self._on and (trailers or e is not Extension.CHECKSUM_TRAILER)]
        if names:
            headers["Tus-Extension"] = ",".join(names)
        if self._max_size is not None:
            headers["Tus-Max-Size"] = str(self._max_size)
        if Extension.CHECKSUM in self._on:
            headers["Tus-Checksum-Algorithm"] = ",".join(ALGORITHMS)
        return headers

    # requests --------------------------------------------------------------------------------------------------------

    def speaks(self, head: RequestHead) -> bool:
        """See `Dialect.speaks`. "The Tus-Resumable header MUST be included in every request ... except for OPTIONS"."""
        return "tus-resumable" in head.headers

    def read(self, head: RequestHead) -> Command:
        """See `Dialect.read`."""
        method, on_upload = _method(head), head.name != ""
        if method == "OPTIONS":
            return Discover()
        if on_upload:
            # An upload with an id that cannot exist is not found, whatever the method.
            upload_id = as_upload_id(head.name)
        if method not in self._allowed[on_upload]:
            raise MethodNotAllowed(self._allow[on_upload])
        # HEAD of a client that does not speak tus (`curl -I`, link checkers) is answered as GET.
        if method == "GET" or (method == "HEAD" and self._download and "tus-resumable" not in head.headers):
            return Download(id=upload_id)
        # "If the version is not supported by the Server, it MUST respond with the 412 Precondition Failed status and
        # MUST include the Tus-Version header into the response. In addition, the Server MUST NOT process the request."
        if head.headers.get("tus-resumable") != VERSION or "tus-resumable" in head.repeated:
            raise UnsupportedVersion
        if repeated := head.repeated & _ONCE:
            raise RepeatedHeader(", ".join(sorted(repeated)))
        match method:
            case "HEAD":
                return Inspect(id=upload_id)
            case "PATCH":
                return self._append(head, upload_id)
            case "DELETE":
                return Terminate(id=upload_id)
            case _:
                return self._create(head)

    def _append(self, head: RequestHead, upload_id: UploadId) -> Append:
        headers = head.headers
        if not is_offset_type(headers.get("content-type")):
            raise InvalidContentType("PATCH takes application/offset+octet-stream")
        offset = integer("Upload-Offset", headers.get("upload-offset", ""), InvalidOffset)
        length = headers.get("upload-length")
        return self._body(
            head,
            upload_id,
            offset,
            None if length is None else integer("Upload-Length", length, InvalidLength),
        )

    def _body(self, head: RequestHead, upload_id: UploadId | None, offset: int, length: int | None) -> Append:
        if head.headers.get("content-encoding", "identity").lower() != "identity":
            raise ContentEncodingUnsupported("send the bytes as they are to be stored")
        checksum, in_trailer = self._checksum(head)
        return Append(
            id=upload_id,
            offset=offset,
            body_length=head.body_length,
            length=length,
            checksum=checksum,
            checksum_in_trailer=in_trailer,
        )

    def _checksum(self, head: RequestHead) -> tuple[Checksum | None, bool]:
        if not self._checksums:
            return None, False  # tuspy sends one without asking OPTIONS
        text = head.headers.get("upload-checksum")
        announced = [name.strip().lower() for name in head.headers.get("trailer", "").split(",")]
        if "upload-checksum" not in announced:
            return None if text is None else Checksum.parse(text), False
        if text is not None:
            raise InvalidChecksum("it is sent as a header and announced as a trailer")
        # A checksum that cannot arrive would not be checked, and the client would believe that it was.
        if head.body_length is not None:
            raise InvalidChecksum("it is announced as a trailer, which only a chunked body can have")
        if not head.trailers or Extension.CHECKSUM_TRAILER not in self._on:
            raise InvalidChecksum("it is announced as a trailer, which does not arrive here: send it as a header")
        return None, True

    def read_trailers(self, trailers: Mapping[str, str]) -> Checksum | None:
        """See `Dialect.read_trailers`."""
        text = trailers.get("upload-checksum") if Extension.CHECKSUM_TRAILER in self._on else None
        return None if text is None else Checksum.parse(text)

    def _create(self, head: RequestHead) -> Create:
        headers = head.headers
        metadata = Metadata.parse(headers.get("upload-metadata", ""))
        concat = headers.get("upload-concat")
        if concat is not None and Extension.CONCATENATION not in self._on:
            raise ConcatenationUnsupported
        first = None
        if self._with_upload and is_offset_type(headers.get("content-type")):
            # Without the type the body is not one of an upload; it is read and discarded.
            first = self._body(head, None, 0, None)
        if concat is None or concat == "partial":
            role = Role.REGULAR if concat is None else Role.PARTIAL
            return Create(length=self._length(headers), metadata=metadata, role=role, concat=concat, first=first)
        if not concat.startswith(_FINAL):
            raise InvalidConcat("it must be partial, or final; and the URLs of partial uploads")
        if "upload-length" in headers or "upload-defer-length" in headers:
            raise InvalidLength("a final upload is as long as its parts: send no Upload-Length")
        if first is not None and head.has_body:
            raise FinalIsReadOnly
        urls = concat[len(_FINAL) :]
        if not (urls.isascii() and urls.isprintable()):
            # URL parsers drop such characters without an error: they would read another URL than was sent.
            raise InvalidConcat("a URL has visible ASCII characters only")
        named = urls.split()
        if not named:
            raise InvalidConcat("final; names no partial upload")
        if len(named) > self._max_parts:
            raise InvalidConcat(f"it names more than limits.parts = {self._max_parts} partial uploads")
        parts = tuple(self._part(url, head) for url in named)
        return Create(length=None, metadata=metadata, role=Role.FINAL, concat=concat, parts=parts)

    def _length(self, headers: Mapping[str, str]) -> int | None:
        length, defer = headers.get("upload-length"), headers.get("upload-defer-length")
        if defer is None:
            return integer("Upload-Length", "" if length is None else length, InvalidLength)
        if Extension.CREATION_DEFER_LENGTH not in self._on:
            raise ExtensionDisabled("creation-defer-length")
        if length is not None:
            raise AmbiguousLength
        if defer != "1":
            raise InvalidDeferLength("its value must be 1")
        return None

    def _part(self, url: str, head: RequestHead) -> UploadId:
        """Find the id in the URL of a partial upload, by its path.

        The host is ignored: behind a proxy, clients may use another one than this server sees. A path without a leading
        slash is relative to the collection, with (`ID`) or without (`files/ID`) its slash at the end.
        """
        try:
            target = urlsplit(url)
        except ValueError:
            raise InvalidConcat("a partial upload's URL cannot be read") from None
        if target.scheme not in (("http", "https", "") if target.netloc else ("",)):
            raise InvalidConcat(_NOT_OURS)
        path = target.path.rstrip("/")
        starts = [*head.base_paths, *(base.rpartition("/")[0] for base in head.base_paths)]
        if target.netloc or path.startswith("/"):
            path, starts = path.removeprefix("/"), [""]
        segments = [segment for segment in map(unquote, path.split("/")) if segment != "."]
        if any(segment in ("", "..") or "/" in segment for segment in segments):
            raise InvalidConcat(_NOT_OURS)
        *folders, name = segments or [""]
        folder = "".join(f"/{segment}" for segment in folders)
        if not any(start + folder in head.base_paths for start in starts):
            raise InvalidConcat(_NOT_OURS)
        try:
            return as_upload_id(name)
        except UploadNotFound:
            raise InvalidConcat(_NOT_OURS) from None

    # answers ---------------------------------------------------------------------------------------------------------

    def interim(self, outcome: InterimOutcome, head: RequestHead) -> Interim | None:
        """See `Dialect.interim`: tus has none."""
        return None

    def write(self, outcome: Outcome, head: RequestHead) -> Reply:
        """See `Dialect.write`."""
        match outcome:
            case Discovered():
                return self._reply(204, self._options(trailers=head.trailers))
            case Created(upload=upload):
                headers = {"Location": f"{head.base_url}/{upload.id}"}
                if self._with_upload and not upload.pending:
                    headers["Upload-Offset"] = str(upload.offset)
                self._add_expiry(headers, upload)
                return self._reply(201, headers, closes=outcome.closes)
            case Appended(upload=upload):
                headers = {"Upload-Offset": str(upload.offset)}
                self._add_expiry(headers, upload)
                return self._reply(204, headers)
            case Inspected(upload=upload):
                return self._reply(200, self._state(upload))
            case Unfinished(upload=upload):
                reply = self.refuse(UploadUnfinished(), head)
                reply.headers.update(self._state(upload))
                return reply
            case Content(upload=upload):
                # RFC 9110 §9.3.2: HEAD "SHOULD send the same header fields in response ... as ... GET"; and a cache
                # that has this answers HEAD with it. Each use asks this server whether the upload is still there.
                headers = {**self._state(upload), "Cache-Control": "private, no-cache"}
                if len(upload.concat or "") > _LONG_CONCAT:
                    del headers["Upload-Concat"]
                return self._reply(200, headers)
            case Terminated():
                return self._reply(204, {})
            case _:
                assert_never(outcome)

    def _state(self, upload: Upload) -> dict[str, str]:
        headers: dict[str, str] = {}
        if not upload.pending:
            # Concatenation: "The response to a HEAD request for a final upload SHOULD NOT contain the Upload-Offset
            # header unless the concatenation has been successfully finished."
            headers["Upload-Offset"] = str(upload.offset)
        if upload.length is not None:
            headers["Upload-Length"] = str(upload.length)
        elif not upload.pending:
            headers["Upload-Defer-Length"] = "1"
        if upload.metadata.text:
            headers["Upload-Metadata"] = upload.metadata.text
        if upload.concat is not None:
            headers["Upload-Concat"] = upload.concat
        self._add_expiry(headers, upload)
        return headers

    def _add_expiry(self, headers: dict[str, str], upload: Upload) -> None:
        # A partial upload expires also when it is complete.
        ends = upload.complete and upload.role is not Role.PARTIAL
        if self._expires and upload.expires_at is not None and not ends:
            headers["Upload-Expires"] = http_date(upload.expires_at)

    def refuse(self, error: TusError, head: RequestHead) -> Reply:
        """See `Dialect.refuse` and `plain_refusal`."""
        method = _method(head)
        reply = plain_refusal(error, method)
        headers = reply.headers = {**_ALWAYS, **reply.headers}
        if isinstance(error, UnsupportedVersion):
            headers["Tus-Version"] = VERSION
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = error.allow
        if isinstance(error, OffsetMismatch):
            headers["Upload-Offset"] = str(error.expected)
        if error.expires_at is not None and method == "PATCH" and self._expires:
            headers["Upload-Expires"] = http_date(error.expires_at)
        return reply

    def _reply(self, status: int, headers: dict[str, str], *, closes: bool = False) -> Reply:
        return Reply(status, {**_ALWAYS, **headers}, closes=closes)


def _method(head: RequestHead) -> str:
    """Core: "The X-HTTP-Method-Override request header MUST be interpreted as the request's method by the Server"."""
    override = head.headers.get("x-http-method-override")
    return override.upper() if override else head.method
