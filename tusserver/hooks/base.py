"""The port of every transport of hooks: what an application is asked and told, and what it may answer.

Before something happens it is asked, and may refuse or change it; after it happened it is told. Whatever transport
carries that (callables of an embedding app, HTTP, an executable), an upload is created, finished or removed only once
its answer is here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from tusserver.protocol.dialect import ReplyChanges, RequestContext
from tusserver.protocol.errors import InvalidMetadata, TusError, UploadNotFound
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Upload, UploadId, as_upload_id


class HookType(StrEnum):
    """When an application is asked or told. The names are tusd's; `post-expire` is ours."""

    PRE_CREATE = "pre-create"
    """Asked before an upload is stored; its body was not read yet."""
    POST_CREATE = "post-create"
    """Told of an upload that is stored. If that fails the upload is removed again."""
    POST_RECEIVE = "post-receive"
    """Asked, about once a second while a body comes in, whether more of it is wanted.

    Never about a body with a checksum, as nothing of it exists before its end, nor about one that arrived with the
    head of its request.
    """
    PRE_FINISH = "pre-finish"
    """Asked when all bytes are here, and again, after pauses that grow, until it answers.

    Not of partial uploads: "The Server SHOULD NOT process these partial uploads".
    """
    POST_FINISH = "post-finish"
    """Told of an upload that is finished, at least once. Not of partial uploads."""
    PRE_TERMINATE = "pre-terminate"
    """Asked before a client's DELETE removes an upload."""
    POST_TERMINATE = "post-terminate"
    """Told of an upload that was removed: by a client, because its first body was refused or broke off, because
    `POST_RECEIVE` refused it, or because its parts cannot be joined.

    Not of one that `PRE_FINISH` refused, as the application knows of that.
    """
    POST_EXPIRE = "post-expire"
    """Told of an upload that was removed because its time was over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRequest:
    """What an application is asked or told."""

    type: HookType
    upload: Upload
    """As it is now; with `PRE_CREATE` as it would be stored."""
    context: RequestContext | None
    """The request that caused it; None if none did: a sweep, or an end that is tried again."""
    at: datetime
    """When, by the server's clock; in UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadChanges:
    """What shall be other than the client asked for. None: as it is."""

    id: UploadId | None = None
    metadata: Metadata | None = None
    expires_at: datetime | None = None
    """When the upload expires if it gets no byte; then the server's rules count."""

    def apply(self, upload: Upload) -> Upload:
        """Return the upload with these changes; raise ValueError where they are no id, or no metadata."""
        try:
            upload_id = upload.id if self.id is None else as_upload_id(self.id)
            if self.metadata is not None:
                self.metadata.pairs()
        except UploadNotFound:
            raise ValueError(f"a hook gave {self.id!r}: an id has 1 to 128 letters, digits, - and _") from None
        except InvalidMetadata as error:
            raise ValueError(f"a hook gave metadata that are not valid: {error}") from None
        return replace(
            upload,
            id=upload_id,
            metadata=upload.metadata if self.metadata is None else self.metadata,
            expires_at=self.expires_at or upload.expires_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HookResponse:
    """What an application answers. Each field says for which questions it counts; elsewhere it is ignored."""

    refusal: TusError | None = None
    """What the client gets instead, usually an `UploadRejected`; its headers and body are in `answer`.

    `PRE_CREATE`: nothing is stored. `POST_RECEIVE`: the body is ended and the upload removed; if the body had
    ended before, nothing happens. `PRE_FINISH`: the upload is removed. `PRE_TERMINATE`: it is kept.
    """
    changes: UploadChanges | None = None
    """`PRE_CREATE`."""
    answer: ReplyChanges | None = None
    """How the answer to the request that caused the question is to be otherwise, if that is a POST, PATCH or DELETE.

    Without a refusal it is for a request that succeeds, with one for a request that gets this very refusal. What goes
    on beside a request changes no answer: a final upload that is joined as a PATCH completes its last part.
    """


AGREED = HookResponse()
"""Go on, as it is."""


class Hooks(Protocol):
    """One way to ask and to tell an application. What it raises is a failure, never a refusal."""

    def wants(self, kind: HookType) -> bool:
        """Whether the application wants to be asked or told this. Says the same for as long as the server runs.

        What nobody wants costs nothing: an upload that nobody wants to finish is finished with its last commit.
        """

    async def ask(self, request: HookRequest) -> HookResponse:
        """Ask before it happens (`PRE_CREATE`, `PRE_FINISH`, `PRE_TERMINATE`, `POST_RECEIVE`), and wait for the answer.

        May be asked the same more than once, after a failure or a crash.
        """

    async def tell(self, request: HookRequest) -> None:
        """Tell what has happened. On return it will not be lost any more, though it may not have been delivered yet."""
