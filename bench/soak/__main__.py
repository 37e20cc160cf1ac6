"""An hour of everything at once, to see that nothing grows.

    python -m bench.soak                            # an hour, two workers, a disk that hangs for 5 s every 5 minutes
    python -m bench.soak --minutes 5 --scale 0.3    # a short one
    python -m bench.soak --from soak.jsonl          # report on a run again
    python -m bench.soak -- --durability finish     # with flags for the server

Slow, chunked, checksummed, cancelled, hostile and tiny clients, parts and joins, slow readers and uploads that nobody
touches, against a server that lets everything expire after two minutes. Every answer is checked, and what can be
downloaded is compared. Memory, descriptors, threads, files and `/livez` are sampled all the time. After the first
quarter of the run nothing may grow any more. Ends with 1 if something was wrong, or grew.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.soak import plot, watch
from bench.soak.crowd import Crowd
from tests.support.faults import Faults
from tests.support.server import TusServer

MIB = 1024 * 1024
FLAGS = (
    "--expiry.after", "2m", "--expiry.keep_finished", "2m", "--expiry.keep_parts", "2m", "--expiry.untouched", "30s",
    "--expiry.sweep_interval", "10s", "--limits.idle_timeout", "20s", "--log.level", "warning",
)  # fmt: skip
GROWS: tuple[tuple[str, float, float], ...] = (("rss", 1.05, 4 * MIB), ("descriptors", 1.1, 10), ("files", 1.15, 50))
"""What may not grow, and what is no growth: a share of what there was, and a number."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def soak(server: TusServer, crowd: Crowd, faults: Faults, given: argparse.Namespace) -> list[tuple[float, float]]:
    """Let the crowd in for the time of the run; return when the disk hung, in seconds from the start."""
    began = time.monotonic()
    end = began + 60 * given.minutes
    hung: list[tuple[float, float]] = []
    crowd.start()
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 60 * given.hang_every))
        if end - time.monotonic() > given.hang and given.hang:
            since = time.monotonic() - began
            faults.hang(str(server.storage))
            await asyncio.sleep(given.hang)
            faults.end()
            hung.append((since, time.monotonic() - began))
        minute, often = (time.monotonic() - began) / 60, dict(crowd.counts.most_common(4))
        say(f"minute {minute:.0f}: {often}, {len(crowd.wrong)} wrong")
    await crowd.stop()
    return hung


def grown(samples: Sequence[watch.Sample]) -> list[str]:
    """Compare the second quarter of a run with the last one."""
    quarter = len(samples) // 4
    found = []
    for name, share, number in GROWS:
        before, after = (
            statistics.median(getattr(sample, name) for sample in some)
            for some in (samples[quarter : 2 * quarter], samples[-quarter:])
        )
        if after > before * share + number:
            found.append(f"{name} grew from {before:,.0f} to {after:,.0f}")
    return found


def odd(output: Sequence[str]) -> list[str]:
    """What a log must not hold: errors but those of the disk, and traces."""
    found = [number for number, line in enumerate(output) if " error " in line.lower() or "Traceback" in line]
    return [f"the log says: {''.join(output[max(0, number - 2) : number + 30])}" for number in found[:5]]


def report(samples: Sequence[watch.Sample], hung: Sequence[tuple[float, float]], picture: Path) -> None:
    """Tell what was seen, and draw it."""
    calm = [each for each in samples if not any(begin - 1 <= each.at <= end + 15 for begin, end in hung)]
    figures: list[tuple[str, Callable[[watch.Sample], float]]] = [
        ("resident memory, MiB", lambda sample: sample.rss / MIB),
        ("open descriptors", lambda sample: sample.descriptors),
        ("threads", lambda sample: sample.threads),
        ("files in the data folder", lambda sample: sample.files),
        ("space they take, MiB", lambda sample: sample.stored / MIB),
        ("/livez, p99 between two samples, ms", lambda sample: sample.livez_p99 * 1000),
    ]
    for name, figure in figures:
        values = [figure(sample) for sample in samples]
        say(f"{name}: median {statistics.median(values):,.1f}, most {max(values):,.1f}, at the end {values[-1]:,.1f}")
    say(f"/livez away from hangs: median of p99 {statistics.median(each.livez_p99 for each in calm) * 1000:.1f} ms")
    say(f"/livez without a 200: {sum(sample.livez_failed for sample in samples)}; swap: {max(s.swap for s in samples)}")
    bands = [(begin / 60, end / 60) for begin, end in hung]
    panels = [
        plot.Panel(title=name, values=[figure(each) for each in samples], bands=bands) for name, figure in figures
    ]
    picture.write_text(
        plot.draw([sample.at / 60 for sample in samples], "minutes; the disk hangs where it is shaded", panels)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of clients (1: about 220)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the server")
    parser.add_argument("--hang", type=float, default=5.0, help="seconds for which the disk hangs; 0: never")
    parser.add_argument("--hang-every", type=float, default=5.0, help="minutes between two hangs")
    parser.add_argument("--interval", type=float, default=15.0, help="seconds between two samples")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--folder", type=Path, help="where the data folder is made (the system's temporary folder)")
    parser.add_argument("--samples", type=Path, default=Path("soak.jsonl"), help="where samples are kept")
    parser.add_argument("--picture", type=Path, default=Path("soak.svg"))
    parser.add_argument("--from", dest="kept", type=Path, help="do not run: report on samples that were kept")
    parser.add_argument("flags", nargs="*", help="flags for the server, behind --")
    given = parser.parse_args()
    if given.kept:
        report(watch.read(given.kept), (), given.picture)
        return 0
    say(f"seed {given.seed}")
    given.samples.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="tusserver-soak-", dir=given.folder) as folder, ExitStack() as stack:
        faults = Faults(Path(folder))
        flags = (*FLAGS, "--workers", str(given.workers), *given.flags)
        server = stack.enter_context(TusServer(Path(folder) / "data", *flags, env=faults.env))
        crowd = Crowd(server.host, "/" + server.url.split("/", 3)[3], seed=given.seed, scale=given.scale)
        with watch.Watch(server.pid, server.host, server.storage, given.samples, given.interval):
            hung = asyncio.run(soak(server, crowd, faults, given))
        faults.end()
    samples = watch.read(given.samples)
    report(samples, hung, given.picture)
    for name, count in sorted(crowd.counts.items()):
        say(f"{count:10,} {name}")
    faulty = [*crowd.wrong, *grown(samples), *odd(server.output)]
    for line in faulty[:50]:
        say(f"WRONG {line}")
    say("Nothing was wrong, and nothing grew." if not faulty else f"{len(faulty)} things were wrong.")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
