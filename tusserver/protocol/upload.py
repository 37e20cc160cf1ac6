"""Upload, the record: what an upload is, its progress, and its JSON form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NewType

from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.metadata import Metadata

UploadId = NewType("UploadId", str)
"""An id that passed `as_upload_id`: safe in a URL and as a file name."""

ID_DIGITS = 32
"""Characters of an id where the application does not make its own."""
TUS = "tus"
"""Protocol of uploads that are complete as soon as their offset is their length."""
FORMAT = 1
"""Version of the JSON form of uploads of tus, as every version reads it."""
FORMAT_OF_OTHERS = 2
"""Version for uploads of other protocols: to an older version one that has all its bytes would be complete."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


def as_upload_id(text: str) -> UploadId:
    """Check that `text` can be an id: 1 to 128 letters, digits, `-` and `_`.

    Raises:
        UploadNotFound: it cannot, so no upload has it.
    """
    if _ID.fullmatch(text) is None:
        raise UploadNotFound
    return UploadId(text)


class Role(StrEnum):
    """Role of an upload in a concatenation."""

    REGULAR = "regular"
    PARTIAL = "partial"
    FINAL = "final"


_NO_FACTS: Mapping[str, str] = {}  # one for all of them; no MappingProxyType, as that cannot be copied or pickled


def _no_facts() -> Mapping[str, str]:
    return _NO_FACTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One upload. `offset` says what exists: bytes beyond it do not exist yet.

    Never changed in place. How far it is, and until when it lives, is decided by `rules`; the service and the store
    note further facts in copies of it.
    """

    id: UploadId
    created_at: datetime
    """UTC."""
    offset: int = 0
    """Bytes."""
    length: int | None = None
    """Bytes of the whole upload; None until declared (Upload-Defer-Length), or until it is complete."""
    complete: bool = False
    """Whether all bytes are stored, and no more can follow."""
    protocol: str = TUS
    """Name of the dialect that created it (`Dialect.name`). Only requests in the same one add bytes."""
    metadata: Metadata = field(default_factory=Metadata)
    role: Role = Role.REGULAR
    concat: str | None = None
    """Upload-Concat as the client sent it."""
    parts: tuple[UploadId, ...] = ()
    """Of a final upload, in order."""
    expires_at: datetime | None = None
    """UTC. When an unfinished upload is removed; once finished, when its retention ends."""
    finished: bool = False
    """Whether everything that follows completion is done: named, and the application called."""
    told: int = 0
    """Highest offset that a client was told. It is binding; bytes beyond it can still be discarded."""
    takeovers: int = 0
    """Requests in a row that were interrupted by a newer one."""
    owed: bool = False
    """Whether an application must accept the upload before it is finished."""
    tries: int = 0
    """How often the application has failed to accept it."""
    retry_at: datetime | None = None
    """UTC. When the application is called again."""
    unclaimed: bool = False
    """Of a final upload: whether no client knows its URL, as the one that asked for it disconnected."""
    fence: int = 0
    """Of the lease under which it was committed last; 0 where a lock is lost only with its process. A store refuses
    what is committed under an older one."""
    updated_at: datetime | None = field(default=None, compare=False)
    """UTC. When bytes were added last, or when it was finished; set by the store."""
    storage: Mapping[str, str] = field(default_factory=_no_facts, hash=False)
    """What the store needs to find the bytes. Its names are for the store alone; it is never changed in place."""

    @property
    def completes_by_length(self) -> bool:
        """Whether it is complete as soon as its offset is its length; else a request has to say so."""
        return self.protocol == TUS

    @property
    def untouched(self) -> bool:
        """Whether clients send its bytes, and none was stored yet."""
        return self.offset == 0 and self.length != 0 and self.role is not Role.FINAL

    @property
    def pending(self) -> bool:
        """Whether this is a final upload that waits for its parts."""
        return self.role is Role.FINAL and not self.complete

    @property
    def withheld(self) -> bool:
        """Whether it is complete, and the application that must know has not accepted it yet."""
        return self.owed and self.complete and not self.finished

    def to_json(self) -> dict[str, Any]:
        """Return all but what is committed with every request (see `with_progress`)."""
        # As older versions know these two; they do not read the others. Another store may mean something else by them.
        known = ("path", "mtime_ns") if _is_number(self.storage.get("mtime_ns", "0")) else ()
        named = {name: self.storage[name] for name in known if name in self.storage}
        data: dict[str, Any] = {
            "format": FORMAT if self.protocol == TUS else FORMAT_OF_OTHERS,
            "id": self.id,
            "created_at": self.created_at.timestamp(),
            "length": self.length,
            "metadata": self.metadata.text,
            "role": self.role.value,
            "concat": self.concat,
            "parts": list(self.parts),
            "place": named.get("path"),
            "seal": int(named["mtime_ns"]) if "mtime_ns" in named else None,
        }
        if others := {name: fact for name, fact in self.storage.items() if name not in named}:
            data["storage"] = others
        if self.protocol != TUS:
            data["protocol"] = self.protocol
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Upload:
        """Rebuild an upload, but for what is committed with every request (see `with_progress`).

        Raises:
            ValueError, KeyError, TypeError: this is no record of ours, or one of a newer version.
        """
        if data["format"] not in (FORMAT, FORMAT_OF_OTHERS):
            raise ValueError(f"record of format {data['format']}, this version reads up to {FORMAT_OF_OTHERS}")
        return cls(
            id=UploadId(data["id"]),
            created_at=datetime.fromtimestamp(data["created_at"], UTC),
            length=data["length"],
            protocol=TUS if data["format"] == FORMAT else str(data["protocol"]),
            metadata=Metadata(data["metadata"]),
            role=Role(data["role"]),
            concat=data["concat"],
            parts=tuple(UploadId(part) for part in data["parts"]),
            storage=_storage(data),
        )

    def with_progress(
        self,
        offset: int,
        *,
        expires_at: datetime | None,
        finished: bool,
        complete: bool | None = None,
        told: int | None = None,
        takeovers: int | None = None,
    ) -> Upload:
        """Return the upload as it is at another point of its life. (`dataclasses.replace` takes twice as long.)

        `complete`: by default as it is, but False at another offset.
        """
        return Upload(
            id=self.id,
            created_at=self.created_at,
            offset=offset,
            length=self.length,
            complete=self.complete and offset == self.offset if complete is None else complete,
            protocol=self.protocol,
            metadata=self.metadata,
            role=self.role,
            concat=self.concat,
            parts=self.parts,
            expires_at=expires_at,
            finished=finished,
            told=self.told if told is None else told,
            takeovers=self.takeovers if takeovers is None else takeovers,
            owed=self.owed,
            tries=self.tries,
            retry_at=self.retry_at,
            unclaimed=self.unclaimed,
            fence=self.fence,
            updated_at=self.updated_at,
            storage=self.storage,
        )


def _is_number(fact: str) -> bool:
    """Whether it is the same again once it was an integer."""
    try:
        return str(int(fact)) == fact
    except ValueError:
        return False


def _storage(data: Mapping[str, Any]) -> Mapping[str, str]:
    found = {str(name): str(fact) for name, fact in data.get("storage", {}).items()}
    for name, known in (("path", data["place"]), ("mtime_ns", data["seal"])):
        if known is not None:
            found[name] = str(known)
    return found or _NO_FACTS
