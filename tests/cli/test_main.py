from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import Run
from tests.support.wire import TIMEOUT
from tusserver import __version__
from tusserver.settings.catalog import catalog

COMMANDS = ("serve", "upload", "download", "completion", "list", "show", "remove", "sweep", "config")


def tusserver(*arguments: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Run `python -m tusserver`, after the statements of `prelude`."""
    code = f"{prelude}\nimport runpy, sys\nsys.argv[1:] = {list(arguments)!r}\n"
    code += "runpy.run_module('tusserver', run_name='__main__', alter_sys=True)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=False)


def helped(run: Run, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `--help` prints."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments, "--help")
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_python_m_tells_the_version() -> None:
    done = tusserver("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tusserver {__version__}\n", "")


def test_help_names_every_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = helped(run, capsys).split()
    assert set(COMMANDS) <= set(words)


@pytest.mark.parametrize("command", ["serve", "config"])
def test_help_names_every_setting_and_its_default(run: Run, capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = " ".join(helped(run, capsys, command).split())
    for setting in catalog().values():
        # From 3.13 on argparse names the value once: --server.port, --port PORT.
        assert all(f"{flag} " in text or f"{flag}, " in text for flag in setting.flags)
        assert f"(default: {setting.default or 'none'})" in text


@pytest.mark.parametrize("command", ["list", "show", "remove", "sweep"])
def test_help_of_the_other_commands_is_short(run: Run, capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = helped(run, capsys, command)
    assert "--storage" in text
    assert "--cors.origins" not in text
    assert len(text.splitlines()) < 30


def test_without_a_command_the_usage_is_told(run: Run) -> None:
    done = run()
    assert done.code == 2
    assert done.err.startswith("usage: tusserver")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["steal"], "invalid choice: 'steal'"),
        (["serve", "--port"], "expected one argument"),
        (["serve", "--prot", "1"], "there is no --prot; did you mean --port?"),
        (["serve", "--port", "http"], 'server.port = "http" (flag --port) is not a whole number'),
        (["list", "--storage"], "expected one argument"),
        (["show"], "the following arguments are required: ID"),
        (["list", "surplus"], "there is no surplus"),
    ],
)
def test_wrong_usage_is_told_in_one_line(run: Run, arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("tusserver: ")
    assert words in done.err
    assert done.err.count("\n") == 1


def test_without_the_server_extra_one_line_says_how_to_install_it() -> None:
    done = tusserver("serve", prelude="import sys; sys.modules['pydantic'] = None")
    assert done.returncode == 2
    assert done.stderr == "tusserver: pydantic is not installed; run: pip install 'tusserver[server]'\n"


def test_a_name_that_the_terminal_cannot_show_is_escaped() -> None:
    prelude = "import sys; sys.stdout.reconfigure(encoding='ascii')"
    done = tusserver("config", "--storage", "\u4e2d", prelude=prelude)
    assert done.returncode == 0
    assert 'root = "\\u4e2d"' in done.stdout
