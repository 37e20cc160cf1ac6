"""HTTP/1.1 byte by byte: says what no well-behaved client would say, and tells what the server really answered.

Only the standard library, so that whoever points the conformance suite at another server needs nothing but pytest.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Field = tuple[str, str | bytes]
"""One header line. Text is sent as latin-1; bytes go as they are."""

TIMEOUT = float(os.environ.get("TUS_TIMEOUT", "120"))
"""Seconds that anything may take before it counts as hung. A guard and no claim: the machine may be busy, so no test
fails because it is slow, and none passes only because a wait ends.
"""

_TOLD = 1200
"""Most characters of one message that a failure shows."""


class NoAnswer(AssertionError):
    """The server hung, or hung up, where it had to answer."""


class HungUp(NoAnswer):
    """The server closed the connection where it had to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response as it came over the wire."""

    status: int
    reason: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    interim: tuple[int, ...] = ()
    """Statuses of the 1xx responses before it."""

    def __getitem__(self, name: str) -> str | None:
        """Value of a header field, joined by commas if it stands more than once; None if it does not stand at all."""
        values = self.all(name)
        return ", ".join(values) if values else None

    def all(self, name: str) -> list[str]:
        """Every value of a header field."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def listed(self, name: str) -> list[str]:
        """Members of a comma-separated header field."""
        return [member.strip() for member in (self[name] or "").split(",") if member.strip()]

    @property
    def bodiless(self) -> bool:
        """Whether it neither has nor announces a body."""
        return not self.body and self["Content-Length"] in (None, "0") and self["Transfer-Encoding"] is None

    def __repr__(self) -> str:
        return f"<{self.status} {self.reason} {dict(self.fields)}>"


