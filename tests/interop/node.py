"""tus-js-client in Node.js: installed once, one process for each upload, told what to do and asked what happened."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.wire import TIMEOUT

_JS = Path(__file__).parent / "js"


def install(cache: Path, source: Path = _JS) -> Path:
    """A folder below `cache` with the packages of a package-lock.json, laid by whoever comes first."""
    manifests = [source / "package.json", source / "package-lock.json"]
    version = hashlib.sha256(b"".join(manifest.read_bytes() for manifest in manifests)).hexdigest()[:16]
    installed = cache / version
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            fresh = cache / "fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            for manifest in manifests:
                shutil.copy(manifest, fresh)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
            done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                pytest.fail(f"npm ci failed:\n{done.stdout}\n{done.stderr}", pytrace=False)
            fresh.rename(installed)
    return installed


class Client:
    """One process with one upload."""

    def __init__(self, installed: Path, job: dict[str, Any], env: Mapping[str, str]) -> None:
        self.events: list[dict[str, Any]] = []
        """What happened, as far as it was read."""
        self._process = subprocess.Popen(
            ["node", str(_JS / "driver.cjs")],
            env={**os.environ, **env, "NODE_PATH": str(installed / "node_modules")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tell(json.dumps(job))

    def tell(self, line: str) -> None:
        """A command: `abort` or `terminate`."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event: dict[str, Any] = json.loads(line)
            self.events.append(event)
            yield event

    def wait_for(self, name: str) -> dict[str, Any]:
        """Read until the event happens."""
        for event in self._read():
            if event["event"] == name:
                return event
        raise AssertionError(f"it ended without {name!r}: {self.events}")

    def finish(self) -> Client:
        """Wait until the process has ended by itself."""
        for _ in self._read():
            pass
        assert self._process.wait(TIMEOUT) == 0
        return self

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        with self._process:  # closes the pipes and waits
            pass

    def all(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    @property
    def methods(self) -> list[str]:
        """The methods of its requests, in order."""
        return [event["method"] for event in self.all("request")]

    @property
    def url(self) -> str:
        """The URL of its finished upload."""
        successes = self.all("success")
        assert len(successes) == 1, self.events
        return str(successes[0]["url"])


class Node:
    """Starts clients and ends what is left of them. `env` is their further environment."""

    def __init__(self, installed: Path, env: Mapping[str, str] | None = None) -> None:
        self._installed = installed
        self._env = env or {}
        self._clients: list[Client] = []

    def start(self, path: Path, *, source: str = "file", options: dict[str, Any], **job: Any) -> Client:
        """Begin an upload of `path` with `options` of tus-js-client.

        `source`: `file`, `buffer`, or `stream` (of unknown length). Further keys of the job:
        `urls` (file where upload URLs are remembered and looked up), `abortAt` (bytes accepted), `abortTerminates`,
        `again` (start once more after an abort), `retry` (what onShouldRetry says).
        """
        return self._start({"path": str(path), "source": source, "options": options, **job})

    def run(self, path: Path, *, source: str = "file", options: dict[str, Any], **job: Any) -> Client:
        """As `start`, and wait for the end."""
        return self.start(path, source=source, options=options, **job).finish()

    def terminate(self, url: str) -> Client:
        """Upload.terminate(url)"""
        return self._start({"terminate": url, "options": {}}).finish()

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _start(self, job: dict[str, Any]) -> Client:
        client = Client(self._installed, job, self._env)
        self._clients.append(client)
        return client
