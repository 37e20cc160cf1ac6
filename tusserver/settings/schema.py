"""The settings and their groups: names, kinds, defaults, what each means, and which of them exclude each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from tusserver.protocol.extensions import Extension
from tusserver.protocol.limits import Limits
from tusserver.protocol.upload import ID_DIGITS
from tusserver.settings.values import (
    CountOrOff,
    Duration,
    DurationOrOff,
    Extensions,
    FileMode,
    Folder,
    FolderMode,
    FolderOrNone,
    HeaderNames,
    Host,
    Interval,
    Networks,
    Percent,
    Size,
    SizeOrOff,
    SizeOrUnlimited,
    Template,
    UrlPath,
    WebOrigins,
    show_size,
)

Options = TypeVar("Options")


class Group(BaseModel):
    """Settings of one subject."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def fill(self, kind: type[Options]) -> Options:
        """Return an instance of a dataclass whose fields have the names of settings of this group."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(cast(Any, kind))})


class ServerSettings(Group):
    """Where the server listens, and how it stops."""

    host: Host = "127.0.0.1"
    """Address or name to listen on; 0.0.0.0 for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port to listen on; with 0 the system picks one."""
    path: UrlPath = "/files"
    """URL path of uploads, served with and without a trailing slash."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Number of processes that serve; more than there are cores does not help. All use the same data folder."""
    shutdown_timeout: Duration = timedelta(seconds=10)
    """Longest wait for running requests at the stop. Uploads are not waited for: they are cut off, their bytes kept."""
    keep_alive: Interval = timedelta(seconds=75)
    """How long a connection without a request stays open."""
    backlog: Annotated[int, Field(ge=1)] = 2048
    """Connections that may wait to be accepted."""


class StoreSettings(Group):
    """Where uploads are stored, and how durably."""

    root: Folder = Path("storage")
    """Data folder; created if missing."""
    durability: Literal["ack", "finish", "none"] = "ack"
    """What survives a power cut: all acknowledged bytes, finished uploads, or what the system happened to write."""
    finished_folder: FolderOrNone = None
    """Folder to which finished files are moved, on the file system of store.root. Unset: they are not moved."""
    finished_name: Template = "{filename}"
    """Their names there, made of {id} {filename} {stem} {suffix} {year} {month} {day}; / creates folders."""
    reserve: Size = 256 * 1024**2
    """Free space below which new uploads get 507; the same share of inodes. At most a tenth of the disk."""
    file_mode: FileMode = 0o600
    """Permissions of files."""
    folder_mode: FolderMode = 0o700
    """Permissions of folders."""


class LimitsSettings(Group):
    """How much clients may ask for, and how slowly."""

    connections: CountOrOff = 8_000
    """Maximum number of connections, with three open files for each; further ones get 503."""
    connections_per_address: CountOrOff = None
    """Maximum number of connections from one IPv4 address or IPv6 /64; proxies.trusted are not counted."""
    head_timeout: DurationOrOff = timedelta(seconds=30)
    """Longest time for a request head, from its first byte or the start of the connection; then that is closed."""
    max_size: SizeOrUnlimited = None
    """Maximum size of an upload."""
    body_size: SizeOrUnlimited = None
    """Maximum size of the body of one request; a client that has more to send needs several requests."""
    metadata_size: Size = 16 * 1024
    """Maximum size of Upload-Metadata."""
    header_size: Size = 17 * 1024
    """Maximum size of the value of one header; Upload-Concat is limited by limits.parts and limits.head_size."""
    head_size: Size = 192 * 1024
    """Maximum size of a request head, which must have room for limits.parts URLs in Upload-Concat."""
    parts: Annotated[int, Field(ge=1)] = 1000
    """Maximum number of partial uploads in a final one."""
    finals_per_part: Annotated[int, Field(ge=1)] = 100
    """Maximum number of final uploads that one partial upload is in; the same one requested again counts once."""
    uploads: CountOrOff = None
    """Maximum number of unfinished uploads in the data folder; further ones get 503."""
    uploads_per_client: CountOrOff = None
    """Maximum number of them from one IPv4 address or IPv6 /64 (see proxies.trusted); further ones get 429."""
    untouched: Percent = 50
    """Percentage of free space that uploads without a byte may reserve; others reserve theirs with their first byte."""
    reserved: SizeOrOff = None
    """Maximum number of bytes that unfinished uploads still lack of their declared lengths; further ones get 507."""
    reserved_per_client: SizeOrOff = None
    """Maximum number of them for the uploads of one client; further ones get 429."""
    idle_timeout: Interval = timedelta(seconds=30)
    """A client that sends nothing, or reads nothing of an answer, for so long is cut off; its bytes are kept."""
    min_speed: SizeOrOff = 100
    """Bytes per second that a body must bring, averaged over limits.idle_timeout; a slower one is cut off."""
    buffers: Size = 32 * 1024**2
    """Memory of a process for bodies that wait to be written, at least 32 KiB for each; as much for request heads."""
    lock_timeout: Duration = timedelta(seconds=5)
    """How long a request waits for another one that holds the same upload; then it gets 423."""


