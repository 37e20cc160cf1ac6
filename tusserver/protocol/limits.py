"""Options of uploads, with their units: how much a client may ask for, and when uploads end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tusserver.protocol.upload import Role, Upload

RETRY_MOST = timedelta(hours=1)
"""Longest pause before an application is told again of an upload that it failed to take."""


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
    finals_per_part: int = 100
    """Final uploads that one partial upload may be in at a time. The same one asked for again is one."""
    uploads: int | None = None
    """Unfinished uploads in all."""
    uploads_per_client: int | None = None
    """Unfinished uploads of one client."""
    reserved: int | None = None
    """Bytes that unfinished uploads lack of the lengths they declared, in all."""
    reserved_per_client: int | None = None
    """Likewise, of the uploads of one client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When uploads end. tus 1.0.0, Expiration: "The Server MAY remove unfinished uploads once they expire"."""

    after: timedelta | None = timedelta(hours=24)
    """For unfinished uploads; None: never, whether they got bytes or not."""
    untouched: timedelta | None = timedelta(hours=1)
    """For those that never got a byte, if that is sooner; None: they are like the others. Their first byte ends it."""
    sliding: bool = True
    """Whether each request that adds bytes starts the time anew."""
    keep_finished: timedelta | None = None
    """For finished uploads; None: for ever."""
    keep_parts: timedelta | None = timedelta(days=7)
    """For complete partial uploads, joined or not: clients leave them behind. None: for ever."""

    def from_creation(self, now: datetime, *, untouched: bool = False) -> datetime | None:
        """Deadline of an upload made `now`; `untouched`: as long as it gets no byte (see `Upload.untouched`)."""
        if self.after is None:
            return None
        if untouched and self.untouched is not None:
            return now + min(self.untouched, self.after)
        return now + self.after

    def after_append(self, upload: Upload, now: datetime) -> datetime | None:
        """Deadline of an unfinished upload that got bytes `now`. `upload`: as it was before."""
        if self.after is None:
            return upload.expires_at
        if self.sliding:
            return now + self.after
        return min(upload.created_at, now) + self.after if upload.untouched else upload.expires_at

    def after_completion(self, upload: Upload, now: datetime) -> datetime | None:
        """End of the retention of an upload completed `now`."""
        life = (
            self.after if upload.unclaimed else self.keep_parts if upload.role is Role.PARTIAL else self.keep_finished
        )
        return None if life is None else now + life

    def of(self, upload: Upload, now: datetime) -> datetime | None:
        """Deadline of an upload that got one by other rules, or by a clock that was wrong: from its last bytes on."""
        last = min(upload.updated_at or now, now)
        if upload.finished:
            return self.after_completion(upload, last)
        begin = last if self.sliding else min(upload.created_at, now)
        return self.from_creation(begin, untouched=upload.untouched)

    @property
    def longest(self) -> timedelta:
        """No deadline is farther away than this."""
        return max(life for life in (self.after, self.keep_finished, self.keep_parts, RETRY_MOST) if life is not None)
