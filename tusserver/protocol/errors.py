"""Every refusal, as one tree. A class is a kind of refusal (status, code, message), an instance carries its facts.

Codes are those of tusd where it has one, so that clients and dashboards need no change.

    TusError
    ├── BadRequest 400
    │   ├── InvalidLength  AmbiguousLength  InvalidDeferLength  InconsistentLength  InvalidOffset
    │   ├── InvalidMetadata  InvalidConcat  PartsUnfinished  ConcatenationUnsupported
    │   ├── InvalidChecksum  RepeatedHeader  ExtensionDisabled  ProtocolMismatch
    │   └── UploadRejected  CreationRejected  (by an application, which chooses status and message)
    ├── Forbidden 403            FinalIsReadOnly
    ├── UploadNotFound 404       UploadExpired  UploadWithheld (the application has not accepted it yet)
    ├── MethodNotAllowed 405
    ├── OffsetMismatch 409       UploadExists
    ├── UnsupportedVersion 412
    ├── SizeExceeded 413         MaxSizeExceeded  BodyTooLarge
    ├── InvalidContentType 415   ContentEncodingUnsupported
    ├── UploadLocked 423         UploadInterrupted  UploadUnfinished  FinishPending
    ├── TooManyUploads 429       TooMuchReserved
    ├── HeaderTooLarge 431
    ├── ChecksumMismatch 460
    ├── InternalError 500        FinishFailed
    ├── BodyTimeout 503          BodyTooSlow  TooManyConnections  ServerFull  ShuttingDown  LeaseLost  StoreUnavailable
    └── OutOfSpace 507           SpaceReserved

`ClientDisconnected` is no refusal: it says that a body ended early because its client disconnected.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Self


class TusError(Exception):
    """A refusal that is sent to the client. `status`: of HTTP; `code`: a stable name; `message`: for people."""

    status: int = 400
    code: ClassVar[str] = "ERR_BAD_REQUEST"
    message: ClassVar[str] = "the request is not valid"
    retry_after: int | None = None
    """Seconds after which the same request may succeed; set where a client is to retry."""
    closes: ClassVar[bool] = False
    """Whether the connection cannot carry another request."""

    def __init__(self, detail: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.expires_at: datetime | None = None
        """When the upload expires, if it does (tus 1.0.0, Expiration: "in every PATCH response")."""
        if retry_after is not None:
            self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message}: {self.detail}" if self.detail else self.message

    def expiring(self, at: datetime | None) -> Self:
        """Return this refusal with the moment at which its upload expires, to be raised: `raise … .expiring(at)`."""
        self.expires_at = at
        return self


class BadRequest(TusError):
    """Part of the request is not valid."""


class InvalidLength(BadRequest):
    """Upload-Length is missing or not a non-negative integer below 2^63."""

    code = "ERR_INVALID_UPLOAD_LENGTH"
    message = "missing or invalid Upload-Length header"


class AmbiguousLength(BadRequest):
    """A creation has both Upload-Length and Upload-Defer-Length."""

    code = "ERR_AMBIGUOUS_UPLOAD_LENGTH"
    message = "provided both Upload-Length and Upload-Defer-Length"


class InvalidDeferLength(BadRequest):
    """Upload-Defer-Length has a value other than 1."""

    code = "ERR_INVALID_UPLOAD_LENGTH_DEFER"
    message = "invalid Upload-Defer-Length header"


class InconsistentLength(BadRequest):
    """The length differs from the known one ("Once set the length MUST NOT be changed"), or is below the offset."""

    code = "ERR_INCONSISTENT_UPLOAD_LENGTH"
    message = "Upload-Length contradicts the upload"


class InvalidOffset(BadRequest):
    """Upload-Offset is missing or not a non-negative integer below 2^63."""

    code = "ERR_INVALID_OFFSET"
    message = "missing or invalid Upload-Offset header"


class InvalidMetadata(BadRequest):
    """Upload-Metadata is not a list of keys with Base64 values."""

    code = "ERR_INVALID_METADATA"
    message = "invalid Upload-Metadata header"


class InvalidConcat(BadRequest):
    """Upload-Concat is neither `partial` nor a list of this server's partial uploads."""

    code = "ERR_INVALID_CONCAT"
    message = "invalid Upload-Concat header"


class PartsUnfinished(BadRequest):
    """A final upload names a partial upload that is not complete, and concatenation-unfinished is off."""

    code = "ERR_UPLOAD_NOT_FINISHED"
    message = "one of the partial uploads is not finished"


class ConcatenationUnsupported(BadRequest):
    """Upload-Concat was sent, and the extension is off."""

    code = "ERR_CONCATENATION_UNSUPPORTED"
    message = "Upload-Concat header is not supported by server"


