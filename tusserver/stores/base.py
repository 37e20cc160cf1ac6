"""The port of every store: what the service asks of it, and the order in which it asks.

create → write → commit (or `put`) → … → finalize → remove. The service holds the upload's lock for each of them but
`load`, `tell`, `content`, `uploads`, `due`, `due_batches`, `schedule`, `add_dependent`, `dependents` and
`remove_dependents`, which need none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeGuard

from tusserver.clock import WallClock
from tusserver.protocol.checksum import Digest
from tusserver.protocol.extensions import Extension
from tusserver.protocol.messages import Content
from tusserver.protocol.upload import Upload, UploadId
from tusserver.streams import OnProgress, Source

OnCopied = Callable[[int], Awaitable[None]]
"""Told how many bytes of a final upload there are; may commit them, and ends the copy by what it raises."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """What became of uploads that were looked at together."""

    removed: Sequence[Upload]
    """As they were."""
    failed: Mapping[UploadId, Exception]
    """What could not be looked at or removed, and why. All others are as they were."""


class Attachment(Protocol):
    """Says that a process uses a store; see `SharedFolder.attach`."""

    def close(self) -> None:
        """Say that it does not any more."""


class SharedFolder(Protocol):
    """What a store is besides, if its uploads are in a folder that several processes of one machine may use at once."""

    @property
    def root(self) -> Path:
        """The folder. Locks and indexes that these processes share may be in it, beside the uploads."""

    def attach(self, domain: str) -> Attachment:
        """Say which locks hold uploads here (see `Locker.domain`), until that is closed or the process ends.

        Raises:
            ValueError: another process uses the store with other locks, which would not exclude it from our uploads.
        """


def is_shared(store: object) -> TypeGuard[SharedFolder]:
    """Whether a store is a `SharedFolder`, also if it is so by delegating to another one."""
    return hasattr(store, "root") and hasattr(store, "attach")


class Store(Protocol):
    """A place for uploads. Every method may raise `StoreUnavailable` when the place does not work right now.

    `put`, `commit`, `checkpoint`, `revert` and `replace` refuse an upload whose `fence` is older than that of its
    record, with `LeaseLost`, and leave the record as it is. Bytes behind the offset may be written all the same.
    """

    @property
    def extensions(self) -> frozenset[Extension]:
        """What this store can do; OPTIONS advertises no more."""

    @property
    def clock(self) -> WallClock:
        """The clock that its lists of deadlines go by. It starts with what another process noted of it, if it did."""

    @property
    def finalizes_in_place(self) -> bool:
        """Whether `finalize` has nothing to do."""

    @property
    def waits_for_disk(self) -> bool:
        """Whether a commit waits for a disk."""

    async def create(self, upload: Upload, data: bytes = b"") -> None:
        """Reserve the upload's whole space and record it, or leave nothing.

        `data`: its first bytes, at whose end it stands; they are written and committed with it.

        Raises:
            UploadExists: never overwrites.
            OutOfSpace: there is no room now.
            MaxSizeExceeded: there never can be.
        """

    async def load(self, upload_id: UploadId, fence: int = 0) -> Upload:
        """Return the record as last committed. What a commit under way says counts once it is certain to last.

        `fence`: that of the caller's lease. Unless it is 0, the record has it from now on, in one step with the load:
        what an older holder still commits is refused, so nothing changes behind the caller's back.

        Raises:
            UploadNotFound
            LeaseLost: the record has a newer fence.
        """

    async def write(self, upload: Upload, source: Source, on_progress: OnProgress) -> int:
        """Put bytes behind the upload's offset; return how many came. They exist only once committed.

        Calls `on_progress(n)` after each step with the bytes of this call so far, and awaits what that returns.

        Raises:
            OutOfSpace: what `on_progress` was told is written.
        """

    async def put(self, upload: Upload, data: bytes) -> None:
        """Write a few bytes, at whose end the upload stands now, and commit it, as `write` and `commit` would.

        Raises:
            OutOfSpace: nothing is committed.
        """

    async def commit(self, upload: Upload) -> None:
        """Record all but what is in the JSON form, in one step that a crash cannot tear."""

    def checkpoint(self, upload: Upload) -> Awaitable[None] | None:
        """Record progress within `write`, as `commit` would; None if that is done already."""

    async def revert(self, upload: Upload) -> None:
        """Record an offset below the last one. It lasts before other bytes may take the place of those beyond."""

    async def tell(self, upload: Upload) -> None:
        """Record `told` and `unclaimed` alone, also while another request commits. No step back is recorded."""

    async def digest(self, upload: Upload, start: int, stop: int, digest: Digest) -> None:
        """Let `digest` see the bytes from `start` to `stop`, which were written and need not be committed."""

    async def replace(self, upload: Upload) -> None:
        """Record everything: the upload changed in kind (its length was declared)."""

    async def reserve(self, upload: Upload) -> None:
        """Reserve the space of a length that is declared now, behind the offset; the caller records it, or trims.

        Raises:
            OutOfSpace: there is no room now.
            MaxSizeExceeded: there never can be.
        """

    async def trim(self, upload_id: UploadId) -> None:
        """Give back what is reserved for bytes that nobody has promised: of an upload without a length, by its record,
        all space behind its offset.

        Raises:
            UploadNotFound
        """

    async def concatenate(self, final: Upload, parts: Sequence[Upload], on_progress: OnCopied) -> None:
        """Put the parts' bytes behind the final upload's offset, in order. They exist only once committed.

        Awaits `on_progress(n)` after each step that takes less than a second, with the bytes of the final upload so
        far. What that raises ends it; from an offset that was told and committed it can go on.
        """

    async def add_dependent(self, final: UploadId, part: UploadId) -> None:
        """Remember that a final upload waits for this part. Noted again it is noted once."""

    async def dependents(self, part: UploadId) -> tuple[UploadId, ...]:
        """Final uploads that were noted to wait for this part, in that order."""

    async def remove_dependents(self, part: UploadId, gone: Collection[UploadId]) -> None:
        """Forget some of them; what is noted meanwhile stays."""

    async def finalize(self, upload: Upload) -> Upload:
        """Make a complete upload ready for its readers, at its readable place. Doing it again does no harm."""

    async def content(self, upload: Upload) -> Content:
        """Return the bytes of a complete upload.

        Raises:
            UploadNotFound: they are gone.
        """

    async def remove(self, upload_id: UploadId, *, notes: bool = True) -> bool:
        """Remove the upload and everything it owns; return whether there was anything. Half-made ones too.

        `notes`: also what was noted by `add_dependent`.
        """

    async def reap(self, ids: Sequence[UploadId], is_over: Callable[[Upload], bool]) -> Reaped:
        """Remove those uploads that `is_over` says are, with all that they own.

        The caller holds the locks of all, and has their ids from one batch of `due_batches`: what a crash leaves of
        them comes again. `is_over` may be called in any thread.
        """

    def uploads(self) -> AsyncIterator[Upload]:
        """Go through all uploads, in no order. A record that cannot be read is logged and stepped over."""

    def due(self, now: datetime, latest: datetime | None = None, *, owed: bool = False) -> AsyncIterator[UploadId]:
        """Go through the ids that wanted a look by `now`, deadlines and possible leftovers; some may come twice.

        Those that want one only after `latest` come too: no deadline is so far away, unless a clock was wrong.
        `owed`: those that wait for an application, which another process found; they have a list of their own.
        The caller removes the upload, asks for another look (`schedule`), or lets it be.
        """

    def due_batches(
        self, now: datetime, latest: datetime | None = None, *, owed: bool = False
    ) -> AsyncIterator[Sequence[UploadId]]:
        """Go through the same ids, some of them at once.

        All of a batch are done with when the next one is asked for; until then a crash loses none of them.
        """

    async def schedule(self, upload_id: UploadId, at: datetime, *, owed: bool = False) -> None:
        """Let `due` name this id from `at` on, also if it wants a look before or after that already.

        It does not fail: a store that cannot note it now finds it later.
        """

    async def read_note(self, name: str) -> str | None:
        """Return what `write_note` was given last, by whatever process; None if that is lost."""

    async def write_note(self, name: str, text: str) -> None:
        """Keep a line for the sweeper, under one of its few names. A power cut may lose it."""

    async def check(self) -> None:
        """Find out whether uploads can be taken now. Leaves nothing.

        Raises:
            StoreUnavailable: with what is wrong, in words that anybody may read.
            OutOfSpace
        """

    async def flush(self) -> None:
        """Do what needs doing now and then: called after every sweep and after the last request."""