def render(
    method: str, target: str | bytes, fields: Iterable[Field], body: bytes = b"", version: str = "HTTP/1.1"
) -> bytes:
    """Write a request exactly as told: nothing is checked, nothing is added."""
    lines = [b" ".join((method.encode(), _encode(target), version.encode()))]
    lines += [name.encode("latin-1") + b": " + _encode(value) for name, value in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. An empty one would end the body: see `LAST_CHUNK`."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


LAST_CHUNK = b"0\r\n\r\n"


class Connection:
    """One connection to the server of `url`, from the address `source`. What passes is noted in `exchanges`."""

    def __init__(self, url: str, exchanges: list[str] | None = None, *, source: str = "") -> None:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._socket = socket.create_connection((parts.hostname or "", port), TIMEOUT, (source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "https":
            self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=parts.hostname)
        self._exchanges = [] if exchanges is None else exchanges
        self._buffer = bytearray()
        self._asked: deque[str] = deque()
        self._said: str | None = None

    # out -------------------------------------------------------------------------------------------------------------

    def ask(
        self, method: str, target: str | bytes, fields: Iterable[Field], body: bytes = b"", version: str = "HTTP/1.1"
    ) -> None:
        """Send a request, or its head and as much of its body as is given."""
        self._asked.append(method)
        self.send(render(method, target, fields, body, version))

    def send(self, data: bytes) -> bool:
        """Send raw bytes. False if the server no longer takes them: its answer may be there already."""
        self._note(">", data)
        try:
            self._socket.settimeout(TIMEOUT)
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def send_until_answered(self, data: bytes, step: int = 65536) -> int:
        """Send until an answer begins to arrive; return how many bytes the server took."""
        sent = 0
        while sent < len(data) and not self.readable():
            if not self.send(data[sent : sent + step]):
                break
            sent += len(data[sent : sent + step])
        return sent

    def finish_sending(self) -> None:
        """Say that nothing more comes, and go on listening."""
        self._note(">", b"(end of sending)")
        with contextlib.suppress(OSError):  # the server was faster
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection (FIN)."""
        self._socket.close()

    def cut(self) -> None:
        """Reset the connection (RST)."""
        self._note(">", b"(connection cut)")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    # in --------------------------------------------------------------------------------------------------------------

    def answer(self, within: float = TIMEOUT) -> Answer:
        """Read the next answer, with the 1xx before it.

        Raises:
            NoAnswer: it did not come in time, or the server closed the connection.
        """
        until = time.monotonic() + within
        method = self._asked.popleft() if self._asked else ""
        interim: list[int] = []
        while True:
            head = self._read_until(b"\r\n\r\n", until)
            status_line, *lines = head[:-4].decode("latin-1").split("\r\n")
            status, reason = _status(status_line)
            if 100 <= status < 200:
                self._note("<", head)
                interim.append(status)
                continue
            fields = tuple((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
            answer = Answer(status=status, reason=reason, fields=fields, interim=tuple(interim))
            body = b"" if method == "HEAD" or status in (204, 304) else self._read_body(answer, until)
            self._note("<", head + body)
            return Answer(status=status, reason=reason, fields=fields, body=body, interim=tuple(interim))

    def ends(self, within: float = TIMEOUT) -> int | None:
        """Status of the answer that ends a request; None if the server hung up and gave none.

        Raises:
            NoAnswer: neither happened in time.
        """
        try:
            return self.answer(within).status
        except HungUp:
            return None

    def readable(self) -> bool:
        """Whether something arrived (or the server hung up), without waiting."""
        self._socket.settimeout(0.0)
        try:
            data = self._socket.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return bool(self._buffer)
        except ConnectionError:
            return True
        self._buffer += data
        return True

    def rest(self, within: float = TIMEOUT) -> bytes:
        """What the server still sends until it ends the connection.

        Raises:
            NoAnswer: it did not end it in time.
        """
        until = time.monotonic() + within
        while self._receive(until):
            pass
        return self._take(len(self._buffer))

    def closes(self, within: float = TIMEOUT) -> bool:
        """Whether the server ends the connection in time; what it still sends is thrown away."""
        until = time.monotonic() + within
        try:
            while self._receive(until):
                pass
        except NoAnswer:
            return False
        return True

    def _read_body(self, answer: Answer, until: float) -> bytes:
        if (answer["Transfer-Encoding"] or "").lower() == "chunked":
            body = b""
            while size := int(self._read_until(b"\r\n", until).split(b";")[0], 16):
                body += self._read_exactly(size + 2, until)[:-2]
            while self._read_until(b"\r\n", until) != b"\r\n":
                pass
            return body
        if (length := answer["Content-Length"]) is not None:
            return self._read_exactly(int(length), until)
        while self._receive(until):
            pass
        return self._take(len(self._buffer))

    def _read_until(self, end: bytes, until: float) -> bytes:
        while end not in self._buffer:
            self._receive_or_fail(until)
        return self._take(self._buffer.index(end) + len(end))

    def _read_exactly(self, size: int, until: float) -> bytes:
        while len(self._buffer) < size:
            self._receive_or_fail(until)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _receive_or_fail(self, until: float) -> None:
        if not self._receive(until):
            rest = f", only {bytes(self._buffer[:200])!r}" if self._buffer else ""
            raise HungUp(f"the server closed the connection without a whole answer{rest}")

    def _receive(self, until: float) -> bool:
        """Wait for more bytes. False at the end of the connection."""
        self._socket.settimeout(max(until - time.monotonic(), 0.001))
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError:
            raise NoAnswer("the server did not answer in time") from None
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)

    def _note(self, sign: str, data: bytes) -> None:
        text = data.decode("latin-1").replace("\r\n", "\n").rstrip("\n")
        if len(text) > _TOLD:
            text = f"{text[:_TOLD]} … ({len(data)} bytes)"
        told = "\n".join(f"{sign} {_visible(line)}" for line in text.split("\n"))
        if sign == ">" and self._exchanges and self._exchanges[-1] is self._said:  # another piece of the same
            told = f"{self._said}\n{told}" if len(self._said) < _TOLD else self._said
            self._exchanges.pop()
        self._exchanges.append(told)
        self._said = told if sign == ">" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _encode(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _status(line: str) -> tuple[int, str]:
    version, _, rest = line.partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/") or not code.isdigit():
        raise NoAnswer(f"this is no answer in HTTP/1.1: {line!r}")
    return int(code), reason


def _visible(line: str) -> str:
    """Control characters as escapes, so that a failure shows what was sent and leaves the terminal alone."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
