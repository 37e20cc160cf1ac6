"""`tusserver completion`: completion for bash, generated from the declared commands."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping


def script(commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """A script for bash to source: commands first, then flags; any other word is a file."""
    cases = "\n".join(f"    {name}) words={shlex.quote(' '.join(_flags(each)))} ;;" for name, each in commands.items())
    return f"""\
_tusserver() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} words=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words={shlex.quote(" ".join((*commands, "--help", "--version")))}
  elif [ "${{current#-}}" != "$current" ]; then
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
  fi
  [ -z "$words" ] || COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o bashdefault -o default -F _tusserver tusserver"""


def _flags(command: argparse.ArgumentParser) -> list[str]:
    # argparse has no public list of what was declared.
    shown = [action for action in command._actions if action.help != argparse.SUPPRESS]
    return [flag for action in shown for flag in action.option_strings if flag.startswith("--")]
