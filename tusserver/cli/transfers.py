"""The commands that speak to a server: their flags, without the libraries that only they need."""

from __future__ import annotations

import argparse
from pathlib import Path

EXIT_CODES = "Exit codes: 0 all done, 1 something failed, 2 wrong usage, 130 interrupted."


def upload(options: argparse.Namespace) -> int:
    """`tusserver upload`."""
    from tusserver.cli.upload import upload

    return upload(options)


def download(options: argparse.Namespace) -> int:
    """`tusserver download`."""
    from tusserver.cli.download import download

    return download(options)


def add_upload(command: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    command.add_argument("paths", metavar="FILE", nargs="+", help="a file, a folder, or - for standard input")
    command.add_argument("url", metavar="URL", help="where the server takes uploads: http://127.0.0.1:8080/files")
    again = command.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="resume what an earlier command started (the default)")
    again.add_argument("--fresh", action="store_true", help="start from the first byte")
    command.add_argument("--name", help="the file name that is sent to the server, of one file or of standard input")
    command.add_argument(
        "--metadata", action="append", default=[], metavar="KEY=VALUE", help="send this to the server too; repeatable"
    )
    command.add_argument("--checksum", metavar="NAME", help="let the server check each part: sha1, sha256, ...")
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="how many files at once (default: 1)")
    command.add_argument("--json", action="store_true", help="print one JSON object a line for each event")
    command.add_argument(
        "--quiet",
        action="store_true",
        help="show no progress; without a terminal on standard error there is none anyway",
    )
    _add_connection(command)


def add_download(command: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    command.add_argument("url", metavar="URL", help="the address of a finished upload, or of any file")
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where to (a folder: there; -: standard output; default: the file's name)",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing file")
    command.add_argument("--fresh", action="store_true", help="start from the first byte instead of resuming")
    command.add_argument("--json", action="store_true", help="print one JSON object a line for each event")
    command.add_argument(
        "--quiet",
        action="store_true",
        help="show no progress; without a terminal on standard error there is none anyway",
    )
    _add_connection(command)


def _add_connection(command: argparse.ArgumentParser) -> None:
    """Add the flags that say how to speak to a server."""
    command.add_argument(
        "--header", dest="headers", action="append", default=[], metavar="'NAME: VALUE'", help="send a header too"
    )
    command.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="send the token in FILE (Authorization: Bearer); without it, that of the variable TUSSERVER_TOKEN",
    )
    command.add_argument(
        "--retries", type=int, default=8, metavar="N", help="tries without progress before giving up (default: 8)"
    )
