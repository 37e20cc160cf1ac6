"""Types of values: each reads what an operator writes, and writes it again."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from tusserver.protocol.extensions import Extension


@dataclass(frozen=True, slots=True)
class Metavar:
    """Placeholder for a value in `--help`."""

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
    """Return the bytes of `500MB`, `16KiB`, `1.5GB` or a plain number.

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
    """Return `16KiB` for 16384: the largest unit that divides it."""
    fitting = [(factor, unit) for unit, factor in _SIZES.items() if size and size % factor == 0]
    factor, unit = max(fitting, default=(1, "B"))
    return str(size) if factor == 1 else f"{size // factor}{unit}"


def read_duration(value: object) -> timedelta:
    """Return the time of `24h`, `90s`, `1h30m`, `250ms`, `7d` or plain seconds.

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
    """Return `1h30m` for 5400 seconds, but `90s` and `24h`, as is usual."""
    rest, shown = round(duration.total_seconds() * 1000), ""
    days, hours, minutes = 86_400_000, 3_600_000, 60_000
    for unit, size in (("d", days), ("h", hours), ("m", minutes), ("s", 1000), ("ms", 1)):
        if (unit == "d" and (rest == days or rest % days)) or (unit == "m" and not shown and rest < 2 * minutes):
            continue
        count, rest = divmod(rest, size)
        shown += f"{count}{unit}" if count else ""
    return shown or "0s"


def _text(value: object) -> str:
    # A bool is an int in Python, but no number in TOML.
    return "" if isinstance(value, bool) else str(value)


def _unless(*words: str, read: Any) -> Any:
    """Return a validator for which `words` mean None."""

    def validate(value: object) -> object:
        return None if value is None or (isinstance(value, str) and value.strip().lower() in words) else read(value)

    return BeforeValidator(validate)


def _shown(show: Any, none: str) -> PlainSerializer:
    return PlainSerializer(lambda value: none if value is None else show(value), return_type=str)


def _positive(value: timedelta | None) -> timedelta | None:
    if value == timedelta():
        raise ValueError("must be more than 0; write a time like 90s, or off where that is possible")
    return value


def _mode(value: object) -> int:
    # A TOML number would be ambiguous: 600 is decimal there, and file modes are octal.
    if not isinstance(value, str) or not re.fullmatch(r"(0o)?[0-7]{3,4}", value) or int(value, 8) > 0o777:
        raise ValueError('is not an octal mode; write one in quotes, like "640"')
    return int(value, 8)


def _owner_has(bits: int) -> AfterValidator:
    def validate(mode: int) -> int:
        if mode & bits != bits:
            raise ValueError(f"denies the server itself access; write a mode with the bits {bits:o}")
        return mode

    return AfterValidator(validate)


def _items(value: object) -> object:
    """Split text at its commas; a list is returned as it is."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _url_path(value: str) -> str:
    """Remove the trailing slash: uploads are served with and without it."""
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
Host = Annotated[str, AfterValidator(_host)]
UrlPath = Annotated[str, AfterValidator(_url_path)]
FileMode = Annotated[Mode, _owner_has(0o600)]
FolderMode = Annotated[Mode, _owner_has(0o700)]
Template = Annotated[str, Metavar("TEMPLATE")]
Percent = Annotated[int, Field(ge=0, le=100), Metavar("PERCENT")]
Extensions = Annotated[tuple[Annotated[Extension, BeforeValidator(_extension)], ...], _List, Metavar("EXTENSION,…")]
WebOrigins = Annotated[
    tuple[Annotated[str, AfterValidator(_web_origin)], ...], _List, AfterValidator(_alone), Metavar("ORIGIN,…")
]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...], _List, AfterValidator(_alone), Metavar("NETWORK,…")
]
