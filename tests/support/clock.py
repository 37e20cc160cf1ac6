"""A wall clock that a test can set: a library, preloaded into a server, that shifts it (see clock.c)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.preload import build

SOURCE = Path(__file__).with_name("clock.c")


class NoCompiler(Exception):
    """The library cannot be made here."""


class Clock:
    """The wall clock of those that run with `env`. `folder`: where the library and the control file live.

    Raises:
        NoCompiler
    """

    def __init__(self, folder: Path) -> None:
        library = build(SOURCE, folder)
        if library is None:
            raise NoCompiler("needs a C compiler")
        control = folder / "clock"
        control.write_bytes(bytes(8))
        self._control = os.open(control, os.O_RDWR | os.O_CLOEXEC)
        self.env = {"LD_PRELOAD": str(library), "CLOCK": str(control)}
        """Of the server."""

    def shift(self, seconds: float) -> None:
        """Let it be so many seconds ahead of the system's from now on; behind it if negative."""
        os.pwrite(self._control, struct.pack("=q", round(seconds * 1_000_000_000)), 0)

    @contextmanager
    def shifted(self, seconds: float) -> Iterator[None]:
        """Shift it for a while."""
        self.shift(seconds)
        try:
            yield
        finally:
            self.shift(0)

    def close(self) -> None:
        """Give back the control file; the clocks stay as they are."""
        os.close(self._control)
