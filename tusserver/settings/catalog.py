"""Every setting with its flags, environment variables, default and help, for what is derived from the declaration."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from tusserver.settings.schema import Group, Settings
from tusserver.settings.values import Metavar

PREFIX = "TUSSERVER_"

ALIASES = {
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
"""Short names of the usual settings: `--max-size` and `TUSSERVER_MAX_SIZE` for limits.max_size."""

RENAMED = {
    "limits.lock_patience": "limits.lock_timeout",
}
"""Old names of settings, which still work, and the new ones. An entry is removed one release after it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting, as flags, environment, help and documents use it."""

    name: str
    """`group.name`"""
    flags: tuple[str, ...]
    """The short one first."""
    variables: tuple[str, ...]
    """Environment variables, the short one first."""
    metavar: str
    help: str
    default: str
    """As an operator would write it."""
    listed: bool
    """Whether it takes several values."""


@functools.cache
def catalog() -> Mapping[str, Setting]:
    """Return every setting by its name, in the order of the schema."""
    defaults = Settings().model_dump(mode="json")
    short = {name: word for word, name in ALIASES.items()}
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


@functools.cache
def old_names() -> Mapping[str, Setting]:
    """Return renamed settings by their old names, with the flags and variables of these."""
    return {
        old: replace(
            catalog()[new], name=old, flags=(f"--{old}",), variables=(PREFIX + old.replace(".", "__").upper(),)
        )
        for old, new in RENAMED.items()
    }


def _metavar(key: str, info: FieldInfo) -> str:
    if get_origin(info.annotation) is Literal:
        return "|".join(get_args(info.annotation))
    if info.annotation is bool:
        return "true|false"
    return next((mark.word for mark in info.metadata if isinstance(mark, Metavar)), key.upper())


def show(value: object) -> str:
    """Return a value of `model_dump(mode="json")` as an operator would write it in a flag."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)
