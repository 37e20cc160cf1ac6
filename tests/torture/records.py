"""What a server has in its data folder, and what it owes to that without being asked by anybody."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import anyio

from tests.torture.fate import SUCCEEDED, Call, fate_of, read_calls
from tests.torture.ledger import Ledger
from tests.torture.order import Verb
from tests.torture.upload import Upload
from tusserver import FileStore, Role
from tusserver import Upload as Record

LOOK = 0.1
"""Seconds between two looks into the folder."""

Records = Mapping[str, Record]


def records_in(folder: Path) -> Records:
    """Every upload in a data folder, by id."""

    async def read() -> list[Record]:
        return [upload async for upload in FileStore(folder).uploads()]

    return {str(record.id): record for record in anyio.run(read)}


def wait_until_done(folder: Path, ledger: Ledger, timeout: float, calls: Path | None) -> None:
    """Wait until the server has done by itself what it owes; accuse it if that takes too long, or of too much.

    `calls`: what the app was told, if there is one.
    """
    until = time.monotonic() + timeout
    while owed := dict(_owed(records := records_in(folder))):
        if time.monotonic() > until:
            for upload_id, what in owed.items():
                ledger.accuse(f"{upload_id} is {what} after {timeout:g} s without torment: {records[upload_id]}")
            break
        threading.Event().wait(LOOK)
    ledger.count("times that the server owed nothing", int(not owed))
    for what in [*_twice(records), *(_not_told(records, calls) if calls is not None else ())]:
        ledger.accuse(what)


def _owed(records: Records) -> Iterator[tuple[str, str]]:
    for upload_id, record in records.items():
        if record.complete and not record.finished:
            yield upload_id, "complete and not finished"
        elif record.pending and not _over(record):
            parts = [records.get(part) for part in record.parts]
            if all(part is not None and part.complete and not _over(part) for part in parts):
                yield upload_id, "not joined, though all its parts are complete"


def _over(record: Record) -> bool:
    return record.expires_at is not None and record.expires_at <= datetime.now(UTC)


def _twice(records: Records) -> Iterator[str]:
    """Final uploads that are there more than once: a client that asks again gets the one that it had asked for.

    One of which no client has heard does not count: a kill may come before its parts know of it.
    """
    finals = [record for record in records.values() if record.role is Role.FINAL and not _over(record)]
    finals = [record for record in finals if not record.unclaimed]
    same = Counter((record.parts, record.metadata.text) for record in finals)
    for (parts, text), count in same.items():
        if count > 1:
            found = [str(record.id) for record in finals if (record.parts, record.metadata.text) == (parts, text)]
            yield f"there are {count} final uploads of the same parts: {', '.join(found)}"


def _not_told(records: Records, log: Path) -> Iterator[str]:
    """Uploads that are finished, and no app has said yes."""
    calls = read_calls(log)
    for upload_id, record in records.items():
        if record.role is not Role.PARTIAL and record.finished:
            outcomes = [call.outcome for call in calls.get(upload_id, ())]
            if SUCCEEDED not in outcomes:
                yield f"{upload_id} is finished, and the app that was to be told said {outcomes or 'nothing'}"


def broken_promises(upload: Upload, calls: Sequence[Call]) -> Iterator[str]:
    """What is wrong about the calls of the app for one upload, next to what its clients were told."""
    if not upload.born.called:
        if calls:
            yield f"the app was told of {upload.url}, which is none of its business: {calls}"
        return
    total = upload.born.total
    complete = [op.end for op in upload.ops if op.offset == total and (op.status in (200, 204)) and op.at < total]
    if upload.born.offset == total and not upload.born.joined:
        complete.append(upload.told_at)
    taken = min((call.at for call in calls if call.outcome == SUCCEEDED), default=None)
    if complete and (taken is None or min(complete) < taken):
        yield f"{upload.url} was called complete at {min(complete):.3f}, and the app was asked: {calls}"
    over = min((call.at for call in calls if call.outcome == SUCCEEDED or fate_of(upload.name).refused), default=None)
    if over is not None:
        for op in upload.ops:
            if op.verb is Verb.PATCH and op.status == 204 and op.begin > over and op.sent:
                yield f"{upload.url} was written to after the app had been told at {over:.3f}: {op}"
