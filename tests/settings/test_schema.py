from __future__ import annotations

import pytest

from tests.settings.loading import by_flags, refusal
from tusserver.protocol.limits import Expiry, Features, Limits, Timeouts
from tusserver.server.options import ServerOptions
from tusserver.settings.sources import load
from tusserver.web.cors import Cors
from tusserver.web.forwarded import Proxies


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
        ("server", ServerOptions),
    ],
)
def test_options_have_the_names_and_defaults_of_settings(group: str, kind: type[object]) -> None:
    assert getattr(load().settings, group).fill(kind) == kind()
