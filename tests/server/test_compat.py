"""A new uvicorn shows here first: what is used of it is there, and where it is not its own protocol serves."""

from __future__ import annotations

import logging
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tusserver.server import protocol
from tusserver.server.compat import missing_internals, supported


def test_everything_that_is_used_of_uvicorn_is_there() -> None:
    assert missing_internals() == []
    assert protocol.TusHttpProtocol is protocol.WireProtocol


def test_this_uvicorn_is_one_that_the_tests_vouch_for() -> None:
    (pinned,) = {
        requirement.specifier
        for requirement in map(Requirement, requires("tusserver") or [])
        if requirement.name == "uvicorn"
    }
    assert pinned.contains(version("uvicorn"))
    assert not pinned.contains("0.50.0")
    assert not pinned.contains("1.0")


@pytest.mark.parametrize(
    ("internals", "lost"),
    [
        ({"HttpToolsProtocol": ("flow", "on_teapot")}, ["HttpToolsProtocol.on_teapot"]),
        ({"RequestResponseCycle": ("teapot", "body")}, ["RequestResponseCycle.teapot"]),
        ({"Teapot": ("body",)}, ["Teapot"]),
        ({"FlowControl": ("read_paused", "drain")}, []),
    ],
)
def test_what_is_missing_is_named(internals: dict[str, tuple[str, ...]], lost: list[str]) -> None:
    assert missing_internals(internals) == lost


def test_without_it_uvicorns_own_protocol_serves_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert supported(protocol.WireProtocol, ["RequestResponseCycle.body"]) is HttpToolsProtocol
    assert "RequestResponseCycle.body" in caplog.text
