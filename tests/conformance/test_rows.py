"""Keeps list and suite together."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.conformance.rows import row_of, rows

COUNTS = {
    "A": 12,
    "B": 9,
    "C": 26,
    "M": 16,
    "H": 19,
    "P": 42,
    "D": 11,
    "W": 14,
    "X": 12,
    "K": 18,
    "T": 11,
    "N": 29,
    "G": 14,
    "R": 9,
    "S": 9,
}


def named() -> set[str]:
    """Rows that the tests of this folder name."""
    names = {
        f"{file}::{node.name}"
        for file in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    return {row for name in names if (row := row_of(name)) is not None}


def test_the_list_is_whole() -> None:
    found = {section: [row for row in rows() if re.fullmatch(rf"{section}\d+", row)] for section in COUNTS}
    assert {section: len(ids) for section, ids in found.items()} == COUNTS
    assert all(
        ids == [f"{section}{number}" for number in range(1, COUNTS[section] + 1)] for section, ids in found.items()
    )


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    assert named() == set(rows())
