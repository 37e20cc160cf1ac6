"""Several processes on the same sockets: a parent that starts, watches, replaces and ends its workers.

The parent serves no request. It has no event loop, and no thread but one while a line of the log is written, which
holds nothing that a child needs; so it can fork at any time. A forked worker starts at once and shares the memory of
what was imported; it opens its own store and locks, as inherited locks exclude nobody. What workers need later is
imported before the fork, as the files of the package may be replaced by another version meanwhile.

Parent and worker are connected by a pair of sockets, the channel. The worker reports when it accepts requests, and what
its stop waits for. The parent sends the command to stop as a message and not as a signal: a service manager or a
terminal signals the whole group, so a worker could get one signal twice. When the parent dies, the worker reads the end
of the channel and stops.
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
from typing import Final

from tusserver.server.accept import ConnectionCounts
from tusserver.server.run import STOP_GRACE
from tusserver.server.shared_counts import ProcessCounts, SharedCounts
from tusserver.server.signals import KEYBOARD_SIGNALS, STOP_SIGNALS, Hangup, Terminal, name_of
from tusserver.server.worker import MESSAGE_SIZE, READY, STOP, STOP_NOW, WAITING, WorkerContext

logger = logging.getLogger("tusserver.workers")

EARLY_DEATH: Final = 1.0
"""Seconds; a worker that served for less died early."""
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 5.0
"""Seconds until a worker that died early is started again; doubled each time."""
PROBATION: Final = 0.5
"""Seconds that a replacement has to serve until the worker that it replaces is told to stop."""
START_ATTEMPTS: Final = 3
"""Workers that may die, or fail to start, before any has ever been ready; then the parent gives up."""
STOP_NOW_GRACE: Final = 1.5
"""Seconds that a worker has to end after a second signal; then it is killed. After the first one it has `STOP_GRACE`
beyond the longest wait for requests."""
REPORT_DELAY: Final = 0.3
"""Seconds from the first worker that waits for requests until their number in all is reported."""

_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD)


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    number: int
    pid: int
    channel: socket.socket
    process: int
    """Where it writes its connections (see shared_counts.py)."""
    ready_at: float | None = None
    waiting: int = 0
    """Requests that its stop waits for."""
    kill_at: float | None = None
    """When it is killed, if it was told to stop."""

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"


@dataclass(slots=True, kw_only=True, eq=False)
class _Slot:
    number: int
    worker: _Worker | None = None
    start_at: float = 0.0
    """When to start a worker, if there is none."""
    failures: int = 0
    """Workers in a row that died early."""


class Supervisor:
    """Keeps `count` workers running. All times are in seconds.

    `shutdown_timeout`: how long a worker may wait for its requests. `on_start` is called once, when all accept
    requests; `on_stop` at the start of the stop; `on_wait` with the number of requests that it waits for; `reload` when
    new workers are to replace the old ones: it returns whether they can. `probation`: how long a replacement has to
    serve first.
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
        probation: float = PROBATION,
    ) -> None:
        self._slots = [_Slot(number=number) for number in range(1, count + 1)]
        self._counts = ConnectionCounts(count)
        self._shared_counts = SharedCounts(2 * count + 2, count)
        self._workers: dict[int, _Worker] = {}
        """All that live, by process id."""
        self._stop_timeout = shutdown_timeout + STOP_GRACE
        self._on_start = on_start
        self._on_stop = on_stop
        self._on_wait = on_wait
        self._reload = reload
        self._terminal = terminal or Terminal()
        self._probation = probation
        self._stop_signals = 0
        """How many came."""
        self._stop_stage = 0
        """How many were handled."""
        self._reload_requested = False
        self._started = False
        self._early_deaths: int | None = 0
        """Before the first worker was ready; None afterwards."""
        self._gave_up = False
        self._failed_starts = 0
        """Workers in a row that could not be started, as the system lacks something."""
        self._start_at = 0.0
        """When to try to start the next one after that."""
        self._report_at: float | None = None
        self._reported = False
        self._to_replace: list[_Slot] = []
        """Slots that are still to get a new worker."""
        self._replacement: _Worker | None = None
        self._promote_at: float | None = None
        """When the replacement gets its slot."""
        self._retiring: _Worker | None = None
        """The worker that was replaced, until it has ended."""
        self._selector = selectors.DefaultSelector()
        self._wakeup_r, self._wakeup_w = socket.socketpair()

    def run(self) -> WorkerContext | int:
        """Return as fork does: in each worker its context, and in the parent, at the end, the exit code."""
        gc.collect()
        gc.freeze()  # else the collector of each worker writes to all memory pages that it shares
        self._install_handlers()
        while True:
            self._handle_signals()
            self._reap()
            if self._stop_stage and not self._workers:
                break
            number = self._next_to_start()
            if number is None:
                self._wait()
            elif (context := self._fork(number)) is not None:
                return context
        signal.set_wakeup_fd(-1)
        return 1 if self._stop_stage > 2 or self._gave_up else 0

    @property
    def gave_up(self) -> bool:
        """Whether it ended because no worker was ever ready."""
        return self._gave_up

    # signals and messages --------------------------------------------------------------------------------------------

    def _install_handlers(self) -> None:
        self._wakeup_r.setblocking(False)
        self._wakeup_w.setblocking(False)
        self._selector.register(self._wakeup_r, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wakeup_w.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        meaning = self._terminal.hangup() if number == signal.SIGHUP else Hangup.NOTHING
        if number in STOP_SIGNALS or meaning is Hangup.STOP:
            self._stop_signals += 1
        elif meaning is Hangup.RELOAD:
            self._reload_requested = True

    def _handle_signals(self) -> None:
        while self._stop_stage < self._stop_signals:
            self._stop()
        if self._reload_requested:
            self._reload_requested = False
            if not self._stop_stage and self._reload():
                logger.info("replacing the workers one by one")
                self._to_replace = list(self._slots)

    def _wait(self) -> None:
        """Sleep until something happens or is due."""
        now = time.monotonic()
        due = [worker.kill_at for worker in self._workers.values() if worker.kill_at is not None]
        if not self._stop_stage:
            due += [max(slot.start_at, self._start_at) for slot in self._slots if slot.worker is None]
            due += [self._start_at] if self._may_replace() else []
        due += [moment for moment in (self._report_at, self._promote_at) if moment is not None]
        for key, _ in self._selector.select(max(0.0, min(due) - now) if due else None):
            self._receive(key.data)
        now = time.monotonic()
        if self._report_at is not None and now >= self._report_at:
            self._report_at, self._reported = None, True
            if requests := sum(worker.waiting for worker in self._workers.values()):
                self._on_wait(requests)
        if self._promote_at is not None and now >= self._promote_at:
            self._promote()
        for worker in self._workers.values():
            if worker.kill_at is not None and now >= worker.kill_at:
                logger.error("%s does not end: it is killed", worker)
                worker.kill_at = None
                _kill(worker)

    def _receive(self, worker: _Worker | None) -> None:
        if worker is None:
            with contextlib.suppress(BlockingIOError):
                while self._wakeup_r.recv(MESSAGE_SIZE):
                    pass
            return
        try:
            message = worker.channel.recv(MESSAGE_SIZE)
        except OSError:
            message = b""
        if not message:  # it is dead or will be at once
            self._selector.unregister(worker.channel)
        elif message == READY:
            self._on_ready(worker)
        elif message.startswith(WAITING):
            worker.waiting = int(message.removeprefix(WAITING))
            if self._stop_stage == 1 and self._report_at is None and not self._reported:
                self._report_at = time.monotonic() + REPORT_DELAY

    # start of workers ------------------------------------------------------------------------------------------------

    def _next_to_start(self) -> int | None:
        """Return the number of a worker that is to be started now."""
        if self._stop_stage:
            return None
        now = time.monotonic()
        if now < self._start_at:
            return None
        for slot in self._slots:
            if slot.worker is None and now >= slot.start_at:
                return slot.number
        return self._to_replace[0].number if self._may_replace() else None

    def _may_replace(self) -> bool:
        """Return whether the next worker can be replaced: one at a time is."""
        return bool(self._to_replace) and self._replacement is None and self._retiring is None

    def _fork(self, number: int) -> WorkerContext | None:
        """Start a worker; return its context in the worker, and None in the parent."""
        # A signal before the worker has its own handlers would be noted in its copy of this object, and be lost.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            started = self._try_to_fork(number)
            if started is None:
                return None
            worker, channel = started
            if worker.pid == 0:
                worker.channel.close()
                self._detach()
                process_counts = ProcessCounts(self._shared_counts, worker.process)
                return WorkerContext(number=number, channel=channel, counts=self._counts, process_counts=process_counts)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        channel.close()
        if self._failed_starts:
            logger.info("workers can be started again, after %d attempts that failed", self._failed_starts)
            self._failed_starts = 0
        self._workers[worker.pid] = worker
        slot = self._slots[number - 1]
        if slot.worker is None:
            slot.worker = worker
        else:
            self._replacement = worker
        return None

    def _try_to_fork(self, number: int) -> tuple[_Worker, socket.socket] | None:
        """Return the worker and its end of the channel, in both processes; None if the system lacks what it takes."""
        ends: tuple[socket.socket, ...] = ()
        try:
            ours, theirs = ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            theirs.setblocking(False)
            taken = {worker.process for worker in self._workers.values()}
            process = next(process for process in range(self._shared_counts.processes) if process not in taken)
            worker = _Worker(number=number, pid=0, channel=ours, process=process)
            self._selector.register(ours, selectors.EVENT_READ, worker)
            with warnings.catch_warnings():
                # A thread that writes a line of the log does no harm, see above.
                warnings.simplefilter("ignore", DeprecationWarning)
                worker.pid = os.fork()
            return worker, theirs
        except OSError as error:  # too many processes, too many open files, no memory
            for end in ends:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
                end.close()
            self._start_failed(error)
            return None

    def _start_failed(self, error: OSError) -> None:
        """Delay the next attempt, longer from time to time; running workers go on."""
        self._failed_starts += 1
        self._start_at = time.monotonic() + _delay_after(self._failed_starts)
        if self._failed_starts == 1:
            logger.error("no worker can be started now: %s; it is tried again until it works", error.strerror or error)
        if self._early_deaths is not None and not self._workers and self._failed_starts >= START_ATTEMPTS:
            self._give_up()

    def _detach(self) -> None:
        """In a new worker: close what is the parent's. Its server is going to set handlers of its own."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            ignored = number == signal.SIGHUP or number in KEYBOARD_SIGNALS
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        self._selector.close()
        self._wakeup_r.close()
        self._wakeup_w.close()
        for worker in self._workers.values():
            worker.channel.close()  # else that worker would not notice the end of the parent

    def _on_ready(self, worker: _Worker) -> None:
        """Note that a worker accepts requests; if it is the replacement, start its probation."""
        worker.ready_at = time.monotonic()
        self._early_deaths = None
        if worker is self._replacement:
            self._promote_at = worker.ready_at + self._probation
        elif not self._started and all(slot.worker and slot.worker.ready_at for slot in self._slots):
            self._started = True
            self._on_start()

    def _promote(self) -> None:
        """Give the slot of the old worker to the replacement, and tell the old one to stop."""
        slot = self._to_replace.pop(0)
        self._retiring, self._replacement, slot.worker = slot.worker, None, self._replacement
        self._promote_at = None
        if self._retiring is not None:
            self._send(self._retiring, STOP)
        if not self._to_replace:
            logger.info("all workers are new")

    # end of workers --------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._stop_stage += 1
        if self._stop_stage == 1:
            self._on_stop()
        for worker in self._workers.values():
            if self._stop_stage > 2:
                _kill(worker)
            else:
                self._send(worker, STOP if self._stop_stage == 1 else STOP_NOW)

    def _give_up(self) -> None:
        self._gave_up = True
        self._stop()

    def _send(self, worker: _Worker, command: bytes) -> None:
        worker.kill_at = time.monotonic() + (self._stop_timeout if command == STOP else STOP_NOW_GRACE)
        with contextlib.suppress(OSError):  # it is dead
            worker.channel.send(command)

    def _reap(self) -> None:
        """Collect the exit codes of dead workers."""
        for worker in list(self._workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                del self._workers[pid]
                self._shared_counts.clear(worker.process)
                with contextlib.suppress(KeyError):
                    self._selector.unregister(worker.channel)
                worker.channel.close()
                self._on_death(worker, os.waitstatus_to_exitcode(status))

    def _on_death(self, worker: _Worker, code: int) -> None:
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by {name_of(-code)}"
        if worker is self._retiring:
            self._retiring = None
        elif self._stop_stage:
            if code:
                logger.warning("%s %s", worker, how)
        elif worker is self._replacement:
            when = "before it was ready" if worker.ready_at is None else "at once"
            logger.error("%s %s %s: the old workers stay", worker, how, when)
            self._replacement = self._promote_at = None
            self._to_replace.clear()
        else:
            self._restart(worker, how)

    def _restart(self, worker: _Worker, how: str) -> None:
        """Start another one for a worker that died: at once, or after a delay if it died early."""
        slot = self._slots[worker.number - 1]
        if self._replacement is not None and self._replacement.number == slot.number:
            slot.worker, self._replacement, self._promote_at = self._replacement, None, None
        else:
            slot.worker = None
            self._counts.remove(slot.number)
        if slot in self._to_replace:
            self._to_replace.remove(slot)  # the next one is a new one anyway
        now = time.monotonic()
        served = worker.ready_at is not None and now - worker.ready_at >= EARLY_DEATH
        slot.failures = 0 if served else slot.failures + 1
        delay = _delay_after(slot.failures) if slot.failures else 0.0
        slot.start_at = now + delay
        if self._early_deaths is not None:
            self._early_deaths += 1
            if self._early_deaths >= START_ATTEMPTS:
                logger.error("%s %s", worker, how)
                self._give_up()
                return
        logger.warning("%s %s; another one starts %s", worker, how, f"in {delay:g} s" if delay else "at once")


def _delay_after(failures: int) -> float:
    """Return the seconds until the next attempt; the exponent is bounded, as a float has no 2**1024."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))


def _kill(worker: _Worker) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGKILL)
