"""`tusserver`: finds the command, and prints every refusal in one line on standard error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from tusserver import __version__
from tusserver.cli import completion, config, manage, serve, terminal, transfers
from tusserver.cli.flags import SOURCES, Parser, UsageError, add_settings, parse
from tusserver.settings.sources import SettingsError

OK, FAILED, WRONG = 0, 1, 2
"""Exit codes: done; not found or failed; wrong usage or settings."""

Command = Callable[[argparse.Namespace], int]

_CLIENTS: tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None], Command], ...] = (
    (
        "upload",
        "upload files to a tus server, and resume what was cut",
        transfers.add_upload,
        transfers.upload,
    ),
    (
        "download",
        "download a file, and resume what was cut",
        transfers.add_download,
        transfers.download,
    ),
)
"""Commands that speak to a server and know no settings."""
_STORE = ("store.root",)


def build_parser() -> Parser:
    """Declare the commands."""
    parser = Parser(prog="tusserver", description="A tus 1.0.0 server for resumable uploads.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"tusserver {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, run: Command, help: str, shown: Sequence[str] | None, more: str = "") -> argparse.ArgumentParser:
        description = f"{help[0].upper()}{help[1:]}. {more}".rstrip()
        # Forty flags would make the usage a page of its own.
        usage = f"tusserver {name} [--setting VALUE ...]" if shown is None else None
        command = commands.add_parser(
            name, help=help, usage=usage, description=description, epilog=SOURCES, allow_abbrev=False
        )
        command.set_defaults(run=run)
        add_settings(command, shown)
        return command

    add("serve", serve.serve, "take uploads until Ctrl-C", None)
    list_ = add("list", manage.list_, "list the uploads in the data folder", _STORE)
    list_.add_argument("--watch", action="store_true", help="show the newest until Ctrl-C, again every second")
    list_.add_argument("--limit", metavar="N", type=_count, help="only the N newest")
    show = add("show", manage.show, "show everything about an upload", _STORE)
    show.add_argument("--watch", action="store_true", help="show it until Ctrl-C, again every second")
    show.add_argument("id", metavar="ID")
    remove = add(
        "remove",
        manage.remove,
        "remove uploads and everything that belongs to them, without asking",
        _STORE,
        "A server that is writing one of them is told to stop, as by DELETE.",
    )
    remove.add_argument("ids", metavar="ID", nargs="+")
    add(
        "sweep",
        manage.sweep,
        "remove the uploads that are due, as a running server does by itself",
        _STORE,
        "Also while a server runs on the folder: what it is writing is not removed.",
    )
    effective = add("config", config.config, "print the settings in effect, and where each came from", None)
    for name, about, describe, run in _CLIENTS:
        client = commands.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=transfers.EXIT_CODES,
            allow_abbrev=False,
        )
        client.set_defaults(run=run)
        describe(client)
    about = "print a script for bash that completes commands and flags"
    tab = commands.add_parser(
        "completion", help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
    )
    tab.set_defaults(run=lambda _: _completion(commands.choices))
    for command in (list_, show, effective):
        help_ = "print JSON, an object a line" if command is list_ else "print JSON"
        command.add_argument("--json", action="store_true", help=help_)
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def _completion(commands: Mapping[str, argparse.ArgumentParser]) -> int:
    terminal.echo(completion.script(commands))
    return OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is returned."""
    parser = build_parser()
    try:
        options = parse(parser, sys.argv[1:] if arguments is None else arguments)
        if "run" not in options:
            parser.print_help(sys.stderr)
            return WRONG
        run: Command = options.run
        return run(options)
    except (SettingsError, UsageError) as refusal:
        terminal.error(str(refusal))
        return WRONG
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, say `head`, has seen enough. Python would print an error when it flushes at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
