"""What happens to an upload, and what has to come out: the same bytes, one upload, and a client that did not give up.

Every case is played through a proxy that does the harm and notes the requests that arrive (`Run.exchanges`).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.interop.goods import KIB, MIB, make_bytes
from tests.interop.returning.clients import Client, Outcome, Upload
from tests.interop.returning.ways import Way
from tests.support.exchanges import Exchange
from tests.support.ports import free_port
from tests.support.proxy import Fault, Proxy
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually
from tests.support.wire import TIMEOUT

SIZE = 3 * MIB + 11
SOURCE = make_bytes(SIZE)
WITHIN = 240.0
"""Seconds after which a client counts as hung, with all its pauses."""
FLOW = (32 * KIB, 0.008)
TRICKLE = (KIB, 0.1)
"""Bytes, and the seconds before each so many of them."""
LOOKS = 6
"""How often each of those who watch has asked before an upload may end."""
POLL = 0.2
"""Seconds between two questions of somebody who watches an upload."""


@dataclass(slots=True)
class Run:
    """One upload, or two of one URL: what was seen."""

    client: str
    way: str
    case: str
    outcomes: list[Outcome] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    watched: list[tuple[float, int, str | None]] = field(default_factory=list)
    """When somebody asked by HEAD, the status, and the offset."""
    complaints: list[str] = field(default_factory=list)
    """What is not as it has to be."""
    seconds: float = 0.0

    @property
    def methods(self) -> Counter[str]:
        """How many requests arrived, by method."""
        return Counter(exchange.method for exchange in self.exchanges)

    @property
    def creations(self) -> int:
        return sum(exchange.status == 201 for exchange in self.exchanges)

    @property
    def restarts(self) -> int:
        """How often it began again from nothing: a further upload, or the first byte again when some had been told."""
        told, again = 0, 0
        for exchange in self.exchanges:
            if exchange.method == "PATCH" and exchange.fields.get("upload-offset") == "0" and told > 0:
                again += 1
            told = max(told, int(exchange.answer.get("upload-offset", "0")))
        return again + max(0, self.creations - 1)

    @property
    def gave_up(self) -> int:
        """How many of its clients ended without success."""
        return sum(outcome.error is not None for outcome in self.outcomes)

    def story(self) -> str:
        """Who asked what, and what was answered."""
        lines = [f"{self.client}, {self.way}, {self.case}: {'; '.join(self.complaints) or 'as it has to be'}"]
        lines += [f"  client: {outcome.error or 'success'}" for outcome in self.outcomes]
        start = self.exchanges[0].at if self.exchanges else 0.0
        lines += [f"  {exchange.at - start:6.2f} s {exchange}" for exchange in self.exchanges]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a run is played."""

    server: TusServer
    link: Proxy
    run: Run
    uploads: list[Upload] = field(default_factory=list)


Harm = Callable[[Stage], None]
"""What is done to an upload. It is called before the client starts, or while it uploads."""


