"""The service over a store, as a test uses it: a passed clock, events that are noted, bodies that are fed by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import cast

from tusserver.clock import WallClock
from tusserver.events import Observers
from tusserver.hooks.base import Hooks, HookType
from tusserver.hooks.callables import CallableHooks, Callback
from tusserver.indexes.base import OpenUploads
from tusserver.indexes.memory import MemoryOpenUploads
from tusserver.locks.base import Locker
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol import messages
from tusserver.protocol.checksum import Checksum
from tusserver.protocol.dialect import Client, RequestContext, RequestHead
from tusserver.protocol.errors import ClientDisconnected
from tusserver.protocol.limits import Expiry, Features, Limits, Timeouts
from tusserver.protocol.messages import Append, Create, Inspect, Terminate
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.service.tuning import Tuning
from tusserver.service.wiring import Options, wire
from tusserver.stores.base import Store
from tusserver.streams import BodyCallbacks, FileTarget, Wire

IDLE = Timeouts().idle_timeout.total_seconds()
DAY = timedelta(hours=24)
LATE = timedelta(minutes=3)
"""More than the calendar of the file store may be late."""


class Clock:
    """Starts at the real time, as the file store's calendar looks at that too, and moves when it is told."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by


class Here:
    """The wire of a body of which all has come."""

    fully_received = True
    can_receive_into = False


class Feed:
    """A body that a test feeds: all at once, or piece by piece."""

    wire: Wire | None = None

    def __init__(self, *chunks: bytes, ends: bool = False, trailer: Checksum | None = None) -> None:
        self._trailer = trailer
        self._chunks: list[bytes | None] = [chunk for chunk in chunks if chunk]
        self._more = asyncio.Event()
        self._hungry = asyncio.Event()
        if ends:
            self.end()

    async def receive_into(self, target: FileTarget, callbacks: BodyCallbacks) -> None:
        """There is no wire."""
        raise NotImplementedError

    def send(self, *chunks: bytes) -> None:
        """Send bytes."""
        self._hungry.clear()
        self._chunks += chunks
        self._more.set()

    def end(self) -> None:
        """Say that this was all."""
        self.send(b"")

    def vanish(self) -> None:
        """Break the connection."""
        self._chunks.append(None)
        self._more.set()

    async def taken(self) -> None:
        """Wait until everything that was sent was taken, and more is asked for."""
        await self._hungry.wait()

    async def receive(self) -> bytes:
        """See `streams.Body`."""
        try:
            while not self._chunks:
                self._hungry.set()
                self._more.clear()
                await self._more.wait()
        finally:
            self._hungry.clear()
        chunk = self._chunks[0]
        if chunk is None:
            raise ClientDisconnected
        if chunk:
            del self._chunks[0]
        return chunk

    async def disconnected(self) -> None:
        """See `streams.Body`."""
        while None not in self._chunks:
            self._more.clear()
            await self._more.wait()

    def checksum(self) -> Checksum | None:
        """See `streams.Body`."""
        return self._trailer


def whole(data: bytes, trailer: Checksum | None = None) -> Feed:
    """A body that is all there, and known to be."""
    feed = Feed(data, ends=True, trailer=trailer)
    feed.wire = cast(Wire, Here())
    return feed


def a_request(method: str = "POST", name: str = "", *, client: str = "") -> RequestContext:
    """A request with an empty head, of a client with that key."""
    head = RequestHead(method=method, name=name, headers={}, base_url="/files", base_paths=("/files",))
    return RequestContext(head=head, find_client=lambda: Client(address=client, key=client))


