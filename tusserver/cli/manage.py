"""`tusserver list`, `show`, `remove`, `sweep`: they work on the data folder, whether a server runs or not."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from tusserver.cli import listing, terminal
from tusserver.cli.flags import UsageError, load_settings
from tusserver.locks.base import Preempt
from tusserver.protocol.errors import TusError, UploadNotFound
from tusserver.protocol.upload import Upload, as_upload_id
from tusserver.server.logs import configure
from tusserver.settings.sources import LoadedSettings
from tusserver.stores.base import Store
from tusserver.text import printable

if TYPE_CHECKING:  # rich is slow to import, and most commands draw nothing
    from rich.console import Console
    from rich.table import Table

    Look = Callable[[Store, Console], Awaitable[Table]]
    """Makes the table that is shown."""

_LOCK_TIMEOUT = 5.0
"""Seconds to wait for a server that writes what is to be removed."""
_REFRESH = 1.0
"""Seconds between two reads of `--watch`."""
_REST = 4
"""Or so many times the seconds that the last read took, if that is more: a large folder is not read all the time."""


def list_(options: argparse.Namespace) -> int:
    """List the uploads; once, or until Ctrl-C.

    Raises:
        UsageError
    """
    if options.watch:
        return _watched(options, partial(_newest, limit=options.limit))
    return _with_store(options, partial(_list, as_json=options.json, limit=options.limit))


def show(options: argparse.Namespace) -> int:
    """Show one upload; once, or until Ctrl-C.

    Raises:
        UsageError
    """
    if options.watch:
        return _watched(options, partial(_lines_of, upload_id=options.id))
    return _with_store(options, partial(_show, upload_id=options.id, as_json=options.json))


def _watched(options: argparse.Namespace, look: Look) -> int:
    if options.json or not sys.stdout.isatty():
        raise UsageError("--watch needs a terminal, and goes without --json")
    try:
        return _with_store(options, partial(_watch, look=look))
    except KeyboardInterrupt:
        return 0


def remove(options: argparse.Namespace) -> int:
    """Remove uploads. A server that is writing one of them is asked to stop, as by DELETE."""
    configured = _prepare(options)
    return 1 if configured is None else _guarded(partial(_remove, configured, ids=options.ids))


def sweep(options: argparse.Namespace) -> int:
    """Remove what is due."""
    configured = _prepare(options)
    return 1 if configured is None else _guarded(partial(_sweep, configured))


def _prepare(options: argparse.Namespace) -> LoadedSettings | None:
    configured = load_settings(options)
    configure("warning", configured.settings.log.format, sys.stderr)
    root = configured.settings.store.root
    if not root.is_dir():  # a mistyped name should not leave a new, empty folder
        terminal.error(f"there is no data folder {root}; name it with --storage")
        return None
    for line in configured.notices:
        terminal.error(line)
    return configured


def _with_store(options: argparse.Namespace, act: Callable[[Store], Awaitable[int]]) -> int:
    configured = _prepare(options)
    if configured is None:
        return 1
    from tusserver.assembly import open_store

    return _guarded(partial(act, open_store(configured)))


def _guarded(act: Callable[[], Awaitable[int]]) -> int:
    try:
        return anyio.run(act)
    except (TusError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        terminal.error(printable(str(error)))
        return 1


async def _watch(store: Store, *, look: Look) -> int:
    from rich.live import Live

    # On the alternate screen: afterwards the terminal shows what it showed before.
    with Live(screen=True, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            # Made again for the size that the terminal has now.
            live.update(await look(store, live.console), refresh=True)
            await anyio.sleep(max(_REFRESH, _REST * (time.monotonic() - began)))


async def _newest(store: Store, console: Console, *, limit: int | None) -> Table:
    """The uploads that fit; the newest come first, as they move."""
    fits = console.height if limit is None else min(limit, console.height)
    return listing.table((await listing.newest(store, fits))[::-1], datetime.now(UTC), console.width)


async def _list(store: Store, *, as_json: bool, limit: int | None) -> int:
    now = datetime.now(UTC)
    print_ = listing.print_json if as_json else listing.printer(now)
    there = False
    async for uploads in listing.batches(store) if limit is None else listing.only(listing.newest(store, limit)):
        there = there or bool(uploads)
        print_(uploads)
    if not there and not as_json:
        terminal.echo("There are no uploads")
    sys.stdout.flush()  # else Python does it at the exit, and prints an error if the reader has closed the pipe
    return 0


async def _show(store: Store, *, upload_id: str, as_json: bool) -> int:
    try:
        facts = await _facts(store, upload_id)
    except UploadNotFound:
        terminal.error(f"there is no upload {printable(upload_id)}")
        return 1
    if as_json:
        terminal.echo(json.dumps(facts, indent=2))
        return 0
    for name, word in _lines(facts):
        terminal.echo(f"{name:<12} {word}")
    return 0


async def _lines_of(store: Store, console: Console, *, upload_id: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    try:
        for name, word in _lines(await _facts(store, upload_id)):
            table.add_row(name, Text(word, overflow="fold"))
    except UploadNotFound:
        table.add_row(Text(f"there is no upload {printable(upload_id)}"))
    return table


async def _facts(store: Store, upload_id: str) -> dict[str, Any]:
    """Return everything about an upload.

    Raises:
        UploadNotFound
    """
    upload = await store.load(as_upload_id(upload_id))
    facts = listing.described(upload)
    facts["metadata"] = {key: value.decode("utf-8", "replace") for key, value in upload.metadata.pairs().items()}
    if upload.concat is not None:
        facts["concat"] = upload.concat
    facts["file"] = await _place(store, upload)
    return facts


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and words, as people read them."""
    for key, value in facts.items():
        if key != "metadata":
            yield key, _word(value)
    for key, value in facts["metadata"].items():
        yield "metadata", f"{printable(key)} = {_word(value)}"


async def _place(store: Store, upload: Upload) -> str | None:
    """Where a complete upload's bytes are; None if another program has removed them."""
    try:
        return str((await store.content(upload)).path) if upload.complete else None
    except UploadNotFound:
        return None


async def _remove(configured: LoadedSettings, *, ids: Sequence[str]) -> int:
    from tusserver.assembly import attach, open_locker, open_store

    store = open_store(configured)
    locker = open_locker(configured, store)
    attachment = attach(configured, store, locker)
    missing = 0
    try:
        for text in dict.fromkeys(ids):
            there = False
            with contextlib.suppress(UploadNotFound):
                upload_id = as_upload_id(text)
                async with locker.hold(upload_id, Preempt(), _LOCK_TIMEOUT):
                    there = await store.remove(upload_id)
            if there:
                terminal.echo(f"Removed {text}")
            else:
                terminal.error(f"there is no upload {printable(text)}")
                missing += 1
    finally:
        await locker.aclose()
        attachment.close()
    return 1 if missing else 0


async def _sweep(configured: LoadedSettings) -> int:
    from tusserver.assembly import assemble

    site = assemble(configured)
    try:
        removed = await site.tus.sweep()
        await site.tus.joined()
    finally:
        await site.aclose()
    terminal.echo(f"Removed {removed} upload{'' if removed == 1 else 's'}")
    return 0


# words ---------------------------------------------------------------------------------------------------------------


def _word(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return printable(str(value))
