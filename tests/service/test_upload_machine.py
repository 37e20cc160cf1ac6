"""The service against a small model of it: whatever is asked in whatever order, both say the same.

The model keeps what a client may rely on, an upload's bytes, length and deadline, and answers each request by the words
of the protocol. After every step HEAD and the bytes are compared; after a sweep also what is left on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from tests.service.conftest import timed_by_the_loop
from tests.service.world import DAY, Feed, World, elapse
from tests.support.loop import JumpingLoop
from tusserver.hooks.base import HookType
from tusserver.protocol.checksum import Checksum
from tusserver.protocol.errors import (
    ChecksumMismatch,
    ClientDisconnected,
    FinalIsReadOnly,
    InconsistentLength,
    InvalidConcat,
    MaxSizeExceeded,
    OffsetMismatch,
    SizeExceeded,
    UploadExpired,
    UploadNotFound,
)
from tusserver.protocol.limits import Expiry, Features, Limits
from tusserver.protocol.upload import Role, UploadId
from tusserver.stores.base import Store
from tusserver.stores.file.store import FileStore
from tusserver.stores.memory import MemoryStore

T = TypeVar("T")

MAX = 24
SWEEP = timedelta(seconds=181)
"""Between a deadline and the sweep: longer than a calendar may be late, and no divisor of the hours that pass."""

bodies = st.binary(max_size=12)
UNTOUCHED = timedelta(hours=1)
"""Life of an upload that never got a byte."""
lengths = st.none() | st.integers(0, MAX)
sums = st.sampled_from(["none", "none", "right", "wrong"])
ends = st.sampled_from(["whole", "whole", "chunked", "breaks off", "crash"])


@dataclass
class Modelled:
    """What is known of one upload."""

    length: int | None
    made: datetime
    deadline: datetime | None
    role: Role = Role.REGULAR
    parts: tuple[UploadId, ...] = ()
    data: bytes = b""
    joined: bool = field(default=False)
    done: bool = field(default=False)
    told: int = 0
    """Somebody knows that so many bytes are here."""

    @property
    def complete(self) -> bool:
        return len(self.data) == self.length and (self.role is not Role.FINAL or self.joined)


def fill(body: bytes, limit: int) -> bytes:
    """Make a body that is exactly as long as there is room."""
    return ((body or b"x") * MAX)[: max(0, limit)]


class Uploads(RuleBasedStateMachine):
    """`open_store` is set by the subclasses."""

    ids = Bundle("ids")
    parts = Bundle("parts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="uploads-"))
        self.stack = contextlib.ExitStack()
        self.stack.callback(shutil.rmtree, self.folder)
        self.runner = self.stack.enter_context(asyncio.Runner(loop_factory=JumpingLoop))
        self.stack.enter_context(timed_by_the_loop())
        self.model: dict[UploadId, Modelled] = {}
        self.finished: set[UploadId] = set()
        self.expired: set[UploadId] = set()
        self.notes: dict[UploadId, datetime] = {}
        """Parts that went after they were joined, and until when their final upload is found by them."""

    def open_store(self) -> Store:
        raise NotImplementedError

    def teardown(self) -> None:
        self.stack.close()

    @initialize(sliding=st.booleans(), delete_parts=st.booleans())
    def begin(self, sliding: bool, delete_parts: bool) -> None:
        self.sliding = sliding
        self.delete_parts = delete_parts
        self.world = World(
            self.open_store,
            limits=Limits(max_size=MAX),
            expiry=Expiry(sliding=sliding),
            features=Features(delete_parts=delete_parts),
        )

    # asking ----------------------------------------------------------------------------------------------------------

    def run(self, asked: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asked)

    def refused(self, asked: Coroutine[Any, Any, object], *by: type[Exception]) -> None:
        with pytest.raises(by):
            self.run(asked)

    # the model's own steps -------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        return self.world.clock.now

    def is_over(self, upload: Modelled) -> bool:
        deadline = upload.deadline
        if upload.role is Role.FINAL and not upload.joined and all(part in self.model for part in upload.parts):
            ends = [self.model[part].deadline for part in upload.parts]
            least = min((end for end in ends if end is not None), default=self.now + DAY)
            deadline = least if deadline is None else max(deadline, least)
        return deadline is not None and deadline <= self.now

    def grow(self, upload_id: UploadId, data: bytes, *, told: bool = True) -> None:
        upload = self.model[upload_id]
        upload.data += data
        if told or upload.complete:
            upload.told = len(upload.data)
        if data and (self.sliding or len(upload.data) == len(data)):
            upload.deadline = (self.now if self.sliding else upload.made) + DAY
        self.mark_done(upload_id)

    def mark_done(self, upload_id: UploadId) -> None:
        upload = self.model[upload_id]
        if not upload.complete or upload.done:
            return
        upload.done = True
        if upload.role is not Role.PARTIAL:
            upload.deadline = None
            self.finished.add(upload_id)
        else:
            upload.deadline = self.now + 7 * DAY
        for final_id, final in list(self.model.items()):
            if upload_id in final.parts and not final.joined and not self.is_over(final):
                self.join_if_ready(final_id)

    def join_if_ready(self, final_id: UploadId) -> None:
        final = self.model[final_id]
        parts = [self.model.get(part) for part in final.parts]
        if not all(part is not None and part.complete and not self.is_over(part) for part in parts):
            return
        data = b"".join(part.data for part in parts if part is not None)
        if len(data) > MAX:
            return
        final.joined, final.length, final.data, final.told = True, len(data), data, len(data)
        self.mark_done(final_id)
        if self.delete_parts:
            for part_id in final.parts:
                self.model.pop(part_id, None)
            self.notes[final.parts[0]] = self.now + DAY

    # requests --------------------------------------------------------------------------------------------------------

    @rule(target=ids, length=lengths, body=bodies, fills=st.booleans())
    def create(self, length: int | None, body: bytes, fills: bool) -> object:
        return self.make(length, Role.REGULAR, body, fills)

    @rule(target=parts, length=lengths, body=bodies, fills=st.booleans())
    def create_part(self, length: int | None, body: bytes, fills: bool) -> object:
        return self.make(length, Role.PARTIAL, body, fills)

    def make(self, length: int | None, role: Role, body: bytes, fills: bool) -> object:
        room = MAX if length is None else length
        if fills and length is not None:
            body = fill(body, room)
        if len(body) > room:
            self.refused(self.world.create(length, body, role=role), SizeExceeded, MaxSizeExceeded)
            return multiple()
        upload_id = self.run(self.world.create(length, body, role=role)).upload.id
        self.model[upload_id] = Modelled(length=length, made=self.now, deadline=self.now + UNTOUCHED, role=role)
        self.grow(upload_id, body)
        return upload_id

    @rule(
        upload_id=st.one_of(ids, parts, parts),
        body=bodies,
        shift=st.sampled_from([0] * 8 + [-1, 1]),
        at_told=st.booleans(),
        checksum=sums,
        end=ends,
        declared=st.none() | st.none() | st.integers(0, MAX + 2),
        split=st.integers(0, 12),
        fills=st.booleans(),
    )
    def append(
        self,
        upload_id: UploadId,
        body: bytes,
        shift: int,
        at_told: bool,
        checksum: str,
        end: str,
        declared: int | None,
        split: int,
        fills: bool,
    ) -> None:
        self.append_to(upload_id, body, shift, checksum, end, declared, split, fills, at_told)

    def append_to(
        self,
        upload_id: UploadId,
        body: bytes,
        shift: int,
        checksum: str,
        end: str,
        declared: int | None,
        split: int,
        fills: bool,
        at_told: bool = False,
    ) -> None:
        if end in ("breaks off", "crash"):
            checksum = checksum.replace("wrong", "right")
        upload = self.model.get(upload_id)
        stands = 0 if upload is None else upload.told if at_told else len(upload.data)
        offset = max(0, stands + shift)
        if fills and upload is not None and upload.length is not None:
            body, declared = fill(body, upload.length - offset), None
        asked = self.ask(upload_id, offset, body, checksum, end, declared, split)
        if upload is None:
            return self.refused(asked, UploadNotFound)
        if upload.role is Role.FINAL:
            return self.refused(asked, FinalIsReadOnly, UploadExpired)
        if self.is_over(upload):
            return self.refused(asked, UploadExpired)
        if offset not in (upload.told, len(upload.data)):
            self.refused(asked, OffsetMismatch)
            upload.told = len(upload.data)
            return None
        if declared is not None:
            if upload.length is None and declared > MAX:
                return self.refused(asked, MaxSizeExceeded)
            if declared < offset or upload.length not in (None, declared):
                return self.refused(asked, InconsistentLength)
        length = upload.length if declared is None else declared
        room = (MAX if length is None else length) - offset
        if end != "chunked" and len(body) > room:
            return self.refused(asked, SizeExceeded, MaxSizeExceeded)
        upload.data = upload.data[:offset]  # nobody was told of more
        if end == "chunked" and len(body) > room:
            return self.refused(asked, SizeExceeded)
        if checksum == "wrong":
            return self.refused(asked, ChecksumMismatch)
        upload.length = length
        broken = end in ("breaks off", "crash") and body != b""
        if not broken:
            self.run(asked)
            self.grow(upload_id, body)
            return None
        kept = body[: split % len(body)] if checksum == "none" else b""
        if end == "crash":
            self.run(asked)
            self.restart()
        else:
            self.refused(asked, ClientDisconnected)
        self.grow(upload_id, kept, told=False)
        if end == "crash" and checksum != "none" and split % len(body) and not upload.data:
            upload.deadline = self.now + DAY if self.sliding else upload.made + DAY  # it got bytes, if none that count
        return None

    @rule(upload_id=st.one_of(ids, parts, parts), body=bodies, end=st.sampled_from(["whole", "chunked"]))
    def complete(self, upload_id: UploadId, body: bytes, end: str) -> None:
        """Send what is missing: chance alone would seldom come to an end."""
        upload = self.model.get(upload_id)
        deferred = upload is not None and upload.length is None and upload.role is not Role.FINAL
        declared = len(upload.data) + len(body) if upload is not None and deferred else None
        self.append_to(upload_id, body, 0, "none", end, declared, 0, fills=True)

    async def ask(
        self,
        upload_id: UploadId,
        offset: int,
        body: bytes,
        checksum: str,
        end: str,
        declared: int | None,
        split: int,
    ) -> None:
        """Send a PATCH as told; a crash leaves it where it is after its progress was committed."""
        said = None
        if checksum != "none":
            said = Checksum("sha1", hashlib.sha1(body if checksum == "right" else body + b"?").digest())
        broken = end in ("breaks off", "crash") and body != b""
        cut = split % len(body) if body else 0
        feed = Feed(body[:cut], body[cut:], ends=True)
        if broken:
            feed = Feed(body[:cut])
        announced = None if end == "chunked" else len(body)
        asked = self.world.append(upload_id, offset, feed, announced=announced, length=declared, checksum=said)
        if not broken:
            await asked
            return
        task = asyncio.ensure_future(asked)
        fed = asyncio.ensure_future(feed.taken())
        await asyncio.wait([task, fed], return_when=asyncio.FIRST_COMPLETED)
        fed.cancel()
        if task.done():
            task.result()
        elif end == "breaks off":
            feed.vanish()
            await task
        else:
            await elapse(1.5)
            task.cancel()
            await asyncio.wait([task])

    @rule(target=ids, parts=st.lists(parts, min_size=1, max_size=3))
    def join(self, parts: Sequence[UploadId]) -> object:
        return self.join_all(parts)

    @rule(parts=st.lists(st.one_of(ids, parts), min_size=1, max_size=3))
    def join_anything(self, parts: Sequence[UploadId]) -> None:
        self.join_all(parts)

    def join_all(self, parts: Sequence[UploadId]) -> object:
        known = [self.model.get(part) for part in parts]
        asked = self.world.join(*parts)
        twins = [
            name
            for name, final in self.model.items()
            if final.parts == tuple(parts) and not self.is_over(final) and parts[0] in self.model
        ]
        if twins and self.is_too_large(known) and not self.model[twins[0]].joined:
            self.refused(asked, MaxSizeExceeded)
            return twins[0]
        if twins:
            assert [self.run(asked).id] == twins
            return twins[0]
        if parts[0] in self.notes:  # its final upload may be found, or not any more
            with contextlib.suppress(InvalidConcat):
                found = self.run(asked).id
                assert self.model[found].parts == tuple(parts)
            return multiple()
        if any(part is None or part.role is not Role.PARTIAL or self.is_over(part) for part in known):
            self.refused(asked, InvalidConcat)
            return multiple()
        there = [part for part in known if part is not None]
        if sum(part.length or len(part.data) for part in there) > MAX:
            self.refused(asked, MaxSizeExceeded)
            return multiple()
        final_id = self.run(asked).id
        lengths = [part.length for part in there]
        length = None if None in lengths else sum(length for length in lengths if length is not None)
        self.model[final_id] = Modelled(
            length=length, made=self.now, deadline=self.now + DAY, role=Role.FINAL, parts=tuple(parts)
        )
        self.join_if_ready(final_id)
        return final_id

    def is_too_large(self, parts: Sequence[Modelled | None]) -> bool:
        """Whether parts have come to more than a final upload may have, all of them."""
        there = [part for part in parts if part is not None and part.complete]
        return len(there) == len(parts) and sum(len(part.data) for part in there) > MAX

    @rule(upload_id=st.one_of(ids, parts))
    def delete(self, upload_id: UploadId) -> None:
        if self.model.pop(upload_id, None) is None:
            self.refused(self.world.delete(upload_id), UploadNotFound)
        else:
            self.run(self.world.delete(upload_id))

    # time and trouble ------------------------------------------------------------------------------------------------

    @rule(hours=st.sampled_from([1, 12]))
    def wait(self, hours: int) -> None:
        self.world.clock.advance(timedelta(hours=hours))

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(hours=st.sampled_from([0, 12, 25]))
    def sweep(self, hours: int) -> None:
        self.world.clock.advance(SWEEP + timedelta(hours=hours))
        over = {upload_id for upload_id, upload in self.model.items() if self.is_over(upload)}
        assert self.run(self.world.sweeper.sweep()) == len(over)
        self.run(self.world.concatenator.wait_for_copies())
        self.notes = {part: until for part, until in self.notes.items() if until > self.now}
        for upload_id in over:
            del self.model[upload_id]
        self.expired |= over
        assert self.run(self.world.stored()) == sorted(self.model)
        self.check_the_disk()

    def check_the_disk(self) -> None:
        owners = {path.name.partition(".")[0] for path in (self.folder / "uploads").rglob("*") if path.is_file()}
        assert owners <= {*self.model, *self.notes}

    # always ----------------------------------------------------------------------------------------------------------

    @rule(upload_id=st.one_of(ids, parts))
    def head(self, upload_id: UploadId) -> None:
        upload = self.model.get(upload_id)
        if upload is None:
            self.refused(self.world.head(upload_id), UploadNotFound)
        elif self.is_over(upload):
            self.refused(self.world.head(upload_id), UploadExpired)
        else:
            told = self.run(self.world.head(upload_id))
            upload.told = len(upload.data)
            stored = self.run(self.world.store.load(upload_id))
            assert told == (replace(stored, expires_at=told.expires_at) if stored.pending else stored)

    @invariant()
    def both_know_the_same(self) -> None:
        """Asked in the store: HEAD would make good what was forgotten."""
        for upload_id, upload in self.model.items():
            told = self.run(self.world.store.load(upload_id))
            assert (told.offset, told.length, told.expires_at) == (len(upload.data), upload.length, upload.deadline)
            assert told.pending or told.told == upload.told
            assert (told.complete, told.finished, told.pending) == (
                upload.complete,
                upload.complete,
                upload.role is Role.FINAL and not upload.joined,
            )
            assert self.run(self.world.content(upload_id)) == upload.data

    @invariant()
    def ends_are_told_once(self) -> None:
        heard = [upload.id for kind, upload in self.world.told if kind is HookType.PRE_FINISH]
        assert sorted(heard) == sorted(self.finished)
        assert {upload.id for kind, upload in self.world.told if kind is HookType.POST_EXPIRE} == self.expired


class InMemory(Uploads):
    """Over the memory store."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()

    def open_store(self) -> Store:
        return self.store


class InFiles(Uploads):
    """Over the file store, opened again at each restart."""

    def open_store(self) -> Store:
        return FileStore(self.folder)


def thoroughly(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        derandomize="CI" in os.environ,
        suppress_health_check=[HealthCheck.too_slow],
    )


TestInMemory = InMemory.TestCase
TestInMemory.settings = thoroughly(100)
TestInFiles = InFiles.TestCase
TestInFiles.settings = thoroughly(50)
