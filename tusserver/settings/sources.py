"""Loads settings from file, environment and flags, and refuses a wrong one in one line that says where it came from."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tusserver.settings.catalog import ALIASES, PREFIX, RENAMED, catalog, old_names
from tusserver.settings.schema import Settings, cross_checks

CONFIG = "TUSSERVER_CONFIG"
"""Environment variable that names the TOML file, as `--config` does."""
CONFIG_FILE = Path("tusserver.toml")
"""In the working folder; read if neither names a file."""


class SettingsError(Exception):
    """A setting prevents the start. The text is one line: the setting, its source, the remedy."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from."""

    kind: Literal["default", "file", "environment", "flag"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class SetValue:
    """A value as it was written, and its source."""

    value: object
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """Settings, and the values that were set explicitly."""

    settings: Settings
    given: Mapping[str, SetValue] = field(default_factory=dict)
    """By name; a setting that is missing here has its default."""
    notices: Sequence[str] = ()
    """Lines for the log: which values were set by an old name."""

    def source(self, name: str) -> Source:
        """Return where the value of the setting `name` came from."""
        return self.given[name].source if name in self.given else Source("default")

    def refusal(self, name: str, problem: str) -> SettingsError:
        """Return the error for a setting that cannot be used: one line."""
        return _refusal(name, self.given.get(name), problem)


def load(
    flags: Mapping[str, SetValue] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> LoadedSettings:
    """Merge the sources and check the result. `config`: the file of `--config`.

    Raises:
        SettingsError
    """
    environ = environ or {}
    written = {**_file(environ, config), **_environment(environ), **(flags or {})}
    given = dict(_by_new_names(written))
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
    loaded = LoadedSettings(settings=settings, given=given, notices=[*_notices(written)])
    for name, problem in cross_checks(settings):
        raise loaded.refusal(name, problem)
    return loaded


def _by_new_names(written: Mapping[str, SetValue]) -> Iterator[tuple[str, SetValue]]:
    for name, value in written.items():
        new = RENAMED.get(name, name)
        if name != new and new in written:
            raise _refusal(name, value, f"is the old name of {new}, given too ({written[new].source}); leave one out")
        yield new, value


def _notices(written: Mapping[str, SetValue]) -> Iterator[str]:
    for old, new in RENAMED.items():
        if old in written:
            yield f"{old} ({written[old].source}) is called {new} now; the old name will not work in the next release"


def _file(environ: Mapping[str, str], config: Path | None) -> dict[str, SetValue]:
    path, named_by = CONFIG_FILE, ""
    if config is not None:
        path, named_by = config, "flag --config: "
    elif environ.get(CONFIG):
        path, named_by = Path(environ[CONFIG]), f"environment {CONFIG}: "
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if not named_by:
            return {}
        raise SettingsError(f"{named_by}there is no file {path}; correct the name or leave it out") from None
    except OSError as error:
        raise SettingsError(
            f"{named_by}{path} cannot be read ({error.strerror}); give this user access to it"
        ) from None
    except ValueError as error:  # of TOML and of UTF-8
        raise SettingsError(f"file {path} is not TOML: {error}") from None
    return dict(_tables(data, Source("file", str(path))))


def _tables(data: Mapping[str, object], source: Source) -> Iterator[tuple[str, SetValue]]:
    for group, table in data.items():
        if not isinstance(table, dict):
            name = ALIASES.get(group.replace("_", "-"), "group.name")
            remedy = f"write {name.split('.')[1]} below [{name.split('.')[0]}]"
            raise SettingsError(f"{source}: {group} is in no group; {remedy}")
        for key, value in table.items():
            name = f"{group}.{key}"
            if name not in catalog() and name not in RENAMED:
                raise SettingsError(f"{source}: {name} is not a setting{_hint(name, catalog())}")
            yield name, SetValue(value, source)


_KUBERNETES = re.compile(rf"{PREFIX}(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_\w+)")
"""Kubernetes gives every container in a namespace such variables for a service that is called tusserver."""


def _environment(environ: Mapping[str, str]) -> dict[str, SetValue]:
    settings = chain(catalog().values(), old_names().values())
    names = {variable: setting.name for setting in settings for variable in setting.variables}
    given: dict[str, SetValue] = {}
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
            problem = f"is given as {other.source.name} too, with another value; unset one of them"
            raise _refusal(name, SetValue(value, Source("environment", variable)), problem)
        given[name] = SetValue(value, Source("environment", variable))
    return given


def _hint(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else "; `tusserver config` prints all of them"


def _refusal(name: str, given: SetValue | None, problem: str) -> SettingsError:
    if given is None:
        return SettingsError(f"{name} = {catalog()[name].default} (default) {problem}")
    value = json.dumps(given.value, default=str)  # escapes what could break the line
    return SettingsError(f"{name} = {value if len(value) <= 200 else value[:200] + '…'} ({given.source}) {problem}")


def _problem(name: str, error: Any) -> str:
    """Return what pydantic found, in our words and with the remedy."""
    context = error.get("ctx", {})
    example = f"; write one like {catalog()[name].default}"
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
            return f"is not valid ({error['msg']}); write it like {catalog()[name].default or catalog()[name].metavar}"
