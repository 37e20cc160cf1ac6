"""Clients, each with habits of its own, that go on until they are told to stop."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.tus import Tus
from tests.torture.ledger import Ledger
from tests.torture.upload import Absent, Manner, Upload, create, join, make_content

KIB = 1024
WAIT = 0.02
"""Seconds until a client asks again."""
CALM = Manner()


class Client:
    """One client and, where two are needed, its rival; what it does follows from `seed` alone."""

    def __init__(self, endpoint: str, ledger: Ledger, seed: str, life: float, stop: threading.Event) -> None:
        self._endpoint = endpoint
        self._ledger = ledger
        self._rng = random.Random(seed)
        self._rival_rng = random.Random(f"{seed} rival")
        self._life = life
        self._stop = stop
        self.uploads: list[Upload] = []
        """What it has made."""

    def run(self) -> None:
        """Do one thing after another."""
        habits: list[Callable[[], None]] = [
            self._in_pieces, self._at_once, self._with_creation, self._deferred, self._with_checksums,
            self._in_parallel, self._against_a_rival, self._deleted_meanwhile, self._left_alone,
        ]  # fmt: skip
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
        while not self._stop.is_set():
            try:
                final = join(self._tus(), self._ledger, there, self._life)
            except Absent:
                self._stop.wait(WAIT)
                continue
            if final is not None:
                self.uploads.append(final)
                self._end(final)
            return

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

    def _tus(self) -> Tus:
        return Tus(self._endpoint)

    def _size(self, most: int = 1 << 20) -> int:
        """Mostly small, as the large ones take the time."""
        return int(most ** self._rng.uniform(0.4, 1)) + 1

    def _create(self, size: int, *, first: int = 0, deferred: bool = False, partial: bool = False) -> Upload | None:
        content = make_content(self._rng, size)
        while not self._stop.is_set():
            try:
                upload = create(
                    self._tus(), self._ledger, content, self._life, first=first, deferred=deferred, partial=partial
                )
            except Absent:
                self._stop.wait(WAIT)
                continue
            if upload is not None:
                self.uploads.append(upload)
                return upload
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
                    status = upload.patch(offset, size, self._manner(rng, checksums))
                    if status in (404, 410):
                        return False
                    if status in (204, 409):
                        continue
                elif upload.gone:
                    return False
            except Absent:
                pass
            self._stop.wait(WAIT)
        return False

    def _manner(self, rng: random.Random, checksums: bool) -> Manner:
        """Often plain; else slow, with pauses in which a rival may take over, or cut short."""
        whole = rng.choice(["right", "right", "right", "wrong"]) if checksums else ""
        if rng.random() < 0.4:
            return Manner(whole=whole)
        pause = rng.choice([0.0, 0.01, 0.05, 0.3])
        cut = rng.choice(["", "", "", "reset", "close", "end"])
        return Manner(pieces=rng.randint(2, 6), pause=pause, cut=cut, whole=whole)

    def _end(self, upload: Upload) -> None:
        """Look at what has become of it, and remove some."""
        self._once(upload.get)
        if self._rng.random() < 0.4:
            self._delete(upload)

    def _delete(self, upload: Upload) -> None:
        while not self._stop.is_set():
            try:
                if upload.delete() in (204, 404, 410):
                    return
            except Absent:
                pass
            self._stop.wait(WAIT)

    def _once(self, ask: Callable[[], int | None]) -> None:
        try:
            ask()
        except Absent:
            self._stop.wait(WAIT)
