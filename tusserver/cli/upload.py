"""`tusserver upload`: files, folders and standard input to any tus server, with output for people and scripts."""

from __future__ import annotations

import argparse
import hashlib
import json
import mimetypes
import os
import queue
import stat
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tusserver.cli import terminal
from tusserver.cli.client import Failed, Retryable, Stopped, ask, checked_url, open_session, refuse
from tusserver.cli.flags import UsageError
from tusserver.cli.progress import Bars
from tusserver.cli.resume_state import ResumeState, key_of, state_folder
from tusserver.cli.sender import Sender
from tusserver.text import printable

_GRACE = 3.0
"""Seconds that transfers may take to end after Ctrl-C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One upload that is to be made."""

    path: Path | None
    """None: standard input."""
    name: str
    """The name that is shown, and sent to the server as file name."""
    relative: str | None = None
    """Path relative to a folder that was given."""


def upload(options: argparse.Namespace) -> int:
    """Upload, and return the exit code.

    Raises:
        UsageError
    """
    endpoint = checked_url(options.url)
    metadata = _metadata(options.metadata)
    sources = list(_sources(options.paths, options.name))
    if options.jobs < 1 or options.retries < 0:
        raise UsageError("--jobs is 1 or more, --retries 0 or more")
    if options.checksum and options.checksum not in hashlib.algorithms_available - {"shake_128", "shake_256"}:
        raise UsageError(f"--checksum {printable(options.checksum)} is not known here")
    open_session(options, endpoint).close()
    run = _Run(options, endpoint, metadata, sources)
    return run.run()


class _Run:
    """All uploads of one command. They run in threads, so that Ctrl-C never waits for a server."""

    def __init__(
        self, options: argparse.Namespace, endpoint: str, metadata: dict[str, str], sources: Sequence[Source]
    ) -> None:
        self._options = options
        self._endpoint = endpoint
        self._metadata = metadata
        self._several = len(sources) > 1
        self._todo: queue.SimpleQueue[Source] = queue.SimpleQueue()
        for source in sources:
            self._todo.put(source)
        self._left = len(sources)
        self._ended: queue.SimpleQueue[bool | BaseException] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._saying = threading.Lock()
        self._bars = Bars(
            shown=sys.stderr.isatty() and not options.quiet and not options.json,
            total=sum(_size(source) for source in sources) if self._several else None,
        )

    def run(self) -> int:
        """Start the threads and wait for them."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(self._options.jobs, self._left))]
        try:
            with self._bars:
                for thread in threads:
                    thread.start()
                done = [self._next() for _ in range(self._left)]
        except KeyboardInterrupt:
            self._stop.set()
            until = time.monotonic() + _GRACE
            for thread in threads:
                thread.join(max(until - time.monotonic(), 0))
            if not self._options.json:
                terminal.error("interrupted; the same command goes on from there")
            return 130
        return 0 if all(done) else 1

    def _next(self) -> bool:
        match self._ended.get():
            case bool(done):
                return done
            case trouble:
                raise trouble

    def _work(self) -> None:
        try:
            with open_session(self._options, self._endpoint) as session:
                while not self._stop.is_set():
                    self._ended.put(self._upload(session, self._todo.get_nowait()))
        except (queue.Empty, Stopped):
            pass
        except BaseException as trouble:
            self._ended.put(trouble)

    def _upload(self, session: requests.Session, source: Source) -> bool:
        watch = _Watch(self, source)
        began = time.monotonic()
        try:
            url = self._send(session, source, watch)
        except (Failed, Retryable) as failed:
            watch.end()
            if self._options.json:
                self.tell("failed", source, error=str(failed), url=watch.url)
            else:
                self._bars.error(f"tusserver: {printable(source.name)}: {failed}")
            return False
        watch.end()
        if self._options.json:
            seconds = round(time.monotonic() - began, 3)
            self.tell("done", source, url=url, bytes=watch.offset, resumed_from=watch.resumed_from, seconds=seconds)
        else:
            self._bars.echo(f"{printable(url)}\t{printable(source.name)}" if self._several else printable(url))
        return True

    def _send(self, session: requests.Session, source: Source, watch: _Watch) -> str:
        options = self._options
        self._check_offered(session, source)
        with ExitStack() as stack:
            length, state = None, None
            if source.path is None:
                file: Any = sys.stdin.buffer.raw if hasattr(sys.stdin.buffer, "raw") else sys.stdin.buffer
            else:
                try:
                    # Opening a pipe without a writer would block.
                    file = stack.enter_context(
                        open(
                            source.path,
                            "rb",
                            buffering=0,
                            opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK),
                        )
                    )
                except OSError as error:
                    raise Failed(error.strerror or "cannot be opened") from None
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise Failed("is not a regular file; give it as standard input")
                length = status.st_size
                try:
                    state = ResumeState(state_folder("uploads"), key_of(self._endpoint, source.path, status))
                    stack.enter_context(state.alone("another command is uploading this file to this server"))
                    if options.fresh:
                        state.forget()
                except OSError as error:
                    raise Failed(f"{state_folder('uploads')} cannot be used: {error.strerror}") from None
            name = os.fsencode(source.name).decode("utf-8", "replace")
            metadata = {"filename": name}
            if kind := mimetypes.guess_type(name)[0]:
                metadata["filetype"] = kind
            if source.relative is not None:
                metadata["relativePath"] = os.fsencode(source.relative).decode("utf-8", "replace")
            watch.begin(length)
            sender = Sender(
                session,
                self._endpoint,
                file,
                length=length,
                metadata=metadata | self._metadata,
                algorithm=options.checksum,
                retries=options.retries,
                state=state,
                path=str(source.path),
                watch=watch,
                stop=self._stop,
            )
            return sender.send()

    def _check_offered(self, session: requests.Session, source: Source) -> None:
        """Ask for the server's extensions, if one is needed."""
        if source.path is not None and not self._options.checksum:
            return
        response = ask(session, "OPTIONS", self._endpoint)
        if not response.ok:
            raise refuse(response)
        extensions = _listed(response, "Tus-Extension")
        if source.path is None and "creation-defer-length" not in extensions:
            raise Failed("the server needs the length first; write standard input to a file")
        algorithms = _listed(response, "Tus-Checksum-Algorithm")
        if self._options.checksum and self._options.checksum not in algorithms:
            offers = ", ".join(algorithms) or "no checksums"
            raise Failed(f"the server does not check {self._options.checksum}; it offers {printable(offers)}")

    def tell(self, event: str, source: Source, **facts: object) -> None:
        """One line of JSON."""
        with self._saying:
            file = None if source.path is None else str(source.path)
            terminal.echo(json.dumps({"event": event, "file": file, "name": source.name, **facts}))

    @property
    def json(self) -> bool:
        """Whether the output is JSON."""
        return bool(self._options.json)

    @property
    def bars(self) -> Bars:
        """The progress on the terminal."""
        return self._bars


