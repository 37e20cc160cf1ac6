"""Programs of the examples, each in a process of its own, until the end of the context."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.tus import eventually
from tests.support.wire import TIMEOUT

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A command; `ready` tells whether it works. Its output goes to `log`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        ready: Callable[[], bool],
        log: Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [str(part) for part in command]
        self._ready = ready
        self._log = log
        self._cwd = cwd
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it works."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._cwd, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        answered = eventually(lambda: self._process.poll() is not None or self._ready())
        if not answered or self._process.poll() is not None:
            self.stop()
            raise RuntimeError(f"{self._command} did not start:\n{self.output()}")

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
        try:
            return self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def output(self) -> str:
        """What it said so far."""
        return self._log.read_text("utf-8", errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def uvicorn(module: str, port: int, folder: Path, *options: str) -> Program:
    """An example app, as its header says it is run, in `folder`. `options` are further ones of uvicorn."""
    return Program(
        [
            *(sys.executable, "-m", "uvicorn", "--http", "tusserver.server.protocol:TusHttpProtocol"),
            *("--port", str(port), *options, f"examples.{module}:app"),
        ],
        ready=lambda: listens(port),
        log=folder / "uvicorn.log",
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
    )
