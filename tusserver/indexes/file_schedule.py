"""Which upload wants a look, and when: files named by a moment, each a list of ids.

A sweep reads the lists whose moment has come and nothing else. An id is listed before its files are made, so nothing
that a crash leaves half-made is forgotten. The lists are an index: they are rebuilt from the records if they are lost
or if the machine was restarted (they are not synced).

A line is an id that wants a look when its list is opened, or an id and the moment of its look. The farther away that
is, the more moments share a list; when such a list is opened, what is not due yet goes to finer lists. So there are
some hundred lists at most, however long uploads are kept. Older versions had lines of the first kind only.
"""

from __future__ import annotations

import errno
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

from tusserver.disk import files

_CLAIMED = ".claimed"
_COVERS = "covers"
_BLOCK = 256 * 1024
"""Bytes of a list that are read at once."""
_RECENT = 8192
"""Lines that are remembered, to name an id once that was listed several times in a row."""
_NEAR = 7200.0
"""Seconds: looks that are nearer have lists of their moment alone, opened when that is over."""
_FAR = 1800
"""Seconds that share a list behind that. Farther away they are `_GROWS` times as many, again and again: a list is never
longer than a quarter of the distance to it."""
_GROWS = 8
_LAST = 10**12
"""No look is later than that; a line that says so is damaged."""


