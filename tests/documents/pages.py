"""The documents as tests see them: pages, and the blocks of code in them.

A comment before a block tells how it is tested:

- `<!-- serves -->`: each of its commands is a server, which has to start, to say where it listens and to stop cleanly.
- `<!-- app: PATH -->`: Python that makes an `app`, which has to take uploads at PATH.
- `<!-- not run: REASON -->`: it is only parsed. For what would change the machine or needs what tests lack.

Without a comment `sh` and `python` run, in their order, in one shell for each page, beside a server whose uploads are
made at `FILES`; `js` runs in Node.js, and `toml` has to be settings that a server takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

FILES = "http://127.0.0.1:8080/files"
"""Where the documents upload to. Tests put a server of their own there."""

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
_NOT_RUN = "not run: "
_APP = "app: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of code."""

    page: str
    line: int
    language: str
    mark: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def reason(self) -> str | None:
        """Why it is not run; None if it is."""
        return self.mark.removeprefix(_NOT_RUN) if self.mark.startswith(_NOT_RUN) else None

    @property
    def path(self) -> str:
        """Where the app that it makes takes uploads; empty if it makes none."""
        return self.mark.removeprefix(_APP) if self.mark.startswith(_APP) else ""

    @property
    def serves(self) -> bool:
        return self.mark == "serves"

    @property
    def steps(self) -> bool:
        """Whether it is one of the steps of its page."""
        return not self.mark and self.language in ("sh", "python")


def _blocks(page: str, text: str) -> list[Block]:
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start("code")),
            language=found["language"],
            mark=found["mark"] or "",
            code=found["code"],
        )
        for found in _BLOCK.finditer(text)
    ]


PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
"""The text of each page by its path."""

BLOCKS = [block for page, text in PAGES.items() for block in _blocks(page, text)]


def table(page: str, header: str) -> list[str]:
    """Rows of the table of a page with this header line."""
    rows = PAGES[page].split(f"{header}\n", 1)[1].splitlines()[1:]
    return rows[: next((n for n, row in enumerate(rows) if not row.startswith("|")), len(rows))]
