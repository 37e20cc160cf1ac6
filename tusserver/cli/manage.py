"""`tusserver list`, `show`, `remove`, `sweep`: the data folder as an operator sees it, whether a server runs or not."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from tusserver.cli.flags import UsageError, effective
from tusserver.cli.terminal import complain, say
from tusserver.locks.base import Takeover
from tusserver.protocol.errors import TusError, UploadNotFound
from tusserver.protocol.upload import Upload, as_upload_id
from tusserver.server.logs import configure, escaped
from tusserver.settings import Effective
from tusserver.stores.base import Store

if TYPE_CHECKING:  # rich is slow to import, and most commands draw nothing
    from rich.console import Console
    from rich.table import Table

    Look = Callable[[Store, Console], Awaitable[Table]]
    """Draws what is watched."""

_PATIENCE = 5.0
"""Seconds to wait for a server that writes what is to be removed."""
_REFRESH = 1.0
"""Seconds between two looks of `--watch`."""
_NARROW = 80
"""Columns of a terminal below which an upload takes two lines: an id alone has 32, and is of no use when cut."""
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def list_(options: argparse.Namespace) -> int:
    """List the uploads, oldest first; once, or until Ctrl-C.

    Raises:
        UsageError
    """
    if options.watch:
        return _watched(options, _newest)
    return _with_store(options, partial(_list, as_json=options.json))


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


def _prepare(options: argparse.Namespace) -> Effective | None:
    configured = effective(options)
    configure("warning", configured.settings.log.format)
    root = configured.settings.store.root
    if not root.is_dir():  # a mistyped name should not leave a new, empty folder
        complain(f"there is no data folder {root}; name it with --storage")
        return None
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
        complain(escaped(str(error)))
        return 1


async def _sorted(store: Store) -> list[Upload]:
    return sorted([upload async for upload in store.uploads()], key=lambda upload: (upload.created_at, upload.id))


async def _watch(store: Store, *, look: Look) -> int:
    from rich.live import Live

    # On a screen of its own: what was on the terminal before is there again afterwards.
    with Live(screen=True, auto_refresh=False) as live:
        while True:
            # Made anew for the size that the terminal has now.
            live.update(await look(store, live.console), refresh=True)
            await anyio.sleep(_REFRESH)


async def _newest(store: Store, console: Console) -> Table:
    """The uploads that fit; the newest come first, as they move."""
    uploads = (await _sorted(store))[::-1][: console.height]
    return _table(uploads, datetime.now(UTC), console.width)


async def _list(store: Store, *, as_json: bool) -> int:
    uploads = await _sorted(store)
    if as_json:
        say(json.dumps([_described(upload) for upload in uploads], indent=2))
    elif uploads:
        _print_table(uploads, datetime.now(UTC))
    else:
        say("There are no uploads")
    return 0


async def _show(store: Store, *, upload_id: str, as_json: bool) -> int:
    try:
        facts = await _facts(store, upload_id)
    except UploadNotFound:
        complain(f"there is no upload {escaped(upload_id)}")
        return 1
    if as_json:
        say(json.dumps(facts, indent=2))
        return 0
    for name, word in _lines(facts):
        say(f"{name:<12} {word}")
    return 0


async def _lines_of(store: Store, console: Console, *, upload_id: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    try:
        for name, word in _lines(await _facts(store, upload_id)):
            table.add_row(name, Text(word, overflow="fold"))
    except UploadNotFound:
        table.add_row(Text(f"there is no upload {escaped(upload_id)}"))
    return table


async def _facts(store: Store, upload_id: str) -> dict[str, Any]:
    """All that is known of an upload.

    Raises:
        UploadNotFound
    """
    upload = await store.load(as_upload_id(upload_id))
    facts = _described(upload)
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
        yield "metadata", f"{escaped(key)} = {_word(value)}"


async def _place(store: Store, upload: Upload) -> str | None:
    """Where a complete upload's bytes are; None if somebody has taken them away."""
    try:
        return str((await store.content(upload)).path) if upload.complete else None
    except UploadNotFound:
        return None


