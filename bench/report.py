"""What a run has shown: one table of medians and ratios, and the goals it is held against."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.cases import CASES, Case, Measurement, Sizes
from bench.machine import GIB, KIB, MIB
from bench.servers import FLOOR, TUSD, TUSSERVER

FLOOR_SYNC = "floor (fdatasync)"
FINISH = "tusserver (finish)"
ACK = "tusserver (ack)"
HASH_ALONE = "sha1 alone"


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything a run has measured, as it is kept in a JSON file."""

    date: str
    machine: list[str]
    versions: dict[str, str]
    """Of each server, in the order of the table."""
    absent: dict[str, str]
    """Peers that could not be measured here, and why."""
    lacks: dict[str, dict[str, str]]
    """For each server, cases that it has no way to run, and why."""
    sizes: Sizes
    measurements: dict[str, dict[str, list[Measurement]]] = field(default_factory=dict)
    """By case and server."""
    failures: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By case and server: what went wrong."""

    def of(self, case: str, server: str) -> list[Measurement]:
        return self.measurements.setdefault(case, {}).setdefault(server, [])

    def failed(self, case: str, server: str) -> list[str]:
        return self.failures.setdefault(case, {}).setdefault(server, [])

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> Run:
        found = json.loads(file.read_text())
        found["sizes"] = Sizes(**found["sizes"])
        for servers in found["measurements"].values():
            for name, measured in servers.items():
                servers[name] = [Measurement(**one) for one in measured]
        return cls(**found)


# ── Figures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


_CPU_UNITS = {"bytes": "s/GiB", "requests": "µs", "connections": "%"}


def speed_of(case: Case, one: Measurement) -> float:
    """MB/s or requests/s."""
    return (one.bytes / 1e6 if case.counts == "bytes" else one.requests) / one.seconds


def cpu_of(case: Case, one: Measurement) -> float:
    """Seconds for each GiB, microseconds for each request, or percent of a core."""
    match case.counts:
        case "bytes":
            return one.cpu / (one.bytes / GIB)
        case "requests":
            return one.cpu / one.requests * 1e6
        case _:
            return one.cpu / one.seconds * 100


def describe(case: Case, one: Measurement) -> str:
    """One measurement in a line."""
    parts = [f"{cpu_of(case, one):.4g} {_CPU_UNITS[case.counts]}", f"{one.memory / MIB:.0f} MiB"]
    match case.counts:
        case "bytes":
            parts.insert(0, f"{speed_of(case, one):.0f} MB/s")
        case "requests":
            parts.insert(0, f"{speed_of(case, one):.0f} requests/s")
        case _:
            parts.append(f"{one.each / KIB:.1f} KiB each")
    parts += [f"p99 {one.p99 * 1e3:.2f} ms"] if one.p99 else []
    return ", ".join(parts) + f" (others {one.others:.0%})"


class Figures:
    """Medians of a run. A figure that was not measured is None."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._cases = {case.name: case for case in CASES}

    def _median(self, case: str, server: str, figure: Callable[[Measurement], float]) -> float | None:
        measured = self._run.measurements.get(case, {}).get(server, [])
        return statistics.median(map(figure, measured)) if measured else None

    def speed(self, case: str, server: str) -> float | None:
        return self._median(case, server, lambda one: speed_of(self._cases[case], one))

    def cpu(self, case: str, server: str) -> float | None:
        return self._median(case, server, lambda one: cpu_of(self._cases[case], one))

    def memory(self, case: str, server: str) -> float | None:
        """MiB."""
        return self._median(case, server, lambda one: one.memory / MIB)

    def each(self, case: str, server: str) -> float | None:
        """KiB."""
        return self._median(case, server, lambda one: one.each / KIB)

    def p99(self, case: str, server: str) -> float | None:
        """Milliseconds."""
        return self._median(case, server, lambda one: one.p99 * 1e3)


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


