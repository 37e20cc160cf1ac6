"""The peers: how each is installed from its own registry, into a cache folder, and started.

Versions are pinned. Each is started as its own documentation does, with uploads on local disk, and with the log of
requests off where it has a switch for that. A peer whose toolchain is absent is named in the report.
"""

from __future__ import annotations

import shutil
import subprocess
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.servers import TUSD, Server

TUSD_VERSION = "2.9.1"
RUSTUS_VERSION = "0.5.10"
TUS_NODE_VERSION = "2.4.5"
TUSPYSERVER_VERSION = "4.4.3"

NO_CHECKSUM = "it has no checksum extension"

_HERE = Path(__file__).parent
_LONGEST = 1800.0
"""Seconds for one installation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A peer that cannot be measured here."""

    name: str
    reason: str


class _NotInstalled(Exception):
    pass


def tusd(cache: Path) -> Server:
    program = cache / f"tusd-{TUSD_VERSION}" / "tusd"
    if not program.exists():
        _need("go")
        module = f"github.com/tus/tusd/v2/cmd/tusd@v{TUSD_VERSION}"
        _run("go", "install", module, environment={"GOBIN": str(program.parent)})
    command = [str(program), "-host", "127.0.0.1", "-port", "{port}", "-upload-dir", "{storage}"]
    return Server(
        name=TUSD,
        version=f"{TUSD_VERSION} ({_first_line('go', 'version', program).split()[-1]})",
        command=(*command, "-verbose=false", "-show-startup-logs=false"),
        base="/files/",
        lacks={"sha1": NO_CHECKSUM},
    )


def rustus(cache: Path) -> Server:
    root = cache / f"rustus-{RUSTUS_VERSION}"
    program = root / "bin" / "rustus"
    if not program.exists():
        _need("cargo")
        options = ("--version", RUSTUS_VERSION, "--locked", "--features", "hashers", "--root", str(root))
        _run("cargo", "install", "rustus", *options)
    command = [str(program), "--host", "127.0.0.1", "--port", "{port}", "--log-level", "ERROR"]
    # It holds the body of a request in memory, and refuses larger ones than this.
    command += ["--max-body-size", str(4 << 30), "--data-dir", "{storage}", "--info-dir", "{storage}"]
    return Server(name="rustus", version=RUSTUS_VERSION, command=tuple(command))


def tus_node(cache: Path) -> Server:
    _need("node")
    folder = cache / f"tus-node-{TUS_NODE_VERSION}"
    if not (folder / "node_modules" / "@tus" / "server").exists():
        _need("npm")
        shutil.copytree(_HERE / "tusnode", folder, dirs_exist_ok=True)
        _run("npm", "ci", "--no-audit", "--no-fund", folder=folder)
    shutil.copy(_HERE / "tusnode" / "server.mjs", folder)
    return Server(
        name="@tus/server",
        version=f"{TUS_NODE_VERSION} (Node.js {_first_line('node', '--version')})",
        command=("node", str(folder / "server.mjs"), "{port}", "{storage}"),
        lacks={"sha1": NO_CHECKSUM, "concat": "its file store has no concatenation extension"},
    )


def tuspyserver(cache: Path) -> Server:
    folder = cache / f"tuspyserver-{TUSPYSERVER_VERSION}"
    program = folder / "bin" / "uvicorn"
    if not program.exists():
        venv.create(folder, with_pip=True)
        requirements = _HERE / "tuspyserver" / "requirements.txt"
        _run(str(folder / "bin" / "pip"), "install", "--disable-pip-version-check", "--requirement", str(requirements))
    command = [str(program), "--app-dir", str(_HERE / "tuspyserver"), "app:app", "--port", "{port}"]
    return Server(
        name="tuspyserver",
        version=f"{TUSPYSERVER_VERSION} ({_first_line(folder / 'bin' / 'python', '--version')})",
        command=(*command, "--log-level", "error", "--no-access-log"),
        environment={"FILES_DIR": "{storage}"},
        lacks={"sha1": NO_CHECKSUM, "get": "it has no downloads"},
    )


PEERS: dict[str, Callable[[Path], Server]] = {
    TUSD: tusd,
    "rustus": rustus,
    "@tus/server": tus_node,
    "tuspyserver": tuspyserver,
}


def install(name: str, cache: Path) -> Server | Missing:
    """Bring a peer into the cache if it is not there. The first time takes minutes: two of them are compiled."""
    try:
        return PEERS[name](cache)
    except _NotInstalled as reason:
        return Missing(name=name, reason=str(reason))


def _need(program: str) -> None:
    if not shutil.which(program):
        raise _NotInstalled(f"{program} is not installed here")


def _run(*command: str, folder: Path | None = None, environment: dict[str, str] | None = None) -> None:
    given = ["env", *(f"{name}={value}" for name, value in (environment or {}).items()), *command]
    try:
        done = subprocess.run(given, cwd=folder, capture_output=True, text=True, timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        raise _NotInstalled(f"`{command[0]}` took longer than {_LONGEST / 60:.0f} minutes") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise _NotInstalled(f"`{' '.join(command[:3])}` failed: {said[-1].strip()[:200]}")


def _first_line(program: str | Path, *arguments: str | Path) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    return (done.stdout or "unknown").splitlines()[0].strip()
