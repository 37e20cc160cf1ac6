"""A real server in its own process, on a port the system picks, that tests may kill."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from tests.support.tus import eventually
from tests.support.wire import TIMEOUT

LISTENING = re.compile(r"(https?://\S+)")


HAND_OVER = 'fd=$1; shift; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&"$fd"'
"""Runs a command as systemd does that listens for it."""


class TusServer:
    """`tusserver serve` as an operator starts it. `options` are its flags, `env` its further environment.

    `listener`: a socket that is handed over to it, and stays open while it is started again. `module`: what is run, if
    not tusserver itself.
    """

    def __init__(
        self,
        storage: Path,
        *options: str,
        env: dict[str, str] | None = None,
        port: int = 0,
        listener: socket.socket | None = None,
        module: str = "tusserver",
        files: int | None = None,
    ) -> None:
        self.storage = storage
        self.url = ""
        """Where uploads are created, for example http://127.0.0.1:40123/files. Known once started."""
        self.output: list[str] = []
        """Every line the server printed, standard output and error together."""
        self._options = options
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._port = port
        self._listener = listener
        self._module = module
        self._files = files
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> TusServer:
        """Start and wait until it says where it listens. A second start after `kill` takes the same port."""
        command = [sys.executable, "-m", self._module, "serve"]
        command += ["--port", str(self._port), "--storage", str(self.storage), *self._options]
        if self._files is not None:
            command = ["bash", "-c", f'ulimit -n {self._files}; exec "$@"', "bash", *command]
        fds: tuple[int, ...] = ()
        if self._listener is not None:
            fds = (self._listener.fileno(),)
            command = ["bash", "-c", HAND_OVER, "bash", str(fds[0]), *command]
        # One for each process: the reader of one that was killed may be late.
        ready = threading.Event()
        self.process = subprocess.Popen(
            command, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=fds
        )
        threading.Thread(target=self._read, args=(self.process, ready), daemon=True).start()
        if not ready.wait(TIMEOUT) or not self.url or self.process.poll() is not None:
            self.stop()
            raise RuntimeError("the server did not start:\n" + "".join(self.output))
        return self

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.output.append(line)
            found = LISTENING.search(line)
            if found and "Listening" in line and not ready.is_set():
                self.url = found.group(1).rstrip("/")
                self._port = int(self.url.split("/")[2].rsplit(":", 1)[1])
                ready.set()
        process.stdout.close()
        ready.set()

    @property
    def host(self) -> str:
        """host:port"""
        return self.url.split("/")[2]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL: as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(TIMEOUT)

    def stop(self, within: float = 15) -> int:
        """SIGINT, as Ctrl-C does. Returns the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def end(self, *signals: signal.Signals, within: float) -> int:
        """Send signals, wait for the end and for the last line of the output, and return the exit code."""
        assert self.process is not None
        for number in signals:
            self.process.send_signal(number)
        code = self.process.wait(within)
        output = self.process.stdout
        assert output is not None
        assert eventually(lambda: output.closed)  # the reader has every line
        return code

    def files(self) -> list[Path]:
        """Every file below the data folder that belongs to an upload."""
        uploads = self.storage / "uploads"
        return sorted(path for path in uploads.rglob("*") if path.is_file()) if uploads.exists() else []

    def uploads(self) -> list[str]:
        """The URL of every upload that it stores."""
        return [f"{self.url}/{path.stem}" for path in self.files() if path.suffix == ".record"]

    def wait_for_output(self, text: str, within: float = 10) -> None:
        """Wait until a line with `text` was printed."""
        until = time.monotonic() + within
        while not any(text in line for line in self.output):
            if time.monotonic() > until:
                raise AssertionError(f"{text!r} was not printed:\n" + "".join(self.output))
            threading.Event().wait(0.02)

    def __enter__(self) -> TusServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