def _nothing(stage: Stage) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of trouble."""

    name: str
    says: str
    """For people."""
    before: Harm = _nothing
    meanwhile: Harm = _nothing
    judge: Callable[[Run], Iterator[str]] = lambda run: iter(())
    """Finds further complaints."""
    clients: int = 1
    """How many go on with one upload that is there already."""
    kills: bool = False
    """Whether it needs a server of its own."""
    by_chance: bool = False
    """Whether it depends on who comes first, so that it is one to count and not one to test."""


# what is done ---------------------------------------------------------------------------------------------------------


def _pause(stage: Stage) -> None:
    stage.link.fail(Fault.PAUSE, after=SIZE // 6, times=4, pauses=(0.3, 0.6, 1.0))


def _watch(stage: Stage) -> None:
    """Two ask for the offset until the client is done: a monitor beside the server, and a page where clients go in.

    It trickles until both have asked several times.
    """
    location = _created(stage)
    if location is None:
        return
    done, together = threading.Event(), threading.Barrier(2, lambda: stage.link.slow(*FLOW))

    def ask(url: str) -> None:
        with requests.Session() as session:
            looks = 0
            while not done.wait(POLL) and any(upload.runs for upload in stage.uploads):
                looks += 1
                if looks == LOOKS:
                    with suppress(threading.BrokenBarrierError):  # the other one is done already
                        together.wait(TIMEOUT)
                answer = session.head(url, headers={"Tus-Resumable": "1.0.0"}, timeout=TIMEOUT)
                offset = answer.headers.get("Upload-Offset")
                stage.run.watched.append((time.monotonic(), answer.status_code, offset))
                if answer.status_code != 200 or offset == str(SIZE):
                    done.set()
        together.abort()
        stage.link.slow(*FLOW)

    with ThreadPoolExecutor(2) as pool:
        for asked in [
            pool.submit(ask, url) for url in (_directly(stage.server, location), stage.link.around(location))
        ]:
            asked.result(WITHIN)


def _reset(stage: Stage) -> None:
    stage.link.fail(Fault.RESET, after=SIZE * 2 // 5)


def _vanish(stage: Stage) -> None:
    stage.link.linger(held=0, piece=1, pause=0.05)
    stage.link.fail(Fault.LINGER, after=SIZE * 2 // 5)


def _deliver_late(stage: Stage) -> None:
    stage.link.linger(held=256 * KIB, piece=8 * KIB, pause=0.1)
    stage.link.fail(Fault.LINGER, after=SIZE * 2 // 5)


def _lose_the_answer(stage: Stage) -> None:
    stage.link.lose("PATCH")


def _reset_often(stage: Stage) -> None:
    stage.link.fail(Fault.RESET, after=SIZE // 4, times=3)


def _slow(stage: Stage) -> None:
    """So that there is a middle."""
    stage.link.slow(piece=16 * KIB, pause=0.01)


def _kill(stage: Stage) -> None:
    """Kill the server in the middle, when it has told that it keeps some bytes, and start it again."""
    location = _created(stage)
    assert location is not None
    tus, url = Tus(stage.server.url), _directly(stage.server, location)
    told = 0

    def came() -> int:
        return stage.link.connections + len(stage.run.exchanges)

    def keeps_some() -> bool:
        nonlocal told
        told = int(tus.head(url)["Upload-Offset"] or "0")
        return told > SIZE // 5

    assert eventually(keeps_some)
    met = came()
    stage.server.kill()
    # It comes back once while nobody is there. How long it would try is its own affair, as is a start.
    eventually(lambda: came() > met or not stage.uploads[0].runs)
    with stage.uploads[0].frozen():
        stage.server.start()
    if told == SIZE:
        stage.run.complaints.append("the server was killed too late to matter")
    if (kept := tus.offset(url)) < told:
        stage.run.complaints.append(f"{told} was told before the server was killed, {kept} afterwards")


def _directly(server: TusServer, location: str) -> str:
    """The URL of an upload without what stands between."""
    return f"{server.url}/{location.rsplit('/', 1)[1]}"


def _created(stage: Stage) -> str | None:
    """The URL of the upload, as its client was told."""

    def locations() -> list[str]:
        return [exchange.answer["location"] for exchange in stage.run.exchanges if exchange.status == 201]

    return locations()[0] if eventually(lambda: bool(locations())) else None


# what has to come out -------------------------------------------------------------------------------------------------


def _smooth(run: Run) -> Iterator[str]:
    """Every request had its answer, and a good one: no client asks more than it wants then."""
    yield from (f"a healthy upload was disturbed: {exchange}" for exchange in run.exchanges if not _fine(exchange))


def _undisturbed(run: Run) -> Iterator[str]:
    """Whoever watches is answered, and the client notices nothing."""
    yield from _smooth(run)
    yield from (f"HEAD was answered {status}" for _, status, _ in run.watched if status != 200)
    if len(run.watched) < 10:
        yield f"it was watched {len(run.watched)} times only"


def _fine(exchange: Exchange) -> bool:
    return exchange.status is not None and exchange.status < 300


CASES = {
    case.name: case
    for case in (
        Case(name="plain", says="Nothing happens.", judge=_smooth),
        Case(
            name="pauses",
            says="The link stops four times for 0.3 to 1 s, while two others ask for the offset five times a second.",
            before=_pause,
            meanwhile=_watch,
            judge=_undisturbed,
        ),
        Case(name="reset", says="The connection is reset at 40 %.", before=_reset),
        Case(name="vanishes", says="The client's end dies at 40 %; the server sees silence.", before=_vanish),
        Case(
            name="late",
            says="The client's end dies at 40 %; another 256 KiB of the old request arrive within the next 3 s.",
            before=_deliver_late,
        ),
        Case(
            name="late, watched",
            says="The same, while two others ask for the offset: and may get a later offset than the client did.",
            before=_deliver_late,
            meanwhile=_watch,
            by_chance=True,
        ),
        Case(name="answer lost", says="All bytes arrive; the answer does not.", before=_lose_the_answer),
        Case(name="killed", says="The server is killed and started again.", before=_slow, meanwhile=_kill, kills=True),
        Case(
            name="two at once",
            says="Two clients go on with one upload at once; their connections are reset three times.",
            before=_reset_often,
            clients=2,
        ),
    )
}
"""By name."""


def is_certain(case: Case, client: Client, way: Way) -> bool:
    """Whether it has to come out well every time.

    While the server is away, proxies answer HEAD with 423, since tus-js-client would forget the upload on 502.
    """
    return not case.by_chance and not (case.kills and way.command is not None and not client.waits_on_423)


def play(case: Case, client: Client, way: Way, server: TusServer, host: str, path: Path) -> Run:
    """Upload the file at `path`, which holds `SOURCE`, through host:port, and see what happens."""
    run = Run(client.name, way.name, case.name)
    began = time.monotonic()
    with Proxy(host, exchanges=run.exchanges) as link, ExitStack() as stack:
        link.slow(*(TRICKLE if case.meanwhile is _watch else FLOW))
        endpoint = f"http://{link.host}/files"
        url = Tus(endpoint).upload(SIZE) if case.clients > 1 else None
        stage = Stage(server=server, link=link, run=run)
        case.before(stage)
        for _ in range(case.clients):
            stage.uploads.append(client.start(path, endpoint, url))
            stack.callback(stage.uploads[-1].close)
        case.meanwhile(stage)
        run.outcomes = [upload.finish(WITHIN) for upload in stage.uploads]
        run.complaints += _judge(run, server, url)
    run.seconds = time.monotonic() - began
    run.complaints += case.judge(run)
    return run


def _judge(run: Run, server: TusServer, url: str | None) -> Iterator[str]:
    if run.gave_up and len(run.outcomes) == 1:
        yield f"the client gave up: {run.outcomes[0].error}"
    if run.creations != 1:
        yield f"{run.creations} uploads were created"
    if run.restarts:
        yield f"it began {run.restarts} times from nothing"
    for located in {outcome.url or url for outcome in run.outcomes}:
        if located is not None and (wrong := _differs(_directly(server, located))):
            yield wrong


def _differs(url: str) -> str | None:
    answer = requests.get(url, timeout=TIMEOUT)
    if answer.status_code != 200:
        return f"the upload is not complete: GET was answered {answer.status_code}"
    if hashlib.sha256(answer.content).digest() != hashlib.sha256(SOURCE).digest():
        return f"other bytes arrived: {len(answer.content)} of {SIZE}"
    return None


@contextmanager
def open_stage(way: Way, folder: Path) -> Iterator[tuple[TusServer, str]]:
    """A server of its own, and host:port where clients go in."""
    folder.mkdir(parents=True)
    with (
        TusServer(folder / "storage", "--proxies.trusted", "127.0.0.1", port=free_port()) as server,
        way.open(server, folder / "proxy") as host,
    ):
        yield server, host


def play_all(cases: Iterable[Case], client: Client, way: Way, folder: Path) -> list[Run]:
    """Play some cases at the same time. Those that kill a server get one that is theirs."""
    folder.mkdir(parents=True)
    path = folder / "source.bin"
    path.write_bytes(SOURCE)
    client.build()

    def alone(case: Case) -> Run:
        with open_stage(way, folder / case.name) as (server, host):
            return play(case, client, way, server, host, path)

    with open_stage(way, folder / "shared") as (shared, host), ThreadPoolExecutor(len(CASES)) as pool:
        playing = [
            pool.submit(alone, case) if case.kills else pool.submit(play, case, client, way, shared, host, path)
            for case in cases
            if case.clients == 1 or client.resumes
        ]
        return [run.result() for run in playing]
