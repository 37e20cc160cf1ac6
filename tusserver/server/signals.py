"""What signals mean to a server. Only those that cannot be caught end it without a commit.

These stop it, in stages: SIGINT (Ctrl-C), SIGTERM, SIGQUIT (sent by some service managers and containers), SIGPWR (sent
by some containers) and SIGXCPU. SIGHUP has it read its settings again, unless it was sent because the terminal is gone:
then it stops. Other signals that would end a process are ignored.
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


def _existing(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(signal.Signals[name] for name in names if name in signal.Signals.__members__)


STOP_SIGNALS = _existing("SIGINT", "SIGTERM", "SIGQUIT", "SIGPWR", "SIGXCPU")
KEYBOARD_SIGNALS = _existing("SIGINT", "SIGQUIT")
"""A terminal sends these to all processes that run in it."""
_IGNORED = _existing(
    "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGPIPE", "SIGXFSZ", "SIGIO", "SIGSTKFLT"
)


class Hangup(enum.Enum):
    """What a SIGHUP means."""

    RELOAD = enum.auto()
    STOP = enum.auto()
    NOTHING = enum.auto()


class Terminal:
    """Knows whether the terminal of this process is gone since it was started."""

    def __init__(self) -> None:
        self._exists = _has_terminal()
        self._nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        """Whether it was started by nohup: then the end of the terminal does not stop it."""

    def hangup(self) -> Hangup:
        """Return what a SIGHUP means that came just now. At the end of the terminal the shell may send a second one."""
        if not self._exists or _has_terminal():
            return Hangup.RELOAD
        self._exists = False
        return Hangup.NOTHING if self._nohup else Hangup.STOP


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.EIO, errno.ENODEV, errno.ENOENT, errno.EACCES, errno.EPERM)
    return True


def install(handler: Handler) -> None:
    """Handle SIGHUP and signals to stop."""
    for number in (*STOP_SIGNALS, signal.SIGHUP):
        signal.signal(number, handler)


def prepare(terminal: Terminal) -> Handlers:
    """Handle signals before there is a server: one to stop raises `KeyboardInterrupt`.

    The handlers that were installed before are returned, for `restore`.
    """
    before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGHUP, *_IGNORED)}

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP or terminal.hangup() is Hangup.STOP:
            raise KeyboardInterrupt

    install(interrupt)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    return before


def restore(before: Handlers) -> None:
    """Handle signals as before `prepare`."""
    for number, handler in before.items():
        signal.signal(number, handler)


def name_of(number: int) -> str:
    """Return `SIGTERM`, or the number of a signal that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_within(seconds: float, last: Callable[[], object]) -> None:
    """End this process after some seconds, whatever its threads wait for; `last` is called before.

    Like a crash, that loses nothing that was acknowledged. The interpreter would wait for all calls in threads, for a
    copy or for a disk that hangs.
    """

    def exit_() -> None:
        time.sleep(seconds)
        logger.warning("some calls still run and are not waited for; what was acknowledged is kept")
        last()
        os._exit(0)

    threading.Thread(target=exit_, name="tusserver-exit", daemon=True).start()
