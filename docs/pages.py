"""Writes the pages that are generated from the code (`make docs`). A test compares them with it."""

from __future__ import annotations

import inspect
from pathlib import Path

from tusserver.settings.catalog import ALIASES, catalog
from tusserver.settings.schema import Settings

DOCS = Path(__file__).parent

_SETTINGS = """\
# Settings

<!-- Written by `make docs` from tusserver/settings/schema.py: change it there. -->

Each setting can be set by a flag (`--limits.max_size 2GB`), in the environment (`TUSSERVER_LIMITS__MAX_SIZE=2GB`) or
in a TOML file:

```toml
[limits]
max_size = "2GB"

[expiry]
after = "7d"
```

The file is `tusserver.toml` in the working folder, or the one that `--config` or `TUSSERVER_CONFIG` names. This writes
one to start from, with every setting and its source:

```sh
tusserver config > tusserver.toml
```

Flags override the environment, and the environment overrides the file. Sizes are written like `500MB` or `16KiB`, times
like `90s`, `1h30m` or `7d`, lists with commas. If a setting is wrong the server does not start, and one line names the
setting, its source and the remedy. The old name of a renamed setting works for one more release; the log names both.

The usual settings have a short name too:

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
    """Return the text of docs/settings.md."""
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