class ExpirySettings(Group):
    """When uploads are removed."""

    after: DurationOrOff = timedelta(hours=24)
    """How long an unfinished upload is kept; off: for ever, whether it got bytes or not."""
    untouched: DurationOrOff = timedelta(hours=1)
    """How long an upload without a byte is kept, at most expiry.after; off: like the others."""
    sliding: bool = True
    """Whether expiry.after counts from the last PATCH; false: from the creation."""
    keep_finished: DurationOrOff = None
    """How long a finished upload is kept; off: for ever."""
    keep_parts: DurationOrOff = timedelta(days=7)
    """How long a complete partial upload is kept, joined or not; off: for ever."""
    sweep_interval: Interval = timedelta(seconds=60)
    """Time between two searches for expired uploads."""


class TusSettings(Group):
    """What of the protocol is offered."""

    disable: Extensions = ()
    """Extensions to switch off; those that need them are switched off too."""
    download: bool = True
    """Whether GET returns finished uploads."""
    delete_parts: bool = False
    """Whether partial uploads are removed once their final upload is complete."""


class CorsSettings(Group):
    """Which web pages may use the server."""

    enabled: bool = True
    """Whether CORS headers are sent."""
    origins: WebOrigins = ("*",)
    """Exact origins of these pages, or * for any."""
    credentials: bool = False
    """Whether cookies and logins may be sent along. Needs exact origins."""
    allow_headers: HeaderNames = ()
    """Further request headers that pages may send."""
    expose_headers: HeaderNames = ()
    """Further response headers that pages may read."""
    max_age: Duration = timedelta(hours=24)
    """How long a browser may cache the answer to a preflight."""


class ProxiesSettings(Group):
    """Reverse proxies in front."""

    trusted: Networks = ()
    """Addresses or networks of proxies whose headers are believed; * for all."""
    headers: Literal["x-forwarded", "forwarded"] = "x-forwarded"
    """Which headers: X-Forwarded-* or Forwarded (RFC 7239); the others are ignored, as clients may send them."""
    trailers: bool = False
    """Whether they forward the trailers of requests; if not, checksum-trailer is not offered through them."""
    relative_location: bool = False
    """Whether Location is a path without scheme and host."""


class PagesSettings(Group):
    """Web pages of the server."""

    upload: bool = True
    """Whether there is a page to upload with at /."""


class LogSettings(Group):
    """What is logged to standard error."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """Least severe messages that are logged."""
    format: Literal["text", "json"] = "text"
    """Whether a message is a line of text or a JSON object."""


class Settings(Group):
    """All settings."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    limits: LimitsSettings = Field(default_factory=LimitsSettings)
    expiry: ExpirySettings = Field(default_factory=ExpirySettings)
    tus: TusSettings = Field(default_factory=TusSettings)
    cors: CorsSettings = Field(default_factory=CorsSettings)
    proxies: ProxiesSettings = Field(default_factory=ProxiesSettings)
    pages: PagesSettings = Field(default_factory=PagesSettings)
    log: LogSettings = Field(default_factory=LogSettings)


def cross_checks(settings: Settings) -> Iterator[tuple[str, str]]:
    """Return which settings exclude each other: the name of one, and the problem with its remedy."""
    if settings.cors.credentials and "*" in settings.cors.origins:
        # To echo any origin would let every page on the web act with the login of its visitor.
        yield "cors.credentials", "needs exact origins; name them in cors.origins"
    joins = not {Extension.CREATION, Extension.CONCATENATION} & set(settings.tus.disable)
    prefix = "" if settings.proxies.relative_location else "http://localhost"  # clients send back what Location said
    part_size = len(f"{prefix}{settings.server.path}/{ID_DIGITS * 'x'} ") if joins else 0
    for name, problem in settings.limits.fill(Limits).cross_checks(part_size, show_size):
        yield f"limits.{name}", problem
    for name in ("reserved", "reserved_per_client"):
        reserved, most = getattr(settings.limits, name), settings.limits.max_size
        if reserved is not None and most is not None and most > reserved:
            yield "limits.max_size", f"is more than limits.{name} ({show_size(reserved)}) lets in; raise that one too"
    if settings.limits.buffers < settings.limits.head_size:
        size = show_size(settings.limits.head_size)
        yield "limits.buffers", f"is less than one request head may take, limits.head_size ({size}); raise it"
