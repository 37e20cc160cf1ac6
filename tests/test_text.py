"""What is made of text from outside: names of files that every system takes, and lines that a terminal can show."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given

from tests.support.names import HOSTILE, NAMES
from tusserver.text import printable, safe_filename

RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}


def is_safe(name: str) -> bool:
    return (
        not set(name) & set('/\\:*?"<>|')
        and not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
        and not name.startswith(".")
        and not name.endswith((".", " "))
        and len(name.encode()) <= 200
        and name.split(".")[0].upper() not in RESERVED
    )


@given(NAMES)
def test_a_safe_name_is_one_component_that_every_system_takes(name: str) -> None:
    assert is_safe(safe_filename(name))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_becomes_a_safe_one(name: str) -> None:
    assert is_safe(safe_filename(name))


@pytest.mark.parametrize(
    "name",
    [
        "report.pdf",
        "naïve café.txt",
        "2026-01-02 notes (final).md",
        "日本語.txt",
        "🎉.png",
        "no suffix",
        "a.tar.gz",
        "x'y&z.txt",
    ],
)
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert safe_filename(name) == name


def test_a_name_is_composed_so_that_it_looks_and_compares_the_same() -> None:
    assert safe_filename("e\u0301.txt") == "\u00e9.txt"


def test_a_long_name_keeps_its_suffix() -> None:
    name = safe_filename("a" * 5000 + ".tar.gz")
    assert name == "a" * 197 + ".gz"


def test_a_long_name_is_not_cut_within_a_letter() -> None:
    assert safe_filename("é" * 5000) == "é" * 100


def test_text_cannot_be_turned_round() -> None:
    assert safe_filename("annual\u202etxt.exe") == "annual_txt.exe"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve 日本語 🎉.txt", "naïve 日本語 🎉.txt"),
        ("a\nb", r"a\nb"),
        ("\x1b[2J", r"\x1b[2J"),
        ("gpj\u202eexe", r"gpj\u202eexe"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
