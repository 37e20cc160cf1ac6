from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.settings.loading import by_file, by_flags, refusal
from tusserver.settings.values import read_duration, read_size, show_duration, show_size


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
def test_each_kind_of_wrong_value_is_refused_with_a_remedy(flag: str, value: str, remedy: str) -> None:
    line = refusal(by_flags, flag, value)
    assert f"(flag {flag})" in line
    assert remedy in line


def test_a_mode_in_toml_must_stand_in_quotes() -> None:
    assert refusal(by_file, "[store]\nfile_mode = 600\n").endswith('write one in quotes, like "640"')
