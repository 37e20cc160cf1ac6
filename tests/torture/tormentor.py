"""Starts a server over and over, and lets it suffer: killed, stopped, frozen, as a whole or one of its processes."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.clock import Clock
from tests.support.ports import free_port
from tests.support.processes import children, lives
from tests.support.server import TusServer
from tests.support.tus import eventually
from tests.torture.ledger import Ledger

MODULE = "tests.torture.app"
"""What is run."""
DURABILITIES = ("none", "finish", "ack")
CALM = 0.6
"""Most seconds between two torments."""
MOMENT = 0.03
"""Most seconds between a climax and the torment that it calls for."""
FORMER = 20.0
"""Seconds in which workers whose parent was killed end by themselves."""
HOUR = 3600.0
STEPS = (HOUR, -HOUR, 10 * 365 * 24 * HOUR)
"""Seconds by which the wall clock is wrong for a moment: summer time, set by hand; a dead battery."""
EXPECTED = ("the parent process is gone", "NotToday")
"""What the log tells of what is done to the server, and of an app that fails on purpose."""
_RECORD = re.compile(r"\d{4}-\d\d-\d\dT\S+ (\w+) ")


class Tormentor:
    """A server on one port and one data folder, with another durability at each start.

    `env`: its further environment; `clock`: its wall clock, if that is to be wrong at times.
    """

    def __init__(
        self,
        storage: Path,
        ledger: Ledger,
        seed: str,
        *options: str,
        workers: int,
        sweep: float,
        env: dict[str, str],
        clock: Clock | None = None,
    ) -> None:
        self._storage = storage
        self._ledger = ledger
        self._rng = random.Random(seed)
        self._workers = workers
        self._options = [*options, "--workers", str(workers), "--sweep-interval", f"{sweep}s"]
        self._env = env
        self._clock = clock
        self._port = free_port()
        self._former: list[int] = []
        self.server = self._start()

    def run(self, stop: threading.Event, climax: threading.Event) -> None:
        """Torment until told to stop, at any moment or right after the next `climax`; leave a server that runs."""
        torments: list[Callable[[], None]] = [*[self._kill] * 8, self._terminate, self._freeze]
        if self._workers > 1:
            torments += [self._kill_worker] * 6 + [self._kill_parent] * 3
        if self._clock is not None:
            torments += [self._step] * (len(torments) // 5)
        survived = (self._freeze, self._step)
        while not stop.wait(self._rng.random() * CALM):
            if self._rng.random() < 0.5:
                climax.clear()
                climax.wait(CALM)
                stop.wait(self._rng.random() * MOMENT)
            torment = self._rng.choice(torments)
            with self._ledger.torment(deadly=torment not in survived):
                torment()
        self._outlive()

    def finish(self) -> None:
        """End the server as an operator does, and see that nothing of it lives on."""
        with self._ledger.torment(deadly=True):
            self._stop()
        self._hear()
        self._outlive()

    def _outlive(self) -> None:
        """See workers without a parent end: until then they answer on the same port."""
        if not eventually(lambda: not any(map(lives, self._former)), FORMER):
            self._ledger.accuse(f"workers outlive their parent: {[pid for pid in self._former if lives(pid)]}")

    def abandon(self) -> None:
        """Leave no process behind, whatever happened."""
        for process in [*children(self.server.pid), *self._former]:
            _send(process, signal.SIGKILL)
        _send(self.server.pid, signal.SIGKILL)

    # torments --------------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        """All processes at once, as a crash of the machine does but for the disk."""
        _send(self.server.pid, signal.SIGSTOP)  # it shall not start another one meanwhile
        everyone = [*children(self.server.pid), self.server.pid]
        for process in everyone:
            _send(process, signal.SIGKILL)
        self._former += everyone
        self._ledger.count("kills")
        self._restart()

    def _kill_worker(self) -> None:
        if workers := children(self.server.pid):
            _send(self._rng.choice(workers), signal.SIGKILL)
            self._ledger.count("kills")
            self._ledger.count("kills of a worker")

    def _kill_parent(self) -> None:
        """Its workers notice, and end by themselves beside those of the next."""
        self._former += children(self.server.pid)
        self.server.kill()
        self._ledger.count("kills")
        self._ledger.count("kills of a parent")
        self._restart()

    def _terminate(self) -> None:
        self._stop()
        self._restart()

    def _freeze(self) -> None:
        """One process stands still, as under a debugger or on a machine without memory."""
        process = self._rng.choice(children(self.server.pid) or [self.server.pid])
        _send(process, signal.SIGSTOP)
        threading.Event().wait(self._rng.random() * 0.6)
        _send(process, signal.SIGCONT)
        self._ledger.count("freezes")

    def _step(self) -> None:
        """The wall clock is wrong for a moment. Not while a process starts: that one could not know."""
        assert self._clock is not None
        if self._workers > 1 and not eventually(lambda: len(children(self.server.pid)) == self._workers, 2):
            return
        with self._clock.shifted(self._rng.choice(STEPS)):
            threading.Event().wait(0.2 + self._rng.random() * 1.8)
        self._ledger.count("steps of the clock")

    # the server ------------------------------------------------------------------------------------------------------

    def _start(self) -> TusServer:
        options = [*self._options, "--durability", self._rng.choice(DURABILITIES)]
        server = TusServer(self._storage, *options, port=self._port, module=MODULE, env=self._env).start()
        self._ledger.count("starts")
        return server

    def _restart(self) -> None:
        assert self.server.process is not None
        self.server.process.wait(10)
        self._hear()
        self._former = [process for process in self._former if lives(process)]
        self.server = self._start()

    def _stop(self) -> None:
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGTERM)
        if (code := self.server.process.wait(30)) != 0:
            self._ledger.accuse(f"a server that was told to stop ended with {code}")
        self._ledger.count("stops")

    def _hear(self) -> None:
        """What the log tells that no operator should have to read."""
        for trouble in _troubles(self.server.output):
            self._ledger.accuse(f"the log says: {trouble}")
            return


def _troubles(lines: Sequence[str]) -> Iterator[str]:
    """Records of errors, with their traces, and traces beside the log, but for what had to be expected."""
    for at, line in enumerate(lines):
        record = _RECORD.match(line)
        if record is None and not line.startswith("Traceback"):
            continue
        end = next((end for end in range(at + 1, len(lines)) if not lines[end].startswith(" ")), len(lines))
        story = "".join(lines[at : end + (record is None)])
        bad = record is None or record[1] in ("error", "critical") or "Traceback" in story
        if bad and not any(word in story for word in EXPECTED):
            yield story


def _send(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)
