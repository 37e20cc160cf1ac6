"""The language between dialects and service: commands, outcomes and interim outcomes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

from tusserver.protocol.checksum import Checksum
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import TUS, Role, Upload, UploadId

# commands ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Discover:
    """Say what the server offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Write the body at `offset`."""

    id: UploadId | None
    """None while the upload is being created in the same request."""
    offset: int
    body_length: int | None
    """Bytes; None if the framing does not say (chunked)."""
    length: int | None = None
    """Length of the whole upload, declared in this request."""
    checksum: Checksum | None = None
    """Of this body. With it the body is all or nothing."""
    checksum_in_trailer: bool = False
    """Whether the checksum is announced as a trailer."""
    completes: bool = False
    """Whether the upload is complete with the whole of this body, in a protocol where its length does not say that."""
    protocol: str = TUS
    """Name of the dialect of the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Create an upload; `first` is set if the request has a body for it."""

    length: int | None
    """Bytes; None if deferred, or if it is the sum of the `parts`."""
    metadata: Metadata
    role: Role = Role.REGULAR
    concat: str | None = None
    """Upload-Concat, verbatim."""
    parts: tuple[UploadId, ...] = ()
    first: Append | None = None
    protocol: str = TUS
    """Name of the dialect of the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspect:
    """Return the state of an upload."""

    id: UploadId


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Return the bytes of a finished upload."""

    id: UploadId


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    """Remove an upload, whatever its state."""

    id: UploadId


Command = Discover | Append | Create | Inspect | Download | Terminate


# outcomes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """The dialect knows what the server offers (`Offer`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The upload exists."""

    upload: Upload
    closes: bool = False
    """Whether this server ended the body early, so that the connection cannot carry another request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """The bytes are stored."""

    upload: Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """The state of the upload."""

    upload: Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """There is nothing to download yet; the state of the upload."""

    upload: Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The bytes of a finished upload: a file, or a way to read a range of them."""

    upload: Upload
    size: int
    """Bytes."""
    etag: str
    """Strong validator, without quotes."""
    path: Path | None = None
    read: Callable[[int, int], AsyncGenerator[bytes]] | None = None
    """`read(start, stop)` yields those bytes in chunks that fit into memory; set where there is no `path`. It is closed
    where nobody wants the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminated:
    """The upload is removed."""


Outcome = Discovered | Created | Appended | Inspected | Unfinished | Content | Terminated


# interim outcomes, before the request is done ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """The upload has so many bytes of the body; its offset is binding from now on."""

    upload: Upload


InterimOutcome = Created | Progressed
"""`Created`: the upload exists, and its body is still to come."""
