"""`tusserver download`: one file, whole or not at all, resumed where it was cut."""

from __future__ import annotations

import argparse
import contextlib
import email.message
import json
import os
import re
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from tusserver.cli import terminal
from tusserver.cli.client import Backoff, Failed, Retryable, ask, checked_url, open_session, refuse
from tusserver.cli.flags import UsageError
from tusserver.cli.progress import Bars
from tusserver.cli.resume_state import ResumeState, key_from, state_folder
from tusserver.text import printable

_BLOCK = 1 << 18
_LONGEST_NAME = 200
"""Bytes; file systems take 255, and `.part` comes behind."""


def download(options: argparse.Namespace) -> int:
    """Download, and return the exit code.

    Raises:
        UsageError
    """
    url = checked_url(options.url)
    if options.retries < 0:
        raise UsageError("--retries is 0 or more")
    # A progress bar would mix with the bytes.
    shown = (
        sys.stderr.isatty()
        and not (options.quiet or options.json)
        and not (options.output == "-" and sys.stdout.isatty())
    )
    with open_session(options, url) as session, Bars(shown=shown, total=None) as bars:
        run = _Download(options, url, session, bars)
        try:
            run.run()
        except Failed as failed:
            if options.json:
                run.tell("failed", error=str(failed))
            else:
                bars.error(f"tusserver: {failed}")
            return 1
        except KeyboardInterrupt:
            if not options.json:
                terminal.error(
                    "interrupted" + ("" if options.output == "-" else "; the same command goes on from there")
                )
            return 130
    return 0


