"""What thousands of slow clients cost the fast ones: their speed beside them and alone, in turn.

    python -m bench.beside                          # 50 fast clients beside 5,000 that send 1 KiB a second each
    python -m bench.beside --rounds 3 --slow 1000   # scaled down
    python -m bench.beside -- --durability ack      # with flags for the server

Each run is a fresh server with an empty data folder. Two loads: one PATCH of each fast client at once, where bytes
count; and small uploads (POST, PATCH and HEAD of 1 KiB), where requests do. A round has both ways, and the order
changes from round to round. What the fast clients stored is compared byte for byte. The ratio is of the medians, with
the least and the most of the rounds' own ratios. Ends with 1 if a ratio is below --least.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.load import Client, Workshop
from bench.servers import Running, Server, own

SMALL = machine.KIB
"""Bytes of a small upload."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What the fast clients do."""

    name: str
    mode: str
    unit: str
    options: dict[str, int]
    size: int
    """Bytes of each upload."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one run showed."""

    speed: float
    """In the load's unit, a second."""
    p99: float
    server: float
    """Cores that the server used."""
    slow_clients: float
    """Cores that the slow clients themselves used."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def fast(workshop: Workshop, running: Running, load: Load, slow: Client | None) -> Run:
    """Run the fast clients once."""
    with Client(workshop, running, load.mode, ids=workshop.ids, **load.options) as client:
        client.heard("ready")
        cpu, others = running.cpu(), machine.cpu_seconds(slow.pid) if slow is not None else 0.0
        client.tell()
        found = client.result()
        used = running.cpu() - cpu
        beside = machine.cpu_seconds(slow.pid) - others if slow is not None else 0.0
    workshop.verify(running.storage, workshop.stored(), load.size)
    done = found.bytes / machine.MIB if load.unit == "MiB" else found.requests
    return Run(
        speed=done / found.seconds,
        p99=found.p99,
        server=used / found.seconds,
        slow_clients=beside / found.seconds,
    )


def run(workshop: Workshop, server: Server, folder: Path, load: Load, slow: int, seconds: int) -> Run:
    """Run the fast clients at a fresh server, beside so many slow ones."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as storage,
        Running(server, Path(storage) / "data") as running,
    ):
        if not slow:
            return fast(workshop, running, load, None)
        ids = workshop.ids.with_suffix(".slow")
        with Client(workshop, running, "slow", uploads=slow, seconds=seconds, ids=ids) as crowd:
            crowd.heard("ready")
            crowd.tell()
            crowd.heard("open")
            crowd.tell()  # from now on each of them sends once a second
            found = fast(workshop, running, load, crowd)
            crowd.heard("window")  # else they had stopped sending meanwhile, and the figure is worth nothing
            crowd.tell()
            crowd.result()
        return found


def report(load: Load, pairs: Sequence[tuple[Run, Run]]) -> float:
    """Tell what the rounds of a load showed; return the ratio."""
    alone, beside = ([pair[way] for pair in pairs] for way in (0, 1))

    def median(runs: Sequence[Run], name: str) -> float:
        return float(statistics.median(getattr(run, name) for run in runs))

    for word, runs in (("alone", alone), ("beside", beside)):
        say(
            f"{load.name:6} {word:7}{median(runs, 'speed'):8,.0f} {load.unit}/s, "
            f"p99 {median(runs, 'p99') * 1000:.0f} ms, the server {median(runs, 'server'):.0%} of a core, "
            f"the slow clients {median(runs, 'slow_clients'):.0%}"
        )
    ratio = median(beside, "speed") / median(alone, "speed")
    each = sorted(with_slow.speed / without.speed for without, with_slow in pairs)
    say(f"{load.name:6} ratio  {ratio:8.2f}, in single rounds {each[0]:.2f} to {each[-1]:.2f}")
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", type=int, default=5000, help="slow connections")
    parser.add_argument(
        "--seconds", type=int, default=20, help="how long they send; longer than a run of the fast ones"
    )
    parser.add_argument("--fast", type=int, default=50, help="fast connections")
    parser.add_argument("--size", type=int, default=32, help="MiB of each fast upload")
    parser.add_argument("--small", type=int, default=5000, help="small uploads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["bytes", "small"], help="one of the loads")
    parser.add_argument("--least", type=float, default=0.8, help="ratio that must be reached")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / ".work", help="where servers store")
    parser.add_argument("flags", nargs="*", help="flags for the server, behind --")
    given = parser.parse_args()

    workshop = Workshop(given.folder)
    plain = own("none", "tusserver")
    server = Server(name=plain.name, version=plain.version, command=(*plain.command, *given.flags))
    size = given.size * machine.MIB
    loads = [
        Load(
            name="bytes",
            mode="patch",
            unit="MiB",
            options={"uploads": given.fast, "bodies": 1, "size": size},
            size=size,
        ),
        Load(
            name="small",
            mode="small",
            unit="requests",
            options={"uploads": given.small, "connections": given.fast, "size": SMALL},
            size=SMALL,
        ),
    ]
    ratios = []
    for load in loads:
        if given.only not in (None, load.name):
            continue
        pairs = []
        for number in range(given.rounds):
            order = (0, given.slow) if number % 2 == 0 else (given.slow, 0)
            runs = {slow: run(workshop, server, given.folder, load, slow, given.seconds) for slow in order}
            pairs.append((runs[0], runs[given.slow]))
            say(f"round {number + 1} {load.name}: {runs[0].speed:,.0f} alone, {runs[given.slow].speed:,.0f} beside")
        ratios.append(report(load, pairs))
    return 0 if all(ratio >= given.least for ratio in ratios) else 1


if __name__ == "__main__":
    sys.exit(main())
