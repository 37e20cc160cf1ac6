"""Loads settings as operators set them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tusserver.cli.flags import Parser, UsageError, add_settings, parse
from tusserver.settings.sources import LoadedSettings, SettingsError, load


def by_flags(*arguments: str, environ: dict[str, str] | None = None) -> LoadedSettings:
    """Settings of a command line."""
    parser = Parser(prog="tusserver", allow_abbrev=False)
    add_settings(parser)
    options = parse(parser, arguments)
    return load(options.given, environ=environ, config=options.config)


def by_file(text: str, *, path: Path = Path("tusserver.toml"), environ: dict[str, str] | None = None) -> LoadedSettings:
    """Settings of a TOML file."""
    path.write_text(text, encoding="utf-8")
    return load(environ=environ)


def refusal(call: object, *arguments: object, **more: object) -> str:
    """The one line a wrong setting gets."""
    assert callable(call)
    with pytest.raises((SettingsError, UsageError)) as refused:
        call(*arguments, **more)
    line = str(refused.value)
    assert "\n" not in line
    return line
