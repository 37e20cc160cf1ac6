"""The record file of the file store: two slots for what changes with every request, then JSON for what does not.

    byte 0      slot A    a few numbers that end with their CRC; behind them more numbers with a CRC of their own
    byte 256    the cell  what was told while a commit was under way
    byte 320    the mark  the number of the slot that is known to be on the disk
    byte 512    slot B    as slot A; the valid one with the higher number counts
    byte 1024   JSON      the rest of the upload

A commit writes the slot that does not count, so a torn write spoils nothing: the other one still stands. The slots lie
in different sectors, the unit in which disks write. The JSON never changes in place; the whole file is replaced.

One flag says whether the upload is complete. Older versions do not set it, and all that they wrote is of tus: complete
if the offset is the length. The slot is committed before the JSON has a length that was declared at the end; so of an
upload that is complete the offset is the length.

The first numbers of a slot are those that every version of this format knows. An older version writes them alone; then
the second group belongs to another commit, which its number shows, and counts for nothing. A third group is the fence,
written only where that is not 0: a flag says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from tusserver.protocol.upload import Upload

SLOT_SPACE = 512
JSON_AT = 2 * SLOT_SPACE
_FINISHED = 1
_UNSYNCED = 2
_OWED = 4
_UNCLAIMED = 8
_COMPLETE = 16
_FENCED = 32
_FIELDS = struct.Struct(">QQQQQB16s")
_CRC = struct.Struct(">I")
_SLOT = _FIELDS.size + _CRC.size
_MORE = struct.Struct(">QQQQBB")
_WHOLE = _SLOT + _MORE.size + _CRC.size
_FENCE = struct.Struct(">QQ")
_LONGEST = _WHOLE + _FENCE.size + _CRC.size
_CELL = struct.Struct(">QB")
_CELL_AT = 256
_MARK = struct.Struct(">Q")
_MARK_AT = 320
_NUMBER = 8
"""Bytes."""
_MOST = 255
"""What one byte counts to."""
_PARSED = 512
"""Texts of records that are remembered, none longer than `_SHORT`."""
_SHORT = 4096
"""Bytes. That of a final upload of a thousand parts may be fifty times as long."""
_END = b"\n"
_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps would make one for each record


class IncompleteRecord(ValueError):
    """The creation of this record was cut off, so nobody was ever told of an upload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What one commit says."""

    number: int
    """Counts commits."""
    offset: int
    """Bytes that are written."""
    synced: int
    """Bytes that are known to be on disk, whatever happens to the machine's power."""
    expires_at: datetime | None
    finished: bool
    written_at: float
    """Seconds since the epoch."""
    boot: str
    """Run of the machine that wrote this: up to 16 ASCII characters."""
    unsynced: bool = False
    """Whether the commit had to wait for the disk: within this run of the machine it counts once it is marked."""
    owed: bool = False
    unclaimed: bool = False
    complete: bool = False
    """Not set by older versions; what they wrote is complete if the offset is the length."""
    clock: float | None = None
    """Seconds of that run of the machine; None in what an older version wrote."""
    told: int | None = None
    """Likewise; else see `Upload.told`."""
    takeovers: int = 0
    tries: int = 0
    retry_at: datetime | None = None
    fence: int = 0
    """See `Upload.fence`."""

    def pack(self) -> bytes:
        """Write a slot, much shorter than the place of the cell."""
        flags = (
            (_FINISHED if self.finished else 0)
            | (_UNSYNCED if self.unsynced else 0)
            | (_OWED if self.owed else 0)
            | (_UNCLAIMED if self.unclaimed else 0)
            | (_COMPLETE if self.complete else 0)
            | (_FENCED if self.fence else 0)
        )
        fields = _FIELDS.pack(
            self.number,
            self.offset,
            self.synced,
            _milliseconds(self.expires_at),
            round(self.written_at * 1000),
            flags,
            self.boot.encode(),
        )
        if self.clock is None:
            return _sealed(fields)
        more = _MORE.pack(
            self.number + 1,
            self.offset if self.told is None else self.told,
            round(self.clock * 1e6),
            _milliseconds(self.retry_at),
            min(self.takeovers, _MOST),
            min(self.tries, _MOST),
        )
        packed = _sealed(fields) + _sealed(more)
        return packed + _sealed(_FENCE.pack(self.number + 1, self.fence)) if self.fence else packed

    @classmethod
    def unpack(cls, space: bytes) -> Slot | None:
        """Read a slot; None if it is empty or torn."""
        fields = space[: _FIELDS.size]
        try:
            if not any(fields) or not _is_intact(space, 0, _FIELDS.size):
                return None
            number, offset, synced, expires, written, flags, boot = _FIELDS.unpack(fields)
            clock = told = retry = None
            takeovers = tries = fence = 0
            more = space[_SLOT : _SLOT + _MORE.size]
            if any(more):
                if not _is_intact(space, _SLOT, _MORE.size):
                    return None
                of, *numbers = _MORE.unpack(more)
                if of == number + 1:
                    told, clock, retry, takeovers, tries = numbers
            if flags & _FENCED:
                of, fence = _FENCE.unpack(space[_WHOLE : _WHOLE + _FENCE.size])
                if of != number + 1 or not _is_intact(space, _WHOLE, _FENCE.size):
                    return None
            return cls(
                number=number,
                offset=offset,
                synced=synced,
                expires_at=_moment(expires),
                finished=bool(flags & _FINISHED),
                written_at=written / 1000,
                boot=boot.rstrip(b"\0").decode(),
                unsynced=bool(flags & _UNSYNCED),
                owed=bool(flags & _OWED),
                unclaimed=bool(flags & _UNCLAIMED),
                complete=bool(flags & _COMPLETE),
                clock=None if clock is None else clock / 1e6,
                told=told,
                takeovers=takeovers,
                tries=tries,
                retry_at=_moment(retry),
                fence=fence,
            )
        except (struct.error, ValueError, OverflowError, OSError):
            return None

    @classmethod
    def of(cls, upload: Upload, *, number: int, synced: int, written_at: float, clock: float, boot: str) -> Slot:
        """Make the slot of a commit."""
        return cls(
            number=number,
            offset=upload.offset,
            synced=synced,
            expires_at=upload.expires_at,
            finished=upload.finished,
            written_at=written_at,
            boot=boot,
            owed=upload.owed,
            unclaimed=upload.unclaimed,
            complete=upload.complete,
            clock=clock,
            told=upload.told,
            takeovers=upload.takeovers,
            tries=upload.tries,
            retry_at=upload.retry_at,
            fence=upload.fence,
        )


