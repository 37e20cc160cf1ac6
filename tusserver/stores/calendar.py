"""Which upload wants a look, and when: files named by a moment, each a list of ids.

A sweep reads the lists whose moment has come and nothing else. An id is listed before its files are made, so nothing
that a crash leaves half-made is forgotten. The lists are an index: they are made anew from the records if they are lost
or if the machine was restarted (they are not synced).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tusserver.stores import disk

_CLAIMED = ".claimed"
_COVERS = "covers"


class Calendar:
    """Lists below `folder`. All methods block; times are seconds since the epoch."""

    def __init__(self, folder: Path, file_mode: int, folder_mode: int) -> None:
        self._folder = folder
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._guard = threading.Lock()
        # The last list stays open: most new uploads go to the same one.
        self._moment = 0
        self._fd = -1
        self._failures = 0
        self._doubted = False

    def __del__(self) -> None:
        self._close()

    def add(self, name: str, at: float, now: float) -> None:
        """List `name` for a look at `at`, or up to a minute later if that is far away: that bounds the lists."""
        began = time.monotonic()
        while True:
            distance = at - now
            step = 1 if distance < 60 else 10 if distance < 3600 else 60
            # Never for this very second: that list may be in a sweep's hands.
            moment = -int(-max(at, now + 1) // step) * step
            self._append(moment, name)
            now += time.monotonic() - began
            if now < moment + 1:
                return
            # We were stopped for so long that the list may have been read before, by whatever process.
            began = time.monotonic()

    def add_overdue(self, name: str, now: float) -> None:
        """List `name` for a look at once. For the one sweep that makes the lists anew, and nobody else."""
        self._append(int(now) - 2, name)

    def _append(self, moment: int, name: str) -> None:
        with self._guard:
            try:
                # A list that somebody removed with its folder is not one that is read.
                if moment != self._moment or not os.fstat(self._fd).st_nlink:
                    self._close()
                    self._fd = self._open(f"{self._folder}/{moment}")
                    self._moment = moment
                disk.write_line(self._fd, name)
            except BaseException:
                self._failures += 1
                raise

    def _close(self) -> None:
        if self._moment:
            os.close(self._fd)
            self._moment = 0

    def _open(self, path: str) -> int:
        try:
            return disk.make_file(path, os.O_WRONLY | os.O_APPEND, self._file_mode)
        except FileNotFoundError:
            disk.make_folder(self._folder, self._folder_mode, sync=False)
            return disk.make_file(path, os.O_WRONLY | os.O_APPEND, self._file_mode)

    def due(self, now: float, latest: float = math.inf) -> Iterator[str]:
        """Go through the names listed up to `now`, or after `latest`. A list is removed once the iterator is past it.

        It stays, and has another turn, if meanwhile a name could not be listed: that may have been one of its own.
        """
        try:
            with os.scandir(self._folder) as entries:
                lists = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
        except FileNotFoundError:
            return
        for name in lists:
            stem = name.removesuffix(_CLAIMED)
            # A second late, so that a writer that was slow to append is not missed.
            if not stem.isdigit() or now < int(stem) + 1 <= latest:
                continue
            path = self._folder / name
            failures = self._failures
            # Another process may sweep at the same time. That one and we may both go through a list; no harm is done.
            with contextlib.suppress(FileNotFoundError):
                if path.suffix != _CLAIMED:
                    claimed = self._folder / (name + _CLAIMED)
                    if disk.written_at(str(claimed)) is not None:
                        continue  # left by a sweep that died; it has its own turn in this loop
                    path = path.rename(claimed)
                    with self._guard:
                        if stem == str(self._moment):
                            self._close()
                yield from dict.fromkeys(disk.read_file(str(path)).decode("ascii", "replace").split())
            if failures == self._failures:
                disk.unlink(path)

    def covers(self, boot: str) -> bool:
        """Whether the lists are whole: made or made anew under this run of the machine."""
        if self._doubted:
            return False
        try:
            return disk.read_file(str(self._folder / _COVERS)) == boot.encode()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):  # a link says nothing, and is replaced
                raise
            return False

    def read_note(self, name: str) -> str | None:
        """Return a note that lies beside the lists."""
        try:
            return disk.read_file(f"{self._folder}/{name}").decode("ascii", "replace")
        except FileNotFoundError:
            return None

    def write_note(self, name: str, text: str) -> None:
        """Put a note beside the lists."""
        disk.make_folder(self._folder, self._folder_mode)
        disk.replace_file(f"{self._folder}/{name}", text.encode(), self._file_mode, sync=False)

    @property
    def failures(self) -> int:
        """How many names could not be listed so far."""
        return self._failures

    def doubt(self) -> None:
        """Say that the lists are not whole: they are made anew at the next look, by whatever process has it."""
        self._doubted = True  # if only we can be told
        disk.discard(f"{self._folder}/{_COVERS}")

    def set_covers(self, boot: str) -> None:
        """Say that they are."""
        disk.make_folder(self._folder, self._folder_mode)
        disk.replace_file(str(self._folder / _COVERS), boot.encode(), self._file_mode, sync=False)
        self._doubted = False
