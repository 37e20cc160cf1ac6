"""How far a body under way is committed, and which offset was acknowledged: checkpoints, reports, takeovers.

An offset that a client was told stays; bytes beyond it can be reverted. So a request for the offset gets one that is
committed, and from then on no request may write below it; and a request that starts at that offset may take the upload
over from one that is still writing, whose later bytes no client was told of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

from tusserver.locks.base import Lease, Preempt
from tusserver.protocol import rules
from tusserver.protocol.dialect import SendInterim
from tusserver.protocol.errors import UploadInterrupted
from tusserver.protocol.limits import Expiry
from tusserver.protocol.messages import Progressed
from tusserver.protocol.upload import Upload
from tusserver.service.intake import FLUSH, Intake
from tusserver.stores.base import Store

CHECKPOINT = FLUSH / 2
"""Seconds between commits while a body comes in. With `FLUSH`, a killed server loses at most the last second."""
RUNNING = 0.25
"""Seconds since its last bytes for which a body counts as running."""
REPORT_BYTES = 1 << 20
"""Bytes of a running body that are committed for a report."""
REPORT_TIMEOUT = 0.25
"""Seconds that a report waits for bytes to be written; then it says what is committed."""


class BodyProgress:
    """Of one body. `start`: the upload as it was committed before; `on_commit`: called after each checkpoint.

    `send_interim`: sends the client the offset of each checkpoint, which is binding then.
    """

    def __init__(
        self,
        store: Store,
        start: Upload,
        intake: Intake,
        lease: Lease,
        expiry: Expiry,
        now: Callable[[], datetime],
        on_commit: Callable[[Upload], None] | None = None,
        send_interim: SendInterim | None = None,
    ) -> None:
        self.upload = start
        """As it was committed last."""
        self._start = start
        self._store = store
        self._intake = intake
        self._lease = lease
        self._expiry = expiry
        self._now = now
        self._on_commit = on_commit
        self._send_interim = send_interim
        self._sending: asyncio.Task[None] | None = None
        self._last = time.monotonic()
        self._commit: asyncio.Task[None] | None = None
        self._moved: asyncio.Event | None = None
        self._ended = False
        self._touching = False

    # from the store ---------------------------------------------------------------------------------------------------

    def on_progress(self, added: int) -> Awaitable[None] | None:
        """See `streams.OnProgress`: commit progress now and then, while that says nothing about the end."""
        self._intake.written = added
        if self._moved is not None:
            self._moved.set()
        now = time.monotonic()
        if self._commit is not None or now - self._last < CHECKPOINT or self._lease.lost:
            return None
        reached = self._touched() if self._intake.all_or_nothing else self._reached()
        saving = None if reached is None else self._checkpoint(reached)
        return None if saving is None else asyncio.shield(saving)

    def _reached(self) -> Upload | None:
        """The upload with what is written; None if it would be complete: no byte too many may follow."""
        start = self._start.with_progress(
            self._start.offset,
            expires_at=self._start.expires_at,
            finished=False,
            told=self.upload.told,
        )
        reached = rules.advance(start, self._intake.written, self._expiry, self._now())
        return None if reached.complete else reached

    def _touched(self) -> Upload | None:
        """The upload with the deadline of one that got bytes, once: it has the short one of those that never did."""
        if not self.upload.untouched or self._touching:
            return None
        self._touching = True
        return rules.touch(self.upload, self._expiry, self._now())

    def _checkpoint(self, reached: Upload) -> asyncio.Task[None] | None:
        self._last = time.monotonic()
        saving = self._store.checkpoint(reached)
        if saving is None:
            self._note(reached)
            return None
        self._commit = asyncio.get_running_loop().create_task(self._save(saving, reached))
        self._commit.add_done_callback(_seen)
        return self._commit

    async def _save(self, saving: Awaitable[None], reached: Upload) -> None:
        try:
            await saving
            self._note(reached)
        finally:
            self._commit = None

    def _note(self, reached: Upload) -> None:
        """Note a commit; more may have been acknowledged meanwhile."""
        added = reached.offset > self.upload.offset
        self.upload = reached if reached.told >= self.upload.told else rules.tell(reached, self.upload.told)
        if added and self._on_commit is not None:
            self._on_commit(self.upload)
        if self._send_interim is not None and self._sending is None and not self._intake.all_or_nothing:
            self._sending = asyncio.get_running_loop().create_task(self._confirm(self._send_interim))
            self._sending.add_done_callback(self._sent)

    def _sent(self, sending: asyncio.Task[None]) -> None:
        self._sending = None
        _seen(sending)

    async def _confirm(self, send_interim: SendInterim) -> None:
        """Send the client the offset that is committed."""
        if not self._has_ended():
            await self._tell()
            await send_interim(Progressed(upload=self.upload))

    # other requests ---------------------------------------------------------------------------------------------------

    async def report(self) -> int | None:
        """See `locks.base.OnReport`: write and commit what is here, and return the offset that is acknowledged.

        A large body that is running, on a disk that must be waited for, is not held up: its last commit is reported.
        """
        if self._has_ended():
            return self._final_report()
        if not self._intake.all_or_nothing:
            await self._write_pending()
            reached = self._reached()
            running = self._intake.idle_for < RUNNING
            if not running:
                await self._wait_for_commit()
            if self._commit is None and reached is not None and not self._ended:
                more = reached.offset - self.upload.offset
                if more > 0 and (more <= REPORT_BYTES or not running or not self._store.waits_for_disk):
                    self._checkpoint(reached)  # not acknowledged yet: until it is committed a request may take over
                    await self._wait_for_commit()
        if self._has_ended():
            return self._final_report()
        await self._tell()
        return self.upload.told

    async def _tell(self) -> None:
        """Make the offset that is committed binding, as somebody is told of it."""
        if self.upload.told < self.upload.offset:
            self.upload = rules.tell(self.upload)  # at once: a takeover at an older offset is too late now
            await self._store.tell(self.upload)

    def _has_ended(self) -> bool:
        return self._ended or self._interrupted or self._lease.lost

    @property
    def _interrupted(self) -> bool:
        return isinstance(self._intake.stop_reason, UploadInterrupted)

    def _final_report(self) -> int | None:
        """The offset at which the next request goes on; None if the record says it once this one has ended."""
        return self.upload.told if self._interrupted and not self._lease.lost else None

    async def _wait_for_commit(self) -> None:
        """Wait for the commit under way, if there is one, for `REPORT_TIMEOUT`."""
        if self._commit is not None:
            await asyncio.wait([self._commit], timeout=REPORT_TIMEOUT)

    async def _write_pending(self) -> None:
        """Have the bytes written that have arrived, but do not wait longer than `REPORT_TIMEOUT`."""
        self._intake.catch_up()
        wanted = self._intake.received
        try:
            async with asyncio.timeout(REPORT_TIMEOUT):
                while self._intake.written < wanted and not self._ended:
                    self._moved = self._moved or asyncio.Event()
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass

    def release_requested(self, preempt: Preempt) -> bool:
        """See `locks.base.OnReleaseRequest`: release if the other request starts at the acknowledged offset."""
        if preempt.at is None or preempt.at == self.upload.told:
            self._intake.stop(UploadInterrupted(self._start.takeovers))
        return self._interrupted

    # the end ----------------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Commit nothing more; return once nothing is being committed. No client is waited for that does not read."""
        self._ended = True
        if self._moved is not None:
            self._moved.set()
        while under_way := [task for task in (self._commit, self._sending) if task is not None]:
            if self._sending is not None:
                self._sending.cancel()
            await asyncio.wait(under_way)


def _seen(saving: asyncio.Task[None]) -> None:
    """Retrieve what a commit raised, as there may be nothing that awaits it."""
    if not saving.cancelled():
        saving.exception()