async def _remove(configured: Effective, *, ids: Sequence[str]) -> int:
    from tusserver.assembly import claim_store, open_locker, open_store

    store = open_store(configured)
    locker = open_locker(configured, store)
    claim = claim_store(configured, store, locker)
    missing = 0
    try:
        for text in dict.fromkeys(ids):
            there = False
            with contextlib.suppress(UploadNotFound):
                upload_id = as_upload_id(text)
                async with locker.hold(upload_id, Takeover(), _PATIENCE):
                    there = await store.remove(upload_id)
            if there:
                say(f"Removed {text}")
            else:
                complain(f"there is no upload {escaped(text)}")
                missing += 1
    finally:
        locker.close()
        claim.close()
    return 1 if missing else 0


async def _sweep(configured: Effective) -> int:
    from tusserver.assembly import assemble

    site = assemble(configured)
    try:
        removed = await site.tus.sweep()
        await site.tus.joined()
    finally:
        site.close()
    say(f"Removed {removed} upload{'' if removed == 1 else 's'}")
    return 0


# words ---------------------------------------------------------------------------------------------------------------


def _described(upload: Upload) -> dict[str, Any]:
    """An upload as JSON tells it. Times are ISO 8601, sizes bytes."""
    return {
        "id": upload.id,
        "name": upload.metadata.name,
        "role": upload.role.value,
        "offset": upload.offset,
        "length": upload.length,
        "complete": upload.complete,
        "created_at": upload.created_at.isoformat(timespec="seconds"),
        "expires_at": upload.expires_at and upload.expires_at.isoformat(timespec="seconds"),
    }


def _word(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return escaped(str(value))


def _print_table(uploads: Sequence[Upload], now: datetime) -> None:
    from rich.console import Console

    # In a pipe there is no width to fit, and a cut text is of no use to a program.
    fits = sys.stdout.isatty()
    console = Console(highlight=False, width=None if fits else 1000)
    console.print(_table(uploads, now, console.width if fits else None))


def _table(uploads: Sequence[Upload], now: datetime, width: int | None) -> Table:
    """A table that fits `width` columns; None: as wide as it comes."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=width is not None)
    if width is not None and width < _NARROW:
        table.add_column("Uploads", no_wrap=True, overflow="ellipsis")
        for upload in uploads:
            state = _progress(upload) if upload.complete else f"{_progress(upload)}, expires {_expiry(upload, now)}"
            name = escaped(upload.metadata.name or "")
            table.add_row(Text(f"{upload.id}\n  {state}" + (f"  {name}" if name else "")))
        return table
    # The name takes what width is left.
    table.add_column("ID", no_wrap=True)
    table.add_column("Name", no_wrap=True, ratio=1 if width is not None else None)
    table.add_column("Progress", no_wrap=True, justify="right")
    table.add_column("Age", no_wrap=True, justify="right")
    table.add_column("Expires", no_wrap=True, justify="right")
    for upload in uploads:
        name = escaped(upload.metadata.name or "")
        table.add_row(upload.id, Text(name), _progress(upload), _span(now - upload.created_at), _expiry(upload, now))
    return table


def _progress(upload: Upload) -> str:
    from rich.filesize import decimal

    if upload.complete:
        return f"done, {decimal(upload.offset)}"
    if upload.pending:
        return "awaits parts"
    if upload.length is None:
        return f"{decimal(upload.offset)} of ?"
    return f"{upload.offset * 100 // upload.length}% of {decimal(upload.length)}"


def _expiry(upload: Upload, now: datetime) -> str:
    if upload.expires_at is None:
        return "never"
    return "due" if upload.expires_at <= now else f"in {_span(upload.expires_at - now)}"


def _span(span: timedelta) -> str:
    """`3d`, `2h`, `0s`: the largest unit will do."""
    seconds = max(int(span.total_seconds()), 0)
    return next((f"{seconds // size}{unit}" for unit, size in _UNITS if seconds >= size), "0s")
