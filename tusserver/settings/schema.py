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
        """Return the options of a dataclass whose fields are called as settings of this group."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(cast(Any, kind))})


class ServerSettings(Group):
    """Where it listens, and how it stops."""

    host: Host = "127.0.0.1"
    """Address or name to listen on; 0.0.0.0 for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port to listen on; 0 lets the system pick one."""
    path: UrlPath = "/files"
    """URL path of the uploads, served with and without a trailing slash."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that serve, as many as there are cores at most; all share the data folder."""
    shutdown_timeout: Duration = timedelta(seconds=10)
    """Longest wait for running requests at the stop. Uploads do not use it: they are cut at once, their bytes kept."""
    keep_alive: Interval = timedelta(seconds=75)
    """How long an idle connection stays open."""
    backlog: Annotated[int, Field(ge=1)] = 2048
    """Connections that may wait to be accepted."""


class StoreSettings(Group):
    """Where uploads are kept, and how safely."""

    root: Folder = Path("storage")
    """Data folder, made if missing."""
    durability: Literal["ack", "finish", "none"] = "ack"
    """What survives a power cut: all that was acknowledged, finished uploads, or what the system happened to write."""
    finished_folder: FolderOrNone = None
    """Where finished files are moved to, on the file system of store.root. Unset: they stay at their place."""
    finished_name: Template = "{filename}"
    """Name there, of {id} {filename} {stem} {suffix} {year} {month} {day}; / makes folders."""
    reserve: Size = 256 * 1024**2
    """Free space below which new uploads get 507; of inodes, the same share. Never more than a tenth of the disk."""
    file_mode: FileMode = 0o600
    """Permissions of files."""
    folder_mode: FolderMode = 0o700
    """Permissions of folders."""


class LimitsSettings(Group):
    """How much a client may ask for."""

    connections: CountOrOff = 8_000
    """Most connections in all, three open files for each. Further ones get 503."""
    connections_per_address: CountOrOff = None
    """Most of them from one IPv4 address or IPv6 /64; proxies.trusted are not counted."""
    head_timeout: DurationOrOff = timedelta(seconds=30)
    """Longest time for a request head, from its first byte or the begin of the connection; then it is closed."""
    max_size: SizeOrUnlimited = None
    """Largest upload."""
    body_size: SizeOrUnlimited = None
    """Longest body of one request; a client with more to send must send it in pieces."""
    metadata_size: Size = 16 * 1024
    """Longest Upload-Metadata."""
    header_size: Size = 17 * 1024
    """Longest value of any one header but Upload-Concat, which has limits.parts and limits.head_size."""
    head_size: Size = 192 * 1024
    """Longest request head: room for limits.parts URLs in Upload-Concat."""
    parts: Annotated[int, Field(ge=1)] = 1000
    """Most partial uploads in a final one."""
    finals_per_part: Annotated[int, Field(ge=1)] = 100
    """Most final uploads that one partial upload is in, joined or not; the same one asked for again is one."""
    uploads: CountOrOff = None
    """Most unfinished uploads in the data folder, by whatever process."""
    uploads_per_client: CountOrOff = None
    """Most of them made from one IPv4 address or IPv6 /64, as proxies.trusted tell it."""
    untouched: Percent = 50
    """Per cent of the free space that uploads without a byte may hold; others get theirs with their first byte."""
    reserved: SizeOrOff = None
    """Most bytes that unfinished uploads may lack of the lengths they declared, in all; further ones get 507."""
    reserved_per_client: SizeOrOff = None
    """Most of them of the uploads of one client; further ones get 429."""
    idle_timeout: Interval = timedelta(seconds=30)
    """A client that is silent, or takes nothing of an answer, for so long is cut off, its bytes kept."""
    min_speed: SizeOrOff = 100
    """Bytes a second that a body must bring, averaged over limits.idle_timeout; else it is cut off, its bytes kept."""
    buffers: Size = 32 * 1024**2
    """Memory of a process for bodies that wait to be written, in fair shares of 32 KiB or more; as much for heads."""
    lock_timeout: Duration = timedelta(seconds=5)
    """How long a PATCH waits for another one that is alive before it gets 423."""


