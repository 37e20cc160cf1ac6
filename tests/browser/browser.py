"""Chromium, driven by Node.js: one process for each scenario, told what to do and asked what it saw."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.wire import TIMEOUT

JS = Path(__file__).parent / "js"


class Browser:
    """Runs scenarios of js/page.mjs and js/foreign.mjs."""

    def __init__(self, packages: Path, chromium: str, folder: Path) -> None:
        self._env = {**os.environ, "PACKAGES": str(packages), "CHROMIUM": chromium}
        self._folder = folder
        self._profiles = 0

    def run(self, scenario: str, ask: Mapping[str, Callable[[], object]] | None = None, **job: Any) -> Any:
        """Run one to its end and return what it saw. `ask` are things that it has done here on the way."""
        self._profiles += 1
        profile = str(self._folder / f"profile-{self._profiles}")
        command = ["node", str(JS / "run.mjs"), json.dumps({"scenario": scenario, "profile": profile, **job})]
        with subprocess.Popen(
            command, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                return self._converse(process, ask or {})
            finally:
                if process.poll() is None:
                    process.terminate()

    def _converse(self, process: subprocess.Popen[str], ask: Mapping[str, Callable[[], object]]) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        result: list[Any] = []
        for line in process.stdout:
            told = json.loads(line)
            if "ask" in told:
                ask[told["ask"]]()
                process.stdin.write("\n")
                process.stdin.flush()
            else:
                result.append(told["result"])
        said = process.stderr.read()
        assert process.wait(TIMEOUT) == 0, said
        return result[0]
