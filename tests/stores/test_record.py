"""The record file: two slots and JSON. Whatever is torn or spoilt is never taken for something else."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.uploads import changed
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.file import record
from tusserver.stores.file.record import JSON_AT, SLOT_SPACE, IncompleteRecord, Slot

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UPLOAD = Upload(
    id=UploadId("abc"),
    created_at=NOW,
    length=10,
    metadata=Metadata("filename bmHDr3ZlLnR4dA==,\xff"),
    role=Role.PARTIAL,
    concat="partial",
    storage={"path": "/srv/na\u00efve.txt", "mtime_ns": "1"},
)

BOOT = "this run--------"
"""None of the slots is of it."""

offsets = st.integers(0, 2**63 - 1)
milliseconds = st.integers(1, 4 * 10**12)
slots = st.builds(
    Slot,
    number=st.integers(0, 2**40),
    offset=offsets,
    synced=offsets,
    expires_at=st.none() | milliseconds.map(lambda at: datetime.fromtimestamp(at / 1000, UTC)),
    finished=st.booleans(),
    written_at=milliseconds.map(lambda at: at / 1000),
    boot=st.text("0123456789abcdef-", min_size=1, max_size=16),
    unsynced=st.booleans(),
    owed=st.booleans(),
    unclaimed=st.booleans(),
    complete=st.booleans(),
    clock=st.integers(0, 10**15).map(lambda at: at / 1e6),
    told=offsets,
    takeovers=st.integers(0, 255),
    tries=st.integers(0, 255),
    retry_at=st.none() | milliseconds.map(lambda at: datetime.fromtimestamp(at / 1000, UTC)),
    fence=st.just(0) | st.integers(0, 2**63 - 1),
)


def a_slot(number: int = 1, offset: int = 5) -> Slot:
    return Slot(
        number=number,
        offset=offset,
        synced=0,
        expires_at=NOW,
        finished=False,
        written_at=1.5,
        boot="0123456789abcdef",
        clock=2.5,
        told=offset,
    )


def in_place(*slots: Slot) -> bytes:
    """The first bytes of a record after these commits."""
    head = bytearray(JSON_AT)
    for slot in slots:
        packed = slot.pack()
        start = SLOT_SPACE * (slot.number % 2)
        head[start : start + len(packed)] = packed
    return bytes(head)


# slots ---------------------------------------------------------------------------------------------------------------


@given(slots)
def test_a_slot_reads_back_as_it_was_written(slot: Slot) -> None:
    assert Slot.unpack(slot.pack().ljust(SLOT_SPACE, b"\0")) == slot


@given(slots)
def test_a_slot_fits_into_one_sector(slot: Slot) -> None:
    assert len(slot.pack()) <= SLOT_SPACE


@given(slots, st.data())
def test_a_slot_with_a_flipped_bit_is_none(slot: Slot, data: st.DataObject) -> None:
    packed = bytearray(slot.pack())
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert Slot.unpack(bytes(packed)) is None


@given(slots, slots, st.data())
def test_a_slot_torn_over_an_older_one_is_one_of_them_or_none(old: Slot, new: Slot, data: st.DataObject) -> None:
    old = replace(old, number=new.number + 2)
    before, after = old.pack(), new.pack()
    cut = data.draw(st.integers(0, len(after)))
    found = Slot.unpack(after[:cut] + before[cut:])
    # Cut between its two groups of numbers, the new one is taken for that of an older version.
    assert found in (old, new, None, plain(new))


def plain(slot: Slot) -> Slot:
    """The slot as an older version would have written it: it knows the first group of numbers."""
    return replace(slot, clock=None, told=None, takeovers=0, tries=0, retry_at=None, fence=0)


@given(slots)
def test_an_older_version_may_write_over_a_slot(slot: Slot) -> None:
    older = replace(plain(slot), number=slot.number + 2).pack()
    assert Slot.unpack(older + slot.pack()[len(older) :]) == replace(plain(slot), number=slot.number + 2)


@given(slots)
def test_a_slot_that_waits_for_the_disk_counts_only_after_a_restart_of_the_machine(slot: Slot) -> None:
    waiting = replace(slot, number=slot.number + 1, unsynced=True)
    slot = replace(slot, unsynced=False)
    assert record.latest(in_place(slot, waiting), waiting.boot) == slot
    assert record.latest(in_place(slot, waiting), BOOT) == waiting
    with tempfile.TemporaryFile() as file:
        file.write(in_place(slot, waiting))
        file.flush()
        record.mark_synced(file.fileno(), waiting)
        assert record.read_slot(file.fileno(), waiting.boot) == waiting


@given(slots, offsets, st.booleans())
def test_the_cell_tells_more_than_the_slot_and_never_more_than_there_is(slot: Slot, told: int, claimed: bool) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(record.pack(UPLOAD, slot))
        file.flush()
        record.write_cell(file.fileno(), changed(UPLOAD, told=told, unclaimed=not claimed))
        file.seek(0)
        upload, found = record.unpack(file.read(), BOOT)
    assert found == slot
    assert upload.told == min(max(slot.told or 0, told), slot.offset)
    assert upload.unclaimed == (slot.unclaimed and not claimed)


@given(slots)
def test_a_slot_without_a_fence_is_what_older_versions_write_and_read(slot: Slot) -> None:
    unfenced, fenced = replace(slot, fence=0), replace(slot, fence=1)
    assert len(unfenced.pack()) < len(fenced.pack())
    assert Slot.unpack(unfenced.pack() + fenced.pack()[len(unfenced.pack()) :]) == unfenced


@given(st.binary(max_size=SLOT_SPACE))
@example(b"")
@example(bytes(SLOT_SPACE))
@example(b"\xff" * SLOT_SPACE)
def test_other_bytes_are_no_slot(space: bytes) -> None:
    assert Slot.unpack(space) is None


# two of them ---------------------------------------------------------------------------------------------------------


@given(slots, offsets)
def test_of_two_slots_the_newer_counts(slot: Slot, offset: int) -> None:
    following = replace(slot, number=slot.number + 1, offset=offset)
    assert record.latest(in_place(slot, following), BOOT) == following
    assert record.latest(in_place(following, slot), BOOT) == following


@given(slots, slots, st.data())
def test_a_torn_commit_leaves_the_one_before_it(slot: Slot, torn: Slot, data: st.DataObject) -> None:
    """The commit goes over the older slot, and is cut off anywhere."""
    older = replace(slot, number=slot.number + 1, offset=1)
    newer = replace(slot, number=slot.number + 2, offset=2)
    torn = replace(torn, number=slot.number + 3)
    head = bytearray(in_place(older, newer))
    packed = torn.pack()
    start = SLOT_SPACE * (torn.number % 2)
    cut = data.draw(st.integers(0, len(packed)))
    head[start : start + cut] = packed[:cut]
    assert record.latest(bytes(head), BOOT) in (newer, torn, plain(torn))


@given(st.integers(0, 2**40), st.data())
def test_one_flipped_bit_costs_one_commit_at_most(number: int, data: st.DataObject) -> None:
    older, newer = a_slot(number, 1), a_slot(number + 1, 2)
    head = bytearray(in_place(older, newer))
    head[data.draw(st.integers(0, len(head) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert record.latest(bytes(head), BOOT) in (older, newer)


def test_without_a_valid_slot_there_is_none() -> None:
    assert record.latest(bytes(JSON_AT), BOOT) is None
    assert record.latest(b"", BOOT) is None


def test_commits_go_to_the_slots_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(record.pack(UPLOAD, a_slot(0)))
    fd = os.open(path, os.O_RDWR)
    try:
        for number in range(1, 6):
            record.write_slot(fd, a_slot(number, number))
            assert record.read_slot(fd, BOOT) == a_slot(number, number)
            # The one before stands beside it.
            head = os.pread(fd, JSON_AT, 0)
            assert Slot.unpack(head[SLOT_SPACE * ((number - 1) % 2) :][:SLOT_SPACE]) is not None
    finally:
        os.close(fd)
    assert record.unpack(path.read_bytes(), BOOT) == (changed(UPLOAD, offset=5, told=5, expires_at=NOW), a_slot(5, 5))


def test_progress_goes_on_from_the_slot_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(record.pack(UPLOAD, replace(a_slot(6, 1), synced=1)))
    progress = record.OpenRecord("that boot")
    for offset in (2, 3):
        with progress.use(lambda: str(path)) as last:
            progress.write(replace(last, number=last.number + 1, offset=offset, told=0))
    progress.end()
    expected = replace(a_slot(8, 3), synced=1, told=0)
    assert record.unpack(path.read_bytes(), BOOT) == (changed(UPLOAD, offset=3, expires_at=NOW), expected)


def test_progress_of_a_record_without_a_valid_slot_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(bytes(JSON_AT))
    with (
        pytest.raises(ValueError, match="neither slot is valid"),
        record.OpenRecord("that").use(lambda: str(path)),
    ):
        pass
    assert path.read_bytes() == bytes(JSON_AT)


# the whole record ----------------------------------------------------------------------------------------------------


@given(slots)
def test_a_record_reads_back_as_it_was_written(slot: Slot) -> None:
    upload, found = record.unpack(record.pack(UPLOAD, slot), BOOT)
    assert found == slot
    assert upload == replace(
        UPLOAD,
        offset=slot.offset,
        complete=slot.complete or slot.offset == UPLOAD.length,
        length=slot.offset if slot.complete else UPLOAD.length,
        expires_at=slot.expires_at,
        finished=slot.finished,
        told=min(slot.told or 0, slot.offset),
        takeovers=slot.takeovers,
        owed=slot.owed,
        tries=slot.tries,
        retry_at=slot.retry_at,
        unclaimed=slot.unclaimed,
        fence=slot.fence,
    )


@pytest.mark.parametrize(("protocol", "complete"), [("tus", True), ("other", False)])
def test_what_an_older_version_wrote_is_complete_if_it_is_of_tus_and_has_all_bytes(
    protocol: str, complete: bool
) -> None:
    packed = record.pack(replace(UPLOAD, protocol=protocol), a_slot(offset=10))
    assert record.unpack(packed, BOOT)[0].complete is complete


@pytest.mark.parametrize("protocol", ["tus", "other"])
def test_what_is_complete_has_a_length_also_if_the_json_does_not_say_so_yet(protocol: str) -> None:
    packed = record.pack(replace(UPLOAD, length=None, protocol=protocol), replace(a_slot(), complete=True))
    upload, _ = record.unpack(packed, BOOT)
    assert (upload.complete, upload.length, upload.protocol) == (True, 5, protocol)


@given(st.binary(max_size=2000) | st.binary(max_size=200).map(lambda text: in_place(a_slot()) + text))
@example(in_place(a_slot()))
@example(in_place(a_slot()) + b"[]\n")
@example(in_place(a_slot()) + b'{"format":1}\n')
@example(in_place(a_slot()) + b'"format"\n')
@example(in_place(a_slot()) + record.pack(UPLOAD, a_slot())[JSON_AT:].replace(b'"length":10', b'"length":'))
@example(in_place(a_slot()) + record.pack(UPLOAD, a_slot())[JSON_AT:].replace(b'"created_at":', b'"created_at":1e300'))
@example(in_place(a_slot()) + record.pack(UPLOAD, a_slot())[JSON_AT:].replace(b'"created_at":', b'"created_at":9999'))
@example(in_place(a_slot()) + record.pack(UPLOAD, a_slot())[JSON_AT:].replace(b'"role":"partial"', b'"role":"x"'))
@example(in_place(a_slot()) + record.pack(UPLOAD, a_slot())[JSON_AT:].replace(b'"parts":[]', b'"parts":5'))
def test_what_is_no_record_is_refused_and_never_fails_otherwise(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - there are many ways to be none
        record.unpack(content, BOOT)


@given(slots, st.data())
def test_a_record_cut_off_while_it_was_made_was_never_made(slot: Slot, data: st.DataObject) -> None:
    whole = record.pack(UPLOAD, replace(slot, number=0))
    cut = data.draw(st.integers(0, len(whole) - 1))
    zeros = data.draw(st.sampled_from([0, len(whole) - cut]))
    with pytest.raises(IncompleteRecord):
        record.unpack(whole[:cut] + bytes(zeros), BOOT)


def test_json_that_reached_the_disk_before_its_slots_was_never_told() -> None:
    with pytest.raises(IncompleteRecord):
        record.unpack(bytes(JSON_AT) + record.pack(UPLOAD, a_slot(0))[JSON_AT:], BOOT)


@pytest.mark.parametrize(
    "damaged",
    [
        in_place(a_slot(1)) + record.pack(UPLOAD, a_slot(1))[JSON_AT:-5],
        b"\xff" * SLOT_SPACE + bytes(SLOT_SPACE) + record.pack(UPLOAD, a_slot(0))[JSON_AT:],
        record.pack(UPLOAD, a_slot(0)).replace(b'"format":1', b'"format":3'),
        b"nonsense" * 200,
    ],
    ids=["json-after-a-commit", "slots", "newer-version", "nonsense"],
)
def test_a_record_that_was_damaged_later_is_not_taken_for_one_never_made(damaged: bytes) -> None:
    """Bytes of an upload never made are removed; those of a damaged one wait for somebody to look."""
    with pytest.raises(ValueError, match=r"valid|JSON|Expecting|Unterminated|delimiter|version") as refusal:
        record.unpack(damaged, BOOT)
    assert not isinstance(refusal.value, IncompleteRecord)


# memory --------------------------------------------------------------------------------------------------------------


def test_long_records_are_not_kept_in_memory() -> None:
    parsed = record.ParsedTexts()
    for number in range(300):
        parts = tuple(UploadId(f"{number:03}-{part:028}") for part in range(1000))
        upload = changed(UPLOAD, id=UploadId(f"{number}"), role=Role.FINAL, concat=None, parts=parts)
        packed = record.pack(upload, a_slot(), parsed=parsed)
        assert record.unpack(packed, BOOT, parsed)[0].parts == parts
    assert sum(map(len, parsed._parsed)) < 1 << 22
