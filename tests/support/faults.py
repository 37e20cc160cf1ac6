"""Faults at the seam of the system calls: a library, preloaded into a server, that lets calls fail or hang."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.preload import build

HANG = -1
SOURCE = Path(__file__).with_name("faults.c")


class Faults:
    """Arms and disarms the faults of one server. `folder`: where the library and the list of faults live.

    Skips the test where there is no compiler.
    """

    def __init__(self, folder: Path) -> None:
        library = build(SOURCE, folder)
        if library is None:
            pytest.skip("needs a C compiler")
        self._rules = folder / "faults"
        self._new = folder / "faults.new"
        self._hits = folder / "faults.hit"
        self.env = {"LD_PRELOAD": str(library), "FAULTS": str(self._rules)}
        """Of the server."""
        self.end()

    def begin(self, *calls: str, code: int) -> None:
        """Let calls fail with an error number, each said as "CALL TEXT": where the path contains the text."""
        self._set(code, calls)

    def hang(self, text: str) -> None:
        """Let every call hang where the path contains the text, until the next `begin` or `end`."""
        self._set(HANG, (f"* {text}",))

    def delay(self, text: str, milliseconds: int) -> None:
        """Let every call take at least so long where the path contains the text; more than one millisecond."""
        self._set(-milliseconds, (f"* {text}",))

    def _set(self, code: int, calls: Sequence[str]) -> None:
        self._hits.unlink(missing_ok=True)
        lines = [f"{call} {code} {text}\n" for call, _, text in (said.partition(" ") for said in calls)]
        self._new.write_text("".join(lines))
        self._new.rename(self._rules)  # the server may be reading

    def end(self) -> None:
        """Let everything through again."""
        self._new.write_text("")
        self._new.rename(self._rules)

    @property
    def hits(self) -> list[str]:
        """Calls that failed or hung since they were told to: "main" or "thread" for where, the call and the path."""
        return self._hits.read_text().splitlines() if self._hits.exists() else []
