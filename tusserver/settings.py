"""Settings: one declaration from which flags, environment variables, the TOML file and `--help` derive.

Order: defaults < TOML file < environment < flags. Every value remembers where it came from, so a refusal can name it in
one line: setting, value, origin, remedy.

Plain pydantic does the checking. pydantic-settings would read the same sources, but it forgets where a value came from
and passes over an unknown `TUSSERVER_…` variable, and those two are what an operator needs when something is wrong.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic.fields import FieldInfo

from tusserver.protocol.messages import Extension
from tusserver.protocol.upload import ID_DIGITS

PREFIX = "TUSSERVER_"
CONFIG = "TUSSERVER_CONFIG"
"""Variable that names the TOML file, as `--config` does."""
CONFIG_FILE = Path("tusserver.toml")
"""Read from the working folder if neither names one."""

SHORT = {
    "host": "server.host",
    "port": "server.port",
    "path": "server.path",
    "workers": "server.workers",
    "storage": "store.root",
    "max-size": "limits.max_size",
    "expire-after": "expiry.after",
    "sweep-interval": "expiry.sweep_interval",
    "durability": "store.durability",
}
"""What everybody sets has a short name: `--max-size` and `TUSSERVER_MAX_SIZE` for limits.max_size."""


class SettingsError(Exception):
    """A setting stops the start. The text is one line: the setting, its origin, the remedy."""


# kinds of values -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metavar:
    """Word for a value in `--help`."""

    word: str


_SIZES = {unit: 1000**power for power, unit in enumerate(("B", "KB", "MB", "GB", "TB", "PB"))}
_SIZES |= {unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB", "PiB"), 1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII | re.IGNORECASE)
_SPANS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_LONGEST = timedelta(days=36500)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_PATH = re.compile(r"(/[A-Za-z0-9_~.-]+)+", re.ASCII)


def read_size(value: object) -> int:
    """Bytes of `500MB`, `16KiB`, `1.5GB` or a plain number.

    Raises:
        ValueError
    """
    found = _SIZE.fullmatch(_text(value).strip())
    factor = found and {unit.lower(): size for unit, size in _SIZES.items()}.get(found[2].lower() or "b")
    if not found or not factor:
        raise ValueError("is not a size; write one like 500MB, 2GB or 16KiB")
    size = int(Decimal(found[1]) * factor)
    if size >= 2**63:
        raise ValueError("is 2^63 bytes or more; write a smaller size")
    return size


def show_size(size: int) -> str:
    """`16KiB` for 16384: the largest unit that divides it."""
    fitting = [(factor, unit) for unit, factor in _SIZES.items() if size and size % factor == 0]
    factor, unit = max(fitting, default=(1, "B"))
    return str(size) if factor == 1 else f"{size // factor}{unit}"


def read_duration(value: object) -> timedelta:
    """Time of `24h`, `90s`, `1h30m`, `250ms`, `7d` or plain seconds.

    Raises:
        ValueError
    """
    if isinstance(value, timedelta):
        return value
    text = _text(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        text += "s"
    pairs = _SPAN.findall(text)
    if not pairs or "".join(number + unit for number, unit in pairs) != text:
        raise ValueError("is not a time; write one like 90s, 1h30m or 7d")
    seconds = sum(Decimal(number) * _SPANS[unit] for number, unit in pairs)
    if seconds > _LONGEST.total_seconds():
        raise ValueError("is longer than a hundred years; write a shorter time")
    return timedelta(seconds=float(seconds))


def show_duration(duration: timedelta) -> str:
    """`1h30m` for 5400 seconds, but `90s` and `24h`, as people say."""
    rest, shown = round(duration.total_seconds() * 1000), ""
    days, hours, minutes = 86_400_000, 3_600_000, 60_000
    for unit, size in (("d", days), ("h", hours), ("m", minutes), ("s", 1000), ("ms", 1)):
        if (unit == "d" and (rest == days or rest % days)) or (unit == "m" and not shown and rest < 2 * minutes):
            continue
        count, rest = divmod(rest, size)
        shown += f"{count}{unit}" if count else ""
    return shown or "0s"


def _text(value: object) -> str:
    # bool is an int to Python, and no number to anybody who writes a TOML file
    return "" if isinstance(value, bool) else str(value)


def _unless(*words: str, read: Any) -> Any:
    """A validator in which `words` mean None."""

    def validate(value: object) -> object:
        return None if value is None or (isinstance(value, str) and value.strip().lower() in words) else read(value)

    return BeforeValidator(validate)


def _shown(show: Any, none: str) -> PlainSerializer:
    return PlainSerializer(lambda value: none if value is None else show(value), return_type=str)


def _positive(value: timedelta | None) -> timedelta | None:
    if value == timedelta():
        raise ValueError("must be more than nothing; write a time like 90s, or off where that is possible")
    return value


def _mode(value: object) -> int:
    # A TOML number would be ambiguous: 600 is decimal there, and every file mode in the world is octal.
    if not isinstance(value, str) or not re.fullmatch(r"(0o)?[0-7]{3,4}", value) or int(value, 8) > 0o777:
        raise ValueError('is not an octal mode; write one in quotes, like "640"')
    return int(value, 8)


def _owner_has(bits: int) -> AfterValidator:
    def validate(mode: int) -> int:
        if mode & bits != bits:
            raise ValueError(f"locks the server itself out; write a mode with the bits {bits:o}")
        return mode

    return AfterValidator(validate)


def _items(value: object) -> object:
    """A list, or text with commas."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _url_path(value: str) -> str:
    """Without its trailing slash: uploads are served with and without it."""
    path = value.rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("is not a path of letters, digits and -._~ below /; write one like /files")
    return path


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+(%\w+)?", value.strip("[]"), re.ASCII):
        raise ValueError("is not an address or host name; write one like 127.0.0.1 or 0.0.0.0")
    return value.strip("[]")


