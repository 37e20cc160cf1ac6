"""What happened to uploads, and the Bus that tells it. An event is published after the commit, never before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tusserver.protocol.upload import Upload


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to `upload`, as it was then."""

    upload: Upload


class Created(Event):
    """The upload exists, with no bytes yet."""


class Finished(Event):
    """All bytes are here. Not told for partial uploads: "The Server SHOULD NOT process these partial uploads"."""


class Terminated(Event):
    """A client removed the upload."""


class Expired(Event):
    """The upload was removed because its time was over."""


E = TypeVar("E", bound=Event)
Listener = Callable[[E], Awaitable[None]]


class Bus:
    """Listeners by kind of event."""

    def __init__(self) -> None:
        self._listeners: dict[type[Event], list[Callable[[Any], Awaitable[None]]]] = {}

    def subscribe(self, kind: type[E], listener: Listener[E]) -> None:
        """Call `listener` for every event of exactly this kind, in the order of subscription."""
        self._listeners.setdefault(kind, []).append(listener)

    def has_listeners(self, kind: type[Event]) -> bool:
        """Whether anybody wants to hear of this kind of event."""
        return kind in self._listeners

    async def publish(self, event: Event) -> None:
        """Tell the listeners one after the other; what one raises goes to the publisher."""
        for listener in self._listeners.get(type(event), ()):
            await listener(event)
