"""Several processes on the same sockets: a parent that starts them, watches them, and ends them.

The parent takes no request and has no event loop, and no threads but one while it writes a line of the log, which holds
nothing that a child needs; so it may fork at any time. A fork is up at once, shares the memory of all that was
imported, and makes store and locks anew: a lock that is inherited excludes nobody. What may be needed was imported
before, as the files of the package may be replaced meanwhile by those of another version.

Parent and worker are held together by a pair of sockets. The worker says when it takes requests and what it waits for
at the stop; the parent says when to stop, and not by a signal: a service manager or a terminal signals the whole group,
and nobody shall count the same signal twice. When the parent dies, the worker reads the end of the stream and stops.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from tusserver.server.accept import Tally
from tusserver.server.run import GRACE
from tusserver.server.shared_counts import Census, Row
from tusserver.server.signals import OF_THE_KEYBOARD, STOPS, Hangup, Terminal, name_of
from tusserver.server.worker import NOW, READY, STOP, WAITING, Seat

logger = logging.getLogger("tusserver.workers")

AT_ONCE = 1.0
"""Seconds; a worker that served for less died at once."""
FIRST_WAIT = 0.1
LONGEST_WAIT = 5.0
"""Seconds until a worker is started again after it died at once: twice as long each time."""
SETTLING = 0.5
"""Seconds that a new worker has to serve until the one whose place it takes is told to stop."""
ATTEMPTS = 3
"""Workers that may die, or cannot be started, before the first of all has come to serving; then there is no sense in
going on."""
AT_ONCE_GRACE = 1.5
"""Seconds that a worker has to end after a second signal; then it is killed. After the first one it has `GRACE` beyond
the longest wait for requests."""
TELLING = 0.3
"""Seconds from the first worker that waits for requests until it is told how many all of them wait for."""

_SIGNALS = (*STOPS, signal.SIGHUP, signal.SIGCHLD)


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    number: int
    pid: int
    line: socket.socket
    row: int
    """Where it counts its connections (see `census`)."""
    ready_at: float | None = None
    waiting: int = 0
    """Requests that its stop waits for."""
    kill_at: float | None = None
    """When it has to be gone, once it was told to stop."""

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"


@dataclass(slots=True, kw_only=True, eq=False)
class _Place:
    number: int
    worker: _Worker | None = None
    due: float = 0.0
    """When to start one, if there is none."""
    failures: int = 0
    """Workers in a row that died at once."""


class Supervisor:
    """Keeps `count` workers running. All times are in seconds.

    `shutdown_timeout`: how long a worker may wait for its requests. `on_start` is called once, when all take requests;
    `on_stop` at the begin of the stop; `on_wait` with the number of requests that it waits for; `reload` when new
    workers shall take the places of the old ones: it says whether that can be.
    """

    def __init__(
        self,
        count: int,
        *,
        shutdown_timeout: float,
        on_start: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
        on_wait: Callable[[int], None] = lambda requests: None,
        reload: Callable[[], bool] = lambda: True,
        terminal: Terminal | None = None,
    ) -> None:
        self._places = [_Place(number=number) for number in range(1, count + 1)]
        self._tally = Tally(count)
        self._census = Census(2 * count + 2, count)
        self._workers: dict[int, _Worker] = {}
        """All that live, by process."""
        self._patience = shutdown_timeout + GRACE
        self._on_start = on_start
        self._on_stop = on_stop
        self._on_wait = on_wait
        self._reload = reload
        self._terminal = terminal or Terminal()
        self._stops = 0
        """Signals to stop that came, and that were obeyed."""
        self._obeyed = 0
        self._hangup = False
        self._started = False
        self._deaths: int | None = 0
        """Before the first worker of all came to serving."""
        self._gave_up = False
        self._failed_starts = 0
        """Workers in a row that could not be started, as the system lacks something."""
        self._start_due = 0.0
        self._tell_at: float | None = None
        self._told = False
        self._rolling: list[_Place] = []
        """Places that are still to get a new worker."""
        self._coming: _Worker | None = None
        self._settled_at: float | None = None
        """When the coming worker may take its place."""
        self._leaving: _Worker | None = None
        self._selector = selectors.DefaultSelector()
        self._alarm, self._bell = socket.socketpair()

    def run(self) -> Seat | int:
        """Return as fork does: in each worker its seat, and in the parent, at the very end, the exit code."""
        gc.collect()
        gc.freeze()  # else the collector of each worker writes to all pages that it shares
        self._listen_to_signals()
        while True:
            self._obey()
            self._bury()
            if self._obeyed and not self._workers:
                break
            number = self._wanted()
            if number is None:
                self._wait()
            elif (seat := self._fork(number)) is not None:
                return seat
        signal.set_wakeup_fd(-1)
        return 1 if self._obeyed > 2 or self._gave_up else 0

    @property
    def gave_up(self) -> bool:
        """Whether the end came because no worker ever came to serving."""
        return self._gave_up

    # what comes ------------------------------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        self._alarm.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._alarm, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        meaning = self._terminal.hangup() if number == signal.SIGHUP else Hangup.NOTHING
        if number in STOPS or meaning is Hangup.STOP:
            self._stops += 1
        elif meaning is Hangup.RELOAD:
            self._hangup = True

    def _obey(self) -> None:
        while self._obeyed < self._stops:
            self._stop()
        if self._hangup:
            self._hangup = False
            if not self._obeyed and self._reload():
                logger.info("replacing the workers one by one")
                self._rolling = list(self._places)

    def _wait(self) -> None:
        """Sleep until something happens or is due."""
        now = time.monotonic()
        due = [worker.kill_at for worker in self._workers.values() if worker.kill_at is not None]
        if not self._obeyed:
            due += [max(place.due, self._start_due) for place in self._places if place.worker is None]
            due += [self._start_due] if self._rolling and self._coming is None and self._leaving is None else []
        due += [moment for moment in (self._tell_at, self._settled_at) if moment is not None]
        for key, _ in self._selector.select(max(0.0, min(due) - now) if due else None):
            self._read(key.data)
        now = time.monotonic()
        if self._tell_at is not None and now >= self._tell_at:
            self._tell_at, self._told = None, True
            if requests := sum(worker.waiting for worker in self._workers.values()):
                self._on_wait(requests)
        if self._settled_at is not None and now >= self._settled_at:
            self._take_place()
        for worker in self._workers.values():
            if worker.kill_at is not None and now >= worker.kill_at:
                logger.error("%s does not end: it is killed", worker)
                worker.kill_at = None
                _kill(worker)

    def _read(self, worker: _Worker | None) -> None:
        if worker is None:
            with contextlib.suppress(BlockingIOError):
                while self._alarm.recv(64):
                    pass
            return
        try:
            word = worker.line.recv(64)
        except OSError:
            word = b""
        if not word:  # it is dead or will be at once
            self._selector.unregister(worker.line)
        elif word == READY:
            self._welcome(worker)
        elif word.startswith(WAITING):
            worker.waiting = int(word.removeprefix(WAITING))
            if self._obeyed == 1 and self._tell_at is None and not self._told:
                self._tell_at = time.monotonic() + TELLING

    # workers come ----------------------------------------------------------------------------------------------------

    def _wanted(self) -> int | None:
        """Return the number of a worker that is to be started now."""
        if self._obeyed:
            return None
        now = time.monotonic()
        if now < self._start_due:
            return None
        for place in self._places:
            if place.worker is None and now >= place.due:
                return place.number
        if self._rolling and self._coming is None and self._leaving is None:
            return self._rolling[0].number
        return None

    def _fork(self, number: int) -> Seat | None:
        """Start a worker; return its seat there, and None here."""
        # A signal before the worker has its own handlers would be noted in its copy of this object, and be lost.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            started = self._try_to_fork(number)
            if started is None:
                return None
            worker, there = started
            if worker.pid == 0:
                worker.line.close()
                self._leave()
                return Seat(number=number, line=there, tally=self._tally, row=Row(self._census, worker.row))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        there.close()
        if self._failed_starts:
            logger.info("workers can be started again, after %d attempts that failed", self._failed_starts)
            self._failed_starts = 0
        self._workers[worker.pid] = worker
        place = self._places[number - 1]
        if place.worker is None:
            place.worker = worker
        else:
            self._coming = worker
        return None

    def _try_to_fork(self, number: int) -> tuple[_Worker, socket.socket] | None:
        """Return the worker and its end of the line, on both sides; None if the system lacks what it takes."""
        ends: tuple[socket.socket, ...] = ()
        try:
            here, there = ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            here.setblocking(False)
            there.setblocking(False)
            taken = {worker.row for worker in self._workers.values()}
            row = next(row for row in range(self._census.processes) if row not in taken)
            worker = _Worker(number=number, pid=0, line=here, row=row)
            self._selector.register(here, selectors.EVENT_READ, worker)
            with warnings.catch_warnings():
                # That a thread may be writing a line of the log does no harm, see above.
                warnings.simplefilter("ignore", DeprecationWarning)
                worker.pid = os.fork()
            return worker, there
        except OSError as error:  # too many processes, too many open files, no memory
            for end in ends:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
                end.close()
            self._cannot_start(error)
            return None

    def _cannot_start(self, error: OSError) -> None:
        """Wait, longer from time to time; those that serve go on."""
        self._failed_starts += 1
        self._start_due = time.monotonic() + _wait_after(self._failed_starts)
        if self._failed_starts == 1:
            logger.error(
                "no worker can be started now: %s; it is tried again until that works", error.strerror or error
            )
        if self._deaths is not None and not self._workers and self._failed_starts >= ATTEMPTS:
            self._give_up()

    def _leave(self) -> None:
        """In a new worker: let go of what is the parent's. Its server is going to set handlers of its own."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            ignored = number == signal.SIGHUP or number in OF_THE_KEYBOARD
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        self._selector.close()
        self._alarm.close()
        self._bell.close()
        for worker in self._workers.values():
            worker.line.close()  # else it would not end with the parent

    def _welcome(self, worker: _Worker) -> None:
        """Note that a worker takes requests; the one whose place it takes may go."""
        worker.ready_at = time.monotonic()
        self._deaths = None
        if worker is self._coming:
            self._settled_at = worker.ready_at + SETTLING
        elif not self._started and all(place.worker and place.worker.ready_at for place in self._places):
            self._started = True
            self._on_start()

    def _take_place(self) -> None:
        """Have the coming worker, which has served for a moment, take the place of the old one."""
        place = self._rolling.pop(0)
        self._leaving, self._coming, place.worker = place.worker, None, self._coming
        self._settled_at = None
        if self._leaving is not None:
            self._order(self._leaving, STOP)
        if not self._rolling:
            logger.info("all workers are new")

    # workers go ------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._obeyed += 1
        if self._obeyed == 1:
            self._on_stop()
        for worker in self._workers.values():
            if self._obeyed > 2:
                _kill(worker)
            else:
                self._order(worker, STOP if self._obeyed == 1 else NOW)

    def _give_up(self) -> None:
        self._gave_up = True
        self._stop()

    def _order(self, worker: _Worker, order: bytes) -> None:
        worker.kill_at = time.monotonic() + (self._patience if order == STOP else AT_ONCE_GRACE)
        with contextlib.suppress(OSError):  # it is dead
            worker.line.send(order)

    def _bury(self) -> None:
        """Take note of the dead."""
        for worker in list(self._workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                del self._workers[pid]
                self._census.clear(worker.row)
                with contextlib.suppress(KeyError):
                    self._selector.unregister(worker.line)
                worker.line.close()
                self._died(worker, os.waitstatus_to_exitcode(status))

    def _died(self, worker: _Worker, code: int) -> None:
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by {name_of(-code)}"
        if worker is self._leaving:
            self._leaving = None
        elif self._obeyed:
            if code:
                logger.warning("%s %s", worker, how)
        elif worker is self._coming:
            when = "before it came to serving" if worker.ready_at is None else "at once"
            logger.error("%s %s %s: the old workers stay", worker, how, when)
            self._coming = self._settled_at = None
            self._rolling.clear()
        else:
            self._replace(worker, how)

    def _replace(self, worker: _Worker, how: str) -> None:
        place = self._places[worker.number - 1]
        if self._coming is not None and self._coming.number == place.number:
            place.worker, self._coming, self._settled_at = self._coming, None, None
        else:
            place.worker = None
            self._tally.forget(place.number)
        if place in self._rolling:
            self._rolling.remove(place)  # the next one is a new one anyway
        now = time.monotonic()
        served = worker.ready_at is not None and now - worker.ready_at >= AT_ONCE
        place.failures = 0 if served else place.failures + 1
        wait = _wait_after(place.failures) if place.failures else 0.0
        place.due = now + wait
        if self._deaths is not None:
            self._deaths += 1
            if self._deaths >= ATTEMPTS:
                logger.error("%s %s", worker, how)
                self._give_up()
                return
        logger.warning("%s %s; another one starts %s", worker, how, f"in {wait:g} s" if wait else "at once")


def _wait_after(failures: int) -> float:
    """Return the seconds until the next attempt; a power of two has its limits."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures - 1, 16))


def _kill(worker: _Worker) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGKILL)