def _web_origin(value: str) -> str:
    if value == "*":
        return value
    try:
        parts = urlsplit(value)
        exact = parts.port is None or parts.port > 0
    except ValueError:
        exact = False
    if not exact or not parts.hostname or value != f"{parts.scheme}://{parts.netloc}" or "@" in value or "*" in value:
        raise ValueError(f"has {value!r}, which is no exact origin; write one like https://app.example.com, or *")
    return value.lower()


def _network(value: str) -> str:
    try:
        return value if value == "*" else str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(f"has {value!r}, which is no address or network; write 10.0.0.0/8, ::1 or *") from None


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"has {value!r}, which is no header name; write one like X-Request-ID")
    return value


def _extension(value: object) -> Extension:
    try:
        return Extension(cast(str, value))
    except ValueError:
        raise ValueError(f"has {value!r}, which is no extension; known are {', '.join(Extension)}") from None


def _alone(values: tuple[str, ...]) -> tuple[str, ...]:
    if "*" in values and len(values) > 1:
        raise ValueError("has * beside others; write * alone or leave it out")
    return values


_List = BeforeValidator(_items)
Size = Annotated[int, BeforeValidator(read_size), PlainSerializer(show_size), Metavar("SIZE")]
SizeOrUnlimited = Annotated[
    int | None, _unless("unlimited", "off", read=read_size), _shown(show_size, "unlimited"), Metavar("SIZE|unlimited")
]
CountOrOff = Annotated[
    Annotated[int, Field(ge=1)] | None,
    _unless("off", "unlimited", read=lambda value: value),
    _shown(str, "off"),
    Metavar("NUMBER|off"),
]
SizeOrOff = Annotated[
    int | None, _unless("off", "unlimited", read=read_size), _shown(show_size, "off"), Metavar("SIZE|off")
]
Duration = Annotated[timedelta, BeforeValidator(read_duration), PlainSerializer(show_duration), Metavar("TIME")]
Interval = Annotated[Duration, AfterValidator(_positive)]
DurationOrOff = Annotated[
    timedelta | None,
    _unless("off", "never", read=read_duration),
    AfterValidator(_positive),
    _shown(show_duration, "off"),
    Metavar("TIME|off"),
]
Mode = Annotated[int, BeforeValidator(_mode), PlainSerializer(lambda mode: f"{mode:o}"), Metavar("OCTAL")]
Folder = Annotated[Path, BeforeValidator(lambda value: Path(value).expanduser()), Metavar("FOLDER")]
FolderOrNone = Annotated[
    Path | None, _unless("", read=lambda value: Path(value).expanduser()), _shown(str, ""), Metavar("FOLDER")
]
HeaderNames = Annotated[tuple[Annotated[str, AfterValidator(_header_name)], ...], _List, Metavar("NAME,…")]


