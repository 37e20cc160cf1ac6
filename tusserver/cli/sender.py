"""One upload from its first request to its last: tuspy's uploader, with bodies that stream, timeouts and retries.

tuspy reads a whole chunk (by default the whole file) into memory, has no timeouts and waits the same time after
every failure. Here a body is read while it is sent, and each failure asks the server how much has arrived.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Iterator
from typing import IO, Any, Protocol
from urllib.parse import urljoin

import requests
from tusclient.client import TusClient
from tusclient.uploader.uploader import Uploader

from tusserver.cli.client import Backoff, Failed, Gone, Retryable, Stopped, ask, refuse
from tusserver.cli.resume_state import ResumeState

_BLOCK = 1 << 18
_CHECKED_PART = 1 << 26
"""Bytes of a request with a checksum: a wrong one keeps nothing of it."""
_UNKNOWN_PART = 1 << 23
"""Bytes of a request of a length that is not known: they stay in memory until the server has them."""


class Watch(Protocol):
    """Is told of progress, from the thread that uploads."""

    def started(self, url: str, offset: int, expires: str | None) -> None:
        """The upload exists on the server, which has `offset` bytes."""

    def moved(self, offset: int) -> None:
        """So many bytes have been sent."""

    def waiting(self, why: str, seconds: float) -> None:
        """An attempt failed; the next one starts in so many seconds."""


class _Stretch:
    """The bytes from `start` to `end`, as a body that requests can stream: it has a length and is iterated once."""

    def __init__(self, sender: Sender, start: int, end: int) -> None:
        self._sender = sender
        self._start = start
        self._end = end

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        at = self._start
        for block in self._sender.blocks(self._start, self._end):
            yield block
            at += len(block)
            self._sender.watch.moved(at)


class Sender(Uploader):
    """Uploads one file, or standard input if `length` is None."""

    def __init__(
        self,
        session: requests.Session,
        endpoint: str,
        file: IO[bytes],
        *,
        length: int | None,
        metadata: dict[str, str],
        algorithm: str | None,
        retries: int,
        state: ResumeState | None,
        path: str,
        watch: Watch,
        stop: threading.Event,
    ) -> None:
        self.length = length
        self.watch = watch
        self.stop = stop
        self.address: str | None = None
        self._session = session
        self._endpoint = endpoint
        self._algorithm = algorithm
        self._state = state
        self._path = path
        self._held = b""
        """Of standard input: what was read and has not arrived, from `_held_at`."""
        self._held_at = 0
        self._ended = False
        self._backoff = Backoff(retries, stop, watch.waiting)
        super().__init__(file_stream=file, client=TusClient(endpoint), metadata=metadata)

    def get_file_size(self) -> int:
        """What was measured before; tuspy would seek, which a pipe cannot."""
        return self.length or 0

    def send(self) -> str:
        """Upload it all, and return its address.

        Raises:
            Failed, Stopped
        """
        self.address = self._state.recall("url") if self._state is not None else None
        known, lost = False, 0
        while True:
            try:
                if self.address is None:
                    self.address, self.offset = self.create_url(), 0
                    if self._state is not None:
                        self._state.keep(url=self.address, path=self._path)
                elif not known:
                    self.offset = self.get_offset()
                known = True
                self._send_rest()
            except Retryable as failure:
                self._backoff.wait(failure)
                known = False
            except Gone:
                lost += 1
                if lost > 2 or self.length is None:
                    raise Failed("the server no longer knows the upload") from None
                self.address = None
            else:
                if self._state is not None:
                    self._state.forget()
                return str(self.address)

    def create_url(self) -> str:
        """POST, whose answer names the upload."""
        headers = {"Tus-Resumable": "1.0.0", "Upload-Metadata": ",".join(self.encode_metadata())}  # type: ignore[no-untyped-call]  # of tuspy
        if not self.metadata:
            del headers["Upload-Metadata"]
        if self.length is None:
            headers["Upload-Defer-Length"] = "1"
        else:
            headers["Upload-Length"] = str(self.length)
        response = ask(self._session, "POST", self._endpoint, headers=headers)
        if response.status_code == 404:
            raise Failed(f"there is no tus server at {self._endpoint} (404)")
        if response.status_code != 201 or "Location" not in response.headers:
            raise refuse(response) if response.status_code >= 300 else Failed("the server does not speak tus")
        url = urljoin(self._endpoint, response.headers["Location"])
        self.watch.started(url, 0, response.headers.get("Upload-Expires"))
        return url

    def get_offset(self) -> int:
        """HEAD, whose answer says how much has arrived."""
        response = ask(self._session, "HEAD", str(self.address), headers={"Tus-Resumable": "1.0.0"})
        if response.status_code in (404, 410):
            raise Gone
        offset, length = response.headers.get("Upload-Offset", ""), response.headers.get("Upload-Length")
        if not response.ok:
            raise refuse(response)
        if not offset.isdigit() or (self.length is not None and length != str(self.length)):
            raise Gone  # the URL belongs to another upload now
        if int(offset) > self.offset:
            self._backoff.progress()
        self.watch.started(str(self.address), int(offset), response.headers.get("Upload-Expires"))
        return int(offset)

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, read while they are asked for.

        Raises:
            Failed, Stopped
        """
        while start < end:
            if self.stop.is_set():
                raise Stopped
            block = self._read(start, min(_BLOCK, end - start))
            yield block
            start += len(block)

    def _read(self, offset: int, size: int) -> bytes:
        if self.length is None:
            start = offset - self._held_at
            return self._held[start : start + size]
        assert self.file_stream is not None
        try:
            block = os.pread(self.file_stream.fileno(), size, offset)
        except OSError as error:  # requests would take it for an error of the connection
            raise Failed(f"cannot be read: {error.strerror}") from None
        if not block:
            raise Failed("the file became shorter while it was read")
        return block

    def _send_rest(self) -> None:
        while self.length is None or self.offset < self.length:
            if self.length is None:
                end = self._hold()
            else:
                end = min(self.length, self.offset + _CHECKED_PART) if self._algorithm else self.length
            declared = end if self.length is None and self._ended else None
            arrived = self._patch(end, declared)
            if arrived > self.offset:
                self._backoff.progress()
            self.offset = arrived
            self.watch.moved(arrived)
            if declared is not None and arrived == declared:
                return

    def _hold(self) -> int:
        """Read on until a request's worth is held or the input ends; where the held bytes end is returned."""
        assert self.file_stream is not None
        if self.offset < self._held_at:
            raise Failed("the server lost bytes that it had acknowledged, and standard input cannot be read again")
        self._held = self._held[self.offset - self._held_at :]
        self._held_at = self.offset
        while not self._ended and len(self._held) < _UNKNOWN_PART:
            if self.stop.is_set():
                raise Stopped
            block = self.file_stream.read(_UNKNOWN_PART - len(self._held))
            self._held += block
            self._ended = not block
        return self._held_at + len(self._held)

    def _patch(self, end: int, declared: int | None) -> int:
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": str(self.offset),
            "Content-Type": "application/offset+octet-stream",
        }
        if declared is not None:
            headers["Upload-Length"] = str(declared)
        if self._algorithm and end > self.offset:
            headers["Upload-Checksum"] = self._checksum(self.offset, end)
        # An empty stretch would go out chunked.
        body: Any = _Stretch(self, self.offset, end) if end > self.offset else b""
        response = ask(self._session, "PATCH", str(self.address), headers=headers, data=body)
        if response.status_code in (404, 410):
            raise Gone
        arrived = response.headers.get("Upload-Offset", "")
        if response.status_code != 204 or not arrived.isdigit():
            raise refuse(response) if response.status_code >= 300 else Failed("the server does not speak tus")
        if int(arrived) <= self.offset < end:
            raise Retryable("the server accepted no bytes")
        return int(arrived)

    def _checksum(self, start: int, end: int) -> str:
        """Read once for the checksum, and once more when it is sent: the whole stretch never is in memory."""
        digest = hashlib.new(str(self._algorithm))
        for block in self.blocks(start, end):
            digest.update(block)
        return f"{self._algorithm} {base64.b64encode(digest.digest()).decode()}"
