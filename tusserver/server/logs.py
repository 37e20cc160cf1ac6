"""Logs on standard error: one line an event, as text or as JSON.

Of what a record carries besides its message only `FIELDS` are written, so neither a token nor a metadata value gets
into a log by accident. Whatever a client could have put into a message cannot end the line or command the terminal.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from tusserver.server.lines import Writer
from tusserver.text import printable

FIELDS = (
    "upload_id",
    "method",
    "path",
    "status",
    "code",
    "offset",
    "length",
    "bytes",
    "count",
    "duration",
    "client",
    "reason",
    "worker",
)
"""`extra` of a log call that is written, in this order. `duration` is in seconds."""

_STANDARD_ERROR = 2
_LONGEST = 256
"""Characters of one fact; an id in a URL is whatever a client makes it."""


def _facts(record: logging.LogRecord) -> Mapping[str, object]:
    facts: dict[str, object] = {}
    for name in FIELDS:
        match getattr(record, name, None):
            case None:
                continue
            case float() as value:
                facts[name] = round(value, 4)
            case str() as value if len(value) > _LONGEST:
                facts[name] = value[:_LONGEST] + "…"
            case value:
                facts[name] = value
    return facts


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z info upload finished upload_id=… length=10`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = f"{_time(record)} {record.levelname.lower()} {printable(record.getMessage().strip())}"
        for name, value in _facts(record).items():
            text = printable(str(value))
            line += f" {name}={json.dumps(text, ensure_ascii=False) if ' ' in text or not text else text}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    {printable(part)}" for part in trace.split("\n"))
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, then the facts; `exception` holds a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().strip(),
            **_facts(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _worth_telling(record: logging.LogRecord) -> bool:
    # uvicorn logs a traceback for each request that it cancels at the stop; the stop itself has been told.
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError)


class _Signed(logging.Filter):
    """Says which worker it was."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`."""
        record.worker = self._worker
        return True


class _Lines(logging.Handler):
    """Hands lines to a `Writer`."""

    def __init__(self, *, steady: bool) -> None:
        super().__init__()
        self._writer = Writer(_STANDARD_ERROR, lost=self._tell_lost, steady=steady)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            line = self.format(record)
        except Exception as error:  # a wrong call; logging itself would print a trace, and wait until it is read
            line = printable(f"a line could not be logged: {record.msg!r} in {record.pathname}: {error!r}")
        self._writer.put(line)

    def flush(self) -> None:
        """Wait a little for the last lines; also called at the end of a process."""
        self._writer.flush()

    def _tell_lost(self, count: int) -> str:
        message = "%d lines of the log were lost, as nobody read them" if count > 1 else "a line of the log was lost"
        arguments = (count,) if count > 1 else ()
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, arguments, None)
        self.filter(record)
        return self.format(record)


def flush() -> None:
    """Wait a little until what was logged is written."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def configure(
    level: str, format: str, stream: TextIO | None = None, *, worker: int | None = None, steady: bool = True
) -> None:
    """Log to standard error, or to `stream`, from `level` on for ours and warnings for others.

    `worker`: its number, if there are several. `steady`: see `Writer`; who writes to a `stream` waits for it.
    """
    root = logging.getLogger()
    handler: logging.Handler
    if stream is not None:
        handler = logging.StreamHandler(stream)
    elif worker is None and root.handlers and isinstance(root.handlers[0], _Lines):  # its lines come first
        handler = root.handlers[0]
    else:
        handler = _Lines(steady=steady)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    handler.filters.clear()
    handler.addFilter(_worth_telling)
    if worker is not None:
        handler.addFilter(_Signed(worker))
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tusserver").setLevel(level.upper())