# the declaration -----------------------------------------------------------------------------------------------------


class Group(BaseModel):
    """Settings of one subject."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Server(Group):
    """Where it listens, and how it stops."""

    host: Annotated[str, AfterValidator(_host)] = "127.0.0.1"
    """Address or name to listen on; 0.0.0.0 for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port to listen on; 0 lets the system pick one."""
    path: Annotated[str, AfterValidator(_url_path)] = "/files"
    """URL path of the uploads, served with and without a trailing slash."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that serve, as many as there are cores at most; all share the data folder."""
    shutdown_timeout: Duration = timedelta(seconds=10)
    """Longest wait for running requests at the stop. Uploads do not use it: they are cut at once, their bytes kept."""
    keep_alive: Interval = timedelta(seconds=75)
    """How long an idle connection stays open."""
    backlog: Annotated[int, Field(ge=1)] = 2048
    """Connections that may wait to be accepted."""


class Store(Group):
    """Where uploads are kept, and how safely."""

    root: Folder = Path("storage")
    """Data folder, made if missing."""
    durability: Literal["ack", "finish", "none"] = "ack"
    """What survives a power cut: all that was acknowledged, finished uploads, or what the system happened to write."""
    finished_folder: FolderOrNone = None
    """Where finished files are moved to, on the file system of store.root. Unset: they stay at their place."""
    finished_name: Annotated[str, Metavar("TEMPLATE")] = "{filename}"
    """Name there, of {id} {filename} {stem} {suffix} {year} {month} {day}; / makes folders."""
    reserve: Size = 256 * 1024**2
    """Free space below which new uploads get 507; of inodes, the same share. Never more than a tenth of the disk."""
    file_mode: Annotated[Mode, _owner_has(0o600)] = 0o600
    """Permissions of files."""
    folder_mode: Annotated[Mode, _owner_has(0o700)] = 0o700
    """Permissions of folders."""


class Limits(Group):
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
    untouched: Annotated[int, Field(ge=0, le=100), Metavar("PERCENT")] = 50
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
    lock_patience: Duration = timedelta(seconds=5)
    """How long a PATCH waits for another one that is alive before it gets 423."""


class Expiry(Group):
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


class Tus(Group):
    """What is spoken."""

    disable: Annotated[
        tuple[Annotated[Extension, BeforeValidator(_extension)], ...], _List, Metavar("EXTENSION,…")
    ] = ()
    """Extensions to switch off, and with them those that need them."""
    download: bool = True
    """Whether GET gives back finished uploads."""
    delete_parts: bool = False
    """Whether partial uploads are removed once their final one is done."""


class Cors(Group):
    """Which web pages may use the server."""

    enabled: bool = True
    """Whether browsers are told at all."""
    origins: Annotated[
        tuple[Annotated[str, AfterValidator(_web_origin)], ...], _List, AfterValidator(_alone), Metavar("ORIGIN,…")
    ] = ("*",)
    """Exact origins of the pages, or * for any."""
    credentials: bool = False
    """Whether cookies and logins may come along. Needs named origins."""
    allow_headers: HeaderNames = ()
    """Further request headers that pages may send."""
    expose_headers: HeaderNames = ()
    """Further response headers that pages may read."""
    max_age: Duration = timedelta(hours=24)
    """How long a browser remembers the answer."""


class Proxies(Group):
    """Reverse proxies in front."""

    trusted: Annotated[
        tuple[Annotated[str, AfterValidator(_network)], ...], _List, AfterValidator(_alone), Metavar("NETWORK,…")
    ] = ()
    """Addresses or networks of proxies that are believed; * for all."""
    headers: Literal["x-forwarded", "forwarded"] = "x-forwarded"
    """By which headers: X-Forwarded-* or Forwarded (RFC 7239); the other ones may come from anybody."""
    trailers: bool = False
    """Whether they pass on the trailers of requests; if not, checksum-trailer is not offered through them."""
    relative_location: bool = False
    """Whether Location is a path, without scheme and host."""


class Pages(Group):
    """Pages for people."""

    upload: bool = True
    """Whether a browser gets a page to upload with at /."""


