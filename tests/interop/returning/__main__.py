"""Plays every case with every client on every way, several times, and prints a table.

python -m tests.interop.returning [--times 3] [--clients NAME …] [--ways NAME …] [--cases NAME …] [--stories FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.interop.returning.cases import CASES, Run, play_all
from tests.interop.returning.clients import CLIENTS
from tests.interop.returning.ways import WAYS

Key = tuple[str, str, str]


def table(runs: Iterable[Run]) -> list[str]:
    """The lines of a table in Markdown: one row for each client, way and case."""
    rows: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        rows[run.client, run.way, run.case].append(run)
    lines = [
        "| client | way | case | runs | failures | restarts | gave up | requests (median) | by method (median) | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (client, way, case), played in sorted(rows.items(), key=lambda row: _place(row[0])):
        methods = sorted({method for run in played for method in run.methods})
        medians = [f"{method} {statistics.median(run.methods[method] for run in played):g}" for method in methods]
        cells = [
            *(client, way, case, len(played), sum(bool(run.complaints) for run in played)),
            *(sum(run.restarts for run in played), sum(run.gave_up for run in played)),
            f"{statistics.median(len(run.exchanges) for run in played):g}",
            ", ".join(medians),
            f"{statistics.median(run.seconds for run in played):.1f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def _place(key: Key) -> tuple[int, int, int]:
    client, way, case = key
    return list(CLIENTS).index(client), list(WAYS).index(way), list(CASES).index(case)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.returning", description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="how often each is played (3)")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--stories", type=Path, help="write what every failed run looked like into this file")
    wanted = parser.parse_args()
    runs: list[Run] = []
    for number in range(wanted.times):
        for client in wanted.clients:
            for way in wanted.ways:
                lacks = CLIENTS[client].lacks() or WAYS[way].lacks()
                if lacks is not None:
                    sys.stderr.write(f"{client}, {way}: left out, it {lacks}" + "\n")
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    cases = [CASES[case] for case in wanted.cases]
                    played = play_all(cases, CLIENTS[client], WAYS[way], Path(folder) / "runs")
                runs += played
                failed = sum(bool(run.complaints) for run in played)
                sys.stderr.write(
                    f"{number + 1}/{wanted.times} {client}, {way}: {failed} of {len(played)} failed" + "\n"
                )
    sys.stdout.write("\n".join(table(runs)) + "\n")
    stories = [run.story() for run in runs if run.complaints]
    if wanted.stories is not None:
        wanted.stories.write_text("\n\n".join(stories) + "\n")
    return 1 if stories else 0


if __name__ == "__main__":
    raise SystemExit(main())
