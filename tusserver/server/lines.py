"""Lines to standard output and standard error, written by a thread, so that a slow reader delays no request.

A pipe that nobody reads, a stopped terminal or a log file on a disk that hangs block this thread only. Lines wait for
it in memory, up to a limit; further ones are lost and counted. The thread holds no lock while it writes, and a process
can end while it runs.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

MAX_WAITING = 1 << 20
"""Bytes that may wait to be written."""
IDLE_SECONDS = 1.0
"""For which the thread waits for a further line before it ends, if it is kept at all."""
FLUSH_SECONDS = 0.5
"""For which `flush` waits until all lines are written."""


class LineWriter:
    """Writes lines to a descriptor in the order in which they come.

    `lost` makes the line that says how many lines were lost; it is written once others can be. `keep_thread`: whether
    the thread waits for further lines. In a process that forks it must not: a thread exists only while it writes.
    """

    def __init__(self, fd: int, *, lost: Callable[[int], str] | None = None, keep_thread: bool = True) -> None:
        self._fd = fd
        self._format_lost = lost
        self._idle_seconds = IDLE_SECONDS if keep_thread else 0.0
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()  # its lock is one that a signal handler may take again
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._running = False
        self._stuck = False

    def _after_fork(self) -> None:
        """In a forked child: drop the parent's lines, its thread and its lock, which that thread may hold."""
        if self._process != os.getpid():
            self._reset()

    def put(self, line: str) -> None:
        """Have a line written soon, with a line end. Never waits, never fails."""
        self._after_fork()
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        with self._changed:
            if self._size and self._size + len(data) > MAX_WAITING:
                self._lost += 1
                return
            self._lines.append(data)
            self._size += len(data)
            self._start()
            self._changed.notify_all()

    def flush(self, timeout: float = FLUSH_SECONDS) -> bool:
        """Wait until all lines are written; return whether they are. After a timeout the next call does not wait."""
        self._after_fork()
        with self._changed:
            if self._size:
                self._start()
            if not self._changed.wait_for(lambda: not self._size, 0.0 if self._stuck else timeout):
                self._stuck = True
            return not self._size

    def _start(self) -> None:
        if not self._running:
            try:
                threading.Thread(target=self._run, name="tusserver-lines", daemon=True).start()
                self._running = True
            except RuntimeError:  # no thread can be started now; the next line tries again
                pass

    def _run(self) -> None:
        written = True
        while True:
            with self._changed:
                if not self._lines and self._idle_seconds:
                    self._changed.wait(self._idle_seconds)
                if not self._lines and not (self._lost and written):
                    self._running = False
                    return
                data = self._lines.popleft() if self._lines else b""
            written = self._write_lost() and self._write(data)
            with self._changed:
                self._size -= len(data)
                self._lost += bool(data) and not written
                self._stuck = self._stuck and not written
                self._changed.notify_all()

    def _write_lost(self) -> bool:
        with self._changed:
            lost = self._lost
        if not lost:
            return True
        if self._format_lost is not None and not self._write(f"{self._format_lost(lost)}\n".encode()):
            return False
        with self._changed:
            self._lost -= lost
        return True

    def _write(self, data: bytes) -> bool:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # another process that shares it made it non-blocking
                ready = select.poll()
                ready.register(self._fd, select.POLLOUT)
                ready.poll()
            except OSError:  # there is no reader any more, or the disk is full
                return False
        return True