class ExpirySettings(Group):
    """When uploads are removed."""

    after: DurationOrOff = timedelta(hours=24)
    """Life of an unfinished upload; off keeps it for ever, whether it got bytes or not."""
    untouched: DurationOrOff = timedelta(hours=1)
    """Life of one that never got a byte; expiry.after at most, which its first byte starts. off: like the others."""
    sliding: bool = True
    """Whether each PATCH starts that time anew; false counts from the creation."""
    keep_finished: DurationOrOff = None
    """Life of a finished upload; off keeps it for ever."""
    keep_parts: DurationOrOff = timedelta(days=7)
    """Life of a complete partial upload, joined or not; off keeps it for ever."""
    sweep_interval: Interval = timedelta(seconds=60)
    """How often the server looks for uploads that are due."""


class TusSettings(Group):
    """What is spoken."""

    disable: Extensions = ()
    """Extensions to switch off, and with them those that need them."""
    download: bool = True
    """Whether GET gives back finished uploads."""
    delete_parts: bool = False
    """Whether partial uploads are removed once their final one is done."""


class CorsSettings(Group):
    """Which web pages may use the server."""

    enabled: bool = True
    """Whether browsers are told at all."""
    origins: WebOrigins = ("*",)
    """Exact origins of the pages, or * for any."""
    credentials: bool = False
    """Whether cookies and logins may come along. Needs named origins."""
    allow_headers: HeaderNames = ()
    """Further request headers that pages may send."""
    expose_headers: HeaderNames = ()
    """Further response headers that pages may read."""
    max_age: Duration = timedelta(hours=24)
    """How long a browser remembers the answer."""


class ProxiesSettings(Group):
    """Reverse proxies in front."""

    trusted: Networks = ()
    """Addresses or networks of proxies that are believed; * for all."""
    headers: Literal["x-forwarded", "forwarded"] = "x-forwarded"
    """By which headers: X-Forwarded-* or Forwarded (RFC 7239); the other ones may come from anybody."""
    trailers: bool = False
    """Whether they pass on the trailers of requests; if not, checksum-trailer is not offered through them."""
    relative_location: bool = False
    """Whether Location is a path, without scheme and host."""


class PagesSettings(Group):
    """Pages for people."""

    upload: bool = True
    """Whether a browser gets a page to upload with at /."""


class LogSettings(Group):
    """What is told on standard error."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """Least important messages to tell."""
    format: Literal["text", "json"] = "text"
    """One line or one JSON object a message."""


class Settings(Group):
    """All of them."""

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
    """Say which settings cannot stand together: the name of one, and the problem with its remedy."""
    if settings.cors.credentials and "*" in settings.cors.origins:
        # Echoing whoever asks would let any page on the web act with its visitor's login.
        yield "cors.credentials", "needs exact origins; name them in cors.origins"
    joins = not {Extension.CREATION, Extension.CONCATENATION} & set(settings.tus.disable)
    prefix = "" if settings.proxies.relative_location else "http://localhost"  # clients send back what Location said
    part_size = len(f"{prefix}{settings.server.path}/{ID_DIGITS * 'x'} ") if joins else 0
    for name, problem in settings.limits.fill(Limits).contradictions(part_size, show_size):
        yield f"limits.{name}", problem
    for name in ("reserved", "reserved_per_client"):
        reserved, most = getattr(settings.limits, name), settings.limits.max_size
        if reserved is not None and most is not None and most > reserved:
            yield "limits.max_size", f"is more than limits.{name} ({show_size(reserved)}) lets in; raise that one too"
    if settings.limits.buffers < settings.limits.head_size:
        size = show_size(settings.limits.head_size)
        yield "limits.buffers", f"is less than one request head may take, limits.head_size ({size}); raise it"
