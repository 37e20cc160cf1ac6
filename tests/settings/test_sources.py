from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.settings.loading import by_file, by_flags, refusal
from tusserver.cli.flags import Parser, add_settings
from tusserver.settings.catalog import RENAMED, catalog
from tusserver.settings.sources import LoadedSettings, SetValue, Source, load


def test_without_any_source_the_defaults_count() -> None:
    settings = load().settings
    assert (settings.server.host, settings.server.port, settings.server.path) == ("127.0.0.1", 8080, "/files")
    assert settings.store.root == Path("storage")
    assert settings.limits.max_size is None
    assert settings.expiry.after == timedelta(hours=24)
    assert settings.expiry.keep_finished is None
    assert (settings.store.file_mode, settings.store.folder_mode) == (0o600, 0o700)


def test_a_file_in_the_working_folder_is_read() -> None:
    loaded = by_file('[server]\nport = 9000\n[limits]\nmax_size = "2GB"\n')
    assert loaded.settings.server.port == 9000
    assert loaded.settings.limits.max_size == 2_000_000_000
    assert str(loaded.source("server.port")) == "file tusserver.toml"


def test_the_environment_wins_over_the_file() -> None:
    loaded = by_file("[server]\nport = 9000\n", environ={"TUSSERVER_SERVER__PORT": "9001"})
    assert loaded.settings.server.port == 9001
    assert str(loaded.source("server.port")) == "environment TUSSERVER_SERVER__PORT"


def test_a_flag_wins_over_the_environment() -> None:
    loaded = by_flags("--server.port", "9002", environ={"TUSSERVER_PORT": "9001"})
    assert loaded.settings.server.port == 9002
    assert str(loaded.source("server.port")) == "flag --server.port"


def test_what_nobody_gave_comes_from_the_default() -> None:
    assert str(by_flags("--port", "9002").source("server.host")) == "default"


@pytest.mark.parametrize("name", catalog())
def test_each_flag_of_a_setting_sets_it(name: str) -> None:
    for flag in catalog()[name].flags:
        given = by_flags(flag, catalog()[name].default).given
        assert given == {name: SetValue(catalog()[name].default, Source("flag", flag))}


@pytest.mark.parametrize("name", catalog())
def test_each_environment_variable_of_a_setting_sets_it(name: str) -> None:
    for variable in catalog()[name].variables:
        given = load(environ={variable: catalog()[name].default or " "}).given
        assert given[name].source == Source("environment", variable)


def test_every_default_can_be_written_as_a_flag() -> None:
    arguments = [part for setting in catalog().values() for part in (setting.flags[-1], setting.default)]
    assert by_flags(*arguments).settings == load().settings


def test_short_names_stand_for_dotted_ones() -> None:
    short = by_flags(
        *("--host", "::1", "--port", "1", "--path", "/up", "--storage", "s", "--max-size", "1KB"),
        *("--expire-after", "1h", "--sweep-interval", "2s", "--durability", "none"),
    )
    dotted = by_flags(
        *("--server.host", "::1", "--server.port", "1", "--server.path", "/up", "--store.root", "s"),
        *("--limits.max_size", "1KB", "--expiry.after", "1h", "--expiry.sweep_interval", "2s"),
        *("--store.durability", "none"),
    )
    assert short.settings == dotted.settings != load().settings


def test_dashes_in_a_dotted_flag_do_as_well() -> None:
    assert by_flags("--limits.max-size=1KB").settings.limits.max_size == 1000


def test_of_a_flag_given_twice_the_last_counts() -> None:
    assert by_flags("--port", "1", "--server.port", "2").settings.server.port == 2


def test_a_list_takes_commas_and_repeated_flags() -> None:
    settings = by_flags("--tus.disable", "termination,checksum", "--tus.disable", "concatenation").settings
    assert settings.tus.disable == ("termination", "checksum", "concatenation")


def test_a_list_in_toml_is_a_list() -> None:
    settings = by_file('[cors]\norigins = ["https://a.example", "http://b.example:81"]\n').settings
    assert settings.cors.origins == ("https://a.example", "http://b.example:81")


