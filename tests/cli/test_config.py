from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tusserver.settings.catalog import catalog
from tusserver.settings.sources import load


def test_every_setting_is_printed_with_its_source(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tusserver.toml").write_text('[limits]\nmax_size = "2GB"\n')
    monkeypatch.setenv("TUSSERVER_SWEEP_INTERVAL", "90s")
    done = run("config", "--port", "9000")
    assert done.code == 0
    lines = {line.split(" = ")[0]: line for line in done.out.splitlines() if " = " in line}
    assert lines["port"].split() == ["port", "=", "9000", "#", "flag", "--port"]
    assert lines["max_size"].split("  # ")[1] == "file tusserver.toml"
    assert lines["sweep_interval"].split("  # ")[1] == "environment TUSSERVER_SWEEP_INTERVAL"
    assert lines["host"].split("  # ")[1] == "default"


def test_what_is_printed_is_a_file_that_means_the_same(run: Run, tmp_path: Path) -> None:
    arguments = ["--port", "9000", "--max-size", "1.5GiB", "--cors.origins", "https://a.example"]
    arguments += ["--store.finished_folder", 'a "quoted" földer', "--tus.disable", "checksum", "--expire-after", "36h"]
    done = run("config", *arguments)
    path = tmp_path / "copy.toml"
    path.write_text(done.out, encoding="utf-8")
    assert set(tomllib.loads(done.out)["server"]) == {
        "host",
        "port",
        "path",
        "workers",
        "shutdown_timeout",
        "keep_alive",
        "backlog",
    }
    again = load(config=path).settings
    assert again.server.port == 9000
    assert again.limits.max_size == 3 * 2**29
    assert str(again.store.finished_folder) == 'a "quoted" földer'
    assert run("config", "--config", path, "--json").out.count('"origin": "file ') == len(catalog())


def test_json_is_for_programs(run: Run) -> None:
    done = run("config", "--json", "--tus.disable", "checksum,termination")
    entries = json.loads(done.out)
    assert list(entries) == list(catalog())
    assert entries["tus.disable"] == {"value": ["checksum", "termination"], "origin": "flag --tus.disable"}
    assert entries["expiry.after"] == {"value": "24h", "origin": "default"}


def test_a_wrong_setting_is_reported_and_nothing_else(run: Run) -> None:
    done = run("config", "--max-size", "much")
    assert (done.code, done.out) == (2, "")
    assert "limits.max_size" in done.err


@pytest.mark.parametrize("command", [("config",), ("config", "--json"), ("sweep",), ("list",)])
def test_every_command_says_that_a_setting_has_another_name(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "storage").mkdir()
    done = run(*command, "--limits.lock_patience", "3s")
    assert done.code == 0
    assert "is called limits.lock_timeout now" in done.err
