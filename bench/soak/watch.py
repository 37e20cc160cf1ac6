"""What the kernel and `/livez` tell of a server, sampled by a process of its own: the crowd must not slow the clock."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import statistics
import threading
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import machine

PROBE = 0.1
"""Seconds between two looks at `/livez`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One moment. Sizes are bytes, times are seconds."""

    at: float
    """Since the start."""
    rss: int
    """Resident memory of all processes of the server."""
    swap: int
    descriptors: int
    threads: int
    files: int
    """Files in the data folder, of whatever kind."""
    stored: int
    """Space that they take."""
    livez_p50: float
    livez_p99: float
    livez_most: float
    livez_failed: int
    """Looks at `/livez` that got no 200."""


class Watch:
    """Samples the server `pid` with its data in `storage` every `interval` seconds, into `target` (JSON lines)."""

    def __init__(self, pid: int, host: str, storage: Path, target: Path, interval: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._end = context.Event()
        self._process = context.Process(target=_run, args=(pid, host, storage, target, interval, self._end))

    def __enter__(self) -> Watch:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._process.join(60)


def read(path: Path) -> list[Sample]:
    """Samples that were kept in a file."""
    return [Sample(**json.loads(line)) for line in path.read_text().splitlines()]


def _run(pid: int, host: str, storage: Path, target: Path, interval: float, end: threading.Event) -> None:
    began = time.monotonic()
    took: list[float] = []
    failed = 0
    due = began + interval
    with target.open("a") as lines:
        while not end.wait(PROBE):
            asked = time.monotonic()
            failed += not _alive(host)
            took.append(time.monotonic() - asked)
            if time.monotonic() >= due:
                due += interval
                sample = _sample(pid, storage, time.monotonic() - began, took, failed)
                lines.write(json.dumps(asdict(sample)) + "\n")
                lines.flush()
                took, failed = [], 0


def _alive(host: str) -> bool:
    with closing(http.client.HTTPConnection(host, timeout=30)) as connection, suppress(OSError):
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    return False


def _sample(pid: int, storage: Path, at: float, took: list[float], failed: int) -> Sample:
    files, stored = _stored(storage)
    members = machine.family(pid)
    return Sample(
        at=at,
        rss=machine.memory(pid, "VmRSS"),
        swap=machine.memory(pid, "VmSwap"),
        descriptors=sum(_count(f"/proc/{member}/fd") for member in members),
        threads=sum(_count(f"/proc/{member}/task") for member in members),
        files=files,
        stored=stored,
        livez_p50=statistics.median(took),
        livez_p99=sorted(took)[int(len(took) * 0.99)],
        livez_most=max(took),
        livez_failed=failed,
    )


def _count(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0


def _stored(storage: Path) -> tuple[int, int]:
    files = stored = 0
    folders = [str(storage)]
    while folders:
        with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                with suppress(FileNotFoundError):
                    files += 1
                    stored += entry.stat(follow_symlinks=False).st_blocks * 512
    return files, stored
