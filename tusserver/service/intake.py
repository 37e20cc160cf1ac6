"""A body on its way to the store: bounded, counted, hashed, timed and interruptible.

A body never fails, it ends: whatever ends it early looks to the store like the end of the stream. The reason is kept
(`stop_reason`) and raised after the commit.
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
from tusserver.protocol.limits import Limits
from tusserver.service.buffers import Buffers
from tusserver.streams import Body, BodyCallbacks, FileTarget, OnProgress

SMALL = 32 * 1024
"""Bytes up to which a body that has arrived is read in one piece instead of going from the socket to the file."""
FLUSH = 1.0
"""Seconds that bytes may wait to be written and committed."""
PROGRESS_INTERVAL = 0.9 * FLUSH
"""Seconds since the last report after which bytes are reported as they come, without a timer."""

StopReason = TusError | ClientDisconnected
"""Why a body ended early."""


def has_arrived(body: Body, length: int | None) -> bool:
    """Whether a body of `length` bytes is small and all of it has arrived, so that reading it waits for nothing."""
    return length is not None and 0 < length <= SMALL and body.wire is not None and body.wire.fully_received


class Intake:
    """The Source made of one request's body.

    `limit`: bytes that may come (None: any number), `overflow`: the refusal of more. `expected`: bytes that are
    announced (None: unknown). `idle_timeout`: seconds without bytes after which the body ends. Bytes run through the
    digest of `checksum`, if there is one; a `checksum_in_trailer` is compared after the body. Of `buffers` the body
    takes its share at most.
    """

    def __init__(
        self,
        body: Body,
        *,
        limit: int | None,
        expected: int | None,
        idle_timeout: float,
        overflow: type[TusError] = SizeExceeded,
        checksum: Checksum | None = None,
        checksum_in_trailer: bool = False,
        buffers: Buffers | None = None,
    ) -> None:
        self.expected = expected
        self.received = 0
        """Bytes received so far."""
        self.written = 0
        """Bytes that the store is known to have written."""
        self._body = body
        self.limit = limit
        self._overflow = overflow
        self._idle_timeout = idle_timeout
        self._checksum = checksum
        self._checksum_in_trailer = checksum_in_trailer
        self._buffers = buffers or Buffers(Limits().buffers, ())
        self._digest: Digest | None = None if checksum is None else checksum.digest()
        self._scope: anyio.CancelScope | None = None
        self._last = time.monotonic()
        self._checked_at: int | None = None
        self._batching = False
        self._ended = expected == 0
        self._stop_reason: StopReason | None = None

    def end_early(self, reason: TusError) -> None:
        """End the body with what the store has written of it, as it could not write all that came."""
        self._ended = False
        self._stop_reason = reason

    # from outside -----------------------------------------------------------------------------------------------------

    def stop(self, reason: TusError) -> None:
        """End the body as soon as the bytes received are written; its client gets `reason`."""
        if not self._ended and self._stop_reason is None:
            self._stop_reason = reason
            if self._scope is not None:
                self._scope.cancel()

    def catch_up(self) -> None:
        """Hand all bytes that have arrived to the store now, without waiting for more."""
        if self._body.wire is not None and self._scope is not None:
            self._body.wire.read_pending()
        if self._batching and self._scope is not None:
            self._scope.deadline = anyio.current_time()

    @property
    def idle_for(self) -> float:
        """Seconds since the last bytes, or since the start of the body."""
        return time.monotonic() - self._last

    def check_rate(self, minimum: float) -> None:
        """End the body if it got fewer than `minimum` bytes since the last check, unless the server is what is slow."""
        waiting = self._scope is not None
        if waiting and self._checked_at is not None and self.received - self._checked_at < minimum:
            self.stop(BodyTooSlow())
        self._checked_at = self.received

    # the Source -------------------------------------------------------------------------------------------------------

    @property
    def can_receive_into(self) -> bool:
        """See `Source.can_receive_into`."""
        wire = self._body.wire
        if wire is None or not wire.can_receive_into or self._ended:
            return False
        # Also a small one that is still to come: its client may be one of thousands that are slow.
        return not wire.fully_received or (self.expected or 0) > SMALL

    async def read_all(self) -> bytes:
        """Return a body that `has_arrived`, verified.

        Raises:
            ChecksumMismatch, InvalidChecksum: see `verify`.
            ClientDisconnected
        """
        data = b"".join(await self.read(SMALL))
        if self.stop_reason is not None:
            stop_reason, self._stop_reason = self.stop_reason, None
            try:
                raise stop_reason
            finally:
                del stop_reason  # its traceback holds this frame
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
        if self._ended or self._stop_reason is not None:
            return batch
        if self._body.wire is not None and self._body.wire.fully_received:  # there is nothing to wait for
            while not self._ended and (chunk := await self._next()):
                batch.append(chunk)
            return batch
        with anyio.CancelScope(deadline=anyio.current_time() + self._idle_timeout) as scope:
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
        if scope.cancelled_caught and not batch and self._stop_reason is None:
            self._stop_reason = BodyTimeout()
        return batch

    async def _next(self) -> bytes:
        """Return the next chunk; b"" if there is none, now or ever."""
        try:
            chunk = await self._body.receive()
        except ClientDisconnected as gone:
            self._stop_reason = gone.with_traceback(None)  # else we and it hold on to each other
            return b""
        if not chunk:
            self._ended = True
            return b""
        if self.limit is not None and self.received + len(chunk) > self.limit:
            self._stop_reason = self._overflow()
            return b""
        self._count(len(chunk))
        self._ended = self.received == self.expected
        if self._digest is not None:
            self._digest.update(chunk)
        return chunk

    def _count(self, count: int) -> float:
        self.received += count
        self._last = time.monotonic()
        return self._last

    async def receive_into(self, target: FileTarget, on_progress: OnProgress) -> int:
        """See `Source.receive_into`. A body whose length is announced cannot be longer than `limit`."""
        wire = self._body.wire
        if self._ended or self._stop_reason is not None or wire is None:
            return 0
        timer = ProgressTimer(self, on_progress)

        def admit(count: int) -> None:
            if self.limit is not None and self.received + count > self.limit:
                self._stop_reason = self._overflow()
                raise self._stop_reason

        def on_written(count: int) -> None:
            now = self._count(count)
            self.written = self.received
            timer.received(now)

        callbacks = BodyCallbacks(
            on_written=on_written, admit=admit, buffer_share=self._buffers.share, digest=self._digest
        )
        try:
            with anyio.CancelScope() as self._scope:
                await self._body.receive_into(target, callbacks)
                self._ended = True
                await self._body.receive()  # the end itself, so that nothing is left to be read
        except ClientDisconnected as gone:
            self._stop_reason = gone.with_traceback(None)  # likewise
        except TusError as error:
            if error is not self.stop_reason:  # it is the store's own, from `target.reserve`
                raise
            error.with_traceback(None)  # likewise
        finally:
            self._scope = None
            await timer.end()
        return self.received

    def seconds_until_idle(self) -> float:
        """Return the seconds until the client will have been silent for too long, if nothing comes."""
        return self._last + self._idle_timeout - time.monotonic()

    def abort(self) -> None:
        """End the body at once, as its progress cannot be recorded."""
        if self._scope is not None:
            self._scope.cancel()

    # after it ---------------------------------------------------------------------------------------------------------

    @property
    def all_or_nothing(self) -> bool:
        """Whether nothing of this body may be committed before all of it is verified."""
        return self._digest is not None or self._checksum_in_trailer

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the body ended early; None if it did not, even if somebody tried to stop it."""
        return None if self._ended else self._stop_reason

    def forget_stop_reason(self) -> None:
        """Let go of the reason, as it is raised: its traceback may hold this body."""
        self._stop_reason = None

    def verify(self) -> Checksum | None:
        """Refuse a body that is not valid; return the checksum that came in a trailer, which the caller verifies.

        tus 1.0.0, Checksum: "Once the entire request has been received, the Server MUST verify the uploaded chunk". A
        checksum in a trailer counts whether it was announced or not.

        Raises:
            SizeExceeded, MaxSizeExceeded, BodyTooLarge: more bytes came than may; none is kept.
            InvalidChecksum: all bytes came, but not the checksum that was announced as a trailer.
            ChecksumMismatch: all bytes came, and they do not have the checksum.
        """
        if isinstance(self.stop_reason, self._overflow):
            raise self._overflow
        if self.stop_reason is not None:
            return None
        if self._checksum is not None and self._digest is not None and not self._checksum.matches(self._digest):
            raise ChecksumMismatch
        trailer = self._body.checksum()
        if trailer is None and self._checksum_in_trailer:
            raise InvalidChecksum("it was announced as a trailer and did not come")
        return trailer


