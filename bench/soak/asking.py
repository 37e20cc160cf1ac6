"""HTTP/1.1 over bare streams, for clients that must also be able to do it wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

OCTETS = "application/offset+octet-stream"
ANSWER = 60.0
"""Seconds within which an answer has to come, also from a server whose disk hangs."""


class Lost(Exception):
    """No answer: the connection failed or was closed."""


@dataclass(kw_only=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    fields: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: bytes = b""

    @property
    def offset(self) -> int:
        """Upload-Offset; -1 if it says none."""
        return int(self.fields.get("upload-offset", "-1"))


class Connection:
    """One connection to `host:port`."""

    def __init__(self, host: str) -> None:
        self._host, self._port = host.rsplit(":", 1)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        try:
            self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        except OSError as error:
            raise Lost from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def cut(self) -> None:
        """Break it, without a word."""
        assert self._writer is not None
        self._writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self._writer is not None
        self._writer.write(data)
        try:
            await self._writer.drain()
        except OSError as error:
            raise Lost from error

    async def head(self, method: str, path: str, fields: Mapping[str, str | int]) -> None:
        """Send the head of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        if "Tus-Resumable" not in fields and method != "GET":
            lines.append("Tus-Resumable: 1.0.0")
        lines += [f"{name}: {value}" for name, value in fields.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def answer(self, method: str) -> Answer:
        """Read an answer with its body."""
        try:
            async with asyncio.timeout(ANSWER):
                return await self._answer(method)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Lost from error

    async def _answer(self, method: str) -> Answer:
        assert self._reader is not None
        status = 100
        while status < 200:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            status = int(first.split(" ")[1])
        pairs = (line.split(":", 1) for line in lines)
        fields = {name.lower(): value.strip() for name, value in pairs}
        length = 0 if method == "HEAD" or status == 204 else int(fields.get("content-length", "0"))
        return Answer(status=status, fields=fields, body=await self._reader.readexactly(length) if length else b"")


async def ask(host: str, method: str, path: str, body: bytes = b"", **fields: str | int) -> Answer:
    """Ask on a connection of its own. Underscores in names of fields stand for hyphens.

    Raises:
        Lost
    """
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    if body or method in ("POST", "PATCH"):
        named["Content-Length"] = len(body)
    async with Connection(host) as connection:
        await connection.head(method, path, named)
        if body:
            await connection.send(body)
        return await connection.answer(method)
