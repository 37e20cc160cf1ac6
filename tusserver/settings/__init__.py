"""Settings: one declaration from which flags, environment variables, the TOML file and `--help` derive.

Order: defaults < TOML file < environment < flags. Every value remembers where it came from, so a refusal can name it in
one line: setting, value, source, remedy.

Plain pydantic does the checking. pydantic-settings would read the same sources, but it forgets where a value came from
and passes over an unknown `TUSSERVER_…` variable, and those two are what an operator needs when something is wrong.
"""
