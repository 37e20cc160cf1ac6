"""How many uploads may be unfinished, of one client and in all: told by lists that are checked when they seem full."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
import anyio.lowlevel

from tusserver.protocol import rules
from tusserver.protocol.errors import ServerFull, TooManyUploads, TusError
from tusserver.protocol.rules import Limits
from tusserver.protocol.upload import UploadId
from tusserver.stores.base import Ledger, Store

logger = logging.getLogger("tusserver")

ALL = "all"
"""The list of everybody's uploads. No client is called so."""
SLACK = 8
"""A limit may be passed by one part in so many before a list is checked again: else a client that stays just below its
limit had the whole list checked for each upload."""
REST = 50
"""A list that was found full is not checked again for so many times the time that it took, and `AT_LEAST` seconds."""
AT_LEAST = 1.0
IDLE = 3600.0
"""Seconds after which a list that nobody was added to is checked, to be forgotten if all of it is done."""
STEP = 20
"""Records read before others have their turn."""


class Quota:
    """Keeps uploads in their limits. Without any it does nothing."""

    def __init__(self, store: Store, ledger: Ledger, limits: Limits, now: Callable[[], datetime]) -> None:
        self._store = store
        self._ledger = ledger
        self._per_client = limits.uploads_per_client
        self._in_all = limits.uploads
        self._now = now
        self._making: set[UploadId] = set()
        """Listed already, and without a record yet."""
        self._enough: dict[str, int] = {}
        """Length at which a list is to be checked, if that is not its limit."""
        self._full_until: dict[str, float] = {}
        self._checking = anyio.Lock()
        self._tidied = -IDLE  # the first sweep after a start does it

    @property
    def by_client(self) -> bool:
        """Whether it matters who the client is."""
        return self._per_client is not None

    @asynccontextmanager
    async def place(self, upload_id: UploadId, client: str) -> AsyncIterator[None]:
        """Take a place for an upload that is made within the context. `client`: "" for one that nobody can name.

        Raises:
            TooManyUploads, ServerFull
        """
        self._making.add(upload_id)
        try:
            if self._per_client is not None and client:
                await self._count(client, upload_id, self._per_client, TooManyUploads)
            if self._in_all is not None:
                await self._count(ALL, upload_id, self._in_all, ServerFull)
            yield
        finally:
            self._making.discard(upload_id)

    async def _count(self, name: str, upload_id: UploadId, limit: int, refusal: type[TusError]) -> None:
        self._require_room(name, refusal)
        if await self._ledger.add(name, upload_id) <= self._enough.get(name, limit):
            return
        async with self._checking:
            self._require_room(name, refusal)  # whoever was here first may have found it full
            began = time.monotonic()
            made, making = await self._check(name)
            if made >= limit:
                now = time.monotonic()
                self._full_until[name] = now + max(AT_LEAST, REST * (now - began))
                if refusal is ServerFull:
                    logger.warning("there are %d unfinished uploads: limits.uploads is reached", made)
                raise refusal
            if made + making > limit:  # too many at once: the later ones have to come again
                raise refusal
            if len(self._enough) > 10_000:
                self._enough.clear()
            self._enough[name] = max(limit, made + making + limit // SLACK)

    def _require_room(self, name: str, refusal: type[TusError]) -> None:
        until = self._full_until.get(name)
        if until is not None:
            if time.monotonic() < until:
                raise refusal
            del self._full_until[name]

    async def _check(self, name: str) -> tuple[int, int]:
        """Strike out what is done; return how many are unfinished, and how many are being made."""
        known = await self._ledger.read(name)
        kept: list[UploadId] = []
        making = 0
        for number, upload_id in enumerate(dict.fromkeys(known)):
            if number % STEP == STEP - 1:
                await anyio.lowlevel.checkpoint()
            if await self._is_unfinished(upload_id):
                kept.append(upload_id)
            elif upload_id in self._making:
                making += 1
                kept.append(upload_id)
        await self._ledger.keep(name, known, kept)
        return len(kept) - making, making

    async def _is_unfinished(self, upload_id: UploadId) -> bool:
        try:
            upload = await self._store.load(upload_id)
        except TusError:
            return False
        return not upload.complete and not rules.is_expired(upload, self._now())

    async def tidy(self) -> None:
        """Forget clients whose uploads are all done. Called after every sweep; does something about once an hour."""
        if (self._per_client is None and self._in_all is None) or time.monotonic() - self._tidied < IDLE:
            return
        self._tidied = time.monotonic()
        for name in await self._ledger.names(IDLE):
            await self._check(name)
