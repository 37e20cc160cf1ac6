"""A disk that loses power: what the store asked of it is recorded, and every state that a cut may leave is made.

The model is worse than any file system. What was not synced by then is on the disk or not, each piece by itself: each
write, each change of a file's size, each name that was made, moved or taken away, in any combination; of a write
perhaps only the first half. `fdatasync` of a file secures its bytes and its size, `fsync` its times too, `fsync` of a
folder the names in it, `syncfs` everything. What was reserved or skipped and never written reads as zeros.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tusserver.disk import files, space

FOLDER: Final = -1
"""Stands for a file's number where a name is that of a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that a disk may have done or not."""

    kind: str
    """Of bytes: write, size, grow. Of names: make, move, take."""
    file: int = FOLDER
    path: str = ""
    target: str = ""
    at: int = 0
    data: bytes = b""

    def __str__(self) -> str:
        where = self.path or f"file {self.file} at {self.at}"
        return f"{self.kind} {where} {self.target}".strip()

    @property
    def of_names(self) -> bool:
        return self.kind in ("make", "move", "take")

    def torn(self) -> Change | None:
        """The same, half done; None if it happens as a whole or not at all."""
        if self.kind != "write" or len(self.data) < 2:
            return None
        return replace(self, data=self.data[: len(self.data) // 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """Something is on the disk for good: a file, the names in a folder, or all."""

    file: int = FOLDER
    folder: str | None = None
    time: int = 0
    """When the file was last written, if that is secured too."""


@dataclass(slots=True)
class State:
    """Files and names as they stand on a disk."""

    names: dict[str, int] = field(default_factory=dict)
    bytes: dict[int, bytearray] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    """When files were written, in nanoseconds, where the disk knows that."""

    def copy(self) -> State:
        copied = {number: bytearray(data) for number, data in self.bytes.items()}
        return State(dict(self.names), copied, dict(self.times))

    def apply(self, change: Change) -> None:
        content = self.bytes.setdefault(change.file, bytearray())
        match change.kind:
            case "write":
                content.extend(bytes(max(0, change.at - len(content))))
                content[change.at : change.at + len(change.data)] = change.data
            case "size":
                del content[change.at :]
                content.extend(bytes(change.at - len(content)))
            case "grow":
                content.extend(bytes(max(0, change.at - len(content))))
            case "make":
                self.names[change.path] = change.file
            case "move" if change.path in self.names:
                self.names[change.target] = self.names.pop(change.path)
            case "take":
                self.names.pop(change.path, None)

    def materialize(self, root: Path) -> None:
        """Make these files below `root`, in place of what is there."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        made: dict[int, Path] = {}
        for path, number in sorted(self.names.items()):  # a folder stands before what is in it
            place = root / path
            if path == "." or not place.parent.is_dir():  # then its folder's own name was lost
                continue
            if number == FOLDER:
                place.mkdir()
            elif number in made:
                place.hardlink_to(made[number])
            else:
                made[number] = place
                place.write_bytes(self.bytes.get(number, b""))
                os.utime(place, ns=(1, self.times.get(number, 1)))

    def key(self) -> int:
        """Tell states apart."""
        return hash(tuple((path, bytes(self.bytes.get(number, b""))) for path, number in sorted(self.names.items())))


class Recording:
    """Records what is done below `root`, where only folders are, while the context lasts; then cuts the power."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._before = {".": FOLDER, **{folder.name: FOLDER for folder in root.iterdir()}}
        self._steps: list[Change | Sync] = []
        self._told: list[tuple[int, Mapping[str, Any]]] = []
        self._live: dict[str, int] = {}
        self._open: dict[int, tuple[int, str]] = {}
        self._files = 0
        self._guard = threading.RLock()
        self._patched: list[tuple[Any, str, Any]] = []

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Note what a client hears now."""
        with self._guard:
            self._told.append((len(self._steps), facts))

    def told(self, step: int) -> dict[str, Any]:
        """What clients had heard when so many steps were done."""
        return {name: value for at, facts in self._told if at <= step for name, value in facts.items()}

    @property
    def steps(self) -> int:
        return len(self._steps)

    # recording -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._wrap(os, "open", self._opened)
        self._wrap(os, "close", self._closed, before=True)
        self._wrap(os, "mkdir", lambda made, path, *rest: self._make(path, FOLDER))
        self._wrap(os, "link", lambda made, source, path, **rest: self._make(path, self._live[self._inside(source)]))
        self._wrap(os, "rename", self._moved)
        self._wrap(os, "unlink", lambda gone, path: self._take(path))
        self._wrap(os, "rmdir", lambda gone, path: self._take(path))
        self._wrap(os, "write", self._appended)
        self._wrap(os, "pwrite", lambda count, fd, data, at: self._wrote(fd, at, bytes(data)[:count]))
        self._wrap(os, "pwritev", lambda count, fd, parts, at: self._wrote(fd, at, b"".join(parts)[:count]))
        self._wrap(os, "copy_file_range", self._copied)
        self._wrap(os, "ftruncate", lambda done, fd, size: self._add_to(fd, kind="size", at=size))
        self._wrap(os, "truncate", lambda done, path, size: self._sized(path, size))
        self._wrap(os, "fsync", lambda done, fd: self._synced(fd, os.fstat(fd).st_mtime_ns))
        self._wrap(os, "fdatasync", lambda done, fd: self._synced(fd))
        self._wrap(space, "_fallocate", lambda failed, fd, at, size: self._add_to(fd, kind="grow", at=at + size))
        self._wrap(files, "sync_file_system", lambda done, folder: self._steps.append(Sync()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for owner, name, real in reversed(self._patched):
            setattr(owner, name, real)

    def _wrap(self, owner: Any, name: str, note: Callable[..., object], *, before: bool = False) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            with self._guard:  # what happens at once is recorded in the order in which it happened
                if before:
                    note(None, *args, **options)
                    return real(*args, **options)
                existed = name == "open" and os.path.lexists(_absolute(args, options)[0][0])
                result = real(*args, **options)
                args, options = _absolute(args, options)
                if name == "open":
                    note(result, existed, *args, **options)
                else:
                    note(result, *args, **options)
                return result

        self._patched.append((owner, name, real))
        setattr(owner, name, call)

    def _inside(self, path: Any) -> str:
        return os.path.relpath(path, self._root)

    def _opened(self, fd: int, existed: bool, path: Any, flags: int, *rest: Any, **options: Any) -> None:
        name = self._inside(path)
        if name.startswith(".."):
            self._open.pop(fd, None)
            return
        if not existed:
            self._files += 1
            self._make(path, self._files)
        number = self._live.get(name, FOLDER)
        self._open[fd] = (number, name)
        if existed and flags & os.O_TRUNC:
            self._steps.append(Change(kind="size", file=number))

    def _closed(self, done: None, fd: int) -> None:
        self._open.pop(fd, None)

    def _make(self, path: Any, number: int) -> None:
        name = self._inside(path)
        self._live[name] = number
        self._steps.append(Change(kind="make", file=number, path=name))

    def _moved(self, done: None, source: Any, target: Any) -> None:
        old, new = self._inside(source), self._inside(target)
        self._live[new] = self._live.pop(old)
        self._steps.append(Change(kind="move", path=old, target=new))

    def _take(self, path: Any) -> None:
        name = self._inside(path)
        del self._live[name]
        self._steps.append(Change(kind="take", path=name))

    def _appended(self, count: int, fd: int, data: Any) -> None:
        if fd in self._open:  # only the calendar's lists are written so, to their end
            self._wrote(fd, os.fstat(fd).st_size - count, bytes(data)[:count])

    def _wrote(self, fd: int, at: int, data: bytes) -> None:
        self._add_to(fd, kind="write", at=at, data=data)

    def _copied(self, count: int, source: int, target: int, most: int, start: int, at: int) -> None:
        self._wrote(target, at, os.pread(source, count, start))

    def _sized(self, path: Any, size: int) -> None:
        self._steps.append(Change(kind="size", file=self._live[self._inside(path)], at=size))

    def _add_to(self, fd: int, **what: Any) -> None:
        if fd in self._open:
            self._steps.append(Change(file=self._open[fd][0], **what))

    def _synced(self, fd: int, time: int = 0) -> None:
        if fd in self._open:
            number, name = self._open[fd]
            self._steps.append(Sync(folder=name) if number == FOLDER else Sync(file=number, time=time))

    # cutting ---------------------------------------------------------------------------------------------------------

    def cuts(self, mixtures: int) -> Iterator[tuple[int, State, str]]:
        """Go through what a power cut after each number of steps may leave, each state once; and say what was lost.

        Of what was not synced: none, all, each alone, all but each, each half done; and `mixtures` made by chance.
        """
        durable, pending = State(dict(self._before)), list[Change]()
        chance = random.Random(self.steps)
        for step in range(self.steps + 1):
            if step:
                done = self._steps[step - 1]
                if isinstance(done, Change):
                    pending.append(done)
                else:
                    pending = self._secure(durable, pending, done)
            seen: set[int] = set()
            for kept in _subsets(pending, chance, mixtures):
                state = durable.copy()
                for change in kept:
                    state.apply(change)
                if state.key() not in seen:
                    seen.add(state.key())
                    yield step, state, "; ".join(f"{change}" for change in pending if change not in kept) or "nothing"

    def _secure(self, durable: State, pending: list[Change], sync: Sync) -> list[Change]:
        if sync.time:
            durable.times[sync.file] = sync.time
        left = []
        for change in pending:
            everything = sync.file == FOLDER and sync.folder is None
            of_folder = change.of_names and sync.folder in (_folder(change.path), _folder(change.target or change.path))
            if everything or of_folder or (not change.of_names and change.file == sync.file):
                durable.apply(change)
            else:
                left.append(change)
        return left


def _absolute(args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Name what a call names within an open folder by its whole path."""
    options = dict(options)
    for at, option in ((0, "dir_fd"), (1, "dst_dir_fd")):
        if (fd := options.pop(option, None)) is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{fd}"), args[at])
            args = (*args[:at], path, *args[at + 1 :])
    return args, options


def _folder(path: str) -> str:
    return os.path.dirname(path) or "."


def _subsets(pending: list[Change], chance: random.Random, mixtures: int) -> Iterator[list[Change]]:
    yield []
    yield pending
    for index, change in enumerate(pending):
        others = pending[:index], pending[index + 1 :]
        yield [change]
        yield [*others[0], *others[1]]
        if (torn := change.torn()) is not None:
            yield [torn]
            yield [*others[0], torn, *others[1]]
    for _ in range(mixtures):
        yield [
            change.torn() or change if chance.random() < 0.2 else change for change in pending if chance.random() < 0.5
        ]
