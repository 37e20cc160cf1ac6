"""`tusserver config`: the settings that count, each with where it came from, as a TOML file that could be used."""

from __future__ import annotations

import argparse
import json

from tusserver.cli.flags import load_settings
from tusserver.cli.terminal import say


def config(options: argparse.Namespace) -> int:
    """Print them.

    Raises:
        SettingsError
    """
    configured = load_settings(options)
    values = configured.settings.model_dump(mode="json")
    if options.json:
        entries = {
            f"{group}.{key}": {"value": value, "origin": str(configured.source(f"{group}.{key}"))}
            for group, settings in values.items()
            for key, value in settings.items()
        }
        say(json.dumps(entries, indent=2, ensure_ascii=False))
        return 0
    for group, settings in values.items():
        say(f"[{group}]")
        lines = {key: f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()}
        width = min(max(map(len, lines.values())), 48)
        for key, line in lines.items():
            say(f"{line:<{width}}  # {configured.source(f'{group}.{key}')}")
        say("")
    return 0