# ── The table ───────────────────────────────────────────────────────────────────────────────────────────────────────

_HEADS = ["case", "server", "speed", "÷ floor", "÷ tusd", "CPU", "÷ floor", "÷ tusd", "memory", "p50 ms", "p99 ms", "n"]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _row(run: Run, figures: Figures, case: Case, server: str) -> list[str] | None:
    measured = run.measurements.get(case.name, {}).get(server, [])
    failures = run.failures.get(case.name, {}).get(server, [])
    if not measured:
        return ["", server, "failed", *[""] * 9] if failures else None
    speeds = [speed_of(case, one) for one in measured]
    cpus = [cpu_of(case, one) for one in measured]
    speed, cpu = statistics.median(speeds), statistics.median(cpus)
    digits = 2 if case.counts == "bytes" else 1 if case.counts == "connections" else 0
    unit = "MB/s" if case.counts == "bytes" else "/s"
    connections = case.counts == "connections"
    with_times = case.name in ("small", "head", "parallel", "pieces")
    each, memory = figures.each(case.name, server), figures.memory(case.name, server)
    return [
        "",
        server,
        "" if connections else f"{speed:,.0f} ({max(speeds):,.0f}) {unit}",
        "" if connections else _number(_ratio(speed, figures.speed(case.name, FLOOR)), 2),
        "" if connections else _number(_ratio(speed, figures.speed(case.name, TUSD)), 2),
        f"{cpu:.{digits}f} ({min(cpus):.{digits}f}) {_CPU_UNITS[case.counts]}",
        _number(_ratio(cpu, figures.cpu(case.name, FLOOR)), 2),
        _number(_ratio(cpu, figures.cpu(case.name, TUSD)), 2),
        f"{each:.1f} KiB each" if connections else f"{memory:,.0f} MiB" if memory else "",
        _number(statistics.median(one.p50 * 1e3 for one in measured), 2) if with_times else "",
        _number(figures.p99(case.name, server), 2) if with_times else "",
        f"{len(measured)}" + (f", {len(failures)} failed" if failures else ""),
    ]


