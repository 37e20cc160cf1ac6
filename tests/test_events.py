"""Observers: they hear what they asked for, and whatever they do nothing fails."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import pytest

from tusserver.events import KINDS, Created, Event, Expired, Finished, Observers, Refused, UploadEvent
from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.upload import Upload, UploadId

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
CREATED = Created(upload=Upload(id=UploadId("abc"), created_at=NOW, length=5), context=None, at=NOW)
REFUSED = Refused(error=UploadNotFound(), context=None, at=NOW)


@pytest.fixture
def observers() -> Observers:
    return Observers()


def test_observers_are_called_in_the_order_of_subscription_and_only_for_what_they_asked(observers: Observers) -> None:
    heard: list[str] = []
    observers.subscribe(Created, lambda event: heard.append("first"))
    observers.subscribe(Finished, lambda event: heard.append("other"))
    observers.subscribe(Created, lambda event: heard.append("second"))
    observers.publish(CREATED)
    assert heard == ["first", "second"]


def test_who_observes_a_kind_observes_the_kinds_below_it(observers: Observers) -> None:
    uploads: list[UploadEvent] = []
    everything: list[Event] = []
    observers.subscribe(UploadEvent, uploads.append)
    observers.subscribe(Event, everything.append)
    for event in (CREATED, REFUSED):
        observers.publish(event)
    assert (uploads, everything) == ([CREATED], [CREATED, REFUSED])


def test_only_kinds_that_somebody_observes_are_wanted(observers: Observers) -> None:
    observers.subscribe(Expired, lambda event: None)
    assert [kind for kind in KINDS if observers.wants(kind)] == [Expired]


@pytest.mark.parametrize("error", [RuntimeError("broken"), asyncio.CancelledError()], ids=repr)
def test_an_observer_that_raises_is_logged_and_the_others_are_called(
    observers: Observers, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    heard: list[Event] = []

    def fail(event: Event) -> None:
        raise error

    observers.subscribe(Created, fail)
    observers.subscribe(Created, heard.append)
    observers.publish(CREATED)
    assert heard == [CREATED]
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, "an observer of Created failed")
    ]