class ProgressTimer:
    """Reports the bytes of a body that goes to a file to `on_progress` within `FLUSH` seconds, and notices silence.

    Bytes that come about once a second are reported as they come, without a timer or a task: there may be thousands of
    such clients.
    """

    __slots__ = (
        "_error",
        "_idle_check",
        "_intake",
        "_loop",
        "_on_progress",
        "_report_timer",
        "_reported",
        "_reported_at",
        "_reporting",
    )

    def __init__(self, intake: Intake, on_progress: OnProgress) -> None:
        self._intake = intake
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._reported = 0
        self._reported_at = time.monotonic()
        self._reporting: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._report_timer: asyncio.TimerHandle | None = None
        self._idle_check = self._loop.call_later(intake.seconds_until_idle(), self._check_idle)

    def received(self, now: float) -> None:
        """Bytes came at `now`."""
        if self._reporting is None and now - self._reported_at >= PROGRESS_INTERVAL:
            self._report(now)
        elif self._report_timer is None:
            self._report_timer = self._loop.call_later(self._reported_at + FLUSH - now, self._report_late)

    def _report_late(self) -> None:
        self._report_timer = None
        if self._intake.received == self._reported:
            return
        now = time.monotonic()
        if self._reporting is not None:  # the disk is slow
            self._report_timer = self._loop.call_later(FLUSH, self._report_late)
        elif now - self._reported_at < PROGRESS_INTERVAL:  # a report was made meanwhile
            self._report_timer = self._loop.call_later(self._reported_at + FLUSH - now, self._report_late)
        else:
            self._report(now)

    def _report(self, now: float) -> None:
        self._reported, self._reported_at = self._intake.received, now
        try:
            reporting = self._on_progress(self._reported)
        except Exception as error:
            self._fail(error)
        else:
            if reporting is not None:
                self._reporting = self._loop.create_task(self._wait(reporting))

    async def _wait(self, reporting: Awaitable[None]) -> None:
        try:
            await reporting
        except Exception as error:
            self._fail(error)
        finally:
            self._reporting = None

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._intake.abort()

    def _check_idle(self) -> None:
        if (left := self._intake.seconds_until_idle()) > 0:
            self._idle_check = self._loop.call_later(left, self._check_idle)
        else:
            self._intake.stop(BodyTimeout())

    async def end(self) -> None:
        """Stop the timers; wait for the report under way, and raise what it raised."""
        self._idle_check.cancel()
        if self._report_timer is not None:
            self._report_timer.cancel()
        if self._reporting is not None:
            await self._reporting
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # likewise
