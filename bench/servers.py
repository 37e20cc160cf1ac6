"""A server under measurement: how it is started, and a fresh process of it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from bench import machine

TUSSERVER = "tusserver"
TUSD = "tusd"
FLOOR = "floor"

_STARTING = 30.0
"""Seconds that a server may take until it listens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """How one is started. In `command` and `environment`, {port} and {storage} stand for what each run picks."""

    name: str
    version: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    base: str = "/files"
    """The path on which uploads are created."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Cases that it cannot run, and why."""


class Running:
    """A fresh process with an empty data folder, until it is stopped."""

    def __init__(self, server: Server, storage: Path) -> None:
        self.server = server
        self.storage = storage
        self.port = _free_port()
        self._log = storage.with_suffix(".log")
        given = {"port": str(self.port), "storage": str(storage)}
        environment = {name: value.format_map(given) for name, value in server.environment.items()}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [part.format_map(given) for part in server.command],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Running:
        deadline = time.monotonic() + _STARTING
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                said = self.said()
                self.stop()
                raise RuntimeError(f"{self.server.name} did not start: {said}") from None
            return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it at once: what it stored is thrown away."""
        self._process.kill()
        self._process.wait()
        self._log.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """What was wrong in its own words: the last line of its output that speaks of an error, else the last one."""
        lines = self._log.read_text(errors="replace").splitlines() or ["it said nothing"]
        return next((line for line in reversed(lines) if re.search(r"Error\b.*: ", line)), lines[-1]).strip()[:200]

    def cpu(self) -> float:
        return machine.cpu_seconds(self.pid)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as picked:
        return int(picked.getsockname()[1])


def own(durability: str, name: str) -> Server:
    """tusserver, as its command line starts it."""
    from tusserver import __version__

    command = [sys.executable, "-m", "tusserver", "serve", "--port", "{port}", "--storage", "{storage}"]
    command += ["--durability", durability, "--log.level", "warning"]
    version = f"{__version__} (Python {sys.version.split()[0]})"
    return Server(name=name, version=version, command=tuple(command))


def floor(program: Path, name: str, *options: str) -> Server:
    """The C program that only receives and writes."""
    return Server(
        name=name,
        version="bench/floor.c",
        command=(str(program), "{port}", "{storage}", *options),
        lacks={"sha1": "it computes no checksum"},
    )
