"""What `tusserver list` prints: lines as the uploads are found, in memory that does not grow with their number."""

from __future__ import annotations

import heapq
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tusserver.protocol.upload import Upload
from tusserver.stores.base import Store
from tusserver.text import printable

if TYPE_CHECKING:  # rich is slow to import, and in a pipe it draws nothing
    from rich.table import Table

SORTED = 1000
"""Uploads that are sorted. More of them come as they are found; `--limit` gives the last ones of many."""
_NARROW = 80
"""Columns of a terminal below which an upload takes two lines: an id alone has 32, and is of no use when cut."""
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


async def batches(store: Store, at_once: int = SORTED) -> AsyncIterator[list[Upload]]:
    """Go through all uploads, some at a time; oldest first if that is all at once, else in the order of the store."""
    batch: list[Upload] = []
    whole = True
    async for upload in store.uploads():
        batch.append(upload)
        if len(batch) > at_once:
            yield batch
            batch, whole = [], False
    yield sorted(batch, key=lambda upload: (upload.created_at, upload.id)) if whole else batch


async def newest(store: Store, number: int) -> list[Upload]:
    """Return the uploads that were made last, the oldest of them first."""
    kept: list[tuple[datetime, str, Upload]] = []
    async for upload in store.uploads():
        entry = (upload.created_at, upload.id, upload)
        if len(kept) < number:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
    return [upload for _, _, upload in sorted(kept)]


async def only(batch: Awaitable[list[Upload]]) -> AsyncIterator[list[Upload]]:
    """Return a batch as an iterator of one."""
    yield await batch


# where they are printed ----------------------------------------------------------------------------------------------


def print_json(uploads: Sequence[Upload]) -> None:
    """Print an object a line.

    Raises:
        BrokenPipeError: the reader has closed the pipe. So do the others.
    """
    for upload in uploads:
        sys.stdout.write(f"{json.dumps(described(upload))}\n")


def printer(now: datetime) -> Callable[[Sequence[Upload]], None]:
    """Return what prints one batch after the other for people: as wide as the terminal, or whole lines in a pipe."""
    print_ = _print_table if sys.stdout.isatty() else _print_lines
    head = True

    def print_batch(uploads: Sequence[Upload]) -> None:
        nonlocal head
        if uploads:
            print_(uploads, now, head=head)
            head = False

    return print_batch


def _print_table(uploads: Sequence[Upload], now: datetime, *, head: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(table(uploads, now, console.width, head=head))


def _print_lines(uploads: Sequence[Upload], now: datetime, *, head: bool) -> None:
    """In a pipe there is no width to fit, and a cut text is of no use to a program."""
    if head:
        sys.stdout.write(_line("ID", "Name", "Progress", "Age", "Expires"))
    for upload in uploads:
        name = printable(upload.metadata.name or "")
        age = span(now - upload.created_at)
        sys.stdout.write(_line(upload.id, name, progress(upload), age, expiry(upload, now)))


def _line(upload_id: str, name: str, progress: str, age: str, expires: str) -> str:
    return f"{upload_id:<32}  {name:<32}  {progress:>17}  {age:>4}  {expires:>7}\n"


# words ---------------------------------------------------------------------------------------------------------------


def described(upload: Upload) -> dict[str, Any]:
    """Return an upload for JSON. Times are ISO 8601, sizes bytes."""
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


def table(uploads: Sequence[Upload], now: datetime, width: int, *, head: bool = True) -> Table:
    """A table that fits `width` columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, show_header=head)
    if width < _NARROW:
        table.add_column("Uploads", no_wrap=True, overflow="ellipsis")
        for upload in uploads:
            state = progress(upload) if upload.complete else f"{progress(upload)}, expires {expiry(upload, now)}"
            name = printable(upload.metadata.name or "")
            table.add_row(Text(f"{upload.id}\n  {state}" + (f"  {name}" if name else "")))
        return table
    # The name takes what width is left.
    table.add_column("ID", no_wrap=True)
    table.add_column("Name", no_wrap=True, ratio=1)
    table.add_column("Progress", no_wrap=True, justify="right")
    table.add_column("Age", no_wrap=True, justify="right")
    table.add_column("Expires", no_wrap=True, justify="right")
    for upload in uploads:
        name = printable(upload.metadata.name or "")
        table.add_row(upload.id, Text(name), progress(upload), span(now - upload.created_at), expiry(upload, now))
    return table


def progress(upload: Upload) -> str:
    from rich.filesize import decimal

    if upload.complete:
        return f"done, {decimal(upload.offset)}"
    if upload.pending:
        return "awaits parts"
    if upload.length is None:
        return f"{decimal(upload.offset)} of ?"
    return f"{upload.offset * 100 // upload.length}% of {decimal(upload.length)}"


def expiry(upload: Upload, now: datetime) -> str:
    if upload.expires_at is None:
        return "never"
    return "due" if upload.expires_at <= now else f"in {span(upload.expires_at - now)}"


def span(span: timedelta) -> str:
    """`3d`, `2h`, `0s`: the largest unit will do."""
    seconds = max(int(span.total_seconds()), 0)
    return next((f"{seconds // size}{unit}" for unit, size in _UNITS if seconds >= size), "0s")
