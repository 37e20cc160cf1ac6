"""The clients: what each needs, how its driver is built, and how an upload with it is started.

A driver is a small program in ../java, ../js, ../python or ../rust. It is told a job, uploads with the retries that its
client has by itself, and prints the outcome. What is built lies in a folder for caches, made by whoever comes first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop import node

INTEROP = Path(__file__).parents[1]
ROOT = INTEROP.parents[1]
CARGO = (1, 92)
"""What tus-uploader asks for."""


class BuildFailed(Exception):
    """A driver could not be built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a client says in the end."""

    url: str | None
    error: str | None


class Upload:
    """One client with one upload, in a process of its own."""

    def __init__(self, command: Sequence[str], job: dict[str, str | None]) -> None:
        self._process = subprocess.Popen(
            [*command, json.dumps(job)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it stand still meanwhile."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def finish(self, within: float) -> Outcome:
        """Wait for the end."""
        try:
            out, err = self._process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self.close()
            return Outcome(url=None, error=f"it did not end within {within:.0f} s")
        try:
            return Outcome(**json.loads(out))
        except ValueError:
            return Outcome(url=None, error=f"exit {self._process.returncode}: {out}{err}")

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        with self._process:  # closes the pipes and waits
            pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client that can be driven."""

    name: str
    lacks: Callable[[], str | None]
    """Says what is not installed here, or None."""
    build: Callable[[], list[str]]
    """Makes its driver and returns the command that runs it.

    Raises:
        BuildFailed: …
    """
    resumes: bool = True
    """Whether it can go on with the URL of an upload that it did not create."""
    waits_on_423: bool = True
    """Whether it asks again after 423, as protocol and server mean it."""

    def start(self, path: Path, endpoint: str, url: str | None = None) -> Upload:
        """Begin an upload of `path`."""
        return Upload(self.build(), {"client": self.name, "path": str(path), "endpoint": endpoint, "url": url})


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "tusserver-interop"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _built(name: str, make: Callable[[Path, Path], None]) -> Path:
    """The folder in the cache that was made from ../`name`, as it is now; `make` is told that one and the new one."""
    source = INTEROP / name
    files = sorted(path for path in source.rglob("*") if path.is_file())
    told = b"".join(str(path.relative_to(source)).encode() + path.read_bytes() for path in files)
    built = _cache() / f"{name}-{hashlib.sha256(told).hexdigest()[:16]}"
    with (_cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            fresh = _cache() / f"{name}-fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(source, fresh)
            make(source, fresh)
            fresh.rename(built)
    return built


def _run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise BuildFailed(f"{' '.join(map(str, command))}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


def _needs(*programs: str) -> Callable[[], str | None]:
    return lambda: next((f"needs {program}" for program in programs if shutil.which(program) is None), None)


def _python() -> list[str]:
    return [sys.executable, str(INTEROP / "python" / "returning.py")]


def _node() -> list[str]:
    cache = _cache() / "npm"
    cache.mkdir(exist_ok=True)
    packages = node.install(cache)
    driver = INTEROP / "js" / "returning.mjs"
    # Modules look for packages beside themselves.
    copy = packages / f"returning-{hashlib.sha256(driver.read_bytes()).hexdigest()[:16]}.mjs"
    if not copy.exists():
        fresh = packages / f"returning-{os.getpid()}.mjs"
        shutil.copy(driver, fresh)
        fresh.rename(copy)
    return ["node", str(copy)]


def _java() -> list[str]:
    def make(source: Path, fresh: Path) -> None:
        goals = ["compile", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"]
        out = ["-Dout=" + str(fresh / "out"), "-DoutputDirectory=" + str(fresh / "out" / "jars")]
        _run(["mvn", "--batch-mode", "--quiet", *out, *goals], fresh)

    out = _built("java", make) / "out"
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{out / 'classes'}:{out / 'jars'}/*", "Driver"]


def _rust() -> list[str]:
    def make(source: Path, fresh: Path) -> None:
        _run(["cargo", "build", "--release", "--locked", "--target-dir", fresh / "target"], fresh)
        (fresh / "target" / "release" / "tusserver-interop").rename(fresh / "driver")
        shutil.rmtree(fresh / "target")

    return [str(_built("rust", make) / "driver")]


def _lacks_cargo() -> str | None:
    wanted = "needs cargo {}.{} or newer".format(*CARGO)
    if shutil.which("cargo") is None:
        return wanted
    told = subprocess.run(["cargo", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"cargo (\d+)\.(\d+)", told)
    return None if found and (int(found[1]), int(found[2])) >= CARGO else wanted


CLIENTS = {
    client.name: client
    for client in (
        Client(name="tuspy", lacks=_needs(), build=_python),
        Client(name="aiotus", lacks=_needs(), build=_python, resumes=False),
        Client(name="tus-js-client", lacks=_needs("node", "npm"), build=_node),
        Client(name="uppy", lacks=_needs("node", "npm"), build=_node),
        Client(name="tus-java-client", lacks=_needs("java", "mvn"), build=_java),
        Client(name="tus-uploader", lacks=_lacks_cargo, build=_rust, waits_on_423=False),
    )
}
"""By name."""
