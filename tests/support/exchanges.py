"""Reads the HTTP/1.1 that passes through a proxy: which requests arrived, and how each was answered.

Only what passed is read, so a request whose bytes never came through does not exist here, and one that was cut has no
answer. Bodies are counted and thrown away.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Exchange:
    """A request, and its answer as far as there was one."""

    connection: int
    """Which connection brought it, counted from 1."""
    at: float
    """When its head had arrived, on the clock of time.monotonic."""
    method: str
    """What it was meant to be: X-HTTP-Method-Override counts."""
    target: str
    fields: dict[str, str]
    """Of the request, names in lower case."""
    received: int = 0
    """Bytes of its body that passed."""
    status: int | None = None
    """Of the final answer."""
    answer: dict[str, str] = field(default_factory=dict)
    """Fields of the final answer, names in lower case."""
    lost: bool = False
    """Whether the answer was kept from the client."""

    def __str__(self) -> str:
        asked = _some(self.fields, "upload-offset", "upload-length")
        ended = (
            "no answer"
            if self.status is None
            else " ".join([str(self.status), *_some(self.answer, "upload-offset", "retry-after")])
        )
        request = " ".join([f"#{self.connection} {self.method}", *asked, f"({self.received} bytes)"])
        return f"{request} -> {ended}{' (lost on the way)' if self.lost else ''}"


def _some(fields: dict[str, str], *names: str) -> list[str]:
    return [f"{name}={fields[name]}" for name in names if name in fields]


class Conversation:
    """One connection. What it hears is appended to `exchanges`."""

    def __init__(self, number: int, exchanges: list[Exchange]) -> None:
        self._number = number
        self._exchanges = exchanges
        self._open: deque[Exchange] = deque()
        self._requests = _Messages(self._asked, self._counted)
        self._answers = _Messages(self._answered, lambda size: None)

    def ask(self, data: bytes) -> None:
        """Take bytes that went to the server."""
        self._requests.feed(data)

    def answer(self, data: bytes) -> list[Exchange]:
        """Take bytes that came from the server; return the exchanges whose final answer began with them."""
        waiting = list(self._open)
        self._answers.feed(data)
        return [exchange for exchange in waiting if exchange.status is not None]

    def _asked(self, line: str, fields: dict[str, str]) -> _Framing:
        method, target, _ = line.split(" ", 2)
        method = fields.get("x-http-method-override", method)
        exchange = Exchange(self._number, time.monotonic(), method, target, fields)
        self._exchanges.append(exchange)
        self._open.append(exchange)
        return _framing(fields)

    def _counted(self, size: int) -> None:
        if self._exchanges and self._open:
            self._open[-1].received += size

    def _answered(self, line: str, fields: dict[str, str]) -> _Framing:
        status = int(line.split(" ")[1])
        if status < 200 or not self._open:
            return _Framing(length=0)
        exchange = self._open.popleft()
        exchange.answer = fields
        exchange.status = status
        if exchange.method == "HEAD" or status in (204, 304):
            return _Framing(length=0)
        return _framing(fields)


@dataclass(frozen=True, slots=True)
class _Framing:
    length: int
    chunked: bool = False


def _framing(fields: dict[str, str]) -> _Framing:
    if fields.get("transfer-encoding", "").lower() == "chunked":
        return _Framing(length=0, chunked=True)
    return _Framing(length=int(fields.get("content-length", "0")))


class _Messages:
    """One direction: heads, and bodies between them."""

    def __init__(self, began: Callable[[str, dict[str, str]], _Framing], counted: Callable[[int], None]) -> None:
        self._began = began
        self._counted = counted
        self._unread = bytearray()
        self._left = 0
        """Bytes of a body, or of a chunk of it, that are still to come."""
        self._line: Callable[[bytes], None] | None = None
        """Takes the next line of a chunked body."""

    def feed(self, data: bytes) -> None:
        self._unread += data
        while self._unread:
            if self._left:
                size = min(self._left, len(self._unread))
                del self._unread[:size]
                self._left -= size
                self._counted(size)
                continue
            end = b"\r\n" if self._line else b"\r\n\r\n"
            at = self._unread.find(end)
            if at < 0:
                return
            text = bytes(self._unread[:at])
            del self._unread[: at + len(end)]
            if self._line:
                self._line(text)
            else:
                self._head(text)

    def _head(self, text: bytes) -> None:
        line, *lines = text.decode("latin-1").split("\r\n")
        pairs = (field.split(":", 1) for field in lines)
        framing = self._began(line, {name.lower(): value.strip() for name, value in pairs})
        self._left = framing.length
        self._line = self._chunk if framing.chunked else None

    def _chunk(self, line: bytes) -> None:
        self._left = int(line.split(b";")[0], 16)
        self._line = self._chunk_ended if self._left else self._trailer

    def _chunk_ended(self, _: bytes) -> None:
        self._line = self._chunk

    def _trailer(self, line: bytes) -> None:
        if not line:
            self._line = None
