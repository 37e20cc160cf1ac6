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
    SizeExceeded,
    TusError,
    UploadExpired,
    UploadUnfinished,
)
from tusserver.protocol.messages import Append, Create
from tusserver.protocol.upload import Role, Upload, UploadId


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a client may ask for. None means no limit."""

    max_size: int | None = None
    """Bytes of one upload (Tus-Max-Size)."""
    body_size: int | None = None
    """Bytes of one request's body."""
    metadata_size: int = 16 * 1024
    """Bytes of Upload-Metadata."""
    parts: int = 1000
    """Partial uploads in one final upload."""
    uploads: int | None = None
    """Unfinished uploads in all."""
    uploads_per_client: int | None = None
    """Unfinished uploads of one client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When uploads end. tus 1.0.0, Expiration: "The Server MAY remove unfinished uploads once they expire"."""

    after: timedelta | None = timedelta(hours=24)
    """For unfinished uploads; None: never."""
    sliding: bool = True
    """Whether each request that adds bytes starts the time anew."""
    keep_finished: timedelta | None = None
    """For finished uploads; None: for ever."""
    keep_parts: timedelta | None = timedelta(days=7)
    """For complete partial uploads, joined or not: clients leave them behind. None: for ever."""

    def from_creation(self, now: datetime) -> datetime | None:
        """Deadline of an upload made `now`."""
        return None if self.after is None else now + self.after

    def after_append(self, upload: Upload, now: datetime) -> datetime | None:
        """Deadline of an unfinished upload that got bytes `now`."""
        if self.after is None or not self.sliding:
            return upload.expires_at
        return now + self.after

    def after_completion(self, upload: Upload, now: datetime) -> datetime | None:
        """End of the retention of an upload completed `now`."""
        life = self.keep_parts if upload.role is Role.PARTIAL else self.keep_finished
        return None if life is None else now + life


@dataclass(frozen=True, slots=True)
class AppendPlan:
    """What an Append may do."""

    upload: Upload
    """With the length it declares, if it does."""
    room: int | None
    """Most bytes the body may have; None: no limit."""
    beyond: type[TusError] = SizeExceeded
    """What a body that has more of them meets."""


def is_expired(upload: Upload, now: datetime) -> bool:
    """Whether the upload's time is over. One that is complete but not finished yet has all time in the world."""
    if upload.complete and not upload.finished:
        return False
    return upload.expires_at is not None and upload.expires_at <= now


def require_unexpired(upload: Upload, now: datetime) -> None:
    """Refuse what is to be removed: "404 Not Found or 410 Gone"; we track expired uploads, so 410.

    Raises:
        UploadExpired
    """
    if is_expired(upload, now):
        raise UploadExpired


def check_creation(create: Create, limits: Limits) -> None:
    """Refuse a creation before anything is done for it.

    Raises:
        InvalidMetadata: too much of it.
        MaxSizeExceeded: the whole upload or its first body would be too large.
        SizeExceeded: the first body runs over the length declared beside it.
        BodyTooLarge: the first body is more than one request may bring.
    """
    if len(create.metadata.text) > limits.metadata_size:
        raise InvalidMetadata(f"Upload-Metadata is longer than {limits.metadata_size} bytes")
    if len(create.parts) > limits.parts:
        raise InvalidConcat(f"Upload-Concat names more than {limits.parts} partial uploads")
    require_size(create.length, limits)
    if create.first is not None:
        _room(create.first.body_length, 0, create.length, limits)


def begin(create: Create, upload_id: UploadId, expiry: Expiry, now: datetime) -> Upload:
    """Draw up the record of a new upload."""
    return Upload(
        id=upload_id,
        created_at=now,
        length=create.length,
        metadata=create.metadata,
        role=create.role,
        concat=create.concat,
        parts=create.parts,
        expires_at=expiry.from_creation(now),
    )


def plan_first(upload: Upload, first: Append, limits: Limits) -> AppendPlan:
    """Decide what the body of a creation may do, after `check_creation`."""
    return AppendPlan(upload, *_room(first.body_length, 0, upload.length, limits))


def plan_append(upload: Upload, append: Append, limits: Limits, now: datetime) -> AppendPlan:
    """Decide what a body may do to an upload.

    Raises:
        UploadExpired, FinalIsReadOnly, OffsetMismatch, InconsistentLength, MaxSizeExceeded, SizeExceeded, BodyTooLarge
    """
    require_unexpired(upload, now)
    if upload.role is Role.FINAL:
        raise FinalIsReadOnly
    if append.offset != upload.offset:
        raise OffsetMismatch(expected=upload.offset, provided=append.offset)
    if append.length is not None:
        upload = _declare(upload, append.length, limits)
    return AppendPlan(upload, *_room(append.body_length, upload.offset, upload.length, limits))


def advance(upload: Upload, added: int, expiry: Expiry, now: datetime) -> Upload:
    """Move an upload past `added` bytes that are stored and verified."""
    return upload.at(upload.offset + added, expires_at=expiry.after_append(upload, now), finished=upload.finished)


def finish(upload: Upload, expiry: Expiry, now: datetime) -> Upload:
    """Close the books of a complete upload; from now on its retention counts."""
    return upload.at(upload.offset, expires_at=expiry.after_completion(upload, now), finished=True)


def join(parts: Sequence[Upload], limits: Limits, now: datetime) -> int | None:
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


def require_size(length: int | None, limits: Limits) -> None:
    """Refuse a whole upload of `length` bytes if that is too large: "MUST respond with the 413".

    Raises:
        MaxSizeExceeded
    """
    if length is not None and limits.max_size is not None and length > limits.max_size:
        raise MaxSizeExceeded(f"{length} bytes are more than {limits.max_size}")


def require_download(upload: Upload, now: datetime) -> None:
    """Refuse to give back what is not all here.

    Raises:
        UploadExpired, UploadUnfinished
    """
    require_unexpired(upload, now)
    if not upload.complete:
        raise UploadUnfinished


def _declare(upload: Upload, length: int, limits: Limits) -> Upload:
    """ "Once set the length MUST NOT be changed"; to say it again is no change."""
    if upload.length is not None:
        if upload.length != length:
            raise InconsistentLength(f"it is {upload.length} and cannot become {length}")
        return upload
    if length < upload.offset:
        raise InconsistentLength(f"it would be {length}, but {upload.offset} bytes are here")
    require_size(length, limits)
    return replace(upload, length=length)


def _room(
    body_length: int | None, offset: int, length: int | None, limits: Limits
) -> tuple[int | None, type[TusError]]:
    """Return the room for a body at `offset`, and what one that is larger meets; refuse one that says that it is."""
    room: int | None = None
    beyond: type[TusError] = SizeExceeded
    if length is not None:
        room = length - offset
        if body_length is not None and body_length > room:
            raise SizeExceeded(f"the body has {body_length} bytes, room is for {room}")
    elif limits.max_size is not None:
        room, beyond = limits.max_size - offset, MaxSizeExceeded
        if body_length is not None and body_length > room:
            raise MaxSizeExceeded(f"{offset + body_length} bytes are more than {limits.max_size}")
    if limits.body_size is not None and (room is None or room > limits.body_size):
        room, beyond = limits.body_size, BodyTooLarge
        if body_length is not None and body_length > room:
            raise BodyTooLarge(f"one request may bring {room} bytes")
    return room, beyond
