"""Lines to standard output and standard error, written by a thread, so that nobody waits for who reads them.

A pipe that nobody empties, a terminal that is stopped, a log file on a disk that hangs: they hold up one thread. Lines
wait for it in memory, up to a bound; further ones are lost and counted. The thread holds no lock while it writes, and
keeps no process from ending.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

MOST = 1 << 20
"""Bytes that wait to be written."""
LINGER = 1.0
"""Seconds that the thread of a process which often writes waits for the next line, before it ends."""
LAST = 0.5
"""Seconds that the last lines of a process have to be written."""


class Writer:
    """Writes lines to a descriptor in the order in which they come.

    `lost` makes the line that tells how many lines were lost, to be written once there is room again. `steady`: whether
    the thread stays for further lines. It does not in a process that forks: there it is there only while it writes.
    """

    def __init__(self, fd: int, *, lost: Callable[[int], str] | None = None, steady: bool = True) -> None:
        self._fd = fd
        self._tell_lost = lost
        self._linger = LINGER if steady else 0.0
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()  # its lock is one that a signal handler may take again
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._working = False
        self._stuck = False

    def _after_fork(self) -> None:
        """In a forked child leave to the parent what is the parent's, with its thread and a lock that this may hold."""
        if self._process != os.getpid():
            self._begin()

    def put(self, line: str) -> None:
        """Have a line written soon; the line end is added. Never waits, never fails."""
        self._after_fork()
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        with self._changed:
            if self._size and self._size + len(data) > MOST:
                self._lost += 1
                return
            self._lines.append(data)
            self._size += len(data)
            self._work()
            self._changed.notify_all()

    def flush(self, timeout: float = LAST) -> bool:
        """Wait until all lines are written; not again if that was in vain before. Return whether they are."""
        self._after_fork()
        with self._changed:
            if self._size:
                self._work()
            if not self._changed.wait_for(lambda: not self._size, 0.0 if self._stuck else timeout):
                self._stuck = True
            return not self._size

    def _work(self) -> None:
        if not self._working:
            try:
                threading.Thread(target=self._run, name="tusserver-lines", daemon=True).start()
                self._working = True
            except RuntimeError:  # there can be no more threads just now: with the next line
                pass

    def _run(self) -> None:
        told = True
        while True:
            with self._changed:
                if not self._lines and self._linger:
                    self._changed.wait(self._linger)
                if not self._lines and not (self._lost and told):
                    self._working = False
                    return
                data = self._lines.popleft() if self._lines else b""
            told = self._write_lost() and self._write(data)
            with self._changed:
                self._size -= len(data)
                self._lost += bool(data) and not told
                self._stuck = self._stuck and not told
                self._changed.notify_all()

    def _write_lost(self) -> bool:
        with self._changed:
            lost = self._lost
        if not lost:
            return True
        if self._tell_lost is not None and not self._write(f"{self._tell_lost(lost)}\n".encode()):
            return False
        with self._changed:
            self._lost -= lost
        return True

    def _write(self, data: bytes) -> bool:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # who shares it has made it non-blocking
                ready = select.poll()
                ready.register(self._fd, select.POLLOUT)
                ready.poll()
            except OSError:  # nobody is there to read it, or the disk is full
                return False
        return True
