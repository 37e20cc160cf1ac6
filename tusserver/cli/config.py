"""`tusserver config`: every setting with its value and source, as a TOML file that can be used."""

from __future__ import annotations

import argparse
import json

from tusserver.cli.flags import load_settings
from tusserver.cli.terminal import echo, error


def config(options: argparse.Namespace) -> int:
    """Print the settings.

    Raises:
        SettingsError
    """
    configured = load_settings(options)
    for line in configured.notices:
        error(line)
    values = configured.settings.model_dump(mode="json")
    if options.json:
        entries = {
            f"{group}.{key}": {"value": value, "origin": str(configured.source(f"{group}.{key}"))}
            for group, settings in values.items()
            for key, value in settings.items()
        }
        echo(json.dumps(entries, indent=2, ensure_ascii=False))
        return 0
    for group, settings in values.items():
        echo(f"[{group}]")
        lines = {key: f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()}
        width = min(max(map(len, lines.values())), 48)
        for key, line in lines.items():
            echo(f"{line:<{width}}  # {configured.source(f'{group}.{key}')}")
        echo("")
    return 0
