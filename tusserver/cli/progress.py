"""Progress on a terminal: one line for each transfer that runs, and one for all of them."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from tusserver.cli import terminal
from tusserver.text import printable

_NARROW, _WIDE = 60, 90
"""Columns of a terminal: below the first there is room for the percentage only, above the second for sizes too."""


class Bars:
    """Draws on standard error, or does nothing. Its methods may be called from any thread."""

    def __init__(self, *, shown: bool, total: int | None) -> None:
        self._progress: Progress | None = None
        self._total: TaskID | None = None
        self._places: dict[int, int] = {}
        if shown:
            console = Console(stderr=True, highlight=False)
            # Our lines go through the console; nothing else is printed meanwhile.
            self._progress = Progress(
                *_columns(console.width), console=console, expand=True, redirect_stdout=False, redirect_stderr=False
            )
            if total is not None:
                self._total = self._progress.add_task("in all", total=total)

    def __enter__(self) -> Bars:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def add(self, name: str, length: int | None) -> int | None:
        """A new line, below the total."""
        if self._progress is None:
            return None
        return self._progress.add_task(printable(name), total=length)

    def restart(self, bar: int | None, offset: int) -> None:
        """It starts at an offset; bytes before that do not count for the speed."""
        if self._progress is not None and bar is not None:
            self._progress.reset(TaskID(bar), completed=offset)
            self._advance_total(bar, offset)

    def move(self, bar: int | None, offset: int) -> None:
        """So many bytes were transferred."""
        if self._progress is not None and bar is not None:
            self._progress.update(TaskID(bar), completed=offset)
            self._advance_total(bar, offset)

    def remove(self, bar: int | None) -> None:
        """It has ended. Its line stays if it is the only one."""
        if self._progress is not None and bar is not None and self._total is not None:
            self._progress.remove_task(TaskID(bar))

    def echo(self, line: str) -> None:
        """A result, for standard output."""
        if self._progress is not None and sys.stdout.isatty():
            self._print(line)
        else:
            terminal.echo(line)

    def error(self, line: str) -> None:
        """An error, for standard error."""
        if self._progress is not None:
            self._print(line)
        else:
            terminal.error(line.removeprefix("tusserver: "))

    def note(self, line: str) -> None:
        """A notice, for a terminal only."""
        if self._progress is not None:
            self._print(line)

    def _print(self, line: str) -> None:
        assert self._progress is not None
        self._progress.console.print(line, markup=False, soft_wrap=True)

    def _advance_total(self, bar: int, offset: int) -> None:
        moved = offset - self._places.get(bar, 0)
        self._places[bar] = offset
        if self._progress is not None and self._total is not None and moved:
            self._progress.advance(self._total, moved)


def _columns(width: int) -> list[ProgressColumn]:
    one: dict[str, Any] = {"no_wrap": True}
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=2, no_wrap=True, overflow="ellipsis")),
        BarColumn(None, table_column=Column(ratio=1 if width < _NARROW else 2)),
        TaskProgressColumn(table_column=Column(**one)),
    ]
    if width >= _WIDE:
        columns.append(DownloadColumn(table_column=Column(**one)))
    if width >= _NARROW:
        columns.append(TransferSpeedColumn(table_column=Column(**one)))
    columns.append(TimeRemainingColumn(compact=True, table_column=Column(**one)))
    return columns