def _sealed(fields: bytes) -> bytes:
    return fields + _CRC.pack(zlib.crc32(fields))


def _is_intact(space: bytes, at: int, size: int) -> bool:
    """Whether `size` bytes at `at` are followed by their CRC."""
    end = at + size
    return space[end : end + _CRC.size] == _CRC.pack(zlib.crc32(space[at:end]))


def _milliseconds(moment: datetime | None) -> int:
    return 0 if moment is None else round(moment.timestamp() * 1000)


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


class OpenRecord:
    """A record that stays open while bytes come in, so that a checkpoint is one write.

    For whoever holds the upload's lock: the number of the last slot is remembered and not read again. It is used in one
    thread after the other, and `end` waits for none of them.
    """

    __slots__ = ("_boot", "_ended", "_fd", "_last", "_using")

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._fd = -1
        self._last: Slot | None = None
        self._using = threading.Lock()
        self._ended = False

    @contextlib.contextmanager
    def use(self, path: Callable[[], str]) -> Iterator[Slot]:
        """Have it open, and return the last slot.

        Raises:
            FileNotFoundError, OSError
            ValueError: the record has no valid slot.
        """
        with self._using:
            if self._fd < 0:
                self._fd = os.open(path(), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._last = None
            try:
                last = self._last = self._last or read_slot(self._fd, self._boot)
                if last is None:
                    raise ValueError("neither slot is valid")
                yield last
            except BaseException:
                self._close()  # a commit follows, which numbers its slot by what it reads
                raise
        if self._ended:
            self._close_unused()

    def write(self, slot: Slot) -> None:
        """Record how far an unfinished upload is, without any sync, while it is open."""
        write_slot(self._fd, slot)
        self._last = slot

    def end(self) -> None:
        """Close it, now or when it is not used any more."""
        self._ended = True
        self._close_unused()

    def _close_unused(self) -> None:
        if self._using.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._using.release()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_slot(fd: int, boot: str) -> Slot | None:
    """Return the slot that counts; None if neither does."""
    return latest(os.pread(fd, JSON_AT, 0), boot)


def latest(head: bytes, boot: str) -> Slot | None:
    """Return the slot that counts in the first bytes of a record, in this run of the machine (`boot`).

    One that waits for the disk does not count until it is marked: nobody was told of it. After a restart of the machine
    it does, if it has reached the disk: whatever it tells of had reached it before.
    """
    one, two = head[:SLOT_SPACE], head[SLOT_SPACE:JSON_AT]
    if one[:_NUMBER] < two[:_NUMBER]:  # the number stands first, most significant byte first
        one, two = two, one
    first = Slot.unpack(one)
    if first is None:
        return Slot.unpack(two)
    if first.unsynced and first.boot == boot and _marked(head) != first.number:
        return Slot.unpack(two) or first
    return first


def reach(head: bytes) -> int:
    """Return up to which offset bytes may count: a slot that does not now may after a restart of the machine."""
    slots = [slot for slot in map(Slot.unpack, (head[:SLOT_SPACE], head[SLOT_SPACE:JSON_AT])) if slot is not None]
    return max(slots, key=lambda slot: slot.number).offset if slots else 0


def was_synced(head: bytes, slot: Slot) -> bool:
    """Whether a slot is known to be on the disk. The first one of a record overwrites none."""
    return slot.number == 0 or (slot.unsynced and _marked(head) == slot.number)


def _marked(head: bytes) -> int | None:
    mark = head[_MARK_AT : _MARK_AT + _MARK.size]
    found: int = _MARK.unpack(mark)[0] if len(mark) == _MARK.size else 0
    return found if _is_intact(head, _MARK_AT, _MARK.size) else None


def write_slot(fd: int, slot: Slot) -> None:
    """Write a slot over the one that does not count."""
    os.pwrite(fd, slot.pack(), SLOT_SPACE * (slot.number % 2))


def mark_synced(fd: int, slot: Slot) -> None:
    """Let a slot count that has reached the disk. Not in its place: a power cut may tear what is written."""
    os.pwrite(fd, _sealed(_MARK.pack(slot.number)), _MARK_AT)


def revert(fd: int, slot: Slot) -> None:
    """Let the slot before this one count again."""
    os.pwrite(fd, bytes(_WHOLE), SLOT_SPACE * (slot.number % 2))


def write_cell(fd: int, upload: Upload) -> None:
    """Note beside the slots what was told of an upload, also while somebody else commits."""
    os.pwrite(fd, _sealed(_CELL.pack(upload.told, not upload.unclaimed)), _CELL_AT)


def cell_of(head: bytes) -> bytes:
    """Return the cell as it is in the first bytes of a record."""
    return head[_CELL_AT : _CELL_AT + _CELL.size + _CRC.size]


def copy_cell(fd: int, cell: bytes) -> None:
    """Put a cell into another record."""
    os.pwrite(fd, cell, _CELL_AT)


def _with_cell(upload: Upload, slot: Slot, head: bytes) -> Upload:
    """Return the upload as slot and cell say. What was told cannot be more than there is."""
    told, claimed = slot.told, False
    cell = head[_CELL_AT : _CELL_AT + _CELL.size]
    if any(cell) and _is_intact(head, _CELL_AT, _CELL.size):
        also, claimed = _CELL.unpack(cell)
        told = None if told is None else max(told, also)
    complete = slot.complete or (slot.offset == upload.length and upload.completes_by_length)
    return Upload(
        id=upload.id,
        created_at=upload.created_at,
        offset=slot.offset,
        length=slot.offset if complete else upload.length,  # that in the JSON may come later
        complete=complete,
        protocol=upload.protocol,
        metadata=upload.metadata,
        role=upload.role,
        concat=upload.concat,
        parts=upload.parts,
        expires_at=slot.expires_at,
        finished=slot.finished,
        told=slot.offset if told is None else min(told, slot.offset),
        takeovers=slot.takeovers,
        owed=slot.owed,
        tries=slot.tries,
        retry_at=slot.retry_at,
        unclaimed=slot.unclaimed and not claimed,
        fence=slot.fence,
        updated_at=_moment(round(slot.written_at * 1000)),
        storage=upload.storage,
    )


class ParsedTexts:
    """Texts of records that a store has read or written last: requests for one upload come in rows, and the text stays
    the same for all of them."""

    def __init__(self) -> None:
        self._parsed: dict[bytes, Upload] = {}

    def parse(self, text: bytes) -> Upload:
        """Read the JSON.

        Raises:
            ValueError
        """
        known = self._parsed.get(text)
        return self.remember(text, _parse(text)) if known is None else known

    def remember(self, text: bytes, upload: Upload) -> Upload:
        """Return `upload`, which is what the text says."""
        if len(text) <= _SHORT:
            if len(self._parsed) >= _PARSED:
                self._parsed.clear()
            self._parsed[text] = upload
        return upload


def pack(upload: Upload, slot: Slot, cell: bytes = b"", parsed: ParsedTexts | None = None) -> bytes:
    """Write a whole record, with the cell of the one that it replaces."""
    head = bytearray(JSON_AT)
    line = slot.pack()
    start = SLOT_SPACE * (slot.number % 2)
    head[start : start + len(line)] = line
    head[_CELL_AT : _CELL_AT + len(cell)] = cell
    text = _encode(upload.to_json()).encode() + _END
    if parsed is not None:
        parsed.remember(text, upload)
    return bytes(head) + text


def unpack(content: bytes, boot: str, parsed: ParsedTexts | None = None) -> tuple[Upload, Slot]:
    """Read a whole record, in the run `boot` of the machine.

    Raises:
        IncompleteRecord: a crash or a power cut came while it was written for the first time.
        ValueError: it is none.
    """
    slot = latest(content[:JSON_AT], boot)
    if slot is None:
        # Nothing before the JSON, or nothing behind the place of the first slot.
        if not content[:JSON_AT].strip(b"\0") or not content[_LONGEST:].strip(b"\0"):
            raise IncompleteRecord
        raise ValueError("neither slot is valid")
    if slot.number == 0 and not content.endswith(_END):
        raise IncompleteRecord
    text = content[JSON_AT:]
    upload = _parse(text) if parsed is None else parsed.parse(text)
    return _with_cell(upload, slot, content), slot


def has_end(content: bytes) -> bool:
    """Whether the JSON was written to its end. What is missing of a file after a power cut reads as zeros."""
    return content[JSON_AT:].rstrip(b"\0").endswith(_END)


def _parse(text: bytes) -> Upload:
    try:
        return Upload.from_json(json.loads(text))
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"a field is missing or wrong: {error}") from error
