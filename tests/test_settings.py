from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusserver.cli.flags import Parser, UsageError, add_settings, parse
from tusserver.protocol.limits import Expiry, Features, Limits, Timeouts
from tusserver.settings.catalog import RENAMED, catalog
from tusserver.settings.sources import LoadedSettings, SettingsError, SetValue, Source, load
from tusserver.settings.values import read_duration, read_size, show_duration, show_size
from tusserver.web.cors import Cors
from tusserver.web.forwarded import Proxies


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one: ./tusserver.toml is read from it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def by_flags(*arguments: str, environ: dict[str, str] | None = None) -> LoadedSettings:
    """Settings of a command line."""
    parser = Parser(prog="tusserver", allow_abbrev=False)
    add_settings(parser)
    options = parse(parser, arguments)
    return load(options.given, environ=environ, config=options.config)


def by_file(text: str, *, path: Path = Path("tusserver.toml"), environ: dict[str, str] | None = None) -> LoadedSettings:
    """Settings of a TOML file."""
    path.write_text(text, encoding="utf-8")
    return load(environ=environ)


def refusal(call: object, *arguments: object, **more: object) -> str:
    """The one line a wrong setting gets."""
    assert callable(call)
    with pytest.raises((SettingsError, UsageError)) as refused:
        call(*arguments, **more)
    line = str(refused.value)
    assert "\n" not in line
    return line


# sources -------------------------------------------------------------------------------------------------------------


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


# values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("2GB", 2_000_000_000),
        ("16KiB", 16384),
        ("1.5 kb", 1500),
        ("1TiB", 2**40),
        ("0.1GB", 100_000_000),
        (5, 5),
    ],
)
def test_a_size_is_read(text: object, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "2 gigs", "1K", "GB", "1e3", "٣", True, "9223372036854775808", "1.2.3GB"])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        read_size(text)


@given(st.integers(0, 2**63 - 1))
def test_a_size_that_is_shown_is_read_as_the_same(size: int) -> None:
    assert read_size(show_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("24h", 86400), ("1h30m", 5400), ("7d", 604800), ("250ms", 0.25), ("10", 10), (1.5, 1.5), (0, 0)],
)
def test_a_time_is_read(text: object, seconds: float) -> None:
    assert read_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1s", "1y", "h", "1h 30m", "1h30", True, "inf", "99999999d"])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="time"):
        read_duration(text)


@given(st.integers(0, 10**11))
def test_a_time_that_is_shown_is_read_as_the_same(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert read_duration(show_duration(duration)) == duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (60, "60s"), (75, "75s"), (5400, "1h30m"), (86400, "24h"), (604800, "7d")]
)
def test_a_time_is_shown_as_people_say_it(seconds: int, text: str) -> None:
    assert show_duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize("word", ["off", "never", "OFF"])
def test_expiry_can_be_switched_off(word: str) -> None:
    assert by_flags("--expire-after", word).settings.expiry.after is None


def test_the_size_can_be_unlimited_again() -> None:
    environ = {"TUSSERVER_MAX_SIZE": "1GB"}
    assert by_flags("--max-size", "unlimited", environ=environ).settings.limits.max_size is None


@pytest.mark.parametrize(("text", "value"), [("true", True), ("off", False), ("yes", True), ("0", False)])
def test_a_switch_takes_the_usual_words(text: str, value: bool) -> None:
    assert by_flags("--tus.download", text).settings.tus.download is value


def test_modes_are_octal() -> None:
    assert by_flags("--store.file_mode", "640", "--store.folder_mode", "0750").settings.store.file_mode == 0o640


def test_the_path_loses_its_trailing_slash() -> None:
    assert by_flags("--path", "/a/b/").settings.server.path == "/a/b"


def test_a_network_may_be_written_by_one_of_its_addresses() -> None:
    assert by_flags("--proxies.trusted", "10.1.2.3/8,::1").settings.proxies.trusted == ("10.0.0.0/8", "::1/128")


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert by_flags("--storage", "~/up").settings.store.root == Path("/home/somebody/up")


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
def test_a_wrong_value_is_told_with_setting_origin_and_remedy(flag: str, value: str, line: str) -> None:
    assert refusal(by_flags, flag, value) == line


@pytest.mark.parametrize(
    ("flag", "value", "remedy"),
    [
        ("--path", "files", "write one like /files"),
        ("--path", "/a/../b", "write one like /files"),
        ("--path", "/a?b", "write one like /files"),
        ("--path", "/{x}", "write one like /files"),
        ("--path", "/", "write one like /files"),
        ("--host", "http://here", "write one like 127.0.0.1"),
        ("--host", "", "write one like 127.0.0.1"),
        ("--expire-after", "0", "or off"),
        ("--sweep-interval", "0s", "write a time"),
        ("--limits.idle_timeout", "off", "write one like 90s"),
        ("--limits.parts", "0", "must be 1 or more"),
        ("--store.file_mode", "999", 'like "640"'),
        ("--store.file_mode", "077", "with the bits 600"),
        ("--store.folder_mode", "600", "with the bits 700"),
        ("--tus.disable", "creation,foo", "known are creation,"),
        ("--cors.origins", "a.example", "write one like https://app.example.com"),
        ("--cors.origins", "https://a.example/", "write one like https://app.example.com"),
        ("--cors.origins", "https://*.example", "write one like https://app.example.com"),
        ("--cors.origins", "https://a.example,*", "write * alone"),
        ("--cors.allow_headers", "X Y", "write one like X-Request-ID"),
        ("--proxies.trusted", "proxy.local", "write 10.0.0.0/8"),
        ("--log.level", "loud", "must be 'debug', 'info'"),
    ],
)
def test_each_kind_of_wrong_value_is_told_with_a_remedy(flag: str, value: str, remedy: str) -> None:
    line = refusal(by_flags, flag, value)
    assert f"(flag {flag})" in line
    assert remedy in line