def test_the_file_named_by_a_flag_wins_over_the_one_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[server]\nport = 1\n")
    (tmp_path / "b.toml").write_text("[server]\nport = 2\n")
    environ = {"TUSSERVER_CONFIG": "a.toml"}
    assert load(environ=environ).settings.server.port == 1
    assert by_flags("--config", "b.toml", environ=environ).settings.server.port == 2


def test_an_empty_environment_variable_counts_as_unset() -> None:
    assert load(environ={"TUSSERVER_PORT": "", "TUSSERVER_TUS__DISABLE": ""}).given == {}


def test_variables_that_kubernetes_makes_for_a_service_of_our_name_are_passed_over() -> None:
    environ = {
        "TUSSERVER_SERVICE_HOST": "10.0.0.1",
        "TUSSERVER_SERVICE_PORT": "8080",
        "TUSSERVER_SERVICE_PORT_HTTP": "8080",
        "TUSSERVER_PORT": "tcp://10.0.0.1:8080",
        "TUSSERVER_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "TUSSERVER_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    assert load(environ=environ).given == {}


def test_other_programs_variables_are_none_of_ours() -> None:
    assert load(environ={"PORT": "1", "HOST": "x"}).given == {}


# refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "line"),
    [
        ("--port", "http", 'server.port = "http" (flag --port) is not a whole number; write one like 8080'),
        ("--port", "65536", 'server.port = "65536" (flag --port) must be 65535 or less; write one like 8080'),
        ("--port", "-1", 'server.port = "-1" (flag --port) must be 0 or more; write one like 8080'),
        (
            "--max-size",
            "2 gigs",
            'limits.max_size = "2 gigs" (flag --max-size) is not a size; write one like 500MB, 2GB or 16KiB',
        ),
        (
            "--expiry.after",
            "tomorrow",
            'expiry.after = "tomorrow" (flag --expiry.after) is not a time; write one like 90s, 1h30m or 7d',
        ),
        (
            "--durability",
            "always",
            "store.durability = \"always\" (flag --durability) must be 'ack', 'finish' or 'none'",
        ),
        ("--tus.download", "maybe", 'tus.download = "maybe" (flag --tus.download) must be true or false'),
    ],
)
def test_a_wrong_value_is_refused_with_setting_source_and_remedy(flag: str, value: str, line: str) -> None:
    assert refusal(by_flags, flag, value) == line


def test_a_wrong_value_in_the_environment_is_refused_with_the_variable() -> None:
    line = refusal(load, environ={"TUSSERVER_SWEEP_INTERVAL": "often"})
    assert line.startswith('expiry.sweep_interval = "often" (environment TUSSERVER_SWEEP_INTERVAL) is not a time')


def test_a_wrong_value_in_a_file_is_refused_with_the_file() -> None:
    assert refusal(by_file, "[server]\nport = true\n[log]\nlevel = 3\n").startswith(
        "log.level = 3 (file tusserver.toml)"
    )


def test_a_value_cannot_break_out_of_its_line() -> None:
    line = refusal(by_flags, "--log.level", "x\n\x1b[31m" + "y" * 1000)
    assert line.isprintable()
    assert len(line) < 400


def test_an_unknown_flag_is_refused_with_the_nearest_one() -> None:
    assert refusal(by_flags, "--prot", "1") == "there is no --prot; did you mean --port?"


def test_a_flag_is_not_guessed_from_its_beginning() -> None:
    assert refusal(by_flags, "--max", "1").startswith("there is no --max; did you mean --max-size?")


def test_an_unknown_variable_is_refused_with_the_nearest_one() -> None:
    line = refusal(load, environ={"TUSSERVER_LIMITS__MAXSIZE": "1"})
    assert line == "environment TUSSERVER_LIMITS__MAXSIZE is not a setting; did you mean TUSSERVER_LIMITS__MAX_SIZE?"


def test_an_unknown_key_in_a_file_is_refused_with_the_nearest_one() -> None:
    line = refusal(by_file, "[limits]\nmaxsize = 1\n")
    assert line == "file tusserver.toml: limits.maxsize is not a setting; did you mean limits.max_size?"


def test_a_key_outside_of_a_group_is_refused_with_its_group() -> None:
    line = refusal(by_file, "port = 1\n")
    assert line == "file tusserver.toml: port is in no group; write port below [server]"


