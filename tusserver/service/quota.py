"""What may be unfinished, of one client and in all: how many uploads, and how many bytes that are still to come.

Lists tell at most what there is, over all processes, and are checked when they seem full. Two things make the limits
hold exactly. Of uploads that are made at once the places on the list decide: only those count that stand before. And
an upload that is being made is no record yet, but its maker, in whatever process, holds a lock meanwhile that dies with
it: so nobody takes such an entry for one that is done, and none stays after a crash.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import anyio
import anyio.lowlevel

from tusserver.indexes.base import Listed, OpenUploads
from tusserver.locks.base import Locker
from tusserver.protocol import rules
from tusserver.protocol.errors import (
    MaxSizeExceeded,
    ServerFull,
    SpaceReserved,
    TooManyUploads,
    TooMuchReserved,
    TusError,
    UploadNotFound,
)
from tusserver.protocol.limits import Limits
from tusserver.protocol.upload import UploadId
from tusserver.service.tuning import Tuning
from tusserver.stores.base import Store

logger = logging.getLogger("tusserver")

ALL = "all"
"""The list of everybody's uploads. No client is called so."""
LOOKS = 8
"""A check goes on beyond what it needs while one in so many of its looks finds an upload that is done."""
RECHECK_FACTOR = 50
"""A list that was found full is not checked again for so many times the time that it took, and `AT_LEAST` seconds."""
AT_LEAST = 1.0
IDLE = 3600.0
"""Seconds after which a list that nobody was added to is checked, to be forgotten if all of it is done."""
STEP = 20
"""Records read before others have their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """What a list may come to, and how those are refused who would bring it beyond."""

    count: int | None
    reserved: int | None
    too_many: type[TusError]
    too_much: type[TusError]
    setting: str
    """Behind `limits.uploads` and `limits.reserved`."""

    def __bool__(self) -> bool:
        return self.count is not None or self.reserved is not None


@dataclass(frozen=True, slots=True)
class _Full:
    """A list that was found full: until when that counts, and for whom."""

    until: float
    many: bool
    room: int | None
    """Bytes that still fit; None: any."""


class Quota:
    """Keeps uploads in their limits. Without any it does nothing."""

    def __init__(
        self,
        store: Store,
        open_uploads: OpenUploads,
        locker: Locker,
        limits: Limits,
        now: Callable[[], datetime],
        tuning: Tuning = Tuning(),
    ) -> None:
        self._store = store
        self._open_uploads = open_uploads
        self._locker = locker
        self._client = _Bounds(
            count=limits.uploads_per_client,
            reserved=limits.reserved_per_client,
            too_many=TooManyUploads,
            too_much=TooMuchReserved,
            setting="_per_client",
        )
        self._all = _Bounds(
            count=limits.uploads, reserved=limits.reserved, too_many=ServerFull, too_much=SpaceReserved, setting=""
        )
        self._now = now
        self._full: dict[str, _Full] = {}
        self._crowd = tuning.crowd
        self._crowds: dict[str, int] = {}
        """Length at which a list without a limit on it is to be checked, if that is not `_crowd`."""
        self._checking = anyio.Lock()
        self._pruned = -IDLE  # the first sweep after a start does it

    @property
    def by_client(self) -> bool:
        """Whether it matters who the client is."""
        return bool(self._client)

    @asynccontextmanager
    async def reserve(self, upload_id: UploadId, client: str, reserves: int) -> AsyncIterator[None]:
        """Take a place for an upload that is made within the context, or that declares its length there.

        `client`: "" for one that nobody can name; `reserves`: bytes that are still to come.

        Raises:
            TooManyUploads, ServerFull, TooMuchReserved, SpaceReserved
            MaxSizeExceeded: there never is room for so many bytes.
        """
        if not (self._client or self._all):
            yield
            return
        async with self._locker.hold(_being_created(upload_id)):
            entry = Listed(upload_id, reserves)
            if client and self._client:
                await self._enter(client, entry, self._client)
            if self._all:
                await self._enter(ALL, entry, self._all)
            yield

    async def _enter(self, name: str, entry: Listed, bounds: _Bounds) -> None:
        if bounds.reserved is not None and entry.reserved > bounds.reserved:
            setting = f"limits.reserved{bounds.setting}"
            raise MaxSizeExceeded(f"{entry.reserved} bytes are more than {setting} = {bounds.reserved} lets in")
        self._require_room(name, entry, bounds)
        sums = await self._open_uploads.add(name, entry)
        many = bounds.count is not None and sums.uploads > bounds.count
        much = bounds.reserved is not None and sums.reserved > bounds.reserved
        crowded = bounds.count is None and sums.uploads > self._crowds.get(name, self._crowd)
        if not (many or much or crowded):
            return
        async with self._checking:
            check = _Check(await self._open_uploads.read(name), entry, bounds)
            began = time.monotonic()
            await self._run(check, thorough=crowded)
            await self._open_uploads.replace(name, check.known, check.kept())
            if crowded:
                self._crowds[name] = 2 * check.left + self._crowd
        if not check.fits:
            self._note_full(name, check, bounds, time.monotonic() - began)
            raise bounds.too_many if check.too_many else bounds.too_much

    def _require_room(self, name: str, entry: Listed, bounds: _Bounds) -> None:
        full = self._full.get(name)
        if full is not None:
            if time.monotonic() >= full.until:
                del self._full[name]
            elif full.many:
                raise bounds.too_many
            elif full.room is not None and entry.reserved > full.room:
                raise bounds.too_much

    def _note_full(self, name: str, check: _Check, bounds: _Bounds, took: float) -> None:
        """Remember what was found, unless it was so because of uploads that are being made: they may yet fail."""
        many = bounds.count is not None and check.made >= bounds.count
        room = None if bounds.reserved is None else bounds.reserved - check.made_reserved
        if not many and (room is None or check.entry.reserved <= room):
            return
        if len(self._full) > 10_000:
            self._full.clear()
        self._full[name] = _Full(time.monotonic() + max(AT_LEAST, RECHECK_FACTOR * took), many, room)
        if name == ALL and many:
            logger.warning("there are %d unfinished uploads: limits.uploads is reached", check.made)
        elif name == ALL:
            logger.warning("unfinished uploads lack %d bytes: limits.reserved is reached", check.made_reserved)

    async def _run(self, check: _Check, *, thorough: bool) -> None:
        """Look at those that stand before an upload, the newest first, until there is room, or to the end."""
        looks = 0
        while (at := check.next(thorough)) is not None:
            looks += 1
            if looks % STEP == 0:
                await anyio.lowlevel.checkpoint()
            check.note(at, *await self._look(check.known[at]))

    async def _look(self, entry: Listed) -> tuple[int | None, bool]:
        """Return how many bytes an upload lacks, None if it is done; and whether it is still being made."""
        for last in (False, True):
            try:
                upload = await self._store.load(entry.id)
            except UploadNotFound:
                if last:
                    break
            except TusError:
                return entry.reserved, False  # nobody knows, so it counts
            else:
                if upload.complete or rules.is_expired(upload, self._now()):
                    break
                if last or upload.length is not None or not entry.reserved:
                    return rules.lacking(upload), False
            try:  # the record, or the length in it, may be about to be written
                async with self._locker.hold(_being_created(entry.id)):
                    pass
            except TusError:
                return entry.reserved, True
        return None, False

    async def prune(self) -> None:
        """Forget clients whose uploads are all done. Called after every sweep; does something about once an hour."""
        if not (self._client or self._all) or time.monotonic() - self._pruned < IDLE:
            return
        self._pruned = time.monotonic()
        for name in await self._open_uploads.names(IDLE):
            check = _Check(await self._open_uploads.read(name))
            await self._run(check, thorough=True)
            await self._open_uploads.replace(name, check.known, check.kept())


class _Check:
    """Of one list: what of it is still unfinished, as far as that must be known to let `entry` in."""

    def __init__(self, known: Sequence[Listed], entry: Listed | None = None, bounds: _Bounds | None = None) -> None:
        self.known = known
        self.entry = entry or Listed(UploadId(""))
        self._bounds = bounds
        self._kept: list[Listed | None] = list(known)
        self._seen: set[UploadId] = {self.entry.id}
        places = [at for at, listed in enumerate(known) if listed.id == self.entry.id]
        self._at = places[-1] if places else len(known)
        self.count = self._at
        """Of those before: at most so many are unfinished, and lack so many bytes."""
        self.reserved = sum(listed.reserved for listed in known[: self._at])
        self.made = self.made_reserved = 0
        """What was found to be there already."""
        self._looks = self._struck = 0

    @property
    def too_many(self) -> bool:
        """Whether there is no place for one more, by what is known so far."""
        return self._bounds is not None and self._bounds.count is not None and self.count >= self._bounds.count

    @property
    def fits(self) -> bool:
        """Whether there is room, by what is known so far."""
        most = None if self._bounds is None else self._bounds.reserved
        return not self.too_many and (most is None or self.reserved + self.entry.reserved <= most)

    @property
    def left(self) -> int:
        """Entries that stay."""
        return len(self.known) - self._struck

    def next(self, thorough: bool) -> int | None:
        """Return the place of the next one to look at; None if that was enough."""
        while self._at:
            if not thorough and self.fits and self._looks > LOOKS * self._struck:
                return None
            self._at -= 1
            if self.known[self._at].id not in self._seen:
                self._seen.add(self.known[self._at].id)
                self._looks += 1
                return self._at
            self._strike(self._at)  # it declared its length since
        return None

    def note(self, at: int, lacks: int | None, making: bool) -> None:
        """Note what was found there."""
        if lacks is None:
            self._strike(at)
            return
        listed = self.known[at]
        self._kept[at] = Listed(listed.id, lacks)
        self.reserved += lacks - listed.reserved
        if not making:
            self.made += 1
            self.made_reserved += lacks

    def _strike(self, at: int) -> None:
        self._kept[at] = None
        self._struck += 1
        self.count -= 1
        self.reserved -= self.known[at].reserved

    def kept(self) -> list[Listed]:
        """Return the list as it is to be."""
        return [listed for listed in self._kept if listed is not None]


def _being_created(upload_id: UploadId) -> UploadId:
    """Name the lock that is held by whoever makes an upload."""
    return UploadId(f"place-{upload_id}")
