"""What happened, and the Observers of it: metrics, logs, dashboards. Published after the commit, never before.

Observers only look. Whoever has a say in what happens, or must not miss anything of it, is a hook (`hooks.base`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from tusserver.protocol.dialect import RequestContext
from tusserver.protocol.errors import ClientDisconnected, TusError
from tusserver.protocol.upload import Upload

logger = logging.getLogger("tusserver")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    context: RequestContext | None
    """The request that caused it; None if none did: a sweep, or an end that is tried again."""
    at: datetime
    """When, by the server's clock; in UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadEvent(Event):
    """Something that happened to an upload."""

    upload: Upload
    """As it was right after that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created(UploadEvent):
    """The upload exists; with the bytes that came along, if they were stored in the same commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed(UploadEvent):
    """Bytes were committed: about twice a second while a body comes in, and at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(UploadEvent):
    """A body ended early. What was committed of it stays."""

    reason: TusError | ClientDisconnected


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(UploadEvent):
    """All bytes are here. Not for partial uploads: "The Server SHOULD NOT process these partial uploads"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminated(UploadEvent):
    """The upload was removed: by a client, or because its creation or its end was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired(UploadEvent):
    """The upload was removed because its time was over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A request was refused, or failed."""

    error: TusError


KINDS: tuple[type[Event], ...] = (Created, Progressed, Interrupted, Finished, Terminated, Expired, Refused)
"""Every kind of event that is published."""

E = TypeVar("E", bound=Event)


class Observers:
    """Observers by kind of event. They are called on the event loop and must return at once: no I/O, no waiting."""

    def __init__(self) -> None:
        self.present = False
        """Whether there is any observer."""
        self._observers: dict[type[Event], tuple[Callable[[Any], object], ...]] = {}

    def subscribe(self, kind: type[E], observer: Callable[[E], object]) -> None:
        """Call `observer` for every event of this kind, or of a kind below it, in the order of subscription."""
        self.present = True
        for each in KINDS:
            if issubclass(each, kind):
                self._observers[each] = (*self._observers.get(each, ()), observer)

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody observes this kind of event. If not, the publisher makes no event."""
        return kind in self._observers

    def publish(self, event: Event) -> None:
        """Call the observers one after the other. Never fails: what one raises is logged, and that is all."""
        for observer in self._observers.get(type(event), ()):
            try:
                observer(event)
            except (Exception, asyncio.CancelledError):  # nobody can have cancelled us here: nothing is awaited
                logger.exception("an observer of %s failed", type(event).__name__)
