"""The record file of the file store: two slots for what changes with every request, then JSON for what does not.

    byte 0      slot A   a few numbers that end with their CRC
    byte 512    slot B   the same; the valid one with the higher number counts
    byte 1024   JSON     the rest of the upload

A commit writes the slot that does not count, so a torn write spoils nothing: the other one still stands. The slots lie
in different sectors, the unit in which disks write. The JSON never changes in place; the whole file is replaced.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime

from tusserver.protocol.upload import Upload

SLOT_SPACE = 512
JSON_AT = 2 * SLOT_SPACE
_FINISHED = 1
_FIELDS = struct.Struct(">QQQQQB16s")
_CRC = struct.Struct(">I")
_SLOT = _FIELDS.size + _CRC.size
_NUMBER = 8
"""Bytes."""
_KNOWN = 512
"""Texts of records that were read or written last."""
_END = b"\n"
_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps would make one for each record


class NeverMade(ValueError):
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

    def pack(self) -> bytes:
        """Write a slot, much shorter than `SLOT_SPACE`."""
        return _pack(
            self.number,
            self.offset,
            self.synced,
            self.expires_at,
            self.written_at,
            _FINISHED if self.finished else 0,
            self.boot.encode(),
        )

    @classmethod
    def unpack(cls, space: bytes) -> Slot | None:
        """Read a slot; None if it is empty or torn."""
        fields = space[: _FIELDS.size]
        try:
            if _CRC.unpack_from(space, _FIELDS.size)[0] != zlib.crc32(fields) or not any(fields):
                return None
            number, offset, synced, expires, written, flags, boot = _FIELDS.unpack(fields)
            return cls(
                number=number,
                offset=offset,
                synced=synced,
                expires_at=datetime.fromtimestamp(expires / 1000, UTC) if expires else None,
                finished=bool(flags & _FINISHED),
                written_at=written / 1000,
                boot=boot.rstrip(b"\0").decode(),
            )
        except (struct.error, ValueError, OverflowError, OSError):
            return None


def _pack(
    number: int, offset: int, synced: int, expires_at: datetime | None, written_at: float, flags: int, boot: bytes
) -> bytes:
    expires = 0 if expires_at is None else round(expires_at.timestamp() * 1000)
    fields = _FIELDS.pack(number, offset, synced, expires, round(written_at * 1000), flags, boot)
    return fields + _CRC.pack(zlib.crc32(fields))


class Progress:
    """A record that stays open while bytes come in, so that a checkpoint is one write.

    For whoever holds the upload's lock: the number of the last slot is remembered and not read again.

    Raises:
        FileNotFoundError, OSError
        ValueError: the record has no valid slot.
    """

    __slots__ = ("_boot", "_fd", "_number", "_synced")

    def __init__(self, path: str, boot: str) -> None:
        self._boot = boot.encode()
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        last = read_slot(self._fd)
        if last is None:
            self.close()
            raise ValueError("neither slot is valid")
        self._number = last.number
        self._synced = last.synced

    def move(self, upload: Upload, now: float) -> None:
        """Record how far an unfinished upload is, without any sync."""
        number = self._number + 1
        line = _pack(number, upload.offset, self._synced, upload.expires_at, now, 0, self._boot)
        os.pwrite(self._fd, line, SLOT_SPACE * (number % 2))
        self._number = number

    def close(self) -> None:
        os.close(self._fd)


def read_slot(fd: int) -> Slot | None:
    """Return the slot that counts; None if neither does."""
    return newer(os.pread(fd, JSON_AT, 0))


def newer(head: bytes) -> Slot | None:
    """Return the slot that counts in the first bytes of a record."""
    one, two = head[:SLOT_SPACE], head[SLOT_SPACE:JSON_AT]
    if one[:_NUMBER] < two[:_NUMBER]:  # the number stands first, most significant byte first
        one, two = two, one
    return Slot.unpack(one) or Slot.unpack(two)


def write_slot(fd: int, slot: Slot) -> None:
    """Write a slot over the one that does not count."""
    os.pwrite(fd, slot.pack(), SLOT_SPACE * (slot.number % 2))


def take_back(fd: int, slot: Slot) -> None:
    """Let the slot before this one count again."""
    os.pwrite(fd, bytes(SLOT_SPACE), SLOT_SPACE * (slot.number % 2))


def pack(upload: Upload, slot: Slot) -> bytes:
    """Write a whole record."""
    head = bytearray(JSON_AT)
    line = slot.pack()
    start = SLOT_SPACE * (slot.number % 2)
    head[start : start + len(line)] = line
    text = _encode(upload.to_json()).encode() + _END
    _remember(text, upload)
    return bytes(head) + text


def unpack(content: bytes) -> tuple[Upload, Slot]:
    """Read a whole record.

    Raises:
        NeverMade: a crash or a power cut came while it was written for the first time.
        ValueError: it is none.
    """
    slot = newer(content[:JSON_AT])
    if slot is None:
        # Nothing before the JSON, or nothing behind the place of the first slot.
        if not content[:JSON_AT].strip(b"\0") or not content[_SLOT:].strip(b"\0"):
            raise NeverMade
        raise ValueError("neither slot is valid")
    if slot.number == 0 and not content.endswith(_END):
        raise NeverMade
    upload = _parse(content[JSON_AT:])
    return upload.at(slot.offset, expires_at=slot.expires_at, finished=slot.finished), slot


def has_end(content: bytes) -> bool:
    """Whether the JSON was written to its end. What is missing of a file after a power cut reads as zeros."""
    return content[JSON_AT:].rstrip(b"\0").endswith(_END)


def _parse(text: bytes) -> Upload:
    """Read the JSON; requests for one upload come in rows, and it stays the same for all of them."""
    known = _known.get(text)
    if known is not None:
        return known
    try:
        return _remember(text, Upload.from_json(json.loads(text)))
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"a field is missing or wrong: {error}") from error


def _remember(text: bytes, upload: Upload) -> Upload:
    if len(_known) >= _KNOWN:
        _known.clear()
    _known[text] = upload
    return upload


_known: dict[bytes, Upload] = {}
