"""What is used of uvicorn's internals, and what happens where a uvicorn does not have it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger("tusserver.wire")

UVICORN_INTERNALS: Final[Mapping[str, tuple[str, ...]]] = {
    "HttpToolsProtocol": (
        *("data_received", "connection_lost", "send_400_response", "on_response_complete", "shutdown"),
        *("on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body", "on_message_complete"),
        *("transport", "flow", "parser", "loop", "scheme", "scope", "headers", "cycle", "server_state"),
        *("client", "pipeline", "timeout_keep_alive_task", "_should_upgrade"),
    ),
    "RequestResponseCycle": (
        *("receive", "send", "scope", "transport", "body", "more_body", "message_event", "disconnected", "keep_alive"),
        *("waiting_for_100_continue", "response_started", "response_complete"),
        *("expected_content_length", "chunked_encoding"),
    ),
    "FlowControl": ("pause_reading", "resume_reading", "read_paused", "write_paused", "drain"),
}
"""Attributes of uvicorn's classes, set by the class or by its `__init__`."""


def missing_internals(internals: Mapping[str, tuple[str, ...]] = UVICORN_INTERNALS) -> list[str]:
    """Return the names of what we use and this uvicorn does not have."""
    missing: list[str] = []
    for name, attributes in internals.items():
        owner = getattr(httptools_impl, name, None) or getattr(flow_control, name, None)
        if owner is None:
            missing.append(name)
            continue
        code = getattr(owner.__init__, "__code__", None)
        there = {*dir(owner), *(code.co_names if code is not None else ())}
        missing += [f"{name}.{attribute}" for attribute in attributes if attribute not in there]
    return missing


def supported(ours: type[HttpToolsProtocol], missing: list[str]) -> type[HttpToolsProtocol]:
    """Return our protocol, or uvicorn's own for a uvicorn with something `missing`."""
    if missing:
        logger.warning("this uvicorn lacks %s: bodies go through its parser, without trailers", ", ".join(missing))
        return HttpToolsProtocol
    return ours