class Log(Group):
    """What is told on standard error."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """Least important messages to tell."""
    format: Literal["text", "json"] = "text"
    """One line or one JSON object a message."""


class Settings(Group):
    """All of them."""

    server: Server = Field(default_factory=Server)
    store: Store = Field(default_factory=Store)
    limits: Limits = Field(default_factory=Limits)
    expiry: Expiry = Field(default_factory=Expiry)
    tus: Tus = Field(default_factory=Tus)
    cors: Cors = Field(default_factory=Cors)
    proxies: Proxies = Field(default_factory=Proxies)
    pages: Pages = Field(default_factory=Pages)
    log: Log = Field(default_factory=Log)


def contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """Say which settings cannot stand together: the name of one, and the problem with its remedy."""
    if settings.cors.credentials and "*" in settings.cors.origins:
        # Echoing whoever asks would let any page on the web act with its visitor's login.
        yield "cors.credentials", "needs exact origins; name them in cors.origins"
    if settings.limits.metadata_size > settings.limits.header_size:
        size = show_size(settings.limits.header_size)
        yield "limits.metadata_size", f"is more than limits.header_size ({size}) lets in; raise that one too"
    head_size, size = settings.limits.head_size, show_size(settings.limits.head_size)
    if settings.limits.header_size > head_size:
        yield "limits.header_size", f"is more than limits.head_size ({size}) lets in; raise that one too"
    for name in ("reserved", "reserved_per_client"):
        reserved, most = getattr(settings.limits, name), settings.limits.max_size
        if reserved is not None and most is not None and most > reserved:
            yield "limits.max_size", f"is more than limits.{name} ({show_size(reserved)}) lets in; raise that one too"
    if settings.limits.buffers < head_size:
        yield "limits.buffers", f"is less than one request head may take, limits.head_size ({size}); raise it"
    joins = not {Extension.CREATION, Extension.CONCATENATION} & set(settings.tus.disable)
    origin = "" if settings.proxies.relative_location else "http://localhost"  # clients send back what Location said
    least = settings.limits.parts * len(f"{origin}{settings.server.path}/{ID_DIGITS * 'x'} ")
    if joins and least > head_size:
        problem = f"need {least} bytes in Upload-Concat, and limits.head_size ({size}) lets in less"
        yield "limits.parts", f"{problem}; raise that one, or lower this one"


# what is declared, for whoever derives something from it -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as flags, environment, help and documents see it."""

    name: str
    """`group.name`"""
    flags: tuple[str, ...]
    """Short one first."""
    variables: tuple[str, ...]
    """Environment variables, short one first."""
    metavar: str
    help: str
    default: str
    """As one would write it."""
    listed: bool
    """Whether it takes several values."""


@functools.cache
def declared() -> Mapping[str, Setting]:
    """Every setting by its name, in the order of the declaration."""
    defaults = Settings().model_dump(mode="json")
    short = {name: word for word, name in SHORT.items()}
    settings = {}
    for group, holder in Settings.model_fields.items():
        for key, info in cast(type[Group], holder.annotation).model_fields.items():
            name = f"{group}.{key}"
            flags, variables = [f"--{name}"], [f"{PREFIX}{group}__{key}".upper()]
            if word := short.get(name):
                flags.insert(0, f"--{word}")
                variables.insert(0, PREFIX + word.replace("-", "_").upper())
            settings[name] = Setting(
                name=name,
                flags=tuple(flags),
                variables=tuple(variables),
                metavar=_metavar(key, info),
                help=info.description or "",
                default=show(defaults[group][key]),
                listed=get_origin(info.annotation) is tuple,
            )
    return settings


def _metavar(key: str, info: FieldInfo) -> str:
    if get_origin(info.annotation) is Literal:
        return "|".join(get_args(info.annotation))
    if info.annotation is bool:
        return "true|false"
    return next((mark.word for mark in info.metadata if isinstance(mark, Metavar)), key.upper())