class InvalidChecksum(BadRequest):
    """Upload-Checksum is malformed or names an algorithm that is not offered."""

    code = "ERR_INVALID_CHECKSUM"
    message = "invalid Upload-Checksum header"


class RepeatedHeader(BadRequest):
    """A header that is allowed once was sent more than once."""

    code = "ERR_REPEATED_HEADER"
    message = "header sent more than once"


class ExtensionDisabled(BadRequest):
    """The request needs an extension that is off."""

    code = "ERR_EXTENSION_DISABLED"
    message = "the extension is not supported by server"


class ProtocolMismatch(BadRequest):
    """The upload was created in another protocol, which has other rules of when it is complete."""

    code = "ERR_PROTOCOL_MISMATCH"
    message = "the upload was created in another protocol"


class UploadRejected(BadRequest):
    """Raised by an application to refuse an upload, with a `status` from 400 to 499.

    Raised in `before_create`, no upload is created; raised in `on_finished`, the upload is removed.
    """

    code = "ERR_UPLOAD_REJECTED"
    message = "upload has been rejected by server"

    def __init__(self, detail: str = "", *, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status


class CreationRejected(UploadRejected):
    """The application refuses the creation of an upload."""

    message = "upload creation has been rejected by server"


class Forbidden(TusError):
    """The upload may not be changed in this way."""

    status, code = 403, "ERR_FORBIDDEN"
    message = "not allowed"


class FinalIsReadOnly(Forbidden):
    """PATCH on a final upload: "MUST respond with the 403 Forbidden status"."""

    code = "ERR_MODIFY_FINAL"
    message = "modifying a final upload is not allowed"


class UploadNotFound(TusError):
    """There is no such upload: never created, removed, or an id that no upload can have."""

    status, code = 404, "ERR_UPLOAD_NOT_FOUND"
    message = "upload not found"


class UploadExpired(UploadNotFound):
    """The upload is past its Upload-Expires; its bytes are removed, or will be soon.

    Of "404 Not Found or 410 Gone" it is 404: after 410 tus-java-client does not start again.
    """

    code = "ERR_UPLOAD_EXPIRED"
    message = "the upload has expired"


class UploadWithheld(UploadNotFound):
    """A download of an upload that the application has not accepted yet."""

    code = "ERR_UPLOAD_WITHHELD"
    message = "the upload is not released yet"


class MethodNotAllowed(TusError):
    """The URL exists, but not with this method; `allow` lists those that it has, separated by commas."""

    status, code = 405, "ERR_METHOD_NOT_ALLOWED"
    message = "method not allowed"

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow


class OffsetMismatch(TusError):
    """Upload-Offset (`provided`) is not the offset of the upload (`expected`)."""

    status, code = 409, "ERR_MISMATCHED_OFFSET"
    message = "mismatched offset"

    def __init__(self, expected: int, provided: int) -> None:
        super().__init__(f"the offset of the upload is {expected}, Upload-Offset is {provided}")
        self.expected = expected
        self.provided = provided


class UploadExists(TusError):
    """The application gave a new upload the id of one that exists."""

    status, code = 409, "ERR_UPLOAD_EXISTS"
    message = "an upload with this id exists"


class UnsupportedVersion(TusError):
    """Tus-Resumable is missing or names another version. Nothing was changed."""

    status, code = 412, "ERR_UNSUPPORTED_VERSION"
    message = "missing, invalid or unsupported Tus-Resumable header"


class SizeExceeded(TusError):
    """The body goes beyond the length of the upload."""

    status, code = 413, "ERR_UPLOAD_SIZE_EXCEEDED"
    message = "upload's size exceeded"


class MaxSizeExceeded(TusError):
    """The upload would be larger than this server accepts (Tus-Max-Size)."""

    status, code = 413, "ERR_MAX_SIZE_EXCEEDED"
    message = "maximum size exceeded"


class BodyTooLarge(TusError):
    """The body is larger than this server accepts in one request; it may be sent in several."""

    status, code = 413, "ERR_BODY_TOO_LARGE"
    message = "request body too large"


class InvalidContentType(TusError):
    """The body is not application/offset+octet-stream."""

    status, code = 415, "ERR_INVALID_CONTENT_TYPE"
    message = "missing or invalid Content-Type header"


class ContentEncodingUnsupported(TusError):
    """The body has a content coding; the bytes of an upload are stored as they are sent."""

    status, code = 415, "ERR_UNSUPPORTED_CONTENT_ENCODING"
    message = "Content-Encoding is not supported"


class UploadLocked(TusError):
    """Another request is writing this upload."""

    status, code = 423, "ERR_UPLOAD_LOCKED"
    message = "upload is currently written by another request"
    retry_after = 1


class UploadInterrupted(TusError):
    """A newer request took the upload over. Bytes of this request beyond the offset that was reported may be lost.

    423 and not tusd's 400: after other 4xx tus-js-client and tuspy forget the upload. `retry_after` grows with the
    number of takeovers in a row, so that two clients do not interrupt each other for ever.
    """

    status, code = 423, "ERR_UPLOAD_INTERRUPTED"
    message = "upload has been interrupted by another request for this upload resource"
    retry_after, closes = 1, True

    def __init__(self, takeovers: int = 0) -> None:
        super().__init__(retry_after=min(1 << min(takeovers, 5), 30))


class UploadUnfinished(TusError):
    """A download of an upload that is not complete; the answer has the headers of a HEAD.

    423 and not 404: caches turn a HEAD into a GET, and after 404 clients forget the upload.
    """

    status, code = 423, "ERR_INCOMPLETE_UPLOAD"
    message = "the upload is not finished"
    retry_after = 1


class FinishPending(TusError):
    """All bytes are stored; the application that must know is being called, or is called again later."""

    status, code = 423, "ERR_FINISH_PENDING"
    message = "the upload is complete, but not finished yet"
    retry_after = 1


class TooManyUploads(TusError):
    """The client has too many unfinished uploads already. 429, after which Uppy pauses its whole queue."""

    status, code = 429, "ERR_TOO_MANY_UPLOADS"
    message = "too many unfinished uploads of this client"
    retry_after = 10


class TooMuchReserved(TooManyUploads):
    """The client's unfinished uploads lack too many bytes already for another one of this length."""

    code = "ERR_TOO_MUCH_RESERVED"
    message = "too much space is reserved for unfinished uploads of this client"


class HeaderTooLarge(TusError):
    """A header, or the whole request head, is longer than this server accepts."""

    status, code = 431, "ERR_HEADER_TOO_LARGE"
    message = "request header field too large"


class ChecksumMismatch(TusError):
    """The body does not have the checksum that was sent with it, and was discarded."""

    status, code = 460, "ERR_CHECKSUM_MISMATCH"
    message = "checksum mismatch"


class InternalError(TusError):
    """An error in this server. The log has the trace, the client gets no detail."""

    status, code = 500, "ERR_INTERNAL_SERVER_ERROR"
    message = "internal server error"


class FinishFailed(TusError):
    """All bytes are stored, but the application failed at the end; an empty PATCH at the end tries again.

    A 5xx because clients retry only 5xx, 409 and 423.
    """

    status, code = 500, "ERR_FINISH_FAILED"
    message = "the upload is complete, but finishing it failed"
    retry_after = 1


class BodyTimeout(TusError):
    """The client sent nothing for too long; the bytes that arrived are kept."""

    status, code = 503, "ERR_READ_TIMEOUT"
    message = "timeout while reading request body"
    retry_after, closes = 1, True


class BodyTooSlow(TusError):
    """The client sent too slowly for too long; the bytes that arrived are kept. 503 because 408 is not retried."""

    status, code = 503, "ERR_BODY_TOO_SLOW"
    message = "request body came in too slowly"
    retry_after, closes = 1, True


class TooManyConnections(TusError):
    """There are too many connections, in all or from this address."""

    status, code = 503, "ERR_TOO_MANY_CONNECTIONS"
    message = "too many connections"
    retry_after, closes = 5, True


class ServerFull(TusError):
    """There are too many unfinished uploads on this server."""

    status, code = 503, "ERR_SERVER_FULL"
    message = "too many unfinished uploads on this server"
    retry_after = 10


class ShuttingDown(TusError):
    """The server stops; the bytes that arrived are kept."""

    status, code = 503, "ERR_SERVER_SHUTDOWN"
    message = "request has been interrupted because the server is shutting down"
    retry_after, closes = 1, True


class LeaseLost(TusError):
    """This server lost its lock of the upload in the middle of a request; nothing more of that is committed."""

    status, code = 503, "ERR_LEASE_LOST"
    message = "the lock of the upload was lost"
    retry_after, closes = 1, True


class StoreUnavailable(TusError):
    """The storage does not work at the moment."""

    status, code = 503, "ERR_STORE_UNAVAILABLE"
    message = "the storage is not available"
    retry_after = 5


class OutOfSpace(TusError):
    """The storage has no space for the upload. 507, which tus does not mention, is retried by clients."""

    status, code = 507, "ERR_OUT_OF_SPACE"
    message = "not enough space in the storage"
    retry_after = 60


class SpaceReserved(OutOfSpace):
    """All unfinished uploads together lack too many bytes already for another one of this length."""

    code = "ERR_SPACE_RESERVED"
    message = "the space for unfinished uploads is reserved"
    retry_after = 10


class ClientDisconnected(Exception):
    """The client disconnected before the end of its body, so nobody reads an answer."""
