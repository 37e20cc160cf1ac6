"""A run: rounds of clients and torments, and after each the question whether every promise was kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.torture.clients import CALM, Client
from tests.torture.ledger import Ledger
from tests.torture.order import unexplained
from tests.torture.remains import pass_time, remains, sweep
from tests.torture.tormentor import Tormentor
from tests.torture.upload import Absent, Upload, differing


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is made of. Times are seconds."""

    seed: int
    time: float
    """Of all rounds together."""
    round: float = 15.0
    clients: int = 8
    workers: int = 1
    life: float = 8.0
    """Of uploads that nobody writes to, and of finished ones."""
    sweep: float = 0.5
    """Between two sweeps."""
    finished: bool = False
    """Whether finished files get readable names in a folder of their own."""


def torture(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Ledger:
    """Run a plan with its data in `folder`; what was seen is in the ledger."""
    ledger = Ledger()
    seed = f"{plan.seed} {plan.workers}"
    options = ["--expire-after", f"{plan.life}s", "--expiry.keep_finished", f"{plan.life}s"]
    options += ["--expiry.keep_parts", f"{plan.life}s"]
    if plan.finished:
        options += ["--store.finished_folder", str(folder / "finished")]
    tormentor = Tormentor(folder, ledger, f"{seed} tormentor", *options, workers=plan.workers, sweep=plan.sweep)
    try:
        began, number = time.monotonic(), 0
        while (left := plan.time - (time.monotonic() - began)) > 0:
            number += 1
            uploads = _round(plan, tormentor, ledger, f"{seed} {number}", min(left, plan.round))
            for upload in uploads:
                _inspect(upload, folder)
            for upload in uploads:
                if why := unexplained(upload.born, upload.ops):
                    ledger.accuse(f"no order of events explains {upload.url}: {why}")
            ledger.count("rounds")
            tell(f"{time.monotonic() - began:5.0f} s  {_brief(ledger)}")
        tormentor.finish()
    finally:
        tormentor.abandon()
    for _ in range(2):  # what a crash left complete and not finished, the first one finishes, and that has its life too
        threading.Event().wait(plan.life + 1.0)
        pass_time(folder)
        sweep(folder, *options)
        if not remains(folder):
            break
        ledger.count("further sweeps")
    for path in remains(folder):
        ledger.accuse(f"after a sweep there is still {path.relative_to(folder)}")
    return ledger


def _round(plan: Plan, tormentor: Tormentor, ledger: Ledger, seed: str, seconds: float) -> list[Upload]:
    """Let clients work and the server suffer, and return what was made."""
    stop = threading.Event()
    url = tormentor.server.url
    clients = [Client(url, ledger, f"{seed} {name}", plan.life, stop) for name in range(plan.clients)]
    with ThreadPoolExecutor(plan.clients + 1) as pool:
        working = [pool.submit(client.run) for client in clients]
        suffering = pool.submit(tormentor.run, stop)
        try:
            threading.Event().wait(seconds)
        finally:
            stop.set()
        suffering.result()
        for work in working:
            work.result()
    return [upload for client in clients for upload in client.uploads]


def _inspect(upload: Upload, folder: Path) -> None:
    """Ask a server that nobody torments what it has of an upload, compare all of it, and complete it."""
    ledger = upload.ledger
    try:
        offset = upload.head()
        if offset is None:
            return
        if offset < len(upload.content):
            found = (folder / "uploads" / upload.id[:2] / upload.id).read_bytes()[:offset]
            ledger.count("bytes checked", len(found))
            if found != upload.content[:offset]:
                ledger.accuse(f"{upload.url} holds {differing(found, upload.content[:offset])}")
            if upload.patch(offset, len(upload.content) - offset, CALM) in (423, None):
                ledger.accuse(f"{upload.url} is locked, and nobody is there")
        upload.get()
    except FileNotFoundError:
        upload.head()  # it must have expired meanwhile, or this is not explained
    except Absent:
        ledger.accuse("the server takes no connection, though nobody torments it")


def _brief(ledger: Ledger) -> str:
    counts = ledger.counts
    told = [f"{counts[name]} {name}" for name in ("kills", "requests", "uploads", "bytes checked")]
    return ", ".join(told) + f"; {len(ledger.broken)} broken promises"


def report(ledger: Ledger) -> str:
    """Everything that was counted, and everything that was broken."""
    lines = [f"  {count:>14,} {name}" for name, count in sorted(ledger.counts.items())]
    lines += [f"BROKEN: {what}" for what in ledger.broken[:20]]
    lines.append(f"{len(ledger.broken)} broken promises")
    return "\n".join(lines)
