"""What every store must do. Subclass it, and say in a fixture `store` which one is meant."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.contracts.sources import Chunks, noting, read, unheard
from tests.support.uploads import changed
from tusserver.protocol.errors import LeaseLost, UploadExists, UploadNotFound
from tusserver.protocol.extensions import Extension
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.base import Store

ID = UploadId("abcdef0123456789")
OTHER = UploadId("abzzzz0123456789")
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
LATE = timedelta(minutes=25)
"""More than a store may be late with naming what is due, and a test be later than `NOW`, the time of its import."""


def an_upload(upload_id: UploadId = ID, **values: Any) -> Upload:
    return changed(Upload(id=upload_id, created_at=NOW, length=10, expires_at=NOW + 24 * HOUR), **values)


async def put(store: Store, upload: Upload, data: bytes) -> Upload:
    """Write and commit, as the service does."""
    written = await store.write(upload, Chunks(data), unheard)
    upload = changed(upload, offset=upload.offset + written)
    await store.commit(upload)
    return upload


async def complete(store: Store, data: bytes, upload_id: UploadId = ID, **values: Any) -> Upload:
    """Make an upload with all its bytes."""
    upload = an_upload(upload_id, length=len(data), **values)
    await store.create(upload)
    return await put(store, upload, data)


async def bytes_of(store: Store, upload: Upload) -> bytes:
    return await read(await store.content(upload))


async def listed(store: Store) -> dict[UploadId, Upload]:
    return {upload.id: upload async for upload in store.uploads()}


async def named(store: Store, now: datetime) -> list[UploadId]:
    return [upload_id async for upload_id in store.due(now)]


async def uncopied(done: int) -> None:
    """Commit nothing of a copy."""


class StoreContract:
    """Tests that every store passes."""

    @pytest.fixture
    def store(self) -> Store:
        """Return a fresh store."""
        raise NotImplementedError

    def test_a_store_says_which_extensions_it_can_do(self, store: Store) -> None:
        assert Extension.CREATION in store.extensions
        assert store.extensions <= set(Extension)

    # fences ----------------------------------------------------------------------------------------------------------

    async def test_the_fence_of_a_commit_is_loaded(self, store: Store) -> None:
        upload = an_upload(fence=1)
        await store.create(upload)
        assert (await store.load(ID)).fence == 1
        upload = await put(store, replace(upload, fence=2), b"hello")
        assert await store.load(ID) == upload
        upload = replace(upload, fence=2**62)
        await store.replace(upload)
        assert await store.load(ID) == upload

    async def test_a_load_with_a_fence_is_of_the_last_commit_and_stays(self, store: Store) -> None:
        upload = await complete(store, b"hello")
        assert await store.load(ID, 7) == replace(upload, fence=7)
        assert await store.load(ID, 7) == replace(upload, fence=7)
        assert await store.load(ID) == replace(upload, fence=7)
        assert await bytes_of(store, upload) == b"hello"

    async def test_a_load_with_an_older_fence_is_refused(self, store: Store) -> None:
        await store.create(an_upload(fence=3))
        with pytest.raises(LeaseLost):
            await store.load(ID, 2)
        assert (await store.load(ID)).fence == 3

    async def test_nothing_is_fenced_that_is_not_there(self, store: Store) -> None:
        with pytest.raises(UploadNotFound):
            await store.load(ID, 5)
        await store.create(an_upload())
        assert (await store.load(ID)).fence == 0

    @pytest.mark.parametrize("fence", [0, 1])
    async def test_nothing_is_recorded_under_an_older_fence(self, store: Store, fence: int) -> None:
        older = an_upload(fence=fence)
        await store.create(older)
        older = await put(store, older, b"hello")
        upload = await store.load(ID, 2)
        moved = replace(older, offset=7)

        async def checkpoint() -> None:
            if (saving := store.checkpoint(moved)) is not None:
                await saving

        changes: list[Callable[[], Awaitable[None]]] = [
            lambda: store.commit(moved),
            lambda: store.put(moved, b"??"),
            checkpoint,
            lambda: store.revert(replace(older, offset=1)),
            lambda: store.replace(replace(older, length=20)),
        ]
        for refused in changes:
            with pytest.raises(LeaseLost):
                await refused()
            assert await store.load(ID) == upload
        upload = changed(upload, offset=10, finished=True)
        await store.put(upload, b", wor")
        assert await store.load(ID) == upload
        assert await bytes_of(store, upload) == b"hello, wor"

    async def test_what_was_told_is_recorded_under_any_fence(self, store: Store) -> None:
        """By who holds nothing; what it tells of was committed."""
        upload = an_upload()
        await store.create(upload)
        upload = await put(store, upload, b"hello")
        await store.load(ID, 2)
        await store.tell(replace(upload, told=5))
        assert await store.load(ID) == replace(upload, told=5, fence=2)

    # records ---------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "upload",
        [
            an_upload(),
            an_upload(length=None),
            an_upload(length=0),
            an_upload(expires_at=None),
            an_upload(metadata=Metadata("b Mg==, a YQ==,\xff")),
            an_upload(role=Role.PARTIAL, concat="partial"),
            an_upload(role=Role.FINAL, length=None, concat="final;/files/b /files/a", parts=("b", "a", "b")),
            an_upload(UploadId("-")),
            an_upload(UploadId("_" * 128)),
        ],
        ids=["plain", "deferred", "empty", "for-ever", "metadata", "partial", "final", "short-id", "long-id"],
    )
    async def test_a_new_upload_is_loaded_as_it_was_made(self, store: Store, upload: Upload) -> None:
        await store.create(upload)
        assert await store.load(upload.id) == upload

    @pytest.mark.parametrize("length", [5, 10, None])
    async def test_a_new_upload_may_have_its_first_bytes(self, store: Store, length: int | None) -> None:
        upload = an_upload(length=length, offset=5, told=5, finished=length == 5)
        await store.create(upload, b"hello")
        assert await store.load(ID) == upload
        with pytest.raises(UploadExists):
            await store.create(upload, b"other")
        if length != 5:
            upload = replace(await put(store, upload, b" more"), length=10)
            await store.replace(upload)
        assert await bytes_of(store, upload) == b"hello more"[: length or 10]

    async def test_a_few_bytes_are_put_and_committed(self, store: Store) -> None:
        upload = an_upload(length=10)
        await store.create(upload)
        await store.write(upload, Chunks(b"never"), unheard)  # and not committed
        for data in (b"he", b"l", b"lo, w", b"or"):
            upload = changed(upload, offset=upload.offset + len(data), finished=data == b"or")
            await store.put(upload, data)
            assert await store.load(ID) == upload
        assert await bytes_of(store, upload) == b"hello, wor"
        with pytest.raises(UploadNotFound):
            await store.put(an_upload(OTHER, offset=1), b"x")

    async def test_an_upload_that_was_never_made_is_not_found(self, store: Store) -> None:
        with pytest.raises(UploadNotFound):
            await store.load(ID)

    async def test_an_id_is_never_given_twice(self, store: Store) -> None:
        upload = await complete(store, b"first")
        with pytest.raises(UploadExists):
            await store.create(an_upload(length=3))
        assert await store.load(ID) == upload
        assert await bytes_of(store, upload) == b"first"

    async def test_what_a_commit_says_is_loaded(self, store: Store) -> None:
        upload = an_upload()
        await store.create(upload)
        await store.write(upload, Chunks(b"hello"), unheard)
        upload = changed(upload, offset=5, expires_at=NOW + 30 * HOUR, finished=True)
        await store.commit(upload)
        assert await store.load(ID) == upload

    async def test_an_upload_of_another_protocol_is_complete_when_a_commit_says_so(self, store: Store) -> None:
        upload = an_upload(protocol="other", complete=False)
        await store.create(upload)
        assert await store.load(ID) == upload
        await store.write(upload, Chunks(b"0123456789"), unheard)
        upload = replace(upload, offset=10)
        await store.commit(upload)
        assert await store.load(ID) == upload
        upload = replace(upload, complete=True)
        await store.commit(upload)
        assert await store.load(ID) == upload

    async def test_the_last_of_many_commits_counts(self, store: Store) -> None:
        upload = an_upload()
        await store.create(upload)
        for _ in range(10):
            upload = await put(store, upload, b"x")
            assert await store.load(ID) == upload

    async def test_a_length_declared_late_is_recorded(self, store: Store) -> None:
        upload = an_upload(length=None)
        await store.create(upload)
        upload = replace(await put(store, upload, b"hello"), length=7)
        await store.replace(upload)
        assert await store.load(ID) == upload
        upload = await put(store, upload, b"!!")
        assert await store.load(ID) == upload
        assert await bytes_of(store, upload) == b"hello!!"

    async def test_uploads_are_listed_as_they_stand(self, store: Store) -> None:
        one, two = await complete(store, b"hello"), an_upload(OTHER)
        await store.create(two)
        assert await listed(store) == {ID: one, OTHER: two}

    async def test_an_upload_that_goes_while_they_are_listed_is_stepped_over(self, store: Store) -> None:
        for upload_id in (ID, OTHER):
            await store.create(an_upload(upload_id))
        seen = []
        async for upload in store.uploads():
            seen.append(upload.id)
            await store.remove(OTHER if upload.id == ID else ID)
        assert len(seen) <= 2

    # bytes -----------------------------------------------------------------------------------------------------------

    async def test_bytes_are_kept_as_they_came(self, store: Store) -> None:
        data = bytes(range(256)) * 5000
        upload = an_upload(length=len(data))
        await store.create(upload)
        source = Chunks([data[:1], data[1:3]], [data[3:700_000]], [data[700_000:]])
        assert await store.write(upload, source, unheard) == len(data)
        assert await bytes_of(store, changed(upload, offset=len(data))) == data

    async def test_many_small_chunks_are_kept_in_order(self, store: Store) -> None:
        data = bytes(range(250)) * 20
        upload = an_upload(length=len(data))
        await store.create(upload)
        await store.write(upload, Chunks([data[at : at + 1] for at in range(len(data))]), unheard)
        assert await bytes_of(store, changed(upload, offset=len(data))) == data

    async def test_bytes_go_behind_the_offset(self, store: Store) -> None:
        upload = an_upload()
        await store.create(upload)
        upload = await put(store, upload, b"hello")
        upload = await put(store, upload, b"world")
        assert await bytes_of(store, upload) == b"helloworld"

    async def test_any_range_can_be_read(self, store: Store) -> None:
        data = bytes(range(256)) * 1024
        content = await store.content(await complete(store, data))
        assert content.size == len(data)
        assert await read(content, 100_000, 200_001) == data[100_000:200_001]

    async def test_progress_is_told_in_rising_sums_up_to_all_that_came(self, store: Store) -> None:
        upload, told = an_upload(), list[int]()
        await store.create(upload)
        assert await store.write(upload, Chunks(b"abc", [b"d", b"ef"], b"g"), noting(told)) == 7
        assert told == sorted(set(told))
        assert told[-1] == 7

    async def test_every_sum_that_is_told_can_be_committed(self, store: Store) -> None:
        """How often progress is told is up to the store: some cannot commit any byte."""
        upload = an_upload()
        await store.create(upload)
        told, seen = [], []

        async def on_progress(count: int) -> None:
            told.append(count)
            if (recording := store.checkpoint(changed(upload, offset=count))) is not None:
                await recording
            seen.append((await store.load(ID)).offset)

        await store.write(upload, Chunks(b"abc", b"def", b"g"), on_progress)
        assert seen == told
        await store.commit(changed(upload, offset=7))
        assert (await store.load(ID)).offset == 7

    async def test_a_body_without_bytes_changes_nothing(self, store: Store) -> None:
        upload, told = an_upload(), list[int]()
        await store.create(upload)
        assert await store.write(upload, Chunks(), noting(told)) == 0
        assert told == []
        assert await store.load(ID) == upload

    async def test_bytes_do_not_exist_before_they_are_committed(self, store: Store) -> None:
        upload = an_upload()
        await store.create(upload)
        await store.write(upload, Chunks(b"hello"), unheard)
        assert await store.load(ID) == upload

    async def test_bytes_that_were_not_committed_are_written_over(self, store: Store) -> None:
        upload = an_upload(length=5)
        await store.create(upload)
        await store.write(upload, Chunks(b"wrong"), unheard)
        upload = await put(store, upload, b"he")
        upload = await put(store, upload, b"llo")
        assert await bytes_of(store, upload) == b"hello"

    async def test_an_empty_upload_has_empty_content(self, store: Store) -> None:
        assert await bytes_of(store, await complete(store, b"")) == b""

    async def test_two_uploads_written_at_once_do_not_mix(self, store: Store) -> None:
        async def write(upload_id: UploadId, letter: bytes) -> Upload:
            upload = an_upload(upload_id, length=50_000)
            await store.create(upload)
            for _ in range(50):
                upload = await put(store, upload, letter * 1000)
            return upload

        one, two = await asyncio.gather(write(ID, b"a"), write(OTHER, b"b"))
        assert await bytes_of(store, one) == b"a" * 50_000
        assert await bytes_of(store, two) == b"b" * 50_000

    # concatenation ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("pieces", "order"),
        [
            ([b"hello", b"world"], [0, 1]),
            ([b"hello", b"world"], [1, 0]),
            ([b"hello", b"world"], [0, 1, 0]),
            ([b"", b"world", b""], [0, 1, 2]),
            ([b""], [0]),
            ([b"x" * 100_001, b"y" * 99_999], [0, 1, 1]),
        ],
        ids=["in-order", "reversed", "one-twice", "empty-parts", "empty-whole", "large"],
    )
    async def test_parts_are_joined_in_the_order_of_the_list(
        self, store: Store, pieces: list[bytes], order: list[int]
    ) -> None:
        parts = [
            await complete(store, data, UploadId(f"part{number}"), role=Role.PARTIAL)
            for number, data in enumerate(pieces)
        ]
        chosen = [parts[number] for number in order]
        final = await self._join(store, chosen)
        assert await bytes_of(store, final) == b"".join(pieces[number] for number in order)

    async def test_parts_stay_as_they_are(self, store: Store) -> None:
        part = await complete(store, b"hello", OTHER, role=Role.PARTIAL)
        await self._join(store, [part])
        assert await store.load(OTHER) == part
        assert await bytes_of(store, part) == b"hello"

    async def test_only_what_a_part_has_committed_is_joined(self, store: Store) -> None:
        part = an_upload(OTHER, role=Role.PARTIAL)
        await store.create(part)
        part = await put(store, part, b"hello")
        await store.write(part, Chunks(b"wrong"), unheard)
        part = replace(part, length=5)
        assert await bytes_of(store, await self._join(store, [part])) == b"hello"

    async def test_joined_bytes_do_not_exist_before_they_are_committed(self, store: Store) -> None:
        part = await complete(store, b"hello", OTHER, role=Role.PARTIAL)
        final = an_upload(role=Role.FINAL, length=5)
        await store.create(final)
        await store.concatenate(final, [part], uncopied)
        assert await store.load(ID) == final

    async def _join(self, store: Store, parts: Sequence[Upload]) -> Upload:
        final = an_upload(role=Role.FINAL, length=None)
        await store.create(final)
        final = changed(final, length=sum(part.offset for part in parts))
        await store.replace(final)
        await store.concatenate(final, parts, uncopied)
        final = changed(final, offset=final.length or 0)
        await store.commit(final)
        return await store.finalize(final)

    async def test_a_part_remembers_who_waits_for_it(self, store: Store) -> None:
        await store.create(an_upload(role=Role.PARTIAL))
        assert await store.dependents(ID) == ()
        for final in ("one", "two", "one"):
            await store.add_dependent(UploadId(final), ID)
        assert await store.dependents(ID) == ("one", "two")

    async def test_what_is_struck_out_does_not_wait_for_a_part_any_more(self, store: Store) -> None:
        await store.create(an_upload(role=Role.PARTIAL))
        for final in ("one", "two", "three"):
            await store.add_dependent(UploadId(final), ID)
        await store.remove_dependents(ID, [UploadId("three"), UploadId("one"), UploadId("none")])
        assert await store.dependents(ID) == ("two",)
        await store.remove_dependents(ID, [UploadId("two")])
        await store.remove_dependents(ID, [UploadId("two")])
        assert await store.dependents(ID) == ()

    async def test_a_later_look_does_not_take_the_place_of_an_earlier_one(self, store: Store) -> None:
        await store.create(an_upload())
        now = datetime.now(UTC)
        for hours in (1, 50):
            await store.schedule(ID, now + timedelta(hours=hours))
        assert ID in [upload_id async for upload_id in store.due(now + timedelta(hours=2))]

    async def test_nobody_waits_for_a_part_that_is_gone(self, store: Store) -> None:
        await store.create(an_upload(role=Role.PARTIAL))
        await store.add_dependent(OTHER, ID)
        await store.remove(ID)
        assert await store.dependents(ID) == ()

    # the end ---------------------------------------------------------------------------------------------------------

    async def test_a_finished_upload_can_be_read(self, store: Store) -> None:
        upload = await store.finalize(await complete(store, b"hello"))
        assert await bytes_of(store, upload) == b"hello"

    async def test_finishing_twice_does_no_harm(self, store: Store) -> None:
        upload = await store.finalize(await complete(store, b"hello"))
        assert await store.finalize(upload) == upload
        assert await bytes_of(store, upload) == b"hello"

    async def test_finishing_again_from_the_record_does_no_harm(self, store: Store) -> None:
        finished = await store.finalize(await complete(store, b"hello"))
        loaded = await store.load(ID)
        assert loaded == finished
        assert await store.finalize(loaded) == finished

    @pytest.mark.parametrize("state", ["new", "begun", "complete", "finished", "deferred"])
    async def test_nothing_is_left_of_a_removed_upload(self, store: Store, state: str) -> None:
        upload = an_upload(length=None if state == "deferred" else 5)
        await store.create(upload)
        if state != "new":
            upload = await put(store, upload, b"he" if state in ("begun", "deferred") else b"hello")
        if state == "finished":
            upload = await store.finalize(upload)
        assert await store.remove(ID) is True
        with pytest.raises(UploadNotFound):
            await store.load(ID)
        with pytest.raises(UploadNotFound):
            await store.content(upload)
        assert await listed(store) == {}

    async def test_removing_what_is_not_there_is_no_error(self, store: Store) -> None:
        await complete(store, b"hello")
        await store.remove(ID)
        assert await store.remove(ID) is False
        assert await store.remove(OTHER) is False

    async def test_the_others_stay_when_one_is_removed(self, store: Store) -> None:
        other = await complete(store, b"hello", OTHER)
        await store.create(an_upload())
        await store.remove(ID)
        assert await listed(store) == {OTHER: other}
        assert await bytes_of(store, other) == b"hello"

    async def test_an_upload_that_was_removed_under_its_writer_does_not_come_back(self, store: Store) -> None:
        upload = an_upload()
        await store.create(upload)
        await store.remove(ID)
        with pytest.raises(UploadNotFound):
            await store.write(upload, Chunks(b"hello"), unheard)
        with pytest.raises(UploadNotFound):
            await store.commit(changed(upload, offset=5))
        with pytest.raises(UploadNotFound):
            await store.replace(changed(upload, length=5))
        assert await listed(store) == {}
        assert await store.remove(ID) is False

    # what is due -----------------------------------------------------------------------------------------------------

    async def test_an_upload_is_named_once_its_deadline_is_over(self, store: Store) -> None:
        await store.create(an_upload(expires_at=NOW + HOUR))
        assert ID in await named(store, NOW + HOUR + LATE)

    async def test_an_upload_is_not_named_long_before_its_deadline(self, store: Store) -> None:
        await store.create(an_upload(expires_at=NOW + HOUR))
        assert await named(store, NOW + HOUR / 2) == []

    async def test_an_upload_is_named_once(self, store: Store) -> None:
        await store.create(an_upload(expires_at=NOW + HOUR))
        await store.schedule(ID, NOW + HOUR)
        assert (await named(store, NOW + HOUR + LATE)).count(ID) == 1
        assert await named(store, NOW + HOUR + LATE) == []

    async def test_an_upload_is_named_again_when_somebody_asked_for_it(self, store: Store) -> None:
        await store.create(an_upload(expires_at=NOW + HOUR))
        await named(store, NOW + HOUR + LATE)
        await store.schedule(ID, NOW + 3 * HOUR)
        assert await named(store, NOW + 2 * HOUR) == []
        assert await named(store, NOW + 3 * HOUR + LATE) == [ID]

    async def test_everything_that_is_due_is_named_whatever_its_deadline(self, store: Store) -> None:
        for number in range(20):
            await store.create(an_upload(UploadId(f"{number:02}"), length=0, expires_at=NOW + HOUR * number / 2))
        assert {f"{number:02}" for number in range(10)} <= set(await named(store, NOW + 5 * HOUR))

    async def test_who_stops_on_the_way_finds_the_rest_next_time(self, store: Store) -> None:
        ids = {UploadId(f"{number:02}") for number in range(10)}
        for upload_id in ids:
            await store.create(an_upload(upload_id, length=0, expires_at=NOW + HOUR))
        due = store.due(NOW + HOUR + LATE)
        first = await anext(due)
        await due.aclose()  # type: ignore[attr-defined]  # an iterator that is not closed closes itself some day
        assert set(await named(store, NOW + HOUR + LATE)) >= ids - {first}

    async def test_batches_name_the_same_and_none_is_done_with_before_the_next(self, store: Store) -> None:
        ids = {UploadId(f"{number:02}") for number in range(10)}
        for upload_id in ids:
            await store.create(an_upload(upload_id, length=0, expires_at=NOW + HOUR))
        found = [set(batch) async for batch in store.due_batches(NOW + HOUR + LATE)]
        assert set().union(*found) == ids
        assert all(found)
        assert [batch async for batch in store.due_batches(NOW + HOUR + LATE)] == []

    # many at once ----------------------------------------------------------------------------------------------------

    async def test_of_many_uploads_those_go_that_are_said_to_be_over(self, store: Store) -> None:
        ids = [UploadId(f"{number:02}") for number in range(10)]
        for upload_id in ids:
            await complete(store, b"hello", upload_id)
        reaped = await store.reap([*ids, OTHER], lambda upload: int(upload.id) < 7)
        assert [upload.id for upload in reaped.removed] == ids[:7]
        assert all(upload.offset == 5 for upload in reaped.removed)
        assert reaped.failed == {}
        assert set(await listed(store)) == set(ids[7:])
        assert not any([await store.remove(upload_id) for upload_id in ids[:7]])

    async def test_tidying_up_changes_nothing_that_counts(self, store: Store) -> None:
        upload = await complete(store, b"hello")
        await store.flush()
        assert await store.load(ID) == upload
        assert await bytes_of(store, upload) == b"hello"
