"""Options of a server, with their units: limits, expiry, timeouts, and what is offered.

Their fields are called as the settings are that fill them: `Limits.max_size` and `limits.max_size`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
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
    header_size: int = 17 * 1024
    """Bytes of one header value other than Upload-Concat; more gets 431."""
    head_size: int = 192 * 1024
    """Bytes of all headers with the request target; more gets 431. The server in front may have a limit of its own."""
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
    buffers: int = 32 * 1024**2
    """Bytes of all bodies together that wait in memory to be written, in fair shares of 32 KiB or more. What the server
    in front holds is its own."""

    def contradictions(self, part_size: int, show: Callable[[int], str] = str) -> Iterator[tuple[str, str]]:
        """Say which limits cannot be reached because of another one: the field, and the problem with its remedy.

        `part_size`: bytes that one partial upload takes in Upload-Concat at least, 0 if none are joined; `show` writes
        a number of bytes.
        """
        if self.metadata_size > self.header_size:
            problem = f"is more than limits.header_size ({show(self.header_size)}) lets in; raise that one too"
            yield "metadata_size", problem
        if self.header_size > self.head_size:
            yield "header_size", f"is more than limits.head_size ({show(self.head_size)}) lets in; raise that one too"
        if (least := self.parts * part_size) > self.head_size:
            problem = f"need {least} bytes in Upload-Concat, and limits.head_size ({show(self.head_size)}) lets in less"
            yield "parts", f"{problem}; raise that one, or lower this one"


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
    # Not in the repr: the sweeper stores that, to notice that deadlines have to be computed again.
    sweep_interval: timedelta = field(default=timedelta(seconds=60), repr=False)
    """Between two searches for uploads that have expired."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a request may take, and how slow its client may be."""

    idle_timeout: timedelta = timedelta(seconds=30)
    """A client that sends nothing of its body for so long is cut off; its bytes are kept."""
    min_speed: int | None = 100
    """Bytes a second that a body must bring, averaged over `idle_timeout`; else it is cut off. None: any speed."""
    lock_timeout: timedelta = timedelta(seconds=5)
    """For another request that holds the same upload and does not release it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What is offered."""

    disable: Collection[str] = ()
    """Names of extensions that are not offered, nor those that need them."""
    download: bool = True
    """Whether finished uploads can be read with GET."""
    delete_parts: bool = False
    """Whether partial uploads are removed once the final upload made of them is complete."""
