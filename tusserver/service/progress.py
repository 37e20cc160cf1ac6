"""How far a body under way is committed, and what was told of that: checkpoints, reports, takeovers.

What was told is binding, what nobody was told can be taken back. So whoever asks how far the upload is gets an offset
that is committed, and from then on nobody may write below it; and who comes back at that offset may take the upload
over from a request that is still writing, whose later bytes nobody was told of.
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
LIVELY = 0.25
"""Seconds since its last bytes for which a body counts as running."""
LIGHT = 1 << 20
"""Bytes of a running body that are written to the disk for somebody who asks."""
REPORT = 0.25
"""Seconds that somebody who asks may have to wait for bytes to be written; then what is committed is told."""


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

    # what the store tells --------------------------------------------------------------------------------------------

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
        """Something may have been told while that was committed."""
        added = reached.offset > self.upload.offset
        self.upload = reached if reached.told >= self.upload.told else rules.tell(reached, self.upload.told)
        if added and self._on_commit is not None:
            self._on_commit(self.upload)
        if self._send_interim is not None and self._sending is None and not self._intake.all_or_nothing:
            self._sending = asyncio.get_running_loop().create_task(self._confirm(self._send_interim))
            self._sending.add_done_callback(_seen)

    async def _confirm(self, send_interim: SendInterim) -> None:
        """Send the client the offset that is committed."""
        try:
            if not self._over():
                await self._tell()
                await send_interim(Progressed(upload=self.upload))
        finally:
            self._sending = None

    # who asks --------------------------------------------------------------------------------------------------------

    async def report(self) -> int | None:
        """See `locks.base.OnReport`: write and commit what is here, and return the offset that is told.

        A large body that is running on a disk that must be waited for is not held up: of it the last commit is told.
        """
        if self._over():
            return self._last_word()
        if not self._intake.all_or_nothing:
            await self._catch_up()
            reached = self._reached()
            running = self._intake.idle_for < LIVELY
            if not running:
                await self._settled()
            if self._commit is None and reached is not None and not self._ended:
                more = reached.offset - self.upload.offset
                if more > 0 and (more <= LIGHT or not running or not self._store.waits_for_disk):
                    self._checkpoint(reached)  # not told yet: until it is there somebody may take over
                    await self._settled()
        if self._over():
            return self._last_word()
        await self._tell()
        return self.upload.told

    async def _tell(self) -> None:
        """Make the offset that is committed binding, as somebody is told of it."""
        if self.upload.told < self.upload.offset:
            self.upload = rules.tell(self.upload)  # at once: a takeover at an older offset comes too late now
            await self._store.tell(self.upload)

    def _over(self) -> bool:
        return self._ended or self._interrupted or self._lease.lost

    @property
    def _interrupted(self) -> bool:
        return isinstance(self._intake.stop_reason, UploadInterrupted)

    def _last_word(self) -> int | None:
        """Who takes over goes on at what was told; else whoever asks finds out when this one is gone."""
        return self.upload.told if self._interrupted and not self._lease.lost else None

    async def _settled(self) -> None:
        """Wait a little for the commit under way, if there is one."""
        if self._commit is not None:
            await asyncio.wait([self._commit], timeout=REPORT)

    async def _catch_up(self) -> None:
        """Have written what is in our hands now, but do not wait for long."""
        self._intake.catch_up()
        wanted = self._intake.received
        try:
            async with asyncio.timeout(REPORT):
                while self._intake.written < wanted and not self._ended:
                    self._moved = self._moved or asyncio.Event()
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass

    def release_requested(self, preempt: Preempt) -> bool:
        """See `locks.base.OnReleaseRequest`: go if the newcomer starts where the upload was told to stand."""
        if preempt.at is None or preempt.at == self.upload.told:
            self._intake.stop(UploadInterrupted(self._start.takeovers))
        return self._interrupted

    # the end ---------------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Commit nothing any more; return once nothing is being committed."""
        self._ended = True
        if self._moved is not None:
            self._moved.set()
        while under_way := [task for task in (self._commit, self._sending) if task is not None]:
            await asyncio.wait(under_way)


def _seen(saving: asyncio.Task[None]) -> None:
    """Look at what a commit raised: who waits for it hears of it, and there may be nobody."""
    if not saving.cancelled():
        saving.exception()
