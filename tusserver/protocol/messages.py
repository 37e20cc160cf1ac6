"""The one language above the dialects: commands that come in, outcomes that go out."""

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
    """Tell what the server can do."""


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
    """Make an upload; `first` is set if its first bytes come along."""

    length: int | None
    """Bytes; None if deferred, or if it follows from `parts`."""
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
    """Tell how far an upload came."""

    id: UploadId


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Give back a finished upload."""

    id: UploadId


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    """Remove an upload, whatever its state."""

    id: UploadId


Command = Discover | Append | Create | Inspect | Download | Terminate


# outcomes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """What the server can do is known to the dialect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The upload exists."""

    upload: Upload
    closes: bool = False
    """Whether the body that came along was cut short by us, so that the connection cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """The bytes exist."""

    upload: Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """This is how far the upload came."""

    upload: Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """There is nothing to download yet; this is how far the upload came."""

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
    """The upload is gone."""


Outcome = Discovered | Created | Appended | Inspected | Unfinished | Content | Terminated


# interim outcomes, before the request is done ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """The upload has so many bytes of the body; its offset is binding from now on."""

    upload: Upload


InterimOutcome = Created | Progressed
"""`Created`: the upload exists, and its body is still to come."""
