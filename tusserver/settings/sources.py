"""The sources of settings: file, environment and flags, where each value came from, and refusals in one line."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tusserver.settings.catalog import PREFIX, SHORT, declared
from tusserver.settings.schema import Settings, contradictions

CONFIG = "TUSSERVER_CONFIG"
"""Variable that names the TOML file, as `--config` does."""
CONFIG_FILE = Path("tusserver.toml")


class SettingsError(Exception):
    """A setting stops the start. The text is one line: the setting, its origin, the remedy."""


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
