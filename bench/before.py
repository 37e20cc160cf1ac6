"""This code against an earlier commit of it: the same cases in turn, and the ratio of each figure.

    python -m bench.before HEAD~1                                # small uploads, many at once, slow connections
    python -m bench.before v1.2 --only small,patch --rounds 9
    python -m bench.before HEAD~1 --durability ack --quick -- --limits.uploads 1000   # with flags for both servers

Each round runs every case on both, and the order changes from round to round. The ratio is this code's median divided
by the earlier one's, with the least and the most of the rounds' own ratios. Ends with 1 if the speed of a case (for
slow connections: its CPU time, inverted) is below --least.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import machine, report
from bench.__main__ import HERE, chosen, raise_descriptors, scratch
from bench.cases import CASES, FULL, QUICK, Bench, Case, Measurement, measure
from bench.load import Workshop
from bench.servers import Server, own

DEFAULT = ["small", "parallel", "slow"]
NOW, BEFORE = "now", "before"


def unpack(revision: str, folder: Path) -> Path:
    """Put the files of a commit into a folder."""
    archive = subprocess.run(
        ["git", "-C", str(HERE.parent), "archive", revision, "tusserver"], capture_output=True, check=False
    )
    if archive.returncode != 0:
        sys.exit(f"There is no commit {revision} here: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
        files.extractall(folder)
    return folder


def server(name: str, package: Path, durability: str, flags: Sequence[str]) -> Server:
    """tusserver from the package in this folder."""
    plain = own(durability, name)
    python, *rest = plain.command
    return replace(plain, command=(python, "-P", *rest, *flags), environment={"PYTHONPATH": str(package)})


def ratios(now: Sequence[float], before: Sequence[float]) -> str:
    """Tell the ratio of the medians, and the least and the most of single rounds."""
    each = sorted(one / other for one, other in zip(now, before, strict=True))
    return f"{statistics.median(now) / statistics.median(before):5.2f}  ({each[0]:.2f} to {each[-1]:.2f})"


def tell(case: Case, now: Sequence[Measurement], before: Sequence[Measurement]) -> float:
    """Print the ratios of a case; return the one it is judged by."""

    def of(figure: Callable[[Measurement], float]) -> tuple[list[float], list[float]]:
        return [figure(one) for one in now], [figure(one) for one in before]

    speed, cpu = of(partial(report.speed_of, case)), of(partial(report.cpu_of, case))
    figures = {"speed": speed, "cpu": cpu, "memory": of(lambda one: one.memory), "p99": of(lambda one: one.p99)}
    for name, (after, earlier) in figures.items():
        if all(earlier) and (name != "speed" or case.counts != "connections"):
            sys.stdout.write(f"{case.name:9} {name:7} {ratios(after, earlier)}\n")
    sys.stdout.flush()
    judged = speed if case.counts != "connections" else (cpu[1], cpu[0])
    return statistics.median(judged[0]) / statistics.median(judged[1])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.before", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help=f"cases ({','.join(DEFAULT)})")
    parser.add_argument("--durability", default="none", help="of both servers (none)")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--least", type=float, default=0.97, help="ratio of speed that must be reached (0.97)")
    parser.add_argument("--folder", type=Path, default=HERE / ".work", help="where the servers store (bench/.work)")
    parser.add_argument("flags", nargs="*", help="flags for the servers, behind --")
    given = parser.parse_args()

    names = chosen(given.only or DEFAULT, [case.name for case in CASES], "case")
    worst = float("inf")
    with scratch(given.folder) as folder:
        bench = Bench(workshop=Workshop(folder / "workshop"), folder=folder, sizes=QUICK if given.quick else FULL)
        raise_descriptors(2 * bench.sizes.slow + 500)
        package = unpack(given.revision, folder / "before")
        servers = {
            NOW: server(NOW, HERE.parent, given.durability, given.flags),
            BEFORE: server(BEFORE, package, given.durability, given.flags),
        }
        sys.stdout.write("\n".join(machine.description(folder)) + "\n")
        for case in [case for case in CASES if case.name in names]:
            found: dict[str, list[Measurement]] = {NOW: [], BEFORE: []}
            for number in range(given.rounds):
                for name in (NOW, BEFORE) if number % 2 else (BEFORE, NOW):
                    found[name].append(measure(bench, case, servers[name]))
                    figures = report.describe(case, found[name][-1])
                    sys.stderr.write(f"{number + 1}  {case.name:9} {name:7} {figures}\n")
            worst = min(worst, tell(case, found[NOW], found[BEFORE]))
    return 0 if worst >= given.least else 1


if __name__ == "__main__":
    sys.exit(main())