class FailsAtFirst:
    """A callback that fails the first `failures` times it is called."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error or RuntimeError("not now")

    async def __call__(self, upload: Upload) -> None:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error


def _ids() -> Iterator[UploadId]:
    return (UploadId(f"upload-{number}") for number in count(1))


class World:
    """One service on one store. `restart` makes it again on the same store, as after a crash."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        *,
        clock: Clock | None = None,
        wall: WallClock | None = None,
        limits: Limits = Limits(),
        expiry: Expiry = Expiry(),
        timeouts: Timeouts = Timeouts(min_speed=None),
        features: Features = Features(),
        tuning: Tuning = Tuning(),
        before_create: Callback | None = None,
        new_id: Callable[[], UploadId] | None = None,
        open_uploads: OpenUploads | None = None,
        hooks: bool | Hooks = True,
        make_locker: Callable[[], Locker] = MemoryLocker,
    ) -> None:
        self.clock = clock or Clock()
        self.told: list[tuple[HookType, Upload]] = []
        """What a hook was told or asked without failing."""
        self.callbacks: dict[HookType, Callback] = {}
        """What a test wants done when a hook is called; it may fail."""
        self.observers = Observers()
        self._open_store = open_store
        self._wall = wall
        self._options = Options(limits=limits, expiry=expiry, timeouts=timeouts, features=features, tuning=tuning)
        self._new_id = new_id or _ids().__next__
        self.hooks = hooks if not isinstance(hooks, bool) else self._make_hooks(hooks, before_create)
        self._make_locker = make_locker
        self._open_uploads = open_uploads or MemoryOpenUploads()
        self.restart()

    def restart(self) -> None:
        """Forget everything that is not in the store."""
        self.store = self._open_store()
        if self._wall is not None:
            self.store.clock = self._wall  # type: ignore[misc]  # a clock that the test can set
        self.locker = self._make_locker()
        service = wire(
            self.store,
            self.locker,
            self._open_uploads,
            self.hooks,
            self.observers,
            self._options,
            new_id=self._new_id,
            now=self.clock,
        )
        self.service, self.sweeper, self.concatenator = service.uploads, service.sweeper, service.concatenator

    def obey(self, expiry: Expiry) -> None:
        """Go on by other rules, as a server does that is started with other settings."""
        self._options = replace(self._options, expiry=expiry)
        self.restart()

    # what happened ---------------------------------------------------------------------------------------------------

    def _make_hooks(self, wanted: bool, before_create: Callback | None) -> Hooks:
        if not wanted:
            return CallableHooks(before_create=before_create)
        return CallableHooks(
            before_create=before_create,
            on_created=self._callback(HookType.POST_CREATE),
            on_finished=self._callback(HookType.PRE_FINISH),
            on_terminated=self._callback(HookType.POST_TERMINATE),
            on_expired=self._callback(HookType.POST_EXPIRE),
        )

    def _callback(self, kind: HookType) -> Callback:
        async def called(upload: Upload) -> None:
            if (callback := self.callbacks.get(kind)) is not None:
                await callback(upload)
            self.told.append((kind, upload))

        return called

    def heard(self, kind: HookType, upload_id: UploadId | None = None) -> int:
        """How often a hook was called without failing, for one upload or for all."""
        return sum(called is kind and upload_id in (None, upload.id) for called, upload in self.told)

    # requests --------------------------------------------------------------------------------------------------------

    async def create(
        self,
        length: int | None,
        body: bytes | Feed | None = None,
        *,
        announced: int | None = None,
        checksum: Checksum | None = None,
        metadata: str = "",
        role: Role = Role.REGULAR,
        parts: Sequence[UploadId] = (),
        client: str = "",
    ) -> messages.Created:
        """POST; with a body it is a creation with upload. Bytes are announced with their length, a Feed as told."""
        if isinstance(body, bytes):
            announced, body = len(body), whole(body)
        first = None if body is None else Append(offset=0, id=None, body_length=announced, checksum=checksum)
        concat = {Role.REGULAR: None, Role.PARTIAL: "partial", Role.FINAL: f"final;{' '.join(parts)}"}[role]
        create = Create(
            length=length, metadata=Metadata(metadata), role=role, concat=concat, parts=tuple(parts), first=first
        )
        return await self.service.create(create, body or whole(b""), a_request("POST", client=client))

    async def upload(self, length: int | None, body: bytes = b"", role: Role = Role.REGULAR) -> UploadId:
        """Make an upload with its first bytes, as taken for granted."""
        upload_id = (await self.create(length, role=role)).upload.id
        if body:
            await self.append(upload_id, 0, body)
        return upload_id

    async def part(self, body: bytes, length: int | None = None) -> UploadId:
        """Make a partial upload; `length` is more than its bytes if it shall stay unfinished."""
        return await self.upload(len(body) if length is None else length, body, Role.PARTIAL)

    async def join(self, *parts: UploadId) -> Upload:
        """Make the final upload of some parts."""
        return (await self.create(None, role=Role.FINAL, parts=parts)).upload

    async def append(
        self,
        upload_id: UploadId,
        offset: int,
        body: bytes | Feed = b"",
        *,
        announced: int | None = None,
        length: int | None = None,
        checksum: Checksum | None = None,
        checksum_in_trailer: bool = False,
    ) -> Upload:
        """PATCH. Bytes are announced with their length; a Feed is chunked unless told otherwise."""
        if isinstance(body, bytes):
            announced, body = len(body), whole(body)
        append = Append(
            id=upload_id,
            offset=offset,
            body_length=announced,
            length=length,
            checksum=checksum,
            checksum_in_trailer=checksum_in_trailer,
        )
        return (await self.service.append(append, body, a_request("PATCH"))).upload

    async def head(self, upload_id: UploadId) -> Upload:
        """HEAD."""
        return (await self.service.inspect(Inspect(id=upload_id), a_request("HEAD"))).upload

    async def delete(self, upload_id: UploadId) -> None:
        """DELETE."""
        await self.service.terminate(Terminate(id=upload_id), a_request("DELETE"))

    # what is there ---------------------------------------------------------------------------------------------------

    async def content(self, upload_id: UploadId) -> bytes:
        """The bytes that exist of an upload, whether it is complete or not."""
        content = await self.store.content(await self.store.load(upload_id))
        if content.path is not None:
            return content.path.read_bytes()[: content.size]
        assert content.read is not None
        return b"".join([chunk async for chunk in content.read(0, content.size)])

    async def stored(self) -> list[UploadId]:
        """Every upload that is stored."""
        return sorted([upload.id async for upload in self.store.uploads()])


async def not_leading() -> bool:
    """Answer in the place of `Locker.is_leader`: another process leads."""
    return False


async def elapse(seconds: float) -> None:
    """Let the loop's time pass: it jumps, so nobody waits."""
    await asyncio.sleep(seconds)