class _Watch:
    """Reports the progress of one upload."""

    def __init__(self, run: _Run, source: Source) -> None:
        self.url: str | None = None
        self.offset = 0
        self.resumed_from: int | None = None
        self._run = run
        self._source = source
        self._bar: int | None = None

    def begin(self, length: int | None) -> None:
        """It is about to start."""
        self._bar = self._run.bars.add(self._source.name, length)

    def started(self, url: str, offset: int, expires: str | None) -> None:
        """It exists on the server."""
        if self.url != url:
            self.resumed_from = offset
        self.url, self.offset = url, offset
        self._run.bars.restart(self._bar, offset)
        if self._run.json:
            self._run.tell("started", self._source, url=url, offset=offset, expires=expires)

    def moved(self, offset: int) -> None:
        """Bytes were sent."""
        self.offset = offset
        self._run.bars.move(self._bar, offset)

    def waiting(self, why: str, seconds: float) -> None:
        """An attempt failed."""
        if self._run.json:
            self._run.tell("waiting", self._source, error=why, seconds=round(seconds, 1), url=self.url)
        else:
            self._run.bars.note(f"{printable(self._source.name)}: {why}; trying again in {seconds:.1f} s")

    def end(self) -> None:
        """It has ended."""
        self._run.bars.remove(self._bar)


def _sources(paths: Sequence[str], name: str | None) -> Iterator[Source]:
    if name is not None and (len(paths) > 1 or os.path.isdir(paths[0])):
        raise UsageError("--name is for one file or standard input")
    if len(set(paths)) < len(paths):
        raise UsageError("a file is given twice")
    for text in paths:
        path = Path(text)
        if text == "-":
            yield Source(path=None, name=name or "stdin")
        elif path.is_dir():
            # Links to folders are not followed: they could lead in circles.
            top = path.absolute()
            for folder, folders, files in os.walk(path):
                folders.sort()
                for file in sorted(files):
                    inner = Path(folder) / file
                    yield Source(path=inner, name=file, relative=str(Path(top.name) / inner.relative_to(path)))
        else:
            yield Source(path=path, name=name or path.name)


def _size(source: Source) -> int:
    try:
        return source.path.stat().st_size if source.path else 0
    except OSError:
        return 0


def _metadata(entries: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key or not key.isascii() or any(c in " ," or not c.isprintable() for c in key):
            raise UsageError(f"--metadata {printable(entry)} is not of the form KEY=VALUE (KEY: no spaces, no commas)")
        pairs[key] = os.fsencode(value).decode("utf-8", "replace")
    return pairs


def _listed(response: requests.Response, field: str) -> list[str]:
    return [item.strip() for item in response.headers.get(field, "").split(",") if item.strip()]
