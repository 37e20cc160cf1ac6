from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from tusserver.server import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged; the logging of this process is put back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("tusserver")
    before = root.handlers, root.level, ours.level
    yield io.StringIO()
    root.handlers, level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


logger = logging.getLogger("tusserver.test")


def test_text_is_one_line_with_the_facts_behind(stream: io.StringIO) -> None:
    logs.configure("info", "text", stream)
    logger.info("upload finished", extra={"upload_id": "abc", "length": 10, "duration": 0.123456})
    line = stream.getvalue()
    assert line.endswith("Z info upload finished upload_id=abc length=10 duration=0.1235\n")
    assert line.count("\n") == 1


def test_json_is_one_object_a_line(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    logger.warning("slow %s", "disk", extra={"upload_id": "abc", "status": 204})
    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "warning",
        "logger": "tusserver.test",
        "message": "slow disk",
        "upload_id": "abc",
        "status": 204,
    }


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_is_no_known_fact_is_not_written(stream: io.StringIO, format: str) -> None:
    logs.configure("info", format, stream)
    logger.info("asked", extra={"token": "secret-token", "metadata": {"name": "secret-name"}})
    assert "asked" in stream.getvalue()
    assert "secret" not in stream.getvalue()


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_client_cannot_begin_a_line_of_its_own_nor_command_the_terminal(stream: io.StringIO, format: str) -> None:
    logs.configure("info", format, stream)
    hostile = "x\r\n2026-01-01 info forged\x1b[2J\u202e\u2028"
    logger.info("path %s", hostile, extra={"path": hostile})
    assert stream.getvalue().removesuffix("\n").isprintable()


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_cannot_begin_a_line_of_its_own(stream: io.StringIO, format: str) -> None:
    logs.configure("info", format, stream)
    try:
        raise RuntimeError("x\nforged\x1b[2J")
    except RuntimeError:
        logger.exception("broken")
    first, *others = stream.getvalue().splitlines()
    assert "broken" in first
    assert all(line.startswith("    ") for line in others)
    assert "\x1b" not in stream.getvalue()
    assert "RuntimeError" in stream.getvalue()


def test_a_client_cannot_fill_the_disk_by_one_line(stream: io.StringIO) -> None:
    logs.configure("info", "text", stream)
    logger.info("refused", extra={"upload_id": "x" * 60_000})
    assert len(stream.getvalue()) < 400


def test_blanks_in_a_fact_are_quoted(stream: io.StringIO) -> None:
    logs.configure("info", "text", stream)
    logger.info("refused", extra={"reason": "no such thing", "path": ""})
    assert stream.getvalue().endswith('info refused path="" reason="no such thing"\n')


def test_the_level_counts_for_us_and_warnings_for_others(stream: io.StringIO) -> None:
    logs.configure("debug", "text", stream)
    logger.debug("ours")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()] == [
        "ours",
        "Invalid HTTP request received.",
    ]


def test_a_request_cancelled_at_the_stop_leaves_no_traceback(stream: io.StringIO) -> None:
    logs.configure("info", "text", stream)
    try:
        raise asyncio.CancelledError
    except asyncio.CancelledError as error:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    assert stream.getvalue() == ""
