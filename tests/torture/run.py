"""A run: rounds of clients and torments, and after each the question whether every promise was kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.clock import Clock, NoCompiler
from tests.support.tus import Tus, eventually
from tests.torture.app import CALLS
from tests.torture.clients import CALM, Client, Commons, Stranger
from tests.torture.fate import fate_of, read_calls
from tests.torture.ledger import Ledger
from tests.torture.order import unexplained
from tests.torture.records import broken_promises, wait_until_done
from tests.torture.remains import pass_time, remains, sweep
from tests.torture.tormentor import Tormentor
from tests.torture.upload import Absent, Asker, Upload, differing

ROOT = Path(__file__).parents[2]
COUNTS = ("clients", "strangers")
SWITCHES = ("joins", "app", "beside", "clock")
"""Parts of a plan that can be left out."""
TIMEOUT = 10.0
"""Seconds in which an upload that nobody writes to may be busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is made of. Times are seconds."""

    seed: int
    time: float
    """Of all rounds together."""
    round: float = 15.0
    clients: int = 8
    strangers: int = 2
    """Who look at uploads of others all the time."""
    workers: int = 1
    life: float = 8.0
    """Of uploads that nobody writes to, and of finished ones."""
    sweep: float = 0.5
    """Between two sweeps."""
    quiet: float = 20.0
    """In which the server makes good by itself what torments have left half done."""
    finished: bool = False
    """Whether finished files get readable names in a folder of their own."""
    joins: bool = True
    """Whether final uploads are made before their parts are complete."""
    app: bool = True
    """Whether the server has an app in it that is told of each complete upload, and fails or refuses at times."""
    beside: bool = True
    """Whether in every other round a server without that app is on the same folder, and is tormented too."""
    clock: bool = True
    """Whether the wall clock is wrong at times, where there is a compiler."""


def command_of(plan: Plan) -> str:
    """What makes the same clients and torments again."""
    usual = Plan(seed=plan.seed, time=plan.time)
    args = [f"--seed {plan.seed} --workers {plan.workers}"]
    args += [f"--{name} {getattr(plan, name)}" for name in COUNTS if getattr(plan, name) != getattr(usual, name)]
    args += [f"--no-{name}" for name in SWITCHES if not getattr(plan, name)]
    return f"make torture ARGS='{' '.join(args)}{' --finished' * plan.finished}'"


class Stage:
    """What the rounds of a run have in common."""

    def __init__(self, plan: Plan, folder: Path, ledger: Ledger, clock: Clock | None) -> None:
        self.plan = plan
        self.folder = folder
        self.ledger = ledger
        self.clock = clock
        self.seed = f"{plan.seed} {plan.workers}"
        self.calls = folder.with_name("calls")
        life = f"{plan.life}s"
        self.options = ["--expire-after", life, "--expiry.keep_finished", life, "--expiry.keep_parts", life]
        if plan.finished:
            self.options += ["--store.finished_folder", str(folder / "finished")]
        self._env = {"PYTHONPATH": str(ROOT), **(clock.env if clock is not None else {})}

    def server(self, name: str, *, app: bool, workers: int) -> Tormentor:
        """Start a server."""
        return Tormentor(
            self.folder,
            self.ledger,
            f"{self.seed} {name}",
            *self.options,
            workers=workers,
            sweep=self.plan.sweep,
            env={**self._env, **({CALLS: str(self.calls)} if app else {})},
            clock=self.clock,
        )

    def wait_until_done(self) -> None:
        """See what the server owes to nobody in particular."""
        wait_until_done(self.folder, self.ledger, self.plan.quiet, self.calls if self.plan.app else None)


def torture(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Ledger:
    """Run a plan with its data in `folder`, and more beside it; what was seen is in the ledger."""
    ledger = Ledger()
    with _clock(plan, folder.parent, tell) as clock:
        stage = Stage(plan, folder, ledger, clock)
        tormentor = stage.server("tormentor", app=plan.app, workers=plan.workers)
        try:
            began, number = time.monotonic(), 0
            while (left := plan.time - (time.monotonic() - began)) > 0:
                number += 1
                _judge(stage, _round(stage, tormentor, number, min(left, plan.round)))
                ledger.count("rounds")
                tell(f"{time.monotonic() - began:5.0f} s  {_brief(ledger)}")
            stage.wait_until_done()
            tormentor.finish()
        finally:
            tormentor.abandon()
        _clear(stage)
    for calls in read_calls(stage.calls).values():
        for call in calls:
            ledger.count(f"calls of the app that {call.outcome}")
    return ledger


@contextmanager
def _clock(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Iterator[Clock | None]:
    if not plan.clock:
        yield None
        return
    try:
        clock = Clock(folder)
    except NoCompiler as reason:
        tell(f"the clock stays right: this {reason}")
        yield None
        return
    try:
        yield clock
    finally:
        clock.close()


def _round(stage: Stage, tormentor: Tormentor, number: int, seconds: float) -> list[Upload]:
    """Let clients work and the server suffer; return what was made, once it is calm and owes nothing."""
    plan, ledger = stage.plan, stage.ledger
    seed = f"{stage.seed} {number}"
    stop, commons = threading.Event(), Commons()
    tormentors = [tormentor]
    if plan.app and plan.beside and number % 2:
        tormentors.append(stage.server(f"{number} beside", app=False, workers=1))
    try:
        asker = Asker(tus=Tus(tormentor.server.url), ledger=ledger, life=plan.life, called=plan.app)
        clients = [Client(asker, f"{seed} {name}", commons, stop, joins=plan.joins) for name in range(plan.clients)]
        doors = [each.server.url for each in tormentors]
        strangers = [Stranger(doors, commons, f"{seed} stranger {name}", stop) for name in range(plan.strangers)]
        with ThreadPoolExecutor(plan.clients + plan.strangers + len(tormentors)) as pool:
            working = [pool.submit(client.run) for client in clients]
            working += [pool.submit(stranger.run) for stranger in strangers]
            suffering = [pool.submit(each.run, stop, commons.climax) for each in tormentors]
            try:
                threading.Event().wait(seconds)
            finally:
                stop.set()
            for work in (*suffering, *working):
                work.result()
        stage.wait_until_done()
        for each in tormentors[1:]:
            each.finish()
    finally:
        for each in tormentors[1:]:
            each.abandon()
    return [upload for client in clients for upload in client.uploads]


def _judge(stage: Stage, uploads: list[Upload]) -> None:
    """See whether every promise about some uploads was kept."""
    ledger = stage.ledger
    for upload in uploads:
        _inspect(upload, stage.folder)
    calls = read_calls(stage.calls)
    for upload in uploads:
        if why := unexplained(upload.born, upload.ops):
            ledger.accuse(f"no order of events explains {upload.url}: {why}")
        if stage.plan.app:
            for what in broken_promises(upload, calls.get(upload.id, ())):
                ledger.accuse(what)


def _inspect(upload: Upload, folder: Path) -> None:
    """Ask a server that nobody torments what it has of an upload, compare all of it, and complete it."""
    ledger = upload.ledger
    try:
        if not eventually(lambda: upload.head() is not None or upload.heard != 423, TIMEOUT):
            ledger.accuse(f"{upload.url} is busy for ever, and nobody is there")
            return
        offset = upload.told
        if offset is None:
            return
        if offset < len(upload.content):
            found = (folder / "uploads" / upload.id[:2] / upload.id).read_bytes()[:offset]
            ledger.count("bytes checked", len(found))
            if found != upload.content[:offset]:
                ledger.accuse(f"{upload.url} holds {differing(found, upload.content[:offset])}")
            status = upload.patch(offset, len(upload.content) - offset, CALM)
            if status is None or (status == 423 and not (upload.born.called and fate_of(upload.name).failures)):
                ledger.accuse(f"{upload.url} is locked, and nobody is there")
        upload.get()
    except FileNotFoundError:
        upload.head()  # it must have expired meanwhile, or this is not explained
    except Absent:
        ledger.accuse("the server takes no connection, though nobody torments it")


def _clear(stage: Stage) -> None:
    """Let all time pass, sweep, and see that nothing is left."""
    for _ in range(2):  # what a crash left complete and not finished, the first one finishes, and that has its life too
        threading.Event().wait(stage.plan.life + 0.2)
        pass_time(stage.folder)
        sweep(stage.folder, *stage.options)
        if not remains(stage.folder):
            break
        stage.ledger.count("further sweeps")
    for path in remains(stage.folder):
        stage.ledger.accuse(f"after a sweep there is still {path.relative_to(stage.folder)}")


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
