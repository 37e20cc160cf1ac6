"""The settings as flags: every setting of the schema is an option, in the same groups."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from tusserver.settings.catalog import Setting, catalog, old_names
from tusserver.settings.schema import Settings
from tusserver.settings.sources import CONFIG, CONFIG_FILE, LoadedSettings, SetValue, Source, load


class UsageError(Exception):
    """The command line cannot be understood. The text is one line."""


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, not with a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(f"{message}; see {self.prog} --help")


class _Give(argparse.Action):
    """Stores a value together with its flag; the flag of a list may be repeated."""

    setting: Setting

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given: dict[str, SetValue] = namespace.given
        name, value = self.setting.name, values
        if self.setting.listed and name in given:
            value = f"{given[name].value},{values}"
        # A new dict: the old one may be the parser's default.
        namespace.given = {**given, name: SetValue(value, Source("flag", option_string or self.setting.flags[0]))}


def add_settings(parser: argparse.ArgumentParser, shown: Collection[str] | None = None) -> None:
    """Add `--config` and a flag for every setting. `shown`: names of those that are in `--help`; None: all."""
    parser.set_defaults(given={})
    general = parser.add_argument_group("settings")
    general.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings in TOML (default: {CONFIG_FILE} if it exists)"
    )
    groups = {
        name: general if shown is not None else parser.add_argument_group(name, info.annotation.__doc__)
        for name, info in Settings.model_fields.items()
        if info.annotation is not None
    }
    for setting in chain(catalog().values(), old_names().values()):
        text = f"{setting.help} (default: {setting.default or 'none'})".replace("%", "%%")
        action = groups[setting.name.split(".")[0]].add_argument(
            *setting.flags,
            action=_Give,
            dest="given",
            default=argparse.SUPPRESS,
            metavar=setting.metavar,
            help=text if setting.name in (catalog() if shown is None else shown) else argparse.SUPPRESS,
        )
        assert isinstance(action, _Give)
        action.setting = setting


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse arguments; the name of a dotted flag may have dashes for underscores.

    Raises:
        UsageError
    """
    known = [flag for setting in catalog().values() for flag in setting.flags]
    options, rest = parser.parse_known_args([_underscored(argument) for argument in arguments])
    if rest:
        name = rest[0].split("=")[0]
        close = difflib.get_close_matches(name, known, 1, 0.6) if name.startswith("--") else []
        raise UsageError(f"there is no {name}; " + (f"did you mean {close[0]}?" if close else "see tusserver --help"))
    return options


def _underscored(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return (
        name[:2] + name[2:].replace("-", "_") + equals + value
        if argument.startswith("--") and "." in name
        else argument
    )


def load_settings(options: argparse.Namespace) -> LoadedSettings:
    """Load the settings with the flags of `parse`.

    Raises:
        SettingsError
    """
    return load(options.given, environ=os.environ, config=options.config)


SOURCES = (
    "Every setting can be set by its flag, in the environment (TUSSERVER_GROUP__NAME; TUSSERVER_PORT and so on for "
    f"the short flags) and in a TOML file ({CONFIG} or --config names it). Flags override the environment, which "
    "overrides the file."
)
"""The end of `--help`."""
