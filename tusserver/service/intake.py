"""A body on its way to the store: bounded, counted, hashed, timed and interruptible.

A body never fails, it ends: whatever cuts it short looks to the store like the end of the stream. The reason is kept
(`cut`) and told after the commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import anyio

from tusserver.protocol.checksum import Checksum, Digest
from tusserver.protocol.errors import (
    BodyTimeout,
    BodyTooSlow,
    ChecksumMismatch,
    ClientDisconnected,
    InvalidChecksum,
    SizeExceeded,
    TusError,
)
from tusserver.service.buffers import Buffers
from tusserver.streams import Body, BodyCallbacks, FileTarget, OnProgress

SMALL = 32 * 1024
"""Bytes of a body that is not worth a drain if it is here already."""
FLUSH = 1.0
"""Seconds that bytes may wait to be written and committed."""
PACE = 0.9 * FLUSH
"""Seconds after which bytes that come are told at once, and need no timer."""


Cut = TusError | ClientDisconnected
"""Why a body ended early."""


def is_here(body: Body, length: int | None) -> bool:
    """Whether a body of `length` bytes is a small one of which all has come: there is nothing to wait for."""
    return length is not None and 0 < length <= SMALL and body.wire is not None and body.wire.fully_received


class Intake:
    """The Source made of one request's body.

    `room` bytes may come, else it meets `beyond`; `expected` have been announced (None: unknown); a client silent for
    `idle` seconds is cut off; bytes run through the digest of `checksum`, if there is one. One that `follows` the body
    is looked at afterwards. Of `buffers` it takes no more than its share.
    """

    def __init__(
        self,
        body: Body,
        *,
        room: int | None,
        expected: int | None,
        idle: float,
        beyond: type[TusError] = SizeExceeded,
        checksum: Checksum | None = None,
        follows: bool = False,
        buffers: Buffers | None = None,
    ) -> None:
        self.expected = expected
        self.received = 0
        """Bytes taken so far."""
        self.written = 0
        """Bytes that the store is known to have written."""
        self._body = body
        self.room = room
        self._beyond = beyond
        self._idle = idle
        self._checksum = checksum
        self._follows = follows
        self._buffers = buffers or Buffers()
        self._digest: Digest | None = None if checksum is None else checksum.digest()
        self._scope: anyio.CancelScope | None = None
        self._last = time.monotonic()
        self._looked_at: int | None = None
        self._batching = False
        self._ended = expected == 0
        self._cut: Cut | None = None

    def fail(self, reason: TusError) -> None:
        """Note that the store could not write all that came: the body ends with what it did write."""
        self._ended = False
        self._cut = reason

    # who wants it to end ---------------------------------------------------------------------------------------------

    def stop(self, reason: TusError) -> None:
        """End the body as soon as its bytes in hand are written; `reason` is what its client is told."""
        if not self._ended and self._cut is None:
            self._cut = reason
            if self._scope is not None:
                self._scope.cancel()

    def catch_up(self) -> None:
        """Take what has arrived, and hand on what is in our hands: somebody wants to know."""
        if self._body.wire is not None and self._scope is not None:
            self._body.wire.read_pending()
        if self._batching and self._scope is not None:
            self._scope.deadline = anyio.current_time()

    @property
    def idle_for(self) -> float:
        """Seconds since the last bytes came, or since the body began."""
        return time.monotonic() - self._last

    def look(self, least: float) -> None:
        """Cut off a client that sent fewer than `least` bytes since the last look, unless it is we who are slow."""
        waiting = self._scope is not None
        if waiting and self._looked_at is not None and self.received - self._looked_at < least:
            self.stop(BodyTooSlow())
        self._looked_at = self.received

    # the Source ------------------------------------------------------------------------------------------------------

    @property
    def can_receive_into(self) -> bool:
        """See `Source.can_receive_into`."""
        wire = self._body.wire
        if wire is None or not wire.can_receive_into or self._ended:
            return False
        # Also a small one that is still to come: its client may be one of thousands that are slow.
        return not wire.fully_received or (self.expected or 0) > SMALL

    async def take(self) -> bytes:
        """Return a body that is here, see `is_here`, verified: nothing of it has to be written before.

        Raises:
            ChecksumMismatch, InvalidChecksum: see `verify`.
            ClientDisconnected
        """
        data = b"".join(await self.read(SMALL))
        if self.cut is not None:
            cut, self._cut = self.cut, None
            try:
                raise cut
            finally:
                del cut  # its traceback holds this frame
        if (trailer := self.verify()) is not None:
            digest = trailer.digest()
            digest.update(data)
            if not trailer.matches(digest):
                raise ChecksumMismatch
        return data

    async def read(self, most: int) -> list[bytes]:
        """See `Source.read`."""
        batch: list[bytes] = []
        size = 0
        if self._ended or self._cut is not None:
            return batch
        if self._body.wire is not None and self._body.wire.fully_received:  # there is nothing to wait for
            while not self._ended and (chunk := await self._next()):
                batch.append(chunk)
            return batch
        with anyio.CancelScope(deadline=anyio.current_time() + self._idle) as scope:
            self._scope = scope
            while size < min(most, self._buffers.share()):
                chunk = await self._next()
                if not chunk:
                    break
                batch.append(chunk)
                size += len(chunk)
                if self.received == self.expected:
                    break
                if len(batch) == 1:
                    self._batching = True
                    scope.deadline = anyio.current_time() + FLUSH
        self._batching = False
        self._scope = None
        if scope.cancelled_caught and not batch and self._cut is None:
            self._cut = BodyTimeout()
        return batch

    async def _next(self) -> bytes:
        """Return the next chunk; b"" if there is none, now or ever."""
        try:
            chunk = await self._body.receive()
        except ClientDisconnected as gone:
            self._cut = gone.with_traceback(None)  # else we and it hold on to each other
            return b""
        if not chunk:
            self._ended = True
            return b""
        if self.room is not None and self.received + len(chunk) > self.room:
            self._cut = self._beyond()
            return b""
        self._take(len(chunk))
        self._ended = self.received == self.expected
        if self._digest is not None:
            self._digest.update(chunk)
        return chunk

    def _take(self, count: int) -> float:
        self.received += count
        self._last = time.monotonic()
        return self._last

    async def receive_into(self, target: FileTarget, on_progress: OnProgress) -> int:
        """See `Source.receive_into`. A body whose length is announced cannot be longer than `room`."""
        wire = self._body.wire
        if self._ended or self._cut is not None or wire is None:
            return 0
        watch = _Watch(self, on_progress)

        def admit(count: int) -> None:
            if self.room is not None and self.received + count > self.room:
                self._cut = self._beyond()
                raise self._cut

        def on_written(count: int) -> None:
            now = self._take(count)
            self.written = self.received
            watch.moved(now)

        callbacks = BodyCallbacks(
            on_written=on_written, admit=admit, buffer_share=self._buffers.share, digest=self._digest
        )
        try:
            with anyio.CancelScope() as self._scope:
                await self._body.receive_into(target, callbacks)
                self._ended = True
                await self._body.receive()  # the end itself: now everybody knows that nothing is left to be read
        except ClientDisconnected as gone:
            self._cut = gone.with_traceback(None)  # likewise
        except TusError as error:
            if error is not self.cut:  # it is the store's own, from `target.reserve`
                raise
            error.with_traceback(None)  # likewise
        finally:
            self._scope = None
            await watch.end()
        return self.received

    def listen(self) -> float:
        """Stop the body if its client has been silent for too long; return the seconds until it may have been."""
        left = self._last + self._idle - time.monotonic()
        if left <= 0:
            self.stop(BodyTimeout())
        return left

    def give_up(self) -> None:
        """End a drain whose progress cannot be recorded."""
        if self._scope is not None:
            self._scope.cancel()

    # after it --------------------------------------------------------------------------------------------------------

    @property
    def verifying(self) -> bool:
        """Whether nothing of this body may be committed before all of it was verified."""
        return self._digest is not None or self._follows

    @property
    def cut(self) -> Cut | None:
        """What cut the body short. One that came whole was not, whoever wanted it to end meanwhile."""
        return None if self._ended else self._cut

    def verify(self) -> Checksum | None:
        """Refuse a body that is not what it should be; return a checksum that came behind it, to be verified as well.

        tus 1.0.0, Checksum: "Once the entire request has been received, the Server MUST verify the uploaded chunk". One
        that was not announced counts as much: nothing is kept that its client contradicts.

        Raises:
            SizeExceeded, MaxSizeExceeded, BodyTooLarge: more bytes came than may, so none of them counts.
            InvalidChecksum: all came, but not the checksum that was announced as a trailer.
            ChecksumMismatch: all came, and they are not what the client says.
        """
        if isinstance(self.cut, self._beyond):
            raise self._beyond
        if self.cut is not None:
            return None
        if self._checksum is not None and self._digest is not None and not self._checksum.matches(self._digest):
            raise ChecksumMismatch
        trailer = self._body.checksum()
        if trailer is None and self._follows:
            raise InvalidChecksum("it was announced as a trailer and did not come")
        return trailer


class _Watch:
    """Beside a drain: its bytes are told to `on_progress` within `FLUSH` seconds, and silence is noticed.

    Who sends about once a second is told of in passing, without a timer or a task: there may be thousands.
    """

    __slots__ = ("_error", "_flush", "_intake", "_loop", "_on_progress", "_silence", "_telling", "_told", "_told_at")

    def __init__(self, intake: Intake, on_progress: OnProgress) -> None:
        self._intake = intake
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._told = 0
        self._told_at = time.monotonic()
        self._telling: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._silence = self._loop.call_later(intake.listen(), self._look)

    def moved(self, now: float) -> None:
        if self._telling is None and now - self._told_at >= PACE:
            self._tell(now)
        elif self._flush is None:
            self._flush = self._loop.call_later(self._told_at + FLUSH - now, self._tell_late)

    def _tell_late(self) -> None:
        self._flush = None
        if self._intake.received == self._told:
            return
        now = time.monotonic()
        if self._telling is not None:  # the disk is slower than we are
            self._flush = self._loop.call_later(FLUSH, self._tell_late)
        elif now - self._told_at < PACE:  # it was told in passing since
            self._flush = self._loop.call_later(self._told_at + FLUSH - now, self._tell_late)
        else:
            self._tell(now)

    def _tell(self, now: float) -> None:
        self._told, self._told_at = self._intake.received, now
        try:
            telling = self._on_progress(self._told)
        except Exception as error:
            self._fail(error)
        else:
            if telling is not None:
                self._telling = self._loop.create_task(self._wait(telling))

    async def _wait(self, telling: Awaitable[None]) -> None:
        try:
            await telling
        except Exception as error:
            self._fail(error)
        finally:
            self._telling = None

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._intake.give_up()

    def _look(self) -> None:
        if (left := self._intake.listen()) > 0:
            self._silence = self._loop.call_later(left, self._look)

    async def end(self) -> None:
        """Stop the timers; wait for what is being told, and raise what went wrong with it."""
        self._silence.cancel()
        if self._flush is not None:
            self._flush.cancel()
        if self._telling is not None:
            await self._telling
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # likewise
