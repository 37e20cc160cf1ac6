"""The smoke run: `make serve` as a newcomer starts it, a real upload by tuspy that has to survive two crashes.

A client is killed at a third of the file, the server at two thirds; both go on where they stood, the stored file
equals the source, DELETE leaves nothing of it, and Ctrl-C ends the server at once, cleanly, saying so.
"""

# ruff: noqa: T201 - a script that tells a terminal what it does

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from tusclient.client import TusClient

MIB = 1024 * 1024
LENGTH = 96 * MIB + 4321
CHUNK = 4 * MIB
FOREVER = 3600.0
"""Seconds. The one who waits so long gets killed."""


class Stuck(BytesIO):
    """A source that hangs when it is read beyond `until`: its client is under way, and stays there."""

    def __init__(self, data: bytes, until: int) -> None:
        super().__init__(data)
        self._until = until

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._until:
            time.sleep(FOREVER)
        return super().read(size)


def upload(endpoint: str, url: str, source: str, until: str) -> None:
    """Body of the client process: upload `source` to `url` (made first, if empty) and print the URL."""
    uploader = TusClient(endpoint).uploader(
        file_stream=Stuck(Path(source).read_bytes(), int(until)),
        url=url or None,
        chunk_size=CHUNK,
        metadata={"filename": "smoke test.bin"},
    )
    if not url:
        uploader.set_url(uploader.create_url())
    print(uploader.url, flush=True)
    uploader.upload()


@contextlib.contextmanager
def client(endpoint: str, url: str, source: Path, until: int) -> Iterator[subprocess.Popen[str]]:
    """A client in a process of its own, killed at the end if it still runs."""
    command = [sys.executable, __file__, "upload", endpoint, url, str(source), str(until)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class Serve:
    """`make serve` in a process group of its own, so that signals reach it as a terminal's do."""

    def __init__(self, storage: Path, port: int) -> None:
        env = {**os.environ, "TUSSERVER_STORAGE": str(storage), "TUSSERVER_PORT": str(port)}
        self.process = subprocess.Popen(
            ["make", "--no-print-directory", "serve"],
            env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.endpoint = self._listening()

    def _listening(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            print("  |", line, end="")
            if found := re.search(r"Listening on (\S+)", line):
                return found.group(1)
        raise SystemExit(f"make serve ended with {self.process.wait()} before it listened")

    def send(self, number: int) -> tuple[int, str]:
        """Signal the whole group. Returns the exit code of make and the rest of the output, both complete."""
        os.killpg(self.process.pid, number)
        try:
            rest, _ = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise SystemExit("make serve did not end within 20 s") from None
        print("".join(f"  | {line}\n" for line in rest.splitlines()), end="")
        return self.process.returncode, rest

    def end(self) -> None:
        """Leave nothing behind, whatever went wrong."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def ask(method: str, url: str) -> tuple[HTTPResponse, bytes]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request(method, parts.path, headers={"Tus-Resumable": "1.0.0"})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def offset(url: str) -> int:
    response, _ = ask("HEAD", url)
    check(response.status == 200, f"HEAD answers 200, not {response.status}")
    return int(response.headers["Upload-Offset"])


def wait_for(url: str, least: int) -> int:
    until = time.monotonic() + 60
    while (reached := offset(url)) < least:
        if time.monotonic() > until:
            raise SystemExit(f"the upload stands at {reached} and does not reach {least}")
        time.sleep(0.02)
    return reached


def check(holds: bool, claim: str) -> None:
    if not holds:
        raise SystemExit(f"FAILED: {claim}")


def main() -> None:
    # Started in the background by a shell, this process would ignore Ctrl-C, and so would the server it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="tusserver-smoke-") as folder:
        source, storage = Path(folder, "source.bin"), Path(folder, "storage")
        source.write_bytes(os.urandom(LENGTH))
        server = Serve(storage, 0)
        try:
            server = walk(server, source, storage)
            began = time.monotonic()
            code, output = server.send(signal.SIGINT)
            took = time.monotonic() - began
            check("Stopped" in output, "the server says that it stopped")
            check("Traceback" not in output and "Error" not in output, "Ctrl-C ends it cleanly")
            check(code in (0, -signal.SIGINT), f"make ends by Ctrl-C, not with {code}")
            check(took < 5, f"Ctrl-C ends it at once, not after {took:.1f} s")
            print(f"Ctrl-C ended it in {took:.2f} s")
        finally:
            server.end()


def walk(server: Serve, source: Path, storage: Path) -> Serve:
    endpoint = server.endpoint
    with client(endpoint, "", source, LENGTH // 3) as first:
        assert first.stdout is not None
        url = first.stdout.readline().strip()
        stands = wait_for(url, LENGTH // 3)
    print(f"client killed at {stands} of {LENGTH} bytes: {url}")

    with client(endpoint, url, source, LENGTH * 2 // 3):
        stands = wait_for(url, LENGTH * 2 // 3)
        server.send(signal.SIGKILL)
    print(f"server killed at {stands} bytes")

    server = Serve(storage, urlsplit(endpoint).port or 0)
    try:
        check(offset(url) >= stands, f"the restarted server stands at {stands} bytes at least")
        with client(endpoint, url, source, LENGTH) as last:
            check(last.wait(120) == 0, "the last client finishes the upload")
        check(offset(url) == LENGTH, "the upload is complete")
        response, stored = ask("GET", url)
        check(response.status == 200, f"GET answers 200, not {response.status}")
        expected = hashlib.sha256(source.read_bytes()).hexdigest()
        check(hashlib.sha256(stored).hexdigest() == expected, "the stored bytes equal the source")
        print(f"resumed twice, complete, equal: sha256 {expected}")

        name = url.rsplit("/", 1)[1]
        check(any(name in path.name for path in storage.rglob("*")), "the upload has files in the data folder")
        response, _ = ask("DELETE", url)
        check(response.status == 204, f"DELETE answers 204, not {response.status}")
        response, _ = ask("HEAD", url)
        check(response.status in (404, 410), f"HEAD after DELETE answers 404, not {response.status}")
        left = [path for path in storage.rglob("*") if name in path.name]
        check(not left, f"DELETE leaves nothing behind: {left}")
        print("deleted, nothing is left of it")
    except BaseException:
        server.end()
        raise
    return server


if __name__ == "__main__":
    if sys.argv[1:2] == ["upload"]:
        upload(*sys.argv[2:])
    else:
        main()
