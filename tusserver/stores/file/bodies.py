"""Bytes on their way to the disk: bodies and copies, each step in the threads where it belongs."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Final

from tusserver.disk import writeback
from tusserver.disk.faults import FaultLog
from tusserver.disk.writeback import Ahead
from tusserver.lanes import Lane, Lanes
from tusserver.protocol.upload import Upload
from tusserver.stores.base import OnCopied
from tusserver.stores.file.contents import SMALL, Contents
from tusserver.stores.file.layout import Layout
from tusserver.stores.file.records import Durability, Records
from tusserver.streams import FileTarget, OnProgress, Source

BATCH_BYTES: Final = 512 * 1024
"""Bytes written at once: above, ext4 takes page-cache folios that cost more than they save."""
COPY_BYTES: Final = 16 << 20
"""Bytes that are copied at once, in much less than a second."""


class Bodies:
    """Writes bodies and copies, and gives back what they did not need."""

    def __init__(self, layout: Layout, records: Records, contents: Contents, faults: FaultLog, lanes: Lanes) -> None:
        self._layout = layout
        self._records = records
        self._contents = contents
        self._translating = faults.translating
        self._lanes = lanes

    async def open(self, upload: Upload, more: int, here: int = 0) -> int:
        """See `Contents.open`."""
        if upload.fence:
            await self._lanes.run_inline(self._records.require_fence, upload)
        if self._contents.reserves_much(upload, more):
            return await self._lanes.run(Lane.SPACE, self._contents.open, upload, more, here, discard=os.close)
        return await self._lanes.run_inline(self._contents.open, upload, more, here, discard=os.close)

    async def write(self, upload: Upload, source: Source, on_progress: OnProgress) -> int:
        """See `Store.write`."""
        fd = -1
        finish_only = self._records.durability is Durability.FINISH
        ahead = Ahead(self._lanes, upload.offset) if finish_only else None

        def on_disk(added: int) -> Awaitable[None] | None:
            if ahead is not None:
                ahead.note(fd, upload.offset + added)
            return on_progress(added)

        try:
            if source.can_receive_into:
                fd = await self.open(upload, source.expected or 0)
                reserve = partial(self._contents.grow, fd, upload, source.limit) if source.expected is None else None
                target = FileTarget(fd=fd, offset=upload.offset, disk=self._lanes, reserve=reserve)
                with self._translating("writing"):
                    return await source.receive_into(target, on_disk)
            written = 0
            write = self._contents.write
            while batch := await source.read(BATCH_BYTES):
                size = sum(map(len, batch))
                if fd < 0:
                    fd = await self.open(upload, source.expected or size, size)
                if size <= SMALL:
                    written += await self._lanes.run_inline(write, fd, upload, batch, written, source.limit)
                else:
                    written += await self._lanes.run(Lane.BODIES, write, fd, upload, batch, written, source.limit)
                del batch  # while the next one is waited for
                if (committing := on_disk(written)) is not None:
                    await committing
            return written
        finally:
            try:
                if ahead is not None:
                    await ahead.end()
            finally:
                if fd >= 0:
                    os.close(fd)

    async def trim(self, upload: Upload, *, sync: bool) -> None:
        """Give back what is reserved behind the offset. `sync`: whether a commit waits for the disk."""
        if excess := await self._lanes.run_inline(self._contents.excess, upload):
            if sync or not self._contents.is_small(excess):
                await self._lanes.run(Lane.BRIEF, self._trim, upload)
            else:
                await self._lanes.run_inline(self._trim, upload)

    def _trim(self, upload: Upload) -> None:
        with self._translating("giving back space"):
            self._contents.trim(upload, self._records.reach(upload.id))

    async def sync_most(self, upload: Upload, most: int) -> bool:
        """Write what is more than `most` bytes to the disk, in steps between which others have their turn.

        Return whether it was more.
        """
        at = await self._lanes.run(Lane.BRIEF, self._records.first_unsynced, upload)
        if upload.offset - at <= most:
            return False
        path = self._layout.bytes_path(upload)
        with self._translating("syncing"):
            while at < upload.offset:
                length = min(writeback.STEP, upload.offset - at)
                await self._lanes.run(Lane.LONG_SYNCS, writeback.step, path, at, length)
                at += length
        return True

    async def concatenate(self, final: Upload, parts: Sequence[Upload], on_progress: OnCopied) -> None:
        """See `Store.concatenate`."""
        assert final.length is not None
        fd = -1
        try:
            more = final.length - final.offset
            fd = await self._lanes.run(Lane.SPACE, self._contents.open, final, more, discard=os.close)
            begins = 0
            for part in parts:
                ends = begins + part.offset
                done = min(max(final.offset, begins), ends)
                while done < ends:
                    step = min(COPY_BYTES, ends - done)
                    await self._lanes.run(Lane.COPIES, self._contents.copy, part, done - begins, fd, done, step)
                    done += step
                    await on_progress(done)
                begins = ends
        finally:
            if fd >= 0:
                os.close(fd)
