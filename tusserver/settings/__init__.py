"""Settings: one schema from which flags, environment variables, the TOML file and `--help` are derived.

Order of precedence: defaults < TOML file < environment < flags. Every value keeps its source, and a refusal names in
one line the setting, its value, its source and the remedy.

Plain pydantic does the checking. pydantic-settings would read the same sources, but it does not keep where a value came
from and ignores an unknown `TUSSERVER_…` variable, and an operator needs both when something is wrong.
"""
