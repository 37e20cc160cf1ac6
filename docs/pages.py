"""Writes the pages that follow from the code (`make docs`). A test compares what stands there with that."""

from __future__ import annotations

import inspect
from pathlib import Path

from tusserver.settings.catalog import ALIASES, catalog
from tusserver.settings.schema import Settings

DOCS = Path(__file__).parent

_SETTINGS = """\
# Settings

<!-- Written by `make docs` from tusserver/settings/schema.py: change it there. -->

Each setting can be given as a flag (`--limits.max_size 2GB`), in the environment (`TUSSERVER_LIMITS__MAX_SIZE=2GB`) or
in a TOML file:

```toml
[limits]
max_size = "2GB"

[expiry]
after = "7d"
```

The file is `tusserver.toml` in the working folder, or the one that `--config` or `TUSSERVER_CONFIG` names. This makes
one to start from, with every setting and where it comes from:

```sh
tusserver config > tusserver.toml
```

Flags win over the environment, and the environment over the file. Sizes are written like `500MB` or `16KiB`, times like
`90s`, `1h30m` or `7d`, lists with commas. A setting that is wrong stops the start with one line that names it, where it
came from and the remedy.

What everybody sets has a short name too:

| flag | environment | setting |
|---|---|---|
{short}
"""

_GROUP = """
## {name}

{meaning}

| setting | default | meaning |
|---|---|---|
{rows}
"""


def settings_page() -> str:
    """Return docs/settings.md as the declaration of the settings wants it."""
    short = [
        f"| `--{word}` | `TUSSERVER_{word.replace('-', '_').upper()}` | `{name}` |" for word, name in ALIASES.items()
    ]
    page = _SETTINGS.replace("{short}", "\n".join(short))
    for name, holder in Settings.model_fields.items():
        rows = [
            f"| `{setting.name}` | {f'`{setting.default}`' if setting.default else ''} | {setting.help} |"
            for setting in catalog().values()
            if setting.name.startswith(f"{name}.")
        ]
        page += _GROUP.format(name=name, meaning=inspect.getdoc(holder.annotation) or "", rows="\n".join(rows))
    return page


if __name__ == "__main__":
    (DOCS / "settings.md").write_text(settings_page(), "utf-8")