class DatedLists:
    """Lists below `folder`. All methods block; times are seconds since the epoch, but those of `monotonic`."""

    def __init__(
        self, folder: Path, file_mode: int, folder_mode: int, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._folder = folder
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._guard = threading.Lock()
        # The last list stays open: most new uploads go to the same one.
        self._moment = 0
        self._fd = -1
        self._failures = 0
        self._incomplete = False

    def __del__(self) -> None:
        self._close()

    def add(self, name: str, at: float, now: float) -> None:
        """List `name` for a look at `at`, or up to a minute later if that is far away: that bounds the lists."""
        self.add_all([(name, at)], now)

    def add_overdue(self, name: str, now: float) -> None:
        """List `name` for a look at once. For the one sweep that rebuilds the lists, and nobody else."""
        self.add_all([(name, now)], now, overdue=True)

    def add_all(self, looks: Iterable[tuple[str, float]], now: float, *, overdue: bool = False) -> None:
        """List many names, each for a look at its moment, with one write for each list that they go to.

        `overdue`: what is, gets its look at once (see `add_overdue`), and not only a moment after `now`.
        """
        began, start = self._monotonic(), now
        while looks:
            lists: dict[int, list[tuple[str, float]]] = {}
            for name, at in looks:
                moment = int(now) - 2 if overdue and at <= now else _opens(at, now)
                lists.setdefault(moment, []).append((name, at))
            for moment, listed in lists.items():
                self._append(moment, "\n".join(_line(name, at, now) for name, at in listed))
            spent = self._monotonic() - began
            # We may have been stopped for so long that a list was read before, by whatever process.
            looks = [look for moment, listed in lists.items() if now < moment + 1 <= start + spent for look in listed]
            now = start + spent

    def _append(self, moment: int, lines: str) -> None:
        with self._guard:
            try:
                # A list that somebody removed with its folder is not one that is read.
                if moment != self._moment or not os.fstat(self._fd).st_nlink:
                    self._close()
                    self._fd = self._open(f"{self._folder}/{moment}")
                    self._moment = moment
                files.write_line(self._fd, lines)
            except BaseException:
                self._failures += 1
                raise

    def _close(self) -> None:
        if self._moment:
            os.close(self._fd)
            self._moment = 0

    def _open(self, path: str) -> int:
        try:
            return files.make_file(path, os.O_WRONLY | os.O_APPEND, self._file_mode)
        except FileNotFoundError:
            files.make_folder(self._folder, self._folder_mode, sync=False)
            return files.make_file(path, os.O_WRONLY | os.O_APPEND, self._file_mode)

    def due(self, now: float, latest: float = math.inf) -> Iterator[str]:
        """Go through the names listed up to `now`, or after `latest`; see `batches`."""
        for names in self.batches(now, latest):
            yield from names

    def batches(self, now: float, latest: float = math.inf) -> Generator[list[str], None, None]:
        """Go through the names listed up to `now`, or after `latest`, as many at once as a block of a list holds.

        A list is removed once the iterator is past it. It stays, and has another turn, if meanwhile a name could not be
        listed: that may have been one of its own. A batch may be empty: others may have their turn then.

        Raises:
            OSError: a list cannot be read. The others come first.
        """
        clock = _Clock(now, self._monotonic)
        failed: OSError | None = None
        for name in self._opened(now, latest):
            failures = self._failures
            try:
                # Another process may sweep at the same time, and go through a list as we do; no harm is done.
                if (path := self._claim(name)) is not None:
                    yield from self._read(path, clock, latest)
                    if failures == self._failures:
                        files.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _opened(self, now: float, latest: float) -> list[str]:
        """Names of the lists that are to be read, the oldest first."""
        lists: list[tuple[int, str]] = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    stem = entry.name.removesuffix(_CLAIMED)
                    # A second late, so that a writer that was slow to append is not missed.
                    if not (stem.isascii() and stem.isdecimal()) or now < int(stem) + 1 <= latest:
                        continue
                    if entry.is_file(follow_symlinks=False):
                        lists.append((int(stem), entry.name))
        except FileNotFoundError:
            return []
        return [name for _, name in sorted(lists)]

    def _claim(self, name: str) -> Path | None:
        """Take a list away from those who write; None if one that was taken before has its turn first."""
        path = self._folder / name
        if path.suffix == _CLAIMED:
            return path
        claimed = self._folder / (name + _CLAIMED)
        if files.mtime_ns(str(claimed)) is not None:
            return None  # left by a sweep that died; it has its own turn
        path.rename(claimed)
        with self._guard:
            if name == str(self._moment):
                self._close()
        return claimed

    def _read(self, path: Path, clock: _Clock, latest: float) -> Iterator[list[str]]:
        """Name what is due in a list; put the rest on finer lists."""
        recent: set[bytes] = set()
        splits = True
        for lines in files.read_lines(str(path), _BLOCK):
            due: list[str] = []
            later: list[tuple[str, float]] = []
            now = clock()
            for line in lines:
                if not line or line in recent:
                    continue
                recent.add(line)
                name, at = _parse(line)
                if at is None or at <= now or at > latest:
                    due.append(name)
                else:
                    later.append((name, at))
            if len(recent) > _RECENT:
                recent.clear()
            if splits and later:
                try:
                    self.add_all(later, now)
                except OSError:
                    # The disk may be full: what is due shall go all the more. This list stays, so nobody is lost.
                    splits = False
            yield due

    def is_complete(self, boot: str) -> bool:
        """Whether the lists are whole: made or rebuilt under this run of the machine."""
        if self._incomplete:
            return False
        try:
            return files.read_file(str(self._folder / _COVERS)) == boot.encode()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):  # a link says nothing, and is replaced
                raise
            return False

    def read_note(self, name: str) -> str | None:
        """Return a note that lies beside the lists."""
        try:
            return files.read_file(f"{self._folder}/{name}").decode("ascii", "replace")
        except FileNotFoundError:
            return None

    def write_note(self, name: str, text: str) -> None:
        """Put a note beside the lists."""
        files.make_folder(self._folder, self._folder_mode)
        files.replace_file(f"{self._folder}/{name}", text.encode(), self._file_mode, sync=False)

    @property
    def failures(self) -> int:
        """How many names could not be listed so far."""
        return self._failures

    def mark_incomplete(self) -> None:
        """Say that the lists are not whole: they are rebuilt at the next look, by whatever process has it."""
        self._incomplete = True  # if only we can be told
        files.unlink_quietly(f"{self._folder}/{_COVERS}")

    def mark_complete(self, boot: str) -> None:
        """Say that they are."""
        files.make_folder(self._folder, self._folder_mode)
        files.replace_file(str(self._folder / _COVERS), boot.encode(), self._file_mode, sync=False)
        self._incomplete = False


class _Clock:
    """Goes on from a moment that was passed in, as a sweep may take minutes."""

    def __init__(self, now: float, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._ahead = now - monotonic()

    def __call__(self) -> float:
        return self._monotonic() + self._ahead


def _opens(at: float, now: float) -> int:
    """The moment of the list for a look at `at`: when it is opened, at the earliest."""
    distance = at - now
    if distance < _NEAR:
        step = 1 if distance < 60 else 10 if distance < 3600 else 60
        # Never for this very second: that list may be in a sweep's hands.
        return -int(-max(at, now + 1) // step) * step
    step = _FAR
    while distance >= 4 * _GROWS * step:
        step *= _GROWS
    return int(at // step) * step


def _line(name: str, at: float, now: float) -> str:
    return name if at - now < _NEAR else f"{name} {math.ceil(at)}"


def _parse(line: bytes) -> tuple[str, float | None]:
    """Return the name in a line, and the moment if it says one. What is damaged is better looked at now than never."""
    name, _, at = line.decode("ascii", "replace").partition(" ")
    return name, int(at) if at.isdecimal() and len(at) < len(str(_LAST)) else None
