"""Everything that decides what may happen to an upload lives in this file. Pure: records and times in, records out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tusserver.protocol.errors import (
    BodyTooLarge,
    FinalIsReadOnly,
    InconsistentLength,
    InvalidConcat,
    InvalidMetadata,
    MaxSizeExceeded,
    OffsetMismatch,
    ProtocolMismatch,
    SizeExceeded,
    TusError,
    UploadExpired,
    UploadWithheld,
)
from tusserver.protocol.limits import MAX_RETRY_PAUSE, Expiry, Limits
from tusserver.protocol.messages import Append, Create
from tusserver.protocol.upload import TUS, Role, Upload, UploadId

RETRIES = 20
"""How often an application is called again: for about half a day, as the pauses grow from a second on."""


@dataclass(frozen=True, slots=True)
class AppendPlan:
    """What an Append is allowed to do."""

    upload: Upload
    """At the offset where the body starts, with the length that it declares, if it does."""
    limit: int | None
    """Most bytes the body may have; None: no limit."""
    overflow: type[TusError] = SizeExceeded
    """The refusal of a body that has more."""


def lacking(upload: Upload) -> int:
    """Return the bytes that the upload lacks of its declared length. A final upload gets none from clients."""
    return 0 if upload.length is None or upload.role is Role.FINAL else upload.length - upload.offset


def is_expired(upload: Upload, now: datetime) -> bool:
    """Whether the upload has expired. One that is complete but not finished is finished first, if that works."""
    if upload.complete and not upload.finished and not gave_up(upload):
        return False
    return upload.expires_at is not None and upload.expires_at <= now


def gave_up(upload: Upload) -> bool:
    """Whether the application has failed so often to accept the upload that it is not called again by itself."""
    return upload.tries > RETRIES


def is_time_to_finish(upload: Upload, now: datetime) -> bool:
    """Whether an application is to be called again. A clock that was set back does not delay that."""
    return upload.retry_at is None or not now < upload.retry_at <= now + MAX_RETRY_PAUSE


def announced_deadline(upload: Upload) -> datetime | None:
    """Return the deadline that a PATCH is told, refused or not: "if the upload is going to expire"."""
    return None if upload.complete else upload.expires_at


def require_unexpired(upload: Upload, now: datetime) -> None:
    """Refuse an upload that has expired: "404 Not Found or 410 Gone".

    Raises:
        UploadExpired
    """
    if is_expired(upload, now):
        raise UploadExpired().expiring(announced_deadline(upload))


def check_creation(create: Create, limits: Limits) -> None:
    """Refuse a creation before anything is done for it.

    Raises:
        InvalidMetadata: too much of it.
        MaxSizeExceeded: the whole upload or its first body would be too large.
        SizeExceeded: the first body is longer than the length declared with it.
        BodyTooLarge: the first body is more than one request may have.
    """
    if len(create.metadata.text) > limits.metadata_size:
        raise InvalidMetadata(f"Upload-Metadata is longer than {limits.metadata_size} bytes")
    if len(create.parts) > limits.parts:
        raise InvalidConcat(f"Upload-Concat names more than limits.parts = {limits.parts} partial uploads")
    require_size(create.length, limits)
    if create.first is not None:
        _body_limit(create.first.body_length, 0, create.length, limits)


def new_upload(create: Create, upload_id: UploadId, expiry: Expiry, now: datetime, *, owed: bool = False) -> Upload:
    """Return the record of a new upload. `owed`: whether an application is to be told of its end."""
    return Upload(
        id=upload_id,
        created_at=now,
        length=create.length,
        complete=create.protocol == TUS and create.length == 0,
        protocol=create.protocol,
        metadata=create.metadata,
        role=create.role,
        concat=create.concat,
        parts=create.parts,
        expires_at=expiry.from_creation(now, untouched=create.length != 0 and create.role is not Role.FINAL),
        owed=owed and create.role is not Role.PARTIAL,
        unclaimed=create.role is Role.FINAL,
    )


def plan_first(upload: Upload, first: Append, limits: Limits) -> AppendPlan:
    """Decide what the body of a creation may do, after `check_creation`."""
    return AppendPlan(upload, *_body_limit(first.body_length, 0, upload.length, limits))


def plan_append(upload: Upload, append: Append, limits: Limits, now: datetime, *, held: bool = False) -> AppendPlan:
    """Decide what a body may do to an upload; `held`: while another request writes it.

    An offset that a client was told is binding; bytes beyond it can be discarded. So a body may start at the offset
    that was told, whatever was stored beyond it; and at the end of the upload, if no other request is writing it.

    Raises:
        UploadExpired, FinalIsReadOnly, ProtocolMismatch, OffsetMismatch, InconsistentLength, MaxSizeExceeded,
        SizeExceeded, BodyTooLarge
    """
    require_unexpired(upload, now)
    deadline = announced_deadline(upload)
    if upload.role is Role.FINAL:
        raise FinalIsReadOnly().expiring(deadline)
    if append.protocol != upload.protocol:
        raise ProtocolMismatch().expiring(deadline)
    if append.offset != upload.told and (held or append.offset != upload.offset):
        expected = upload.told if held else upload.offset
        raise OffsetMismatch(expected=expected, provided=append.offset).expiring(deadline)
    if append.offset < upload.offset:
        upload = upload.with_progress(append.offset, expires_at=upload.expires_at, finished=False)
    if append.length is not None:
        upload = _declare(upload, append.length, limits)
    return AppendPlan(upload, *_body_limit(append.body_length, upload.offset, upload.length, limits, deadline))


def advance(
    upload: Upload, added: int, expiry: Expiry, now: datetime, *, told: bool = False, completes: bool = False
) -> Upload:
    """Move an upload past `added` bytes that are stored and verified; `told`: a client is told of that.

    It is complete if that is all of its length; where the length does not say so, if they are the whole of a body that
    `completes` it. What is complete counts as told: from then on it may be processed.
    """
    offset = upload.offset + added
    complete = offset == upload.length
    if not upload.completes_by_length:
        complete = upload.complete or (completes and (complete or upload.length is None))
    told = told or complete
    upload = upload.with_progress(
        offset,
        expires_at=expiry.after_append(upload, now) if added else upload.expires_at,
        finished=upload.finished,
        complete=complete,
        told=offset if told else None,
        takeovers=0 if told else None,
    )
    return replace(upload, length=offset) if complete and upload.length is None else upload


def undeclared(start: Upload, before: Upload) -> Upload:
    """Return the upload at the start of a body, without the length that the body declares."""
    return replace(start, length=before.length, complete=before.complete and start.offset == before.offset)


def touch(upload: Upload, expiry: Expiry, now: datetime) -> Upload:
    """Extend the deadline while bytes arrive that cannot be committed yet, as their checksum comes last."""
    return upload.with_progress(upload.offset, expires_at=expiry.after_append(upload, now), finished=upload.finished)


def take_over(upload: Upload) -> Upload:
    """Record that a request takes the upload over from another one."""
    return upload.with_progress(
        upload.offset,
        expires_at=upload.expires_at,
        finished=upload.finished,
        takeovers=upload.takeovers + 1,
    )


def tell(upload: Upload, offset: int | None = None) -> Upload:
    """Record that a client is told an offset; None: that of the upload."""
    told = upload.offset if offset is None else offset
    return upload.with_progress(upload.offset, expires_at=upload.expires_at, finished=upload.finished, told=told)


def finish(upload: Upload, expiry: Expiry, now: datetime) -> Upload:
    """Record that everything is done for a complete upload; its retention starts now."""
    return upload.with_progress(upload.offset, expires_at=expiry.after_completion(upload, now), finished=True)


def fail_to_finish(upload: Upload, expiry: Expiry, now: datetime) -> Upload:
    """Record that the application failed to accept a complete upload: it is called again after a pause that grows.

    After the last attempt the upload expires like one that is not finished.
    """
    tries = upload.tries + 1
    upload = replace(
        upload, tries=tries, retry_at=now + min(timedelta(seconds=1 << min(tries - 1, 20)), MAX_RETRY_PAUSE)
    )
    return replace(upload, retry_at=None, expires_at=expiry.from_creation(now)) if gave_up(upload) else upload


def final_length(parts: Sequence[Upload], limits: Limits, now: datetime) -> int | None:
    """Check that partial uploads can become a final one; return its length, None while a part's is unknown.

    tus 1.0.0, Concatenation: "The length of the final upload MUST be the sum of the length of all partial uploads".

    Raises:
        InvalidConcat: a part is none, or has expired (400 and not 404: on 404 tus-js-client forgets the upload).
        MaxSizeExceeded: together they are too large.
    """
    for part in parts:
        if part.role is not Role.PARTIAL:
            raise InvalidConcat(f"{part.id} is not a partial upload")
        if is_expired(part, now):
            raise InvalidConcat(f"the partial upload {part.id} has expired")
    require_size(sum(part.length or part.offset for part in parts), limits)
    lengths = [part.length for part in parts]
    return None if None in lengths else sum(length for length in lengths if length is not None)


def require_size(length: int | None, limits: Limits, deadline: datetime | None = None) -> None:
    """Refuse a whole upload of `length` bytes if that is too large: "MUST respond with the 413".

    `deadline`: of the upload, if there is one already.

    Raises:
        MaxSizeExceeded
    """
    if length is not None and limits.max_size is not None and length > limits.max_size:
        raise MaxSizeExceeded(f"{length} bytes are more than {limits.max_size}").expiring(deadline)


def may_download(upload: Upload, now: datetime) -> bool:
    """Whether an upload is complete and may be downloaded.

    Raises:
        UploadExpired
        UploadWithheld: the application has not accepted it yet.
    """
    require_unexpired(upload, now)
    if upload.withheld:
        raise UploadWithheld
    return upload.complete


def _declare(upload: Upload, length: int, limits: Limits) -> Upload:
    """ "Once set the length MUST NOT be changed"; to say it again is no change."""
    deadline = announced_deadline(upload)
    if upload.length is not None:
        if upload.length != length:
            raise InconsistentLength(f"it is {upload.length} and cannot become {length}").expiring(deadline)
        return upload
    if length < upload.offset:
        raise InconsistentLength(f"it would be {length}, but {upload.offset} bytes are here").expiring(deadline)
    require_size(length, limits, deadline)
    return replace(upload, length=length, complete=upload.completes_by_length and upload.offset == length)


def _body_limit(
    body_length: int | None, offset: int, length: int | None, limits: Limits, deadline: datetime | None = None
) -> tuple[int | None, type[TusError]]:
    """Return the most bytes of a body at `offset`, and the refusal of more; refuse one that announces more."""
    limit: int | None = None
    overflow: type[TusError] = SizeExceeded
    if length is not None:
        limit = length - offset
        if body_length is not None and body_length > limit:
            raise SizeExceeded(f"the body has {body_length} bytes, the upload lacks {limit}").expiring(deadline)
    elif limits.max_size is not None:
        limit, overflow = limits.max_size - offset, MaxSizeExceeded
        if body_length is not None and body_length > limit:
            problem = f"{offset + body_length} bytes are more than {limits.max_size}"
            raise MaxSizeExceeded(problem).expiring(deadline)
    if limits.body_size is not None and (limit is None or limit > limits.body_size):
        limit, overflow = limits.body_size, BodyTooLarge
        if body_length is not None and body_length > limit:
            raise BodyTooLarge(f"one request may have {limit} bytes").expiring(deadline)
    return limit, overflow
