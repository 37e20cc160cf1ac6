"""`tusserver completion`, as bash uses it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.cli.conftest import Run
from tests.support.wire import TIMEOUT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["up"], ["upload"]),
        (["s"], ["serve", "show", "sweep"]),
        (["upload", "--me"], ["--metadata"]),
        (["upload", "a.txt", "--h"], ["--help", "--header"]),
        (["list", "--wa"], ["--watch"]),
        (["list", "--cors"], []),
        (["upload", "pho"], []),  # files: bash's own
    ],
)
def test_tab_offers_the_commands_and_their_flags(run: Run, words: list[str], offered: list[str]) -> None:
    done = run("completion")
    assert (done.code, done.err) == (0, "")
    ask = 'COMP_WORDS=("$0" "$@"); COMP_CWORD=$#; _tusserver; printf "%s\\n" "${COMPREPLY[@]}"'
    answer = subprocess.run(
        ["bash", "--norc", "-c", f"{done.out}\n{ask}", "tusserver", *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert answer.stderr == ""
    assert answer.stdout.split() == offered
