"""ASGI servers, each in a process of its own, and what is known to differ under them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from tests.support.ports import free_port
from tests.support.tus import eventually

ROOT = Path(__file__).parents[2]
"""Where the app's module is found."""

_APP = "tests.asgi.app:app"
_UVICORN = ("uvicorn", _APP, "--port", "{port}", "--no-proxy-headers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a server is started: arguments of `python -m`; {port}, {key} and {certificate} stand for what a run has."""

    name: str
    command: tuple[str, ...]
    tls: bool = False
    differs: Mapping[str, str] = field(default_factory=dict)
    """Rows of the conformance suite that fail under it, and why."""
    may_differ: Mapping[str, str] = field(default_factory=dict)
    """Rows that fail where the machine is busy, and why."""


KINDS = (
    Kind(
        name="wire",
        command=(*_UVICORN, "--http", "tusserver.server.protocol:TusHttpProtocol"),
    ),
    Kind(
        name="wire-tls",
        command=(
            *(*_UVICORN, "--http", "tusserver.server.protocol:TusHttpProtocol"),
            *("--ssl-keyfile", "{key}", "--ssl-certfile", "{certificate}"),
        ),
        tls=True,
        may_differ={"P22": "what comes while a write takes long is lost in the TLS layer if the client goes then"},
    ),
    Kind(
        name="uvicorn-httptools",
        command=(*_UVICORN, "--http", "httptools"),
        differs={"D11": "uvicorn throws away bytes that arrive together with the end of the connection"},
    ),
    Kind(
        name="uvicorn-h11",
        command=(*_UVICORN, "--http", "h11"),
        differs={"D11": "uvicorn throws away bytes that arrive together with the end of the connection"},
    ),
    Kind(
        name="hypercorn",
        command=("hypercorn", _APP, "--bind", "127.0.0.1:{port}"),
        differs={"P31": "hypercorn sends 100 Continue by itself, before the app was asked"},
    ),
    Kind(
        name="granian",
        command=("granian", _APP, "--interface", "asgi", "--port", "{port}"),
    ),
)


class Running:
    """A server of one kind with an empty data folder, until the end of the context."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        self._port = free_port()
        self.url = f"http{'s' if kind.tls else ''}://localhost:{self._port}/files"
        self.certificate = folder / "certificate.pem"
        """What a client has to trust."""
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        key = self._folder / "key.pem"
        if self.kind.tls:
            authority = trustme.CA()
            issued = authority.issue_cert("localhost")
            key.write_bytes(issued.private_key_pem.bytes())
            (self._folder / "own.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
            authority.cert_pem.write_to_path(str(self.certificate))
        given = {"port": str(self._port), "key": str(key), "certificate": str(self._folder / "own.pem")}
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *(part.format_map(given) for part in self.kind.command)],
                cwd=ROOT,
                env={**os.environ, "STORAGE": str(self._folder / "storage")},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        listens = eventually(lambda: self._answers() or self._process.poll() is not None)
        if not listens or self._process.poll() is not None:
            self._stop()
            raise RuntimeError(f"{self.kind.name} did not start:\n{self.log()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        return True

    def log(self) -> str:
        """What it printed."""
        return (self._folder / "log").read_text(errors="replace")
