"""One upload and everything that clients ask of it, noted down for `order`."""

from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import dataclass, field, replace

from tests.support.tus import OCTETS, Headers, Tus, checksum, metadata, patching
from tests.support.wire import Answer, Connection, HungUp, NoAnswer
from tests.torture.fate import fate_of
from tests.torture.ledger import Ledger
from tests.torture.order import REFUSED, SLACK, Born, Op, Verb

TIMEOUT = 20.0
"""Seconds within which the server has to answer, or to hang up, what was sent wholly. It is asked twice."""

FINE = {
    Verb.HEAD: {200, 404, 423},
    Verb.GET: {200, 404, 423, 503},
    Verb.PATCH: {204, 404, 409, 423, 460, 503, 507},
    Verb.DELETE: {204, 404, 423, 503},
}
"""Every answer that may be given, if no app fails."""


class Absent(Exception):
    """The server takes no connection: nothing was asked."""


class Unheard(Exception):
    """The server was asked, and no answer came."""


def connect(tus: Tus) -> Connection:
    """Open a connection that keeps no protocol of what passes.

    Raises:
        Absent
    """
    try:
        return Connection(tus.endpoint)
    except OSError:
        raise Absent from None


def hear(connection: Connection, ledger: Ledger, what: str) -> Answer | None:
    """Wait for an answer; None if the connection ended without one."""
    for _ in range(2):  # all may have been frozen, the server too
        try:
            return connection.answer(TIMEOUT)
        except HungUp:
            return None
        except NoAnswer:
            continue
    ledger.accuse(f"no answer to {what}")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How a body is sent."""

    pieces: int = 1
    pause: float = 0.0
    """Seconds between two of them."""
    cut: str = ""
    """What happens after the last but one of several pieces: the client resets, closes, or ends its side."""
    whole: str = ""
    """Whether a checksum goes along, right or wrong."""


@dataclass(slots=True, kw_only=True)
class Upload:
    """An upload that exists, as its clients know it. `content` are the bytes that it shall have in the end."""

    tus: Tus
    url: str
    content: bytes
    born: Born
    ledger: Ledger
    name: str = ""
    told_at: float = math.inf
    """When the answer to its creation was there."""
    deferred: bool = False
    """Its length is told with the last piece."""
    ops: list[Op] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def id(self) -> str:
        """As the store knows it."""
        return self.url.rsplit("/", 1)[1]

    @property
    def gone(self) -> bool:
        """Whether any client has heard that it is."""
        return any(op.status == 404 and op.verb is not Verb.GET for op in self.ops)

    @property
    def heard(self) -> int | None:
        """Status of the last answer, while only one client is there."""
        return self.ops[-1].status if self.ops else None

    @property
    def told(self) -> int | None:
        """Offset in the last answer, likewise."""
        return self.ops[-1].offset if self.ops else None

    def lives(self, now: float) -> bool:
        """Whether it cannot have expired."""
        written = [op.begin for op in self.ops if op.verb is Verb.PATCH and op.status == 204]
        return now < max([self.born.at, *written]) + self.born.life - SLACK

    def head(self, tus: Tus | None = None) -> int | None:
        """Ask for the offset, of another process of the server if given; None if the answer has none."""
        answer = self._ask(Verb.HEAD, tus)
        if answer is None or answer.status != 200 or answer["Upload-Offset"] is None:
            return None
        return int(answer["Upload-Offset"])

    def get(self, tus: Tus | None = None) -> int | None:
        """Download it and compare every byte; return the status."""
        answer = self._ask(Verb.GET, tus)
        return None if answer is None else answer.status

    def delete(self) -> int | None:
        """Remove it; return the status."""
        answer = self._ask(Verb.DELETE)
        return None if answer is None else answer.status

    def patch(self, at: int, size: int, sending: Sending) -> int | None:
        """Send bytes from an offset on; return the status."""
        body = self.content[at : at + size]
        headers: dict[str, str | bytes | None] = {**patching(at), "Content-Length": str(len(body))}
        if self.deferred and at + size >= len(self.content):
            headers["Upload-Length"] = str(len(self.content))
        if sending.whole:
            headers["Upload-Checksum"] = checksum(body if sending.whole == "right" else body + b"!")
        begin = time.monotonic()
        with connect(self.tus) as connection:
            connection.ask("PATCH", self.tus.target(self.url), self.tus.fields(headers))
            sent = self._send(connection, body, sending)
            answer = None if sending.cut in ("close", "reset") else hear(connection, self.ledger, f"PATCH {self.url}")
        self._note(Verb.PATCH, begin, answer, at=at, sent=sent, whole=bool(sending.whole), cut=bool(sending.cut))
        return None if answer is None else answer.status

    def _send(self, connection: Connection, body: bytes, sending: Sending) -> int:
        """Return the most bytes that may arrive."""
        step = -(-len(body) // sending.pieces) or 1
        for at in range(0, len(body), step):
            if at and sending.pause:
                threading.Event().wait(sending.pause)
            if sending.cut and at + step >= len(body):
                {"reset": connection.cut, "close": connection.close}.get(sending.cut, connection.finish_sending)()
                return at
            if not connection.send(body[at : at + step]):
                return min(at + step, len(body))
        return len(body)

    def _ask(self, verb: Verb, tus: Tus | None = None) -> Answer | None:
        tus = tus or self.tus
        begin = time.monotonic()
        headers: Headers = {"Tus-Resumable": None} if verb is Verb.GET else {}
        with connect(tus) as connection:
            tus.ask(connection, verb.value, self.url, headers)
            answer = hear(connection, self.ledger, f"{verb.value} {self.url}")
        self._note(verb, begin, answer)
        return answer

    def _note(
        self,
        verb: Verb,
        begin: float,
        answer: Answer | None,
        *,
        at: int = 0,
        sent: int = 0,
        whole: bool = False,
        cut: bool = False,
    ) -> None:
        end = time.monotonic()
        self.ledger.count("requests")
        if answer is None:
            self.ledger.count("without an answer")
            if not cut and not self.ledger.tormented(begin, deadly=True):
                self.ledger.accuse(f"{verb.value} {self.url} got no answer from a server that lived")
            self._add(Op(verb=verb, begin=begin, at=at, sent=sent, whole=whole))
            return
        self.ledger.count(f"answers {answer.status} to {verb.value}")
        if b"ERR_UPLOAD_LOCKED" in answer.body and verb is not Verb.GET and not self.ledger.tormented(begin):
            self.ledger.accuse(f"{verb.value} {self.url} could not take over from a process that was well")
        if answer.status not in FINE[verb] | (may_answer(self.born) if verb is Verb.PATCH else set()):
            self.ledger.accuse(f"{verb.value} {self.url} was answered {answer!r} {answer.body[:200]!r}")
            return
        said = answer["Upload-Offset"]
        offset = int(said) if said is not None else None
        if verb is Verb.GET and answer.status == 200:
            offset = len(answer.body)
            self.ledger.count("bytes checked", len(answer.body))
            if answer.body != self.content:
                self.ledger.accuse(f"GET {self.url} gave {differing(answer.body, self.content)}")
        self._add(
            Op(verb=verb, begin=begin, end=end, status=answer.status, offset=offset, at=at, sent=sent, whole=whole)
        )

    def _add(self, op: Op) -> None:
        with self._lock:
            self.ops.append(op)


def differing(found: bytes, wanted: bytes) -> str:
    """Where bytes differ, in words."""
    at = next((at for at, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), None)
    return f"{len(found)} bytes of {len(wanted)}" + ("" if at is None else f", wrong from byte {at}")


def may_answer(born: Born) -> set[int]:
    """What may be answered beyond the usual, as an app fails or refuses."""
    return ({500} if born.called else set()) | ({REFUSED} if born.refused else set())


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Makes uploads. `called`: whether the server has an app that is told of each that is complete."""

    tus: Tus
    ledger: Ledger
    life: float
    called: bool = False

    def create(
        self, name: str, content: bytes, *, first: int = 0, deferred: bool = False, partial: bool = False
    ) -> Upload | None:
        """Create an upload, `first` bytes along with it; None if that was not answered with a URL.

        Raises:
            Absent, Unheard
        """
        headers: dict[str, str | bytes | None] = {"Upload-Defer-Length": "1"} if deferred else {}
        if not deferred:
            headers["Upload-Length"] = str(len(content))
        if partial:
            headers["Upload-Concat"] = "partial"
        if first:
            headers["Content-Type"] = OCTETS
        born = Born(
            at=time.monotonic(),
            offset=0,
            total=len(content),
            life=self.life,
            called=self.called and not partial,
            refused=self.called and not partial and fate_of(name).refused,
        )
        answer = self._post(name, headers, content[:first])
        if answer.status != 201:
            fine = {503, 507} | (may_answer(born) if first == len(content) else set())
            if answer.status not in fine:
                self._accuse(answer)
            return None
        born = replace(born, offset=int(answer["Upload-Offset"] or 0))
        return self._made(name, answer, content, born, deferred=deferred)

    def join(self, name: str, parts: list[Upload]) -> Upload | None:
        """Ask for the final upload of some parts; None if that was refused.

        Raises:
            Absent, Unheard
        """
        headers = {"Upload-Concat": f"final;{' '.join(self.tus.target(part.url) for part in parts)}"}
        content = b"".join(part.content for part in parts)
        born = Born(
            at=time.monotonic(),
            offset=0,
            total=len(content),
            life=self.life,
            joined=True,
            called=self.called,
            refused=self.called and fate_of(name).refused,
        )
        answer = self._post(name, headers, b"")
        if answer.status != 201:
            gone = {400, 404} if not all(part.lives(time.monotonic()) for part in parts) else set()
            if answer.status not in {423, 503, 507} | gone | may_answer(born):
                self._accuse(answer)
            return None
        return self._made(name, answer, content, born)

    def _post(self, name: str, headers: Headers, body: bytes) -> Answer:
        with connect(self.tus) as connection:
            self.tus.ask(connection, "POST", "", {"Upload-Metadata": metadata(filename=name), **headers}, body)
            answer = hear(connection, self.ledger, "POST")
        self.ledger.count("requests")
        if answer is None:
            self.ledger.count("without an answer")
            raise Unheard
        self.ledger.count(f"answers {answer.status} to POST")
        return answer

    def _made(self, name: str, answer: Answer, content: bytes, born: Born, *, deferred: bool = False) -> Upload:
        self.ledger.count("uploads")
        return Upload(
            tus=self.tus,
            url=self.tus.located(answer),
            content=content,
            born=born,
            ledger=self.ledger,
            name=name,
            told_at=time.monotonic(),
            deferred=deferred,
        )

    def _accuse(self, answer: Answer) -> None:
        self.ledger.accuse(f"POST was answered {answer!r} {answer.body[:200]!r}")


def make_content(rng: random.Random, size: int) -> bytes:
    """Bytes that are the same for the same seed, and unlike any others."""
    return rng.randbytes(size)
