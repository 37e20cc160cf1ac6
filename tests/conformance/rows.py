"""Plugin that knows the rows of the list: it quotes the broken one beside a failure and counts them at the end."""

from __future__ import annotations

import re
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

LIST = Path(__file__).with_name("README.md")

EXCHANGES = pytest.StashKey[list[str]]()
"""Requests and answers of a test, noted by the client it used."""

OUTPUT = pytest.StashKey[list[str]]()
"""What our own server printed, if it is the one under test."""

_NAME = re.compile(r"test_([a-z])(\d+)_")
_LINE = re.compile(r"\| ([A-Z]\d+) \| (.*) \| (.*) \| ([A-Z/]+) \|")
_SHOWN = 40
"""Most exchanges and lines of output that a failure shows, the last ones."""


class Row(NamedTuple):
    """One line of the list: a request and the answer a good server gives."""

    id: str
    request: str
    expected: str
    level: str


@cache
def rows() -> dict[str, Row]:
    """Every row of README.md by its id."""
    found = (_LINE.fullmatch(line.strip()) for line in LIST.read_text("utf-8").splitlines())
    return {match[1]: Row(*(cell.strip() for cell in match.groups())) for match in found if match}


def row_of(test: str) -> str | None:
    """Row that a test checks, from its name: test_p12_… checks P12."""
    match = _NAME.match(test.rpartition("::")[2])
    return f"{match[1].upper()}{match[2]}" if match and "conformance/" in test else None


class Rows:
    """The plugin. One object for one run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show the rule and what was said beside the failure."""
        report = yield
        row = rows().get(row_of(item.nodeid) or "")
        if row is not None and report.failed:
            exchanges = item.stash.get(EXCHANGES, [])[-_SHOWN:]
            rule = f"request:  {row.request}\nexpected: {row.expected}"
            report.sections.insert(0, (f"row {row.id}: last requests (>) and answers (<)", "\n\n".join(exchanges)))
            report.sections.insert(0, (f"row {row.id} (level {row.level})", rule))
            if output := item.stash.get(OUTPUT, []):
                report.sections.append((f"row {row.id}: end of the server's output", "".join(output[-_SHOWN:])))
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how many rows pass. A row fails with any of its tests; it is skipped if all of them are."""
        outcomes: dict[str, set[str]] = {}
        for outcome, reports in terminalreporter.stats.items():
            for report in reports:
                row = row_of(getattr(report, "nodeid", ""))
                if row is not None and outcome in ("passed", "failed", "error", "skipped"):
                    outcomes.setdefault(row, set()).add("failed" if outcome == "error" else outcome)
        if not outcomes:
            return
        failed = [row_id for row_id in rows() if "failed" in outcomes.get(row_id, ())]
        skipped = [row_id for row_id in rows() if outcomes.get(row_id) == {"skipped"}]
        where = self._config.getoption("--tus-endpoint") or "our own server"
        passed = len(outcomes) - len(failed) - len(skipped)
        terminalreporter.section(f"tus conformance of {where}")
        terminalreporter.write_line(f"{passed} rows pass, {len(failed)} fail, {len(skipped)} skipped")
        for row_id in failed:
            broken = rows()[row_id]
            terminalreporter.write_line(f"  {row_id:>4} ({broken.level}) {broken.request} → {broken.expected}")
