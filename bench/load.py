"""The load clients (client.c): compiled here, driven over their standard input and output, and what they sent compared.

The bytes that are sent are one random file, over and over, from another place for each upload.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.servers import Running

SOURCE_SIZE = 16_391 * 4096
"""Bytes. A prime number of pages, so that no two places of a big upload that could be mixed up are alike."""

_BLOCK = 512 * 1024
_HERE = Path(__file__).parent


class LoadFailed(Exception):
    """A server did not do what was asked, or stored other bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a client found. Times in seconds."""

    seconds: float
    bytes: int
    requests: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """An upload as the client named it, and where in the source its bytes begin."""

    id: str
    start: int


class Workshop:
    """The compiled programs and the source of all bytes, in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.client = _compile(_HERE / "client.c", folder)
        self.floor = _compile(_HERE / "floor.c", folder)
        self.source = folder / "source"
        self.ids = folder / "ids"
        if not self.source.exists() or self.source.stat().st_size != SOURCE_SIZE:
            self.source.write_bytes(random.Random(1).randbytes(SOURCE_SIZE))

    def sha1(self, size: int) -> str:
        """Upload-Checksum for the first `size` bytes of the first upload."""
        digest = self.hash_alone(size)[1]
        return "sha1 " + base64.b64encode(digest).decode()

    def hash_alone(self, size: int) -> tuple[float, bytes]:
        """CPU seconds that sha1 of `size` bytes takes, in the pieces that a server would write; and the digest."""
        data = memoryview(self.source.read_bytes())
        began = time.process_time()
        digest = hashlib.sha1()
        while size:
            for at in range(0, min(size, SOURCE_SIZE), _BLOCK):
                piece = data[at : min(at + _BLOCK, size, SOURCE_SIZE)]
                digest.update(piece)
            size -= min(size, SOURCE_SIZE)
        return time.process_time() - began, digest.digest()

    def stored(self) -> list[Stored]:
        """What the client that ran last has uploaded."""
        lines = (line.split("\t") for line in self.ids.read_text().splitlines())
        return [Stored(id=path.rstrip("/").rsplit("/", 1)[1], start=int(start)) for path, start in lines]

    def verify(self, storage: Path, uploads: list[Stored], size: int) -> None:
        """Compare every stored file, byte for byte.

        Raises:
            LoadFailed
        """
        files = _files(storage)
        lines = [_line(files, upload.id, size, 0, size, upload.start) for upload in uploads]
        self._verify(lines)

    def verify_final(self, storage: Path, uploads: list[Stored], size: int) -> None:
        """Compare a final upload, which stands first, with what was sent as its parts.

        Raises:
            LoadFailed
        """
        final, *parts = uploads
        files = _files(storage)
        whole = len(parts) * size
        self._verify([_line(files, final.id, whole, at * size, size, part.start) for at, part in enumerate(parts)])

    def _verify(self, lines: list[str]) -> None:
        command = [str(self.client), "verify", f"source={self.source}"]
        done = subprocess.run(command, input="".join(lines), capture_output=True, text=True)
        if done.returncode or done.stdout.strip() != f"verified {len(lines)}":
            raise LoadFailed(f"what is stored differs: {done.stderr.strip() or done.stdout.strip()}")


class Client:
    """One run of the client program against a server."""

    def __init__(self, workshop: Workshop, running: Running, mode: str, **options: object) -> None:
        given = {"port": running.port, "base": running.server.base, "source": workshop.source, **options}
        command = [str(workshop.client), mode, *(f"{name}={value}" for name, value in given.items())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        said = self._process.communicate()[1]
        if error is None and self._process.returncode:
            raise LoadFailed(" ".join(said.split()) or f"the client ended with {self._process.returncode}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def heard(self, word: str) -> str:
        """Wait for a word of the client, and return the rest of its line.

        Raises:
            LoadFailed: it has ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.split(" ")[0].strip() != word:
            self._process.kill()
            said = self._process.communicate()[1].strip()
            raise LoadFailed(" ".join(said.split()) or f"the client said {line.strip()!r} instead of {word!r}")
        return line[len(word) :].strip()

    def tell(self) -> None:
        """Let the client go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> Result:
        return Result(**json.loads(self.heard("result")))


def _compile(source: Path, folder: Path) -> Path:
    program = folder / source.stem
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", str(program), str(source)], check=True)
    return program


def _files(storage: Path) -> dict[str, str]:
    return {name: os.path.join(folder, name) for folder, _, names in os.walk(storage) for name in names}


def _line(files: dict[str, str], upload_id: str, length: int, offset: int, size: int, start: int) -> str:
    if upload_id not in files:
        raise LoadFailed(f"no file is named {upload_id}")
    return f"{files[upload_id]}\t{length}\t{offset}\t{size}\t{start}\n"