def show(value: object) -> str:
    """A value of `model_dump(mode="json")` as one would write it in a flag."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)


# loading -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from."""

    kind: Literal["default", "file", "environment", "flag"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was written, and where."""

    value: object
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The settings that count, and what was given for them."""

    settings: Settings
    given: Mapping[str, Given] = field(default_factory=dict)
    """By name; what is missing has its default."""

    def origin(self, name: str) -> Origin:
        """Where the value of the setting `name` came from."""
        return self.given[name].origin if name in self.given else Origin("default")

    def refusal(self, name: str, problem: str) -> SettingsError:
        """Build the one line about a setting that cannot work."""
        return _refusal(name, self.given.get(name), problem)


def load(
    flags: Mapping[str, Given] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Effective:
    """Put the sources together and check the result. `config` is the file of `--config`.

    Raises:
        SettingsError
    """
    environ = environ or {}
    given = {**_file(environ, config), **_environment(environ), **(flags or {})}
    values: dict[str, dict[str, object]] = {}
    for name, item in given.items():
        group, key = name.split(".")
        values.setdefault(group, {})[key] = item.value
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"][:2]))
        raise _refusal(name, given.get(name), _problem(name, first)) from None
    effective = Effective(settings=settings, given=given)
    for name, problem in contradictions(settings):
        raise effective.refusal(name, problem)
    return effective


def _file(environ: Mapping[str, str], config: Path | None) -> dict[str, Given]:
    path, origin = CONFIG_FILE, ""
    if config is not None:
        path, origin = config, "flag --config: "
    elif environ.get(CONFIG):
        path, origin = Path(environ[CONFIG]), f"environment {CONFIG}: "
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if not origin:
            return {}
        raise SettingsError(f"{origin}there is no file {path}; correct the name or leave it out") from None
    except OSError as error:
        raise SettingsError(f"{origin}{path} cannot be read ({error.strerror}); give this user access to it") from None
    except ValueError as error:  # of TOML and of UTF-8
        raise SettingsError(f"file {path} is not TOML: {error}") from None
    return dict(_tables(data, Origin("file", str(path))))


def _tables(data: Mapping[str, object], origin: Origin) -> Iterator[tuple[str, Given]]:
    for group, table in data.items():
        if not isinstance(table, dict):
            name = SHORT.get(group.replace("_", "-"), "group.name")
            remedy = f"write {name.split('.')[1]} below [{name.split('.')[0]}]"
            raise SettingsError(f"{origin}: {group} stands outside of a group; {remedy}")
        for key, value in table.items():
            name = f"{group}.{key}"
            if name not in declared():
                raise SettingsError(f"{origin}: {name} is not a setting{_hint(name, declared())}")
            yield name, Given(value, origin)


_KUBERNETES = re.compile(rf"{PREFIX}(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_\w+)")
"""Kubernetes gives every container in a namespace such variables for a service that is called tusserver."""


def _environment(environ: Mapping[str, str]) -> dict[str, Given]:
    names = {variable: setting.name for setting in declared().values() for variable in setting.variables}
    given: dict[str, Given] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG or _KUBERNETES.fullmatch(variable):
            continue
        if variable not in names:
            raise SettingsError(f"environment {variable} is not a setting{_hint(variable, names)}")
        if not value or (variable == f"{PREFIX}PORT" and "://" in value):
            continue  # empty is what a compose file makes of a variable that is not set
        name = names[variable]
        other = given.get(name)
        if other is not None and other.value != value:
            problem = f"is given as {other.origin.name} too, with another value; unset one of them"
            raise _refusal(name, Given(value, Origin("environment", variable)), problem)
        given[name] = Given(value, Origin("environment", variable))
    return given


def _hint(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else "; `tusserver config` prints all of them"


def _refusal(name: str, given: Given | None, problem: str) -> SettingsError:
    if given is None:
        return SettingsError(f"{name} = {declared()[name].default} (default) {problem}")
    value = json.dumps(given.value, default=str)  # escapes what could break the line
    return SettingsError(f"{name} = {value if len(value) <= 200 else value[:200] + '…'} ({given.origin}) {problem}")


def _problem(name: str, error: Any) -> str:
    """Say what pydantic found in our words, with the remedy."""
    context = error.get("ctx", {})
    example = f"; write one like {declared()[name].default}"
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return "is not a whole number" + example
        case "greater_than_equal":
            return f"must be {context['ge']} or more" + example
        case "less_than_equal":
            return f"must be {context['le']} or less" + example
        case "literal_error":
            return f"must be {context['expected']}"
        case "bool_parsing" | "bool_type":
            return "must be true or false"
        case _:
            return (
                f"is not valid ({error['msg']}); write it like {declared()[name].default or declared()[name].metavar}"
            )
