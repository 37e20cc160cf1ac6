"""Readable names for finished files: a template, made safe, never overwriting.

Where a name is taken it gets a number: "a.txt", "a (2).txt", "a (3).txt" … The first few are tried in turn. Behind them
numbers are looked at whose distance doubles, until one is free, and then half the way back again and again. So a free
one is found in few looks however many are taken; where there are gaps, it may not be the first.
"""

from __future__ import annotations

import os
import re
import threading
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tusserver.disk import files
from tusserver.protocol.upload import Upload
from tusserver.text import safe_filename

FIELDS = ("id", "filename", "stem", "suffix", "year", "month", "day")
_TRIES = 65
"""A name gets the id instead of a number before so many were tried: each was free, and somebody else was faster."""
_IN_TURN = 4
"""Numbers up to this one are tried in turn."""
_HIGHEST = 1 << 40
"""Where the search ends, whoever made files with such numbers."""
_REMEMBERED = 4096
"""Names of which the last number is remembered."""


class Template:
    """Names like `{year}/{month}/{filename}` below `folder`. Fields: see `FIELDS`; dates are of the creation, in UTC.

    Raises:
        ValueError: the template is wrong; the text names it and the remedy.
    """

    def __init__(
        self, folder: Path, name: str, folder_mode: int, *, tries: int = _TRIES, remembered: int = _REMEMBERED
    ) -> None:
        self._folder = folder
        self._tries = tries
        self._name = name
        self._folder_mode = folder_mode
        self._numbers = _Numbers(remembered)
        try:
            example = name.format(**dict.fromkeys(FIELDS, "x"))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                f"finished_name {name!r} cannot be read: its fields may be {{{'}, {'.join(FIELDS)}}}"
            ) from error
        if not example or example.startswith("/") or any(part in ("", ".", "..") for part in example.split("/")):
            raise ValueError(f"finished_name {name!r} must be a relative path without . and ..")
        try:
            files.make_folder(folder, folder_mode)
        except OSError as error:
            raise ValueError(f"finished_folder {folder} cannot be made: {error.strerror}") from error

    def require_same_file_system(self, other: Path) -> None:
        """Refuse a folder to which files cannot be renamed.

        Raises:
            ValueError
        """
        if os.stat(self._folder).st_dev != os.stat(other).st_dev:
            raise ValueError(f"finished_folder {self._folder} must be on the same file system as {other}")

    def link(self, source: Path, upload: Upload) -> Path:
        """Give a file its readable name beside the one it has; return it.

        Never overwrites and follows no link, as others may write in the folder too. A name that is taken gets a number.
        One that is this very file already (a crash came between) is taken as given.

        Raises:
            OSError
        """
        *parts, name = self._render(upload).split("/")
        folder = files.open_folder_below(self._folder, parts, self._folder_mode)
        try:
            name = _link(source, _Names(folder, name, upload.id), self._numbers, self._tries)
        finally:
            os.close(folder)
        return self._folder.joinpath(*parts, name)

    def _render(self, upload: Upload) -> str:
        filename = safe_filename(upload.metadata.name or "") or upload.id
        path = Path(filename)
        parts = self._name.format(
            id=upload.id,
            filename=filename,
            stem=path.stem,
            suffix=path.suffix,
            year=f"{upload.created_at:%Y}",
            month=f"{upload.created_at:%m}",
            day=f"{upload.created_at:%d}",
        ).split("/")
        return "/".join(safe_filename(part) or upload.id for part in parts)


class _Numbers:
    """The last numbers that names got, of some thousand names. Threads share it."""

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._last: dict[tuple[int, int, str], int] = {}
        self._guard = threading.Lock()

    def last(self, names: _Names) -> int | None:
        with self._guard:
            return self._last.get(names.key)

    def note(self, names: _Names, number: int) -> None:
        with self._guard:
            self._last.pop(names.key, None)  # to the end of those that are remembered
            self._last[names.key] = number
            if len(self._last) > self._remembered:
                del self._last[next(iter(self._last))]


class _Names:
    """The names that a file called `name` may get in an open folder."""

    def __init__(self, folder: int, name: str, upload_id: str) -> None:
        path = Path(name)
        self.folder = folder
        self._name, self._stem, self._suffix = name, path.stem, path.suffix
        found = os.fstat(folder)
        self.key = (found.st_dev, found.st_ino, name)
        self.with_id = f"{path.stem} {upload_id}{path.suffix}"

    def __getitem__(self, number: int) -> str:
        return self._name if number == 1 else f"{self._stem} ({number}){self._suffix}"

    def taken(self, number: int) -> bool:
        """Whether there is a file, a folder or a link of this name."""
        try:
            os.stat(self[number], dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def free(self, last: int | None) -> Iterator[int]:
        """Numbers that may be free, until there is none: the first in turn, then one behind the `last` that was given.

        If that one was moved away, as people do with many, the search starts from the beginning.
        """
        yield from range(1, _IN_TURN + 1)
        taken = last if last is not None and last > _IN_TURN and self.taken(last) else _IN_TURN
        while (found := self.free_behind(taken)) is not None:
            yield found
            taken = found  # by somebody else meanwhile

    def free_behind(self, taken: int) -> int | None:
        """A number behind one that is taken, the next one if there are no gaps."""
        step = 1
        while self.taken(taken + step):
            taken, step = taken + step, 2 * step
            if taken > _HIGHEST:
                return None
        free = taken + step
        while free - taken > 1:
            middle = (taken + free) // 2
            taken, free = (middle, free) if self.taken(middle) else (taken, middle)
        return free

    def own(self, source: os.stat_result) -> str | None:
        """The one that is a name of this very file."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.inode() == source.st_ino and self._matches(unicodedata.normalize("NFC", entry.name)):
                    # Not `samefile`: it follows links, and fails where one leads nowhere.
                    found = os.stat(entry.name, dir_fd=self.folder, follow_symlinks=False)
                    if os.path.samestat(found, source):
                        return entry.name
        return None

    def _matches(self, name: str) -> bool:
        number = re.escape(self._stem) + r" \(\d+\)" + re.escape(self._suffix)
        return name in (self._name, self.with_id) or re.fullmatch(number, name) is not None


def _link(source: Path, names: _Names, numbers: _Numbers, tries: int) -> str:
    """Link a file into an open folder under a name that is free there, or is its own already; return that."""
    found = os.lstat(source)
    if found.st_nlink > 1 and (own := names.own(found)) is not None:
        return own
    for number in islice(names.free(numbers.last(names)), tries - 1):
        try:
            os.link(source, names[number], dst_dir_fd=names.folder, follow_symlinks=False)
        except FileExistsError:
            continue
        numbers.note(names, number)
        return names[number]
    os.link(source, names.with_id, dst_dir_fd=names.folder, follow_symlinks=False)
    return names.with_id
