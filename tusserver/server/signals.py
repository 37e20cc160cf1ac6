"""What signals mean to a server: none of them ends it without a commit, but for those that cannot be caught.

To stop, in stages: Ctrl-C, SIGTERM, SIGQUIT (as some service managers and containers are set up to send), SIGPWR (as
containers of a kind get it) and SIGXCPU. SIGHUP says to read the settings again, unless it comes because the terminal
has gone: then it is a stop. The others that would end a process mean nothing here.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

logger = logging.getLogger("tusserver.server")

Handler = Callable[[int, FrameType | None], None]
Handlers = Mapping[signal.Signals, Any]


def _there(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(signal.Signals[name] for name in names if name in signal.Signals.__members__)


STOPS = _there("SIGINT", "SIGTERM", "SIGQUIT", "SIGPWR", "SIGXCPU")
OF_THE_KEYBOARD = _there("SIGINT", "SIGQUIT")
"""These come to all processes of a terminal at once."""
_NOTHING = _there("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGPIPE", "SIGXFSZ", "SIGIO", "SIGSTKFLT")


class Hangup(enum.Enum):
    """What a SIGHUP means."""

    RELOAD = enum.auto()
    STOP = enum.auto()
    NOTHING = enum.auto()


class Terminal:
    """Knows whether the terminal of this process has gone since it was started."""

    def __init__(self) -> None:
        self._there = _has_terminal()
        self._spared = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        """Started by nohup: the end of the terminal shall not end it."""

    def hangup(self) -> Hangup:
        """Return what a SIGHUP means that came just now. The shell may tell of the end of the terminal once more."""
        if not self._there or _has_terminal():
            return Hangup.RELOAD
        self._there = False
        return Hangup.NOTHING if self._spared else Hangup.STOP


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.EIO, errno.ENODEV, errno.ENOENT, errno.EACCES, errno.EPERM)
    return True


def handle(handler: Handler) -> None:
    """Have signals to stop, and SIGHUP, handled."""
    for number in (*STOPS, signal.SIGHUP):
        signal.signal(number, handler)


def begin(terminal: Terminal) -> Handlers:
    """Be ready for signals before there is a server. One that says to stop is raised as `KeyboardInterrupt`.

    What was there before is returned, for `restore`.
    """
    before = {number: signal.getsignal(number) for number in (*STOPS, signal.SIGHUP, *_NOTHING)}

    def leave(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP or terminal.hangup() is Hangup.STOP:
            raise KeyboardInterrupt

    handle(leave)
    for number in _NOTHING:
        signal.signal(number, signal.SIG_IGN)
    return before


def restore(before: Handlers) -> None:
    """Handle signals as before `begin`."""
    for number, handler in before.items():
        signal.signal(number, handler)


def name_of(number: int) -> str:
    """Return `SIGTERM`, or the number of a signal that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_within(seconds: float, last: Callable[[], object]) -> None:
    """End this process after so long, whatever its threads wait for: a crash loses nothing that was acknowledged.

    An interpreter that ends by itself would wait for all calls in threads, for a copy or a disk that hangs. `last` is
    called before.
    """

    def end() -> None:
        time.sleep(seconds)
        logger.warning("something still runs and is not waited for; what was acknowledged is kept")
        last()
        os._exit(0)

    threading.Thread(target=end, name="tusserver-end", daemon=True).start()
