"""Every refusal, as one tree. The class is the kind (status, code, words), the instance holds the facts.

Codes are those of tusd where it has one, so clients and dashboards carry over.

    TusError
    ├── BadRequest 400
    │   ├── InvalidLength  AmbiguousLength  InvalidDeferLength  InconsistentLength  InvalidOffset
    │   ├── InvalidMetadata  InvalidConcat  PartsUnfinished  ConcatenationUnsupported
    │   ├── InvalidChecksum  RepeatedHeader  ExtensionDisabled
    │   └── UploadRejected  CreationRejected  (an application said no; status and words are its own)
    ├── Forbidden 403            FinalIsReadOnly
    ├── UploadNotFound 404       UploadExpired  UploadWithheld (the application has not taken it yet)
    ├── MethodNotAllowed 405
    ├── OffsetMismatch 409       UploadExists
    ├── UnsupportedVersion 412
    ├── SizeExceeded 413         MaxSizeExceeded  BodyTooLarge
    ├── InvalidContentType 415   ContentEncodingUnsupported
    ├── UploadLocked 423         UploadInterrupted  UploadUnfinished  FinishPending
    ├── TooManyUploads 429       TooMuchReserved
    ├── HeaderTooLarge 431
    ├── ChecksumMismatch 460
    ├── FinishFailed 500
    ├── BodyTimeout 503           BodyTooSlow  TooManyConnections  ServerFull  ShuttingDown  StoreUnavailable
    └── OutOfSpace 507           SpaceReserved

Not errors of ours, but facts about a body that ended early: `ClientDisconnected`.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar


class TusError(Exception):
    """A refusal that a client may read. `status` is the HTTP status, `code` a stable name, `message` its words."""

    status: int = 400
    code: ClassVar[str] = "ERR_BAD_REQUEST"
    message: ClassVar[str] = "the request is not valid"
    retry_after: int | None = None
    """Seconds after which the same request may succeed."""
    closes: ClassVar[bool] = False
    """Whether the connection cannot carry another request."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.expires_at: datetime | None = None
        """When the upload in question expires, if it does (tus 1.0.0, Upload-Expires: in *every* PATCH response)."""

    def __str__(self) -> str:
        return f"{self.message}: {self.detail}" if self.detail else self.message


# 400 -----------------------------------------------------------------------------------------------------------------


class BadRequest(TusError):
    """Something in the request cannot be read."""


class InvalidLength(BadRequest):
    """Upload-Length is missing or not a non-negative integer below 2^63."""

    code = "ERR_INVALID_UPLOAD_LENGTH"
    message = "missing or invalid Upload-Length header"


class AmbiguousLength(BadRequest):
    """A creation both declares and defers its length."""

    code = "ERR_AMBIGUOUS_UPLOAD_LENGTH"
    message = "provided both Upload-Length and Upload-Defer-Length"


class InvalidDeferLength(BadRequest):
    """Upload-Defer-Length has a value other than 1."""

    code = "ERR_INVALID_UPLOAD_LENGTH_DEFER"
    message = "invalid Upload-Defer-Length header"


class InconsistentLength(BadRequest):
    """A declared length contradicts what is known: "Once set the length MUST NOT be changed"."""

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
    """A final upload names a partial upload that is not complete, and waiting for it is switched off."""

    code = "ERR_UPLOAD_NOT_FINISHED"
    message = "one of the partial uploads is not finished"


class ConcatenationUnsupported(BadRequest):
    """Upload-Concat was sent while the extension is off."""

    code = "ERR_CONCATENATION_UNSUPPORTED"
    message = "Upload-Concat header is not supported by server"


class InvalidChecksum(BadRequest):
    """Upload-Checksum is malformed or names an algorithm that is not offered."""

    code = "ERR_INVALID_CHECKSUM"
    message = "invalid Upload-Checksum header"


class RepeatedHeader(BadRequest):
    """A header that may stand once stands more than once."""

    code = "ERR_REPEATED_HEADER"
    message = "header sent more than once"


class ExtensionDisabled(BadRequest):
    """The request needs an extension that is off."""

    code = "ERR_EXTENSION_DISABLED"
    message = "the extension is not supported by server"


