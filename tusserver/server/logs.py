"""Logs on standard error: one line for each event, as text or as JSON.

Of the extras of a record only `FIELDS` are written, so neither a token nor a metadata value is logged by accident.
Nothing that a client can put into a message ends the line or controls the terminal.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from tusserver.server.lines import LineWriter
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
"""The keys of `extra` that are written, in this order. `duration` is in seconds."""

_STANDARD_ERROR = 2
_LONGEST = 256
"""Characters of one value: an id in a URL can be as long as the client likes."""


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: dict[str, object] = {}
    for name in FIELDS:
        match getattr(record, name, None):
            case None:
                continue
            case float() as value:
                fields[name] = round(value, 4)
            case str() as value if len(value) > _LONGEST:
                fields[name] = value[:_LONGEST] + "…"
            case value:
                fields[name] = value
    return fields


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z info upload finished upload_id=… length=10`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = f"{_time(record)} {record.levelname.lower()} {printable(record.getMessage().strip())}"
        for name, value in _fields(record).items():
            text = printable(str(value))
            line += f" {name}={json.dumps(text, ensure_ascii=False) if ' ' in text or not text else text}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    {printable(part)}" for part in trace.split("\n"))
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, then the fields; `exception` holds a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().strip(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _is_relevant(record: logging.LogRecord) -> bool:
    # uvicorn logs a traceback for each request that it cancels at the stop, which is logged already.
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError)


class _AddWorker(logging.Filter):
    """Adds the number of the worker."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`."""
        record.worker = self._worker
        return True


class _LineHandler(logging.Handler):
    """Writes lines by a `LineWriter`."""

    def __init__(self, *, keep_thread: bool) -> None:
        super().__init__()
        self._writer = LineWriter(_STANDARD_ERROR, lost=self._format_lost, keep_thread=keep_thread)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            line = self.format(record)
        except Exception as error:  # a wrong call; logging itself would print a traceback, and wait for its reader
            line = printable(f"a line could not be logged: {record.msg!r} in {record.pathname}: {error!r}")
        self._writer.put(line)

    def flush(self) -> None:
        """Wait a moment for the last lines; also called at the end of a process."""
        self._writer.flush()

    def _format_lost(self, count: int) -> str:
        message = "%d lines of the log were lost, as nobody read them" if count > 1 else "a line of the log was lost"
        arguments = (count,) if count > 1 else ()
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, arguments, None)
        self.filter(record)
        return self.format(record)


def flush() -> None:
    """Wait a moment until what was logged is written."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def configure(
    level: str, format: str, stream: TextIO | None = None, *, worker: int | None = None, keep_thread: bool = True
) -> None:
    """Log to standard error, or to `stream`: our records from `level` on, and warnings of others.

    `worker`: its number, if there are several. `keep_thread`: see `LineWriter`. A `stream` is written to directly.
    """
    root = logging.getLogger()
    handler: logging.Handler
    if stream is not None:
        handler = logging.StreamHandler(stream)
    elif worker is None and root.handlers and isinstance(root.handlers[0], _LineHandler):  # so its lines come first
        handler = root.handlers[0]
    else:
        handler = _LineHandler(keep_thread=keep_thread)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    handler.filters.clear()
    handler.addFilter(_is_relevant)
    if worker is not None:
        handler.addFilter(_AddWorker(worker))
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tusserver").setLevel(level.upper())