def markdown(rows: list[list[str]], left: int) -> str:
    """A Markdown table that is aligned in a terminal, too. The first row is its head; `left` columns are text."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Iterable[str]) -> str:
        aligned = (
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * width if at < left else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])


def table(run: Run) -> str:
    figures = Figures(run)
    rows = [_HEADS]
    for case in CASES:
        found = [row for server in [*run.versions, HASH_ALONE] if (row := _row(run, figures, case, server))]
        for at, row in enumerate(found):
            rows.append([case.title(run.sizes) if at == 0 else "", *row[1:]])
    return markdown(rows, 2)


# ── The goals ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    case: str
    what: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None
    digits: int = 2

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        value = round(self.value, self.digits)
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)

    def row(self, case: str) -> list[str]:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        verdict = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return [case, self.what, bound, _number(self.value, self.digits), verdict]


def goals(run: Run) -> list[Goal]:
    """What tusserver is held against."""
    figures = Figures(run)

    def speed(case: str, other: str, one: str = TUSSERVER) -> float | None:
        return _ratio(figures.speed(case, one), figures.speed(case, other))

    def cpu(case: str, other: str) -> float | None:
        return _ratio(figures.cpu(case, TUSSERVER), figures.cpu(case, other))

    found = []
    for case in ("patch", "pieces"):
        found += [
            Goal(case=case, what="speed ÷ floor", value=speed(case, FLOOR), at_least=0.9),
            Goal(case=case, what="speed ÷ tusd", value=speed(case, TUSD), at_least=1.8),
            Goal(case=case, what="CPU ÷ floor", value=cpu(case, FLOOR), at_most=1.3),
            Goal(case=case, what="CPU ÷ tusd", value=cpu(case, TUSD), at_most=0.5),
            Goal(
                case=case,
                what="speed with durability ack ÷ floor with fdatasync",
                value=speed(case, FLOOR_SYNC, ACK),
                at_least=0.8,
            ),
        ]
    plain, hashed, alone = (
        figures.cpu("patch", TUSSERVER),
        figures.cpu("sha1", TUSSERVER),
        figures.cpu("sha1", HASH_ALONE),
    )
    added = None if plain is None or hashed is None else hashed - plain
    found += [
        Goal(case="sha1", what="CPU added ÷ CPU of the hash alone", value=_ratio(added, alone), at_most=1.1),
        Goal(case="parallel", what="speed ÷ tusd", value=speed("parallel", TUSD), at_least=1.5),
        Goal(case="parallel", what="memory, MiB", value=figures.memory("parallel", TUSSERVER), at_most=60, digits=0),
        Goal(case="small", what="requests/s ÷ tusd", value=speed("small", TUSD), at_least=2),
        Goal(case="small", what="CPU for each request ÷ tusd", value=cpu("small", TUSD), at_most=0.33),
        Goal(case="head", what="p99, ms", value=figures.p99("head", TUSSERVER), at_most=5, digits=1),
        Goal(
            case="head",
            what="p99 ÷ tusd",
            value=_ratio(figures.p99("head", TUSSERVER), figures.p99("head", TUSD)),
            at_most=1,
        ),
        Goal(case="concat", what="speed ÷ tusd", value=speed("concat", TUSD), at_least=4),
        Goal(case="get", what="speed ÷ tusd", value=speed("get", TUSD), at_least=1),
        Goal(case="get", what="CPU ÷ tusd", value=cpu("get", TUSD), at_most=1),
        Goal(case="slow", what="memory for each, KiB", value=figures.each("slow", TUSSERVER), at_most=24, digits=1),
        Goal(case="slow", what="CPU ÷ tusd", value=cpu("slow", TUSD), at_most=0.25),
    ]
    return found


def goals_table(run: Run) -> str:
    titles = {case.name: case.title(run.sizes) for case in CASES if run.measurements.get(case.name)}
    rows, last = [["case", "tusserver's …", "goal", "figure", ""]], ""
    for goal in goals(run):
        if goal.case in titles:
            rows.append(goal.row("" if goal.case == last else titles[goal.case]))
            last = goal.case
    return markdown(rows, 2)


# ── The whole ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _noise(run: Run) -> str:
    measured = [one for servers in run.measurements.values() for each in servers.values() for one in each]
    others = [one.others for one in measured]
    if not others:
        return "Nothing was measured."
    return (
        f"Noise: other programs and the kernel's own threads used {statistics.median(others):.0%} of the cores (median "
        f"of all measurements; {max(others):.0%} at most), the hypervisor took {max(m.stolen for m in measured):.0%} "
        "at most."
    )


def report(run: Run) -> str:
    """The run as Markdown that reads well in a terminal."""
    titles = {case.name: case.title(run.sizes) for case in CASES}
    lines = [f"# Benchmark of {run.date}", "", *(f"- {line}" for line in run.machine), f"- {_noise(run)}"]
    lines += [f"- {name}: {version}" for name, version in run.versions.items() if "(" not in name]
    lines += [f"- {name}: not measured, {reason}" for name, reason in run.absent.items()]
    for case, title in titles.items():
        if run.measurements.get(case):
            gaps = {name.split(" (")[0]: lacks[case] for name, lacks in run.lacks.items() if case in lacks}
            gaps |= {name: f"failed: {said[-1]}" for name, said in run.failures.get(case, {}).items() if said}
            if gaps:
                lines.append(f"- {title}, without: " + "; ".join(f"{name} ({why})" for name, why in gaps.items()))
    lines += ["", "Medians of n runs, in brackets the best one. ÷ floor and ÷ tusd are ratios of the medians.", ""]
    lines += [table(run), "", "## Goals", "", goals_table(run), ""]
    return "\n".join(lines)
