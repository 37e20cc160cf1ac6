"""A second dialect for tests: as much of the IETF draft (interop version 6) as shows that the port can carry it.

It differs from tus where that matters to the port: other headers and media types, no version in every request, interim
answers, and uploads that are complete when a request says so, and not when they have all their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from tusserver.protocol.checksum import Checksum
from tusserver.protocol.dialect import Interim, Offer, Reply, RequestHead, plain_refusal
from tusserver.protocol.errors import (
    InvalidContentType,
    InvalidLength,
    InvalidOffset,
    MethodNotAllowed,
    OffsetMismatch,
    TusError,
    UploadUnfinished,
)
from tusserver.protocol.fields import integer
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
    Progressed,
    Terminate,
    Terminated,
    Unfinished,
)
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Upload, UploadId, as_upload_id

INTEROP = "6"
PARTIAL = "application/partial-upload"
_ALWAYS = {"Upload-Draft-Interop-Version": INTEROP, "Cache-Control": "no-store"}
_YES, _NO = "?1", "?0"


class DraftDialect:
    """Requests with `Upload-Draft-Interop-Version: 6`."""

    name = "draft"
    methods = ("POST", "PATCH", "HEAD", "DELETE", "GET", "OPTIONS")
    request_headers = (
        "Upload-Draft-Interop-Version",
        "Upload-Complete",
        "Upload-Length",
        "Upload-Offset",
        "Content-Type",
    )
    response_headers = (
        "Location",
        "Upload-Draft-Interop-Version",
        "Upload-Complete",
        "Upload-Length",
        "Upload-Offset",
        "Upload-Limit",
        "Accept-Patch",
    )
    list_headers = frozenset({"content-digest"})
    long_headers = frozenset[str]()
    has_interim = True

    def __init__(self, offer: Offer) -> None:
        self._max_size = offer.limits.max_size

    def speaks(self, head: RequestHead) -> bool:
        return head.headers.get("upload-draft-interop-version") == INTEROP

    def read(self, head: RequestHead) -> Command:
        if head.method == "OPTIONS":
            return Discover()
        if head.name == "":
            if head.method != "POST":
                raise MethodNotAllowed("OPTIONS, POST")
            return self._create(head)
        upload_id = as_upload_id(head.name)
        match head.method:
            case "HEAD":
                return Inspect(id=upload_id)
            case "GET":
                return Download(id=upload_id)
            case "PATCH":
                return self._append(head, upload_id)
            case "DELETE":
                return Terminate(id=upload_id)
            case _:
                raise MethodNotAllowed("OPTIONS, HEAD, GET, PATCH, DELETE")

    def _create(self, head: RequestHead) -> Create:
        body = self._body(head, None, 0)
        length = body.length
        first = Append(id=None, offset=0, body_length=body.body_length, completes=body.completes, protocol=self.name)
        return Create(length=length, metadata=Metadata(), first=first, protocol=self.name)

    def _append(self, head: RequestHead, upload_id: UploadId) -> Append:
        if head.headers.get("content-type") != PARTIAL:
            raise InvalidContentType(f"PATCH takes {PARTIAL}")
        offset = integer("Upload-Offset", head.headers.get("upload-offset", ""), InvalidOffset)
        return self._body(head, upload_id, offset)

    def _body(self, head: RequestHead, upload_id: UploadId | None, offset: int) -> Append:
        completes = head.headers.get("upload-complete", _YES) == _YES
        length = None
        if "upload-length" in head.headers:
            length = integer("Upload-Length", head.headers["upload-length"], InvalidLength)
        elif completes and head.body_length is not None:
            length = offset + head.body_length
        return Append(
            id=upload_id,
            offset=offset,
            body_length=head.body_length,
            length=length,
            completes=completes,
            protocol=self.name,
        )

    def read_trailers(self, trailers: Mapping[str, str]) -> Checksum | None:
        return None

    def interim(self, outcome: InterimOutcome, head: RequestHead) -> Interim | None:
        interop = {"Upload-Draft-Interop-Version": INTEROP}
        match outcome:
            case Created(upload=upload):
                return Interim(104, {**interop, "Location": f"{head.base_url}/{upload.id}"})
            case Progressed(upload=upload):
                return Interim(104, {**interop, "Upload-Offset": str(upload.offset)})
            case _:
                assert_never(outcome)

    def write(self, outcome: Outcome, head: RequestHead) -> Reply:
        match outcome:
            case Discovered():
                limit = "min-size=0" if self._max_size is None else f"min-size=0, max-size={self._max_size}"
                return Reply(200, {**_ALWAYS, "Upload-Limit": limit, "Accept-Patch": PARTIAL})
            case Created(upload=upload):
                location = {"Location": f"{head.base_url}/{upload.id}"}
                return Reply(201, {**_ALWAYS, **location, **_state(upload)}, closes=outcome.closes)
            case Appended(upload=upload):
                return Reply(200 if upload.complete else 201, {**_ALWAYS, **_state(upload)})
            case Inspected(upload=upload):
                return Reply(204, {**_ALWAYS, **_state(upload)})
            case Unfinished(upload=upload):
                reply = self.refuse(UploadUnfinished(), head)
                reply.headers.update(_state(upload))
                return reply
            case Content(upload=upload):
                return Reply(200, {**_ALWAYS, **_state(upload)})
            case Terminated():
                return Reply(204, {**_ALWAYS})
            case _:
                assert_never(outcome)

    def refuse(self, error: TusError, head: RequestHead) -> Reply:
        reply = plain_refusal(error, head.method)
        reply.headers = {**_ALWAYS, **reply.headers}
        if isinstance(error, OffsetMismatch):
            reply.headers |= {"Upload-Offset": str(error.expected), "Upload-Complete": _NO}
        return reply


def _state(upload: Upload) -> dict[str, str]:
    state = {"Upload-Offset": str(upload.offset), "Upload-Complete": _YES if upload.complete else _NO}
    if upload.length is not None:
        state["Upload-Length"] = str(upload.length)
    return state