class _Download:
    def __init__(self, options: argparse.Namespace, url: str, session: requests.Session, bars: Bars) -> None:
        self._options = options
        self._url = url
        self._session = session
        self._bars = bars
        self._bar: int | None = None
        self._backoff = Backoff(options.retries, threading.Event(), self._waiting)
        self._offset = 0
        self._etag: str | None = None
        """Of the bytes before `_offset`: only bytes of the same one are combined. None: unknown, or weak."""
        self._began = time.monotonic()

    def run(self) -> None:
        """Ask until there is an answer that names the file, then fetch it.

        Raises:
            Failed
        """
        while True:
            try:
                response = self._get()
                break
            except Retryable as failure:
                self._backoff.wait(failure)
        if self._options.output == "-":
            self._fetch(response, sys.stdout.buffer, None)
            return
        target = self._target(response)
        part = target.with_name(f"{target.name}.part")
        folder = state_folder("downloads")
        try:
            with ExitStack() as stack:
                state = ResumeState(folder, key_from(self._url, os.fspath(part.absolute())))
                stack.enter_context(state.alone(f"another command is downloading {printable(str(target))}"))
                file = stack.enter_context(open(part, "ab"))
                there, total = file.tell(), _total(response, 0)
                fits = total is None or there <= total
                if there and fits and not self._options.fresh and self._etag and state.recall("etag") == self._etag:
                    self._offset = there
                else:
                    file.truncate(0)
                self._fetch(response, file, state)
                file.close()
                self._publish(part, target)
                state.forget()
        except OSError as error:
            raise Failed(f"{printable(str(error.filename or target))}: {error.strerror}") from None
        if self._options.json:
            seconds = round(time.monotonic() - self._began, 3)
            self.tell("done", file=str(target), bytes=self._offset, seconds=seconds)
        else:
            self._bars.echo(printable(str(target)))

    def _get(self) -> requests.Response:
        """Ask for what is missing; afterwards `_offset` is where the answer's bytes start."""
        headers = {"Accept-Encoding": "identity"}
        if self._offset and self._etag:
            headers |= {"Range": f"bytes={self._offset}-", "If-Range": self._etag}
        response = ask(self._session, "GET", self._url, headers=headers, stream=True)
        if response.status_code == 206 and "Range" in headers:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if start is None or int(start[1]) != self._offset:
                raise Failed("the server sent another range than was asked for")
            return response
        if response.status_code != 200:
            with contextlib.suppress(requests.RequestException):
                raise refuse(response)
            raise Retryable(f"{response.status_code}")
        etag = response.headers.get("ETag", "")
        self._etag = None if etag.startswith("W/") else etag or None
        self._offset = 0
        return response

    def _fetch(self, response: requests.Response, file: BinaryIO, state: ResumeState | None) -> None:
        total = _total(response, 0)
        self._bar = self._bars.add(self._name(response), total)
        answer: requests.Response | None = response
        if self._offset:
            # The bytes here are the first ones of the same file, as this answer shows: only the rest is requested.
            response.close()
            answer = None
            if self._offset == total:
                return
        while True:
            try:
                if answer is None:
                    answer = self._get_on(file, state)
                if state is not None and self._etag:
                    state.keep(etag=self._etag, url=self._url)
                self._bars.restart(self._bar, self._offset)
                if self._options.json:
                    self.tell("started", offset=self._offset, length=_total(answer, self._offset))
                for block in answer.raw.stream(_BLOCK, decode_content=False):
                    file.write(block)
                    self._offset += len(block)
                    self._bars.move(self._bar, self._offset)
                    self._backoff.progress()
                file.flush()
                return
            except urllib3.exceptions.HTTPError:
                failure = Retryable("the connection was cut")
            except Retryable as failed:
                failure = failed
            if answer is not None:
                answer.close()
                answer = None
            self._backoff.wait(failure)

    def _get_on(self, file: BinaryIO, state: ResumeState | None) -> requests.Response:
        file.flush()
        before = self._offset
        response = self._get()
        if before and not self._offset:
            if state is None:
                raise Failed("the file on the server changed, and the output cannot be undone")
            file.truncate(0)
        return response

    def _target(self, response: requests.Response) -> Path:
        name, output = self._name(response), self._options.output
        target = Path(output) if output else Path(name)
        if output and target.is_dir():
            target /= name
        if target.exists() and not self._options.overwrite:
            raise Failed(f"{printable(str(target))} is there already; name another with -o, or add --overwrite")
        return target

    def _name(self, response: requests.Response) -> str:
        """The file name that the server suggests, as a name in one folder and nothing else."""
        message = email.message.Message()
        message["Content-Disposition"] = response.headers.get("Content-Disposition", "")
        suggested = (message.get_filename(), unquote(urlsplit(self._url).path.rstrip("/")))
        return next((safe for name in suggested if name and (safe := local_name(name))), "download")

    def _publish(self, part: Path, target: Path) -> None:
        if self._options.overwrite:
            os.replace(part, target)
            return
        try:
            os.link(part, target)  # unlike a rename it never replaces
        except FileExistsError:
            raise Failed(f"{printable(str(target))} was created meanwhile; the download is in {part.name}") from None
        except OSError:  # file systems without links
            os.replace(part, target)
        else:
            part.unlink()

    def _waiting(self, why: str, seconds: float) -> None:
        if self._options.json:
            self.tell("waiting", error=why, seconds=round(seconds, 1))
        else:
            self._bars.note(f"{why}; trying again in {seconds:.1f} s")

    def tell(self, event: str, **facts: object) -> None:
        """One line of JSON, beside the bytes if they go to standard output."""
        line = json.dumps({"event": event, "url": self._url, **facts})
        if self._options.output == "-":
            sys.stderr.write(f"{line}\n")
        else:
            terminal.echo(line)


def local_name(name: str) -> str:
    """What may become a file in the folder where we are: no path, not hidden, no control characters of a terminal."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(character for character in last if character.isprintable()).strip().lstrip(".")
    return shown.encode("utf-8", "ignore")[:_LONGEST_NAME].decode("utf-8", "ignore")


def _total(response: requests.Response, offset: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return offset + int(length) if length.isdigit() else None