class UploadRejected(BadRequest):
    """The application refuses an upload; `status` is yours to choose, 400 to 499.

    Raise it in `before_create`, and there will be no upload; raise it in `on_finished`, and the upload is removed.
    """

    code = "ERR_UPLOAD_REJECTED"
    message = "upload has been rejected by server"

    def __init__(self, detail: str = "", *, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status


class CreationRejected(UploadRejected):
    """The application refuses to let an upload be made."""

    message = "upload creation has been rejected by server"


# 403 to 423 ----------------------------------------------------------------------------------------------------------


class Forbidden(TusError):
    """The upload may not be changed in this way."""

    status = 403
    code = "ERR_FORBIDDEN"
    message = "not allowed"


class FinalIsReadOnly(Forbidden):
    """PATCH on a final upload: "MUST respond with the 403 Forbidden status"."""

    code = "ERR_MODIFY_FINAL"
    message = "modifying a final upload is not allowed"


class UploadNotFound(TusError):
    """No such upload: never made, removed, or an id that cannot exist."""

    status = 404
    code = "ERR_UPLOAD_NOT_FOUND"
    message = "upload not found"


class UploadExpired(UploadNotFound):
    """The upload is past its Upload-Expires; its bytes are gone or go soon.

    404 and not 410: "404 Not Found or 410 Gone", and on 410 tus-java-client does not start anew.
    """

    code = "ERR_UPLOAD_EXPIRED"
    message = "the upload has expired"


class UploadWithheld(UploadNotFound):
    """A download of an upload that the application has not taken yet."""

    code = "ERR_UPLOAD_WITHHELD"
    message = "the upload is not released yet"


class MethodNotAllowed(TusError):
    """The URL exists, the method does not apply to it. `allow` lists those that do."""

    status = 405
    code = "ERR_METHOD_NOT_ALLOWED"
    message = "method not allowed"

    def __init__(self, allow: str) -> None:
        super().__init__("")
        self.allow = allow


class OffsetMismatch(TusError):
    """Upload-Offset is not where the upload stands."""

    status = 409
    code = "ERR_MISMATCHED_OFFSET"
    message = "mismatched offset"

    def __init__(self, expected: int, provided: int) -> None:
        super().__init__(f"the upload stands at {expected}, Upload-Offset says {provided}")
        self.expected = expected
        self.provided = provided


class UploadExists(TusError):
    """The application named a new upload like one that exists."""

    status = 409
    code = "ERR_UPLOAD_EXISTS"
    message = "an upload with this id exists"


class UnsupportedVersion(TusError):
    """Tus-Resumable is missing or names another version. Nothing was done."""

    status = 412
    code = "ERR_UNSUPPORTED_VERSION"
    message = "missing, invalid or unsupported Tus-Resumable header"


class SizeExceeded(TusError):
    """The body runs over the upload's length."""

    status = 413
    code = "ERR_UPLOAD_SIZE_EXCEEDED"
    message = "upload's size exceeded"


class MaxSizeExceeded(TusError):
    """The upload would be larger than this server takes (Tus-Max-Size)."""

    status = 413
    code = "ERR_MAX_SIZE_EXCEEDED"
    message = "maximum size exceeded"


class BodyTooLarge(TusError):
    """One request brings more than this server takes in one; the same bytes may come in several."""

    status = 413
    code = "ERR_BODY_TOO_LARGE"
    message = "request body too large"


class InvalidContentType(TusError):
    """A body that is not application/offset+octet-stream."""

    status = 415
    code = "ERR_INVALID_CONTENT_TYPE"
    message = "missing or invalid Content-Type header"


class ContentEncodingUnsupported(TusError):
    """A compressed body: the bytes of an upload are stored as they are, so they must come as they are."""

    status = 415
    code = "ERR_UNSUPPORTED_CONTENT_ENCODING"
    message = "Content-Encoding is not supported"


class UploadLocked(TusError):
    """Another request is writing this upload and is alive."""

    status = 423
    code = "ERR_UPLOAD_LOCKED"
    message = "upload is currently written by another request"
    retry_after = 1


class UploadInterrupted(TusError):
    """A newer request took over. What was told of this upload stays; what this request brought beyond that may go.

    423 and not tusd's 400: on other 4xx tus-js-client and tuspy forget the upload. `retry_after` grows with the number
    of takeovers in a row, so that two who want the same upload do not cut each other off for ever.
    """

    status = 423
    code = "ERR_UPLOAD_INTERRUPTED"
    message = "upload has been interrupted by another request for this upload resource"
    retry_after = 1
    closes = True

    def __init__(self, takeovers: int = 0) -> None:
        super().__init__()
        self.retry_after = min(1 << min(takeovers, 5), 30)


class UploadUnfinished(TusError):
    """A download of an upload that is not complete: its state is told as to a HEAD.

    423 and no 404: caches turn a HEAD into a GET, and on a 404 clients forget the upload.
    """

    status = 423
    code = "ERR_INCOMPLETE_UPLOAD"
    message = "the upload is not finished"
    retry_after = 1


class FinishPending(TusError):
    """The bytes are all here, and the application that must be told of them is told, or is told again later."""

    status = 423
    code = "ERR_FINISH_PENDING"
    message = "the upload is complete, but not finished yet"
    retry_after = 1

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__()
        self.retry_after = retry_after


# the rest ------------------------------------------------------------------------------------------------------------


class TooManyUploads(TusError):
    """The client has too many unfinished uploads already.

    429 although it may pass by itself: Uppy then holds its whole queue, and for others the trouble is their own.
    """

    status = 429
    code = "ERR_TOO_MANY_UPLOADS"
    message = "too many unfinished uploads of this client"
    retry_after = 10


class TooMuchReserved(TusError):
    """The client's unfinished uploads lack too many bytes already for another one of this length."""

    status = 429
    code = "ERR_TOO_MUCH_RESERVED"
    message = "too much space is reserved for unfinished uploads of this client"
    retry_after = 10


class HeaderTooLarge(TusError):
    """One header is longer than the server reads."""

    status = 431
    code = "ERR_HEADER_TOO_LARGE"
    message = "request header field too large"


class ChecksumMismatch(TusError):
    """The body does not have the checksum that came with it; it was discarded."""

    status = 460
    code = "ERR_CHECKSUM_MISMATCH"
    message = "checksum mismatch"


class FinishFailed(TusError):
    """The bytes are all here, but what the application does at the end failed; an empty PATCH at the end tries again.

    A 5xx because clients retry only 5xx, 409 and 423.
    """

    status = 500
    code = "ERR_FINISH_FAILED"
    message = "the upload is complete, but finishing it failed"
    retry_after = 1


class BodyTimeout(TusError):
    """The client sent nothing for too long; the bytes that came before are kept."""

    status = 503
    code = "ERR_READ_TIMEOUT"
    message = "timeout while reading request body"
    retry_after = 1
    closes = True


class BodyTooSlow(TusError):
    """The client sent too little for too long; the bytes that came before are kept.

    503 and not 408: clients retry only 5xx, 409 and 423.
    """

    status = 503
    code = "ERR_BODY_TOO_SLOW"
    message = "request body came in too slowly"
    retry_after = 1
    closes = True


class TooManyConnections(TusError):
    """There is no room for another connection, in all or from this address."""

    status = 503
    code = "ERR_TOO_MANY_CONNECTIONS"
    message = "no further connection"
    retry_after = 5
    closes = True


class ServerFull(TusError):
    """There are too many unfinished uploads in all."""

    status = 503
    code = "ERR_SERVER_FULL"
    message = "too many unfinished uploads on this server"
    retry_after = 10


class ShuttingDown(TusError):
    """The server stops; the bytes that came before are kept."""

    status = 503
    code = "ERR_SERVER_SHUTDOWN"
    message = "request has been interrupted because the server is shutting down"
    retry_after = 1
    closes = True


class StoreUnavailable(TusError):
    """The storage does not work right now."""

    status = 503
    code = "ERR_STORE_UNAVAILABLE"
    message = "the storage is not available"
    retry_after = 5


class OutOfSpace(TusError):
    """No room for the upload (tus says nothing; 507 is retried by clients)."""

    status = 507
    code = "ERR_OUT_OF_SPACE"
    message = "not enough space in the storage"
    retry_after = 60


class SpaceReserved(OutOfSpace):
    """All unfinished uploads together lack too many bytes already for another one of this length."""

    code = "ERR_SPACE_RESERVED"
    message = "the space for unfinished uploads is reserved"
    retry_after = 10


class ClientDisconnected(Exception):
    """The client went away before its body was whole. Nobody is there to read a refusal."""
