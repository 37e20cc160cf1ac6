"""Documents, docstrings, comments, messages and names are in plain technical English: words that must not come back."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.documents.pages import PAGES, ROOT

INSTEAD = {
    r"\banew\b": "again, or rebuilt",
    r"(?<!lock[-_.])\bpatien(ce|tly?)\b": "timeout, or retries",
    r"\bhears? (a |an |of |\d)": "gets 503; is told of",
    r"\bhouse\b": "package",
    r"\b(a|each|every|one|this|which) room\b|\brooms\b": "module",
    r"(?<!C program that marks )\bfloors\b": "layers",
    r"\bthe face\b|\bone face\b": "public API",
    r"\b(?-i:swift)(ly)?\b": "short, or inline",
    r"\bremind(s|ed|ers?)?\b": "schedule",
    r"(?<![\"/])\b(un)?settle[sd]?\b": "synced, applied, or finalized",
    r"\bgoes away\b|\bgo away\b": "is removed, or disconnects",
    r"\btakes? \w+ away\b": "removes",
    r"(^|[.;:] )Who (?!may\b)": "a client that; a process that",
}
"""Patterns in any text, each with what to write."""

NAMES = re.compile(r"[Pp]atience|PATIENCE|[Ss]wift|[Rr]emind|[Ss]ettle|SETTLE|^Manner$|^manner$|^_?Kept$")
"""Parts of names."""

TEXTS = (
    *(ROOT / name for name in PAGES),
    *(
        ROOT / name
        for name in ("bench/README.md", "tests/torture/README.md", "tests/conformance/README.md", "Makefile")
    ),
)
MODULES = sorted(
    path
    for folder in ("tusserver", "tests", "bench", "examples", "docs", ".ci")
    for path in (ROOT / folder).rglob("*.py")
    if not {"node_modules", ".peers", "__pycache__"} & set(path.parts) and path != Path(__file__)
)


def pieces(path: Path) -> Iterator[tuple[int, str, bool]]:
    """What a file says: line, text, and whether that is a name in code."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        text = re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
        for number, line in enumerate(re.sub(r"`[^`\n]*`", "", text).splitlines(), 1):
            yield number, line, False
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string, True
        elif token.type in (tokenize.COMMENT, tokenize.STRING):
            for number, line in enumerate(re.sub(r"`[^`\n]*`", "", token.string).splitlines(), token.start[0]):
                yield number, line, False


def found(path: Path) -> Iterator[str]:
    """Words of a file that are not to be there, each with its line and what to write."""
    for number, text, is_name in pieces(path):
        if is_name:
            if NAMES.search(text):
                yield f"{path.relative_to(ROOT)}:{number} {text}"
            continue
        for pattern, instead in INSTEAD.items():
            if word := re.search(pattern, text, re.IGNORECASE if pattern.islower() else 0):
                yield f"{path.relative_to(ROOT)}:{number} {word[0].strip()!r}: {instead}"


def test_words_that_are_not_to_come_back_are_gone() -> None:
    assert [word for path in (*TEXTS, *MODULES) for word in found(path)] == []
