"""Chromium with one page, by playwright-core in a process of Node.js; and web servers for the pages of the examples."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.wire import TIMEOUT

_JS = Path(__file__).parent / "js"

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """A browser with an empty profile and one page, until the end of the context."""

    def __init__(self, packages: Path) -> None:
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            ["node", str(_JS / "driver.cjs"), CHROMIUM],
            env={**os.environ, "NODE_PATH": str(packages / "node_modules")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def open(self, url: str) -> None:
        self._do("open", url=url)

    def reload(self) -> None:
        self._do("reload")

    def choose(self, at: str, *files: Path) -> None:
        """Choose files in the input that a selector names."""
        self._do("choose", at=at, files=[str(file) for file in files])

    def click(self, at: str) -> None:
        self._do("click", at=at)

    def wait(self, at: str, count: int = 1) -> None:
        """Wait until there are so many elements that a selector names."""
        self._do("wait", at=at, count=count)

    def read(self, at: str) -> str:
        return str(self._do("read", at=at))

    def links(self, at: str) -> list[str]:
        return list(self._do("links", at=at))

    @property
    def complaints(self) -> list[str]:
        """Errors of the page, and on its console."""
        return list(self._do("complaints"))

    @property
    def hosts(self) -> set[str]:
        """Everybody (host:port) whom the page asked for something."""
        return set(self._do("hosts"))

    def _do(self, deed: str, **words: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"deed": deed, **words}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the browser is gone"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:  # closes its input, and waits
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """Serve a folder as `python3 -m http.server` does; yield its origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(TIMEOUT)


def lay(example: Path, packages: Path, folder: Path, changes: Sequence[tuple[str, str]]) -> None:
    """Put an example page into `folder` with its packages, as a reader has it after `npm install` and his changes."""
    for path in example.iterdir():
        if path.is_file():
            text = path.read_text("utf-8")
            for old, new in changes:
                text = text.replace(old, new)
            (folder / path.name).write_text(text, "utf-8")
    (folder / "node_modules").symlink_to(packages / "node_modules")
