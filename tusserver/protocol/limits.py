"""Options of a server, with their units: limits, expiry, timeouts, and what is offered.

Their fields have the names of the settings that fill them: `Limits.max_size` and `limits.max_size`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tusserver.protocol.upload import Role, Upload

MAX_RETRY_PAUSE = timedelta(hours=1)
"""Longest pause before an application is notified again of an upload that it failed to accept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much clients may ask for. None is no limit."""

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
    """Final uploads that one partial upload may be in at a time. The same one requested again counts once."""
    uploads: int | None = None
    """Unfinished uploads in all."""
    uploads_per_client: int | None = None
    """Unfinished uploads of one client."""
    reserved: int | None = None
    """Bytes that unfinished uploads still lack of their declared lengths, in all."""
    reserved_per_client: int | None = None
    """The same for the uploads of one client."""
    buffers: int = 32 * 1024**2
    """Bytes of all bodies together that wait in memory to be written; each body may have 32 KiB in any case. What the
    server in front buffers is not included."""

    def cross_checks(self, part_size: int, show: Callable[[int], str] = str) -> Iterator[tuple[str, str]]:
        """Return which limits exclude each other: the name of a field, and the problem with its remedy.

        `part_size`: bytes that each partial upload needs in Upload-Concat, 0 if there are none; `show` formats a number
        of bytes.
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
    """When uploads are removed. tus 1.0.0, Expiration: "The Server MAY remove unfinished uploads once they expire"."""

    after: timedelta | None = timedelta(hours=24)
    """Age at which unfinished uploads expire; None: never, whether they got bytes or not."""
    untouched: timedelta | None = timedelta(hours=1)
    """Age at which uploads without a byte expire, if that is sooner; None: like the others."""
    sliding: bool = True
    """Whether `after` counts from the last request that added bytes, not from the creation."""
    keep_finished: timedelta | None = None
    """How long finished uploads are kept; None: for ever."""
    keep_parts: timedelta | None = timedelta(days=7)
    """How long complete partial uploads are kept, joined or not, as few clients remove them; None: for ever."""
    # Not in the repr: the sweeper stores that, to notice that the deadlines of all uploads must be computed again.
    sweep_interval: timedelta = field(default=timedelta(seconds=60), repr=False)
    """Time between two searches for expired uploads."""

    def from_creation(self, now: datetime, *, untouched: bool = False) -> datetime | None:
        """Return the deadline of an upload created `now`; `untouched`: without a byte, see `Upload.untouched`."""
        if self.after is None:
            return None
        if untouched and self.untouched is not None:
            return now + min(self.untouched, self.after)
        return now + self.after

    def after_append(self, upload: Upload, now: datetime) -> datetime | None:
        """Return the deadline of an unfinished upload that got bytes `now`. `upload`: as it was before."""
        if self.after is None:
            return upload.expires_at
        if self.sliding:
            return now + self.after
        return min(upload.created_at, now) + self.after if upload.untouched else upload.expires_at

    def after_completion(self, upload: Upload, now: datetime) -> datetime | None:
        """Return the end of the retention of an upload that was completed `now`."""
        life = (
            self.after if upload.unclaimed else self.keep_parts if upload.role is Role.PARTIAL else self.keep_finished
        )
        return None if life is None else now + life

    def of(self, upload: Upload, now: datetime) -> datetime | None:
        """Return a new deadline, from the last bytes on.

        For an upload whose deadline was computed with other options or by a wrong clock.
        """
        last = min(upload.updated_at or now, now)
        if upload.finished:
            return self.after_completion(upload, last)
        begin = last if self.sliding else min(upload.created_at, now)
        return self.from_creation(begin, untouched=upload.untouched)

    @property
    def longest(self) -> timedelta:
        """The longest time until any deadline."""
        return max(
            life for life in (self.after, self.keep_finished, self.keep_parts, MAX_RETRY_PAUSE) if life is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a request may take, and how slow its client may be."""

    idle_timeout: timedelta = timedelta(seconds=30)
    """After which a client that sends nothing of its body is cut off; its bytes are kept."""
    min_speed: int | None = 100
    """Bytes per second that a body must bring, averaged over `idle_timeout`; a slower one is cut off. None: any."""
    lock_timeout: timedelta = timedelta(seconds=5)
    """How long a request waits for another one that holds the same upload; then it gets 423."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What is offered."""

    disable: Collection[str] = ()
    """Names of extensions that are switched off; those that need them are switched off too."""
    download: bool = True
    """Whether finished uploads can be read with GET."""
    delete_parts: bool = False
    """Whether partial uploads are removed once the final upload made of them is complete."""