def test_a_wrong_value_in_the_environment_is_told_with_the_variable() -> None:
    line = refusal(load, environ={"TUSSERVER_SWEEP_INTERVAL": "often"})
    assert line.startswith('expiry.sweep_interval = "often" (environment TUSSERVER_SWEEP_INTERVAL) is not a time')


def test_a_wrong_value_in_a_file_is_told_with_the_file() -> None:
    assert refusal(by_file, "[server]\nport = true\n[log]\nlevel = 3\n").startswith(
        "log.level = 3 (file tusserver.toml)"
    )


def test_a_mode_in_toml_must_stand_in_quotes() -> None:
    assert refusal(by_file, "[store]\nfile_mode = 600\n").endswith('write one in quotes, like "640"')


def test_a_value_cannot_break_out_of_its_line() -> None:
    line = refusal(by_flags, "--log.level", "x\n\x1b[31m" + "y" * 1000)
    assert line.isprintable()
    assert len(line) < 400


def test_an_unknown_flag_is_told_with_the_nearest_one() -> None:
    assert refusal(by_flags, "--prot", "1") == "there is no --prot; did you mean --port?"


def test_a_flag_is_not_guessed_from_its_beginning() -> None:
    assert refusal(by_flags, "--max", "1").startswith("there is no --max; did you mean --max-size?")


def test_an_unknown_variable_is_told_with_the_nearest_one() -> None:
    line = refusal(load, environ={"TUSSERVER_LIMITS__MAXSIZE": "1"})
    assert line == "environment TUSSERVER_LIMITS__MAXSIZE is not a setting; did you mean TUSSERVER_LIMITS__MAX_SIZE?"


def test_an_unknown_key_in_a_file_is_told_with_the_nearest_one() -> None:
    line = refusal(by_file, "[limits]\nmaxsize = 1\n")
    assert line == "file tusserver.toml: limits.maxsize is not a setting; did you mean limits.max_size?"


def test_a_key_outside_of_a_group_is_told_where_it_belongs() -> None:
    line = refusal(by_file, "port = 1\n")
    assert line == "file tusserver.toml: port is in no group; write port below [server]"


def test_a_file_that_is_no_toml_is_told_with_the_place() -> None:
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


def test_logins_from_any_web_page_are_refused() -> None:
    line = refusal(by_flags, "--cors.credentials", "true")
    assert line == (
        'cors.credentials = "true" (flag --cors.credentials) needs exact origins; name them in cors.origins'
    )
    assert by_flags("--cors.credentials", "true", "--cors.origins", "https://a.example").settings.cors.credentials


def test_metadata_that_could_never_come_through_is_refused() -> None:
    line = refusal(by_flags, "--limits.metadata_size", "64KiB")
    assert line.endswith("is more than limits.header_size (17KiB) lets in; raise that one too")
    assert by_flags("--limits.metadata_size", "64KiB", "--limits.header_size", "64KiB").settings


def test_a_header_that_no_head_has_room_for_is_refused() -> None:
    line = refusal(by_flags, "--limits.header_size", "256KiB")
    assert line.startswith('limits.header_size = "256KiB" (flag --limits.header_size) ')
    assert line.endswith("is more than limits.head_size (192KiB) lets in; raise that one too")
    line = refusal(by_flags, "--limits.head_size", "16KiB")
    assert (
        line == "limits.header_size = 17KiB (default) is more than limits.head_size (16KiB) lets in; raise that one too"
    )
    assert by_flags("--limits.header_size", "256KiB", "--limits.head_size", "256KiB").settings
    line = refusal(by_flags, "--limits.buffers", "100KiB")
    assert line.startswith("limits.buffers = ")
    assert line.endswith("is less than one request head may take, limits.head_size (192KiB); raise it")


def test_more_parts_than_a_head_can_name_are_refused() -> None:
    line = refusal(by_flags, "--limits.parts", "10000")
    assert line == (
        'limits.parts = "10000" (flag --limits.parts) need 560000 bytes in Upload-Concat, '
        "and limits.head_size (192KiB) lets in less; raise that one, or lower this one"
    )
    assert by_flags("--limits.parts", "10000", "--limits.head_size", "2MiB").settings
    assert refusal(by_flags, "--limits.parts", "4500")  # whose URLs have a host
    assert by_flags("--limits.parts", "4500", "--proxies.relative_location", "true").settings
    assert by_flags("--limits.parts", "10000", "--tus.disable", "concatenation").settings
    assert by_flags("--limits.parts", "10000", "--tus.disable", "creation").settings
    assert refusal(by_flags, "--limits.parts", "4000", "--server.path", "/a/longer/path/of/uploads")


def test_a_refusal_about_a_default_says_so() -> None:
    assert str(load().refusal("server.port", "is in use")) == "server.port = 8080 (default) is in use"


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


def test_a_wrong_value_given_by_an_old_name_is_told_with_where_it_stands() -> None:
    line = refusal(load, environ={OLD_VARIABLE: "long"})
    assert line.startswith(f'{NEW} = "long" (environment {OLD_VARIABLE}) is not a time')


# options of the library ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("limits", Limits),
        ("limits", Timeouts),
        ("expiry", Expiry),
        ("tus", Features),
        ("proxies", Proxies),
        ("cors", Cors),
    ],
)
def test_options_have_the_names_and_defaults_of_settings(group: str, kind: type[object]) -> None:
    assert getattr(load().settings, group).fill(kind) == kind()
