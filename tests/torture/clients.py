"""Clients, each with habits of its own, that go on until they are told to stop."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tests.support.tus import Tus
from tests.torture.order import REFUSED
from tests.torture.upload import Absent, Asker, Sending, Unheard, Upload, make_content

KIB = 1024
WAIT = 0.02
"""Seconds until a client asks again."""
GLANCE = 0.005
"""Seconds between two looks of a stranger."""
RECENT = 24
"""Uploads that strangers know of."""
CALM = Sending()


class Commons:
    """What all clients share: the uploads that strangers look at."""

    def __init__(self) -> None:
        self.climax = threading.Event()
        """Set by a client that is about to complete something: the best moment for a torment."""
        self._lock = threading.Lock()
        self._recent: deque[Upload] = deque(maxlen=RECENT)

    def add(self, upload: Upload) -> None:
        """Let strangers know of it."""
        with self._lock:
            self._recent.append(upload)

    def any(self, rng: random.Random) -> Upload | None:
        """One of the last; None before the first."""
        with self._lock:
            return rng.choice(self._recent) if self._recent else None


class Stranger:
    """Looks at uploads of others all the time, through any of several processes that serve them."""

    def __init__(self, endpoints: Sequence[str], commons: Commons, seed: str, stop: threading.Event) -> None:
        self._doors = [Tus(endpoint) for endpoint in endpoints]
        self._commons = commons
        self._rng = random.Random(seed)
        self._stop = stop

    def run(self) -> None:
        """Look at one after another; mostly more than once, as a page does that shows how far it came."""
        while not self._stop.wait(GLANCE):
            upload = self._commons.any(self._rng)
            looks = self._rng.randint(1, 6)
            while upload is not None and looks and not self._stop.wait(GLANCE):
                looks -= 1
                door = self._rng.choice(self._doors)
                ask = upload.head if self._rng.random() < 0.8 else upload.get
                try:
                    ask(door)
                except Absent:
                    self._stop.wait(WAIT)
                else:
                    upload.ledger.count("looks of strangers")


class Client:
    """One client and, where two are needed, its rival; what it does follows from `seed` alone."""

    def __init__(self, asker: Asker, seed: str, commons: Commons, stop: threading.Event, *, joins: bool = True) -> None:
        self._asker = asker
        self._ledger = asker.ledger
        self._commons = commons
        self._rng = random.Random(seed)
        self._rival_rng = random.Random(f"{seed} rival")
        self._stop = stop
        self._joins = joins
        self.uploads: list[Upload] = []
        """What it has made."""

    def run(self) -> None:
        """Do one thing after another."""
        habits: list[Callable[[], None]] = [
            self._in_pieces, self._at_once, self._with_creation, self._deferred, self._with_checksums,
            self._in_parallel, self._against_a_rival, self._deleted_meanwhile, self._left_alone,
        ]  # fmt: skip
        if self._joins:
            habits += [self._joined_early] * 2
        with ThreadPoolExecutor(1) as self._rival:
            while not self._stop.is_set():
                self._rng.choice(habits)()

    # habits ----------------------------------------------------------------------------------------------------------

    def _in_pieces(self) -> None:
        if upload := self._create(self._size()):
            self._push(upload, self._rng, limit=upload.born.total // self._rng.randint(1, 8) + 1)
            self._end(upload)

    def _at_once(self) -> None:
        if upload := self._create(self._size(1 << 21)):
            self._push(upload, self._rng)
            self._end(upload)

    def _with_creation(self) -> None:
        size = self._size()
        if upload := self._create(size, first=self._rng.choice([size, size // 2])):
            self._push(upload, self._rng)
            self._end(upload)

    def _deferred(self) -> None:
        if upload := self._create(self._size(), deferred=True):
            self._push(upload, self._rng, limit=upload.born.total // 3 + 1)
            self._end(upload)

    def _with_checksums(self) -> None:
        if upload := self._create(self._size(256 * KIB)):
            self._push(upload, self._rng, limit=upload.born.total // 3 + 1, checksums=True)
            self._end(upload)

    def _in_parallel(self) -> None:
        parts = [self._create(self._size(128 * KIB), partial=True) for _ in range(2)]
        there = [part for part in parts if part is not None]
        if len(there) < len(parts):
            return
        beside = self._rival.submit(self._push, there[1], self._rival_rng)
        whole = self._push(there[0], self._rng)
        if not beside.result() or not whole:
            return
        if final := self._final(self._name(), there):
            self._keep(final)
            self._end(final)

    def _joined_early(self) -> None:
        """The final upload is made before its parts are complete, often by two at once, and asked for again."""
        parts = [self._create(self._size(128 * KIB), partial=True) for _ in range(self._rng.randint(2, 3))]
        there = [part for part in parts if part is not None]
        if len(there) < len(parts):
            return
        name = self._name()
        twice, again, seen = (self._rng.random() < chance for chance in (0.3, 0.5, 0.7))
        beside = self._rival.submit(self._final, name, there) if twice else None
        final = self._final(name, there)
        other = beside.result() if beside is not None else None
        if final is None:
            return
        self._keep(final, seen=seen)
        self._same(final, other)
        pushing = self._rival.submit(self._push, there[1], self._rival_rng)
        for part in (there[0], *there[2:]):
            self._push(part, self._rng)
        pushing.result()
        if again:
            self._same(final, self._final(name, there))
        if seen and self._rng.random() < 0.5:
            self._end(final)

    def _same(self, final: Upload, other: Upload | None) -> None:
        """See that who asks again for what is there gets what is there."""
        if other is None or other.url == final.url:
            return
        if final.lives(time.monotonic()) and not final.born.refused:
            self._ledger.accuse(f"POST of one final upload gave {final.url}, and asked again {other.url}")
        self._keep(other)

    def _against_a_rival(self) -> None:
        if upload := self._create(self._size()):
            beside = self._rival.submit(self._push, upload, self._rival_rng)
            self._push(upload, self._rng)
            beside.result()
            self._end(upload)

    def _deleted_meanwhile(self) -> None:
        if upload := self._create(self._size()):
            beside = self._rival.submit(self._push, upload, self._rival_rng)
            self._stop.wait(self._rng.random() * 0.3)
            self._delete(upload)
            beside.result()

    def _left_alone(self) -> None:
        if upload := self._create(self._size()):
            self._once(lambda: upload.patch(upload.born.offset, upload.born.total // 2, CALM))

    # steps -----------------------------------------------------------------------------------------------------------

    def _name(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    def _size(self, most: int = 1 << 20) -> int:
        """Mostly small, as the large ones take the time."""
        return int(most ** self._rng.uniform(0.4, 1)) + 1

    def _keep(self, upload: Upload, *, seen: bool = True) -> None:
        self.uploads.append(upload)
        if seen:
            self._commons.add(upload)

    def _create(self, size: int, *, first: int = 0, deferred: bool = False, partial: bool = False) -> Upload | None:
        content = make_content(self._rng, size)
        while not self._stop.is_set():
            with suppress(Absent, Unheard):
                upload = self._asker.create(self._name(), content, first=first, deferred=deferred, partial=partial)
                if upload is not None:
                    self._keep(upload)
                    return upload
            self._stop.wait(WAIT)
        return None

    def _final(self, name: str, parts: list[Upload]) -> Upload | None:
        """Ask for a final upload until there is an answer; None if it is no."""
        while not self._stop.is_set():
            self._commons.climax.set()
            with suppress(Absent, Unheard):
                return self._asker.join(name, parts)
            self._ledger.count("final uploads asked for again")
            self._stop.wait(WAIT)
        return None

    def _push(self, upload: Upload, rng: random.Random, limit: int = 1 << 30, checksums: bool = False) -> bool:
        """Ask for the offset and send from there, until it is complete, gone, or all stops."""
        while not self._stop.is_set():
            try:
                offset = upload.head()
                if offset == len(upload.content):
                    return True
                if offset is not None:
                    size = min(limit, len(upload.content) - offset)
                    if offset + size == len(upload.content):
                        self._commons.climax.set()
                    status = upload.patch(offset, size, self._manner(rng, checksums))
                    if status in (404, REFUSED):
                        return False
                    if status in (204, 409):
                        continue
                elif upload.gone:
                    return False
            except Absent:
                pass
            self._stop.wait(WAIT)
        return False

    def _manner(self, rng: random.Random, checksums: bool) -> Sending:
        """Often plain; else slow, with pauses in which a rival may take over, or cut short."""
        whole = rng.choice(["right", "right", "right", "wrong"]) if checksums else ""
        if rng.random() < 0.4:
            return Sending(whole=whole)
        pause = rng.choice([0.0, 0.01, 0.05, 0.3])
        cut = rng.choice(["", "", "", "reset", "close", "end"])
        return Sending(pieces=rng.randint(2, 6), pause=pause, cut=cut, whole=whole)

    def _end(self, upload: Upload) -> None:
        """Look at what has become of it, and remove some."""
        self._once(upload.get)
        if self._rng.random() < 0.4:
            self._delete(upload)

    def _delete(self, upload: Upload) -> None:
        while not self._stop.is_set():
            try:
                if upload.delete() in (204, 404):
                    return
            except Absent:
                pass
            self._stop.wait(WAIT)

    def _once(self, ask: Callable[[], int | None]) -> None:
        try:
            ask()
        except Absent:
            self._stop.wait(WAIT)