def test_a_file_that_is_no_toml_is_refused_with_the_line() -> None:
    line = refusal(by_file, "[server]\nport = \n")
    assert line.startswith("file tusserver.toml is not TOML: ")
    assert "line 2" in line


def test_a_named_file_that_is_missing_is_refused() -> None:
    assert refusal(by_flags, "--config", "no.toml").startswith("flag --config: there is no file no.toml")
    assert refusal(load, environ={"TUSSERVER_CONFIG": "no.toml"}).startswith("environment TUSSERVER_CONFIG: ")


def test_a_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in refusal(by_flags, "--config", str(tmp_path))


def test_a_short_and_a_dotted_variable_that_differ_are_refused() -> None:
    line = refusal(load, environ={"TUSSERVER_PORT": "1", "TUSSERVER_SERVER__PORT": "2"})
    assert line.startswith("server.port = ")
    assert "TUSSERVER_PORT" in line
    assert "TUSSERVER_SERVER__PORT" in line


def test_a_short_and_a_dotted_variable_that_agree_are_fine() -> None:
    assert load(environ={"TUSSERVER_PORT": "1", "TUSSERVER_SERVER__PORT": "1"}).settings.server.port == 1


# names that settings had ---------------------------------------------------------------------------------------------


OLD, NEW = "limits.lock_patience", "limits.lock_timeout"
OLD_VARIABLE, NEW_VARIABLE = "TUSSERVER_LIMITS__LOCK_PATIENCE", "TUSSERVER_LIMITS__LOCK_TIMEOUT"


def assert_renamed(loaded: LoadedSettings, source: str) -> None:
    """The value counts, and one line says which name it was given by and which it has now."""
    assert loaded.settings.limits.lock_timeout == timedelta(seconds=7)
    assert str(loaded.source(NEW)) == source
    assert loaded.notices == [f"{OLD} ({source}) is called {NEW} now; the old name will not work in the next release"]


def test_an_old_name_works_in_a_file() -> None:
    assert_renamed(by_file('[limits]\nlock_patience = "7s"\n'), "file tusserver.toml")


def test_an_old_name_works_in_the_environment() -> None:
    assert_renamed(load(environ={OLD_VARIABLE: "7s"}), f"environment {OLD_VARIABLE}")


@pytest.mark.parametrize("flag", [f"--{OLD}", "--limits.lock-patience"])
def test_an_old_name_works_as_a_flag(flag: str) -> None:
    assert_renamed(by_flags(flag, "7s"), f"flag --{OLD}")


def test_by_its_new_name_a_setting_needs_no_notice() -> None:
    assert by_flags(f"--{NEW}", "7s").notices == []


@pytest.mark.parametrize("renamed", RENAMED.items())
def test_old_names_lead_to_settings_and_stand_in_no_help(renamed: tuple[str, str]) -> None:
    old, new = renamed
    parser = Parser(prog="tusserver", allow_abbrev=False)
    add_settings(parser)
    assert new in catalog()
    assert old not in catalog()
    assert f"--{old} " not in parser.format_help()


def test_a_value_given_by_both_names_is_refused() -> None:
    both = "is the old name of limits.lock_timeout, given too"
    line = refusal(by_file, '[limits]\nlock_patience = "7s"\nlock_timeout = "7s"\n')
    assert line == f'{OLD} = "7s" (file tusserver.toml) {both} (file tusserver.toml); leave one out'
    line = refusal(load, environ={OLD_VARIABLE: "7s", NEW_VARIABLE: "8s"})
    assert line.endswith(f"(environment {OLD_VARIABLE}) {both} (environment {NEW_VARIABLE}); leave one out")
    line = refusal(by_flags, f"--{NEW}", "7s", f"--{OLD}", "8s")
    assert line == f'{OLD} = "8s" (flag --{OLD}) {both} (flag --{NEW}); leave one out'
    line = refusal(by_flags, f"--{NEW}", "7s", environ={OLD_VARIABLE: "7s"})
    assert line.endswith(f"(environment {OLD_VARIABLE}) {both} (flag --{NEW}); leave one out")


def test_a_wrong_value_given_by_an_old_name_is_refused_with_its_source() -> None:
    line = refusal(load, environ={OLD_VARIABLE: "long"})
    assert line.startswith(f'{NEW} = "long" (environment {OLD_VARIABLE}) is not a time')
