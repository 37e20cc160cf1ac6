"""A connection on a detour: for a while its bytes go to somebody else than to its HTTP protocol.

The transport is paused when a detour begins and when it ends. It reads in turns: a turn ends when the task that has
begun it is to do something itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from tusserver.threads import until_done

STREAK = 4
"""Full reads of one body before the loop looks after its other connections; libuv alone would make 32."""


class Turn(Enum):
    """How a turn on the loop or in a thread ended."""

    WHOLE = auto()
    GONE = auto()
    QUIET = auto()
    ESCALATE = auto()
    WRITING = auto()
    SLICED = auto()


async def outlive(worker: asyncio.Future[Any], stop: Callable[[], None] | None = None) -> asyncio.CancelledError | None:
    """Wait for a worker even when cancelled: it must not be left alone with descriptors that others will close.

    `stop` is called when that happens. Returns the cancellation, for the caller to raise.
    """
    cancelled: asyncio.CancelledError | None = None
    try:
        await asyncio.wait([worker])
    except asyncio.CancelledError as error:
        cancelled = error
        if stop is not None:
            stop()
    await until_done(worker)
    return cancelled


class Detour(asyncio.BufferedProtocol):
    """Stands for `owner`, the protocol of `transport`, and passes on lost connections and the flow of the answer."""

    __slots__ = ("_attached", "_loop", "_owner", "_streak", "_transport", "_turn")

    def __init__(self, transport: asyncio.Transport, owner: asyncio.Protocol) -> None:
        self._transport = transport
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Future[Turn] | None = None
        self._attached = False
        self._streak = 0

    # a turn ----------------------------------------------------------------------------------------------------------

    def _attach(self) -> asyncio.Future[Turn]:
        """Begin a turn; what this returns says how it ended."""
        turn = self._turn = self._loop.create_future()
        self._attached = True
        self._transport.set_protocol(self)
        self._transport.resume_reading()
        return turn

    def _end(self, how: Turn | BaseException) -> None:
        """End this turn, at once: the transport may ask for the buffer again before the task goes on."""
        self._detach()
        if self._turn is None or self._turn.done():
            return
        if isinstance(how, Turn):
            self._turn.set_result(how)
        else:
            self._turn.set_exception(how)

    def _see(self, turn: asyncio.Future[Turn]) -> None:
        """Look at a turn that nobody waits for any more: asyncio complains of errors that nobody saw."""
        if turn.done() and not turn.cancelled():
            turn.exception()

    def _detach(self) -> None:
        """Give the connection back to its owner, paused."""
        if not self._attached:
            return
        self._attached = False
        if self._transport.is_closing():
            return
        self._before_detaching()
        # Only while it is paused: uvloop chooses the way of reading when reading begins.
        self._transport.pause_reading()
        self._transport.set_protocol(self._owner)

    def _before_detaching(self) -> None:
        """Undo what was done to the socket, if anything was."""

    def _read_was(self, *, full: bool) -> None:
        """Give others their turn after many large reads in a row."""
        self._streak = self._streak + 1 if full else 0
        if self._streak == STREAK:
            self._streak = 0
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._attached and not self._transport.is_closing():
            self._transport.resume_reading()

    # for the transport -----------------------------------------------------------------------------------------------

    def eof_received(self) -> None:
        """Let the transport close; `connection_lost` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, and end."""
        self._attached = False
        self._owner.connection_lost(exc)
        self._end(Turn.GONE)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._owner.resume_writing()
