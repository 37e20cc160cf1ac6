"""python -m bench: run the cases against all servers, interleaved, and print the report.

python -m bench                          everything, 5 rounds: about half an hour
python -m bench --quick --rounds 3       small sizes: a few minutes
python -m bench --only patch,small --servers tusserver,tusd
python -m bench --json run.json          keep every measurement, and
python -m bench --from run.json          print the report of it again
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, peers, report
from bench.cases import CASES, FULL, QUICK, Bench, Case, Measurement, measure
from bench.load import LoadFailed, Workshop
from bench.report import ACK, FINISH, FLOOR_SYNC, HASH_ALONE, Run
from bench.servers import FLOOR, TUSD, TUSSERVER, Server, floor, own

HERE = Path(__file__).parent
CACHE = HERE / ".peers"

NAMES = [FLOOR, TUSSERVER, *peers.PEERS]
DURABLE_CASES = ("patch", "pieces")
"""Where the variants that write through to the disk are measured, too."""

LONGEST = 16.0
"""Seconds of work, over all rounds of a case, after which a peer other than tusd is not measured again. Quick: 1 s."""


def tell(text: str) -> None:
    sys.stderr.write(text + "\n")


def chosen(given: list[str], known: list[str], what: str) -> list[str]:
    names = [name for one in given for name in one.split(",") if name]
    for name in names:
        if name not in known:
            sys.exit(f"There is no {what} {name}; there are: {', '.join(known)}.")
    return [name for name in known if name in names] if names else known


def servers_for(names: list[str], cases: list[Case], workshop: Workshop) -> tuple[list[Server], dict[str, str]]:
    """What can be started here, and what cannot and why."""
    found: list[Server] = []
    absent: dict[str, str] = {}
    durable = any(case.name in DURABLE_CASES for case in cases)
    for name in names:
        if name == FLOOR:
            found.append(floor(workshop.floor, FLOOR))
            if durable:
                found.append(floor(workshop.floor, FLOOR_SYNC, "sync"))
        elif name == TUSSERVER:
            found.append(own("none", TUSSERVER))
            if durable:
                found += [own("finish", FINISH), own("ack", ACK)]
        else:
            tell(f"{name}: installing, if it is not there yet")
            match peers.install(name, CACHE):
                case Server() as peer:
                    found.append(peer)
                case peers.Missing(reason=reason):
                    tell(f"{name}: not here, {reason}")
                    absent[name] = reason
    return found, absent


def runs(case: Case, server: Server) -> bool:
    if server.name in (FLOOR_SYNC, FINISH, ACK) and case.name not in DURABLE_CASES:
        return False
    return case.name not in server.lacks


def hash_alone(bench: Bench) -> Measurement:
    seconds = bench.workshop.hash_alone(bench.sizes.big)[0]
    return Measurement(seconds=seconds, bytes=bench.sizes.big, cpu=seconds)


def one_round(bench: Bench, run: Run, cases: list[Case], servers: list[Server], number: int) -> None:
    """Measure every case on every server once; who comes first changes from round to round."""
    longest = 1.0 if bench.sizes == QUICK else LONGEST
    for case in cases:
        if number >= case.rounds:
            continue
        turn = number % len(servers)
        for server in servers[turn:] + servers[:turn]:
            measured, failures = run.of(case.name, server.name), run.failed(case.name, server.name)
            peer = server.name in peers.PEERS and server.name != TUSD
            enough = peer and sum(one.seconds for one in measured) > longest
            if not runs(case, server) or enough or len(failures) > 1:
                continue
            try:
                measured.append(measure(bench, case, server))
            except (LoadFailed, RuntimeError) as error:
                failures.append(str(error))
                tell(f"{number + 1}  {case.name:8}  {server.name:18}  FAILED: {error}")
                continue
            figures = report.describe(case, measured[-1])
            tell(f"{number + 1}  {case.name:8}  {server.name:18}  {figures}")
        if case.name == "sha1":
            run.of(case.name, HASH_ALONE).append(hash_alone(bench))


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder of this run, deleted at its end. What runs that were killed have left is deleted now."""
    hide(folder)
    for left in folder.glob("run-*"):
        if not Path("/proc", left.name.removeprefix("run-")).exists():
            shutil.rmtree(left, ignore_errors=True)
    made = folder / f"run-{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def hide(folder: Path) -> None:
    """Make a folder whose contents git ignores."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")


def check(folder: Path, bench: Bench) -> None:
    """Stop before the start where the run could not come to its end."""
    if not sys.platform.startswith("linux"):
        sys.exit("The benchmark reads the kernel's counters from /proc: it runs on Linux.")
    if not shutil.which("cc"):
        sys.exit("The load clients are written in C: install a C compiler (cc).")
    needed, free = 3 * bench.sizes.big, shutil.disk_usage(folder).free
    if free < needed:
        sys.exit(f"{folder} has {free >> 30} GiB free; {needed >> 30} are needed. Name another folder with --folder.")
    raise_descriptors(2 * bench.sizes.slow + 500)


def raise_descriptors(wanted: int) -> None:
    """Let this process and those that it starts open as many files as they may; stop where that is too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        sys.exit(f"The hard limit of open files is {hard}; {wanted} are needed (ulimit -n).")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help="some of the cases")
    parser.add_argument("--servers", action="append", default=[], metavar="NAME", help="some of the servers")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--minutes", type=float, help="begin no round that would end later (34; quick: 4)")
    parser.add_argument("--folder", type=Path, default=HERE / ".work", help="where the servers store (bench/.work)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="report on such a file, run nothing")
    given = parser.parse_args()

    if given.source:
        sys.stdout.write(report.report(Run.read(given.source)))
        return 0

    minutes = given.minutes or (4 if given.quick else 34)
    names = chosen(given.servers, NAMES, "server")
    picked = chosen(given.only, [case.name for case in CASES], "case")
    cases = [case for case in CASES if case.name in picked]
    if given.quick:
        cases = [replace(case, rounds=1) if case.name == "slow" else case for case in cases]

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the servers and tidy up, as at Ctrl-C
    hide(CACHE)
    with scratch(given.folder) as folder:
        bench = Bench(workshop=Workshop(folder / "workshop"), folder=folder, sizes=QUICK if given.quick else FULL)
        check(folder, bench)
        servers, absent = servers_for(names, cases, bench.workshop)
        run = Run(
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            machine=machine.description(folder),
            versions={server.name: server.version for server in servers},
            absent=absent,
            lacks={server.name: dict(server.lacks) for server in servers if server.lacks},
            sizes=bench.sizes,
        )
        commit = machine.commit(HERE.parent)
        if commit and TUSSERVER in run.versions:
            run.versions[TUSSERVER] += f", commit {commit}"
        began, last = time.monotonic(), 0.0
        try:
            for number in range(given.rounds):
                at = time.monotonic()
                if number and at - began + last > minutes * 60:
                    tell(f"Only {number} rounds: the next one would end after {minutes:g} minutes.")
                    break
                one_round(bench, run, cases, servers, number)
                last = time.monotonic() - at
        except KeyboardInterrupt:
            tell("Interrupted; this is what was measured until then.")
        tell(f"Took {(time.monotonic() - began) / 60:.1f} minutes.")
    if given.json:
        run.write(given.json)
    sys.stdout.write(report.report(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
