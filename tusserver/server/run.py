"""Runs an app on uvicorn: our socket, our log, our stop.

At the stop uploads are cut first: what they brought is kept, they hear 503 and their clients resume later. Only then
uvicorn waits, for `shutdown_timeout` at most, for what still runs (downloads). A second signal drops the connections,
and ends the process a second later whatever its threads still do; a third ends it where it stands. A commit cannot be
torn by any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from tusserver.addresses import TrustedProxies
from tusserver.server import descriptors, logs
from tusserver.server.connections import Gate, Limits
from tusserver.server.protocol import HEAD_SIZE, guarded
from tusserver.server.shared_counts import Row
from tusserver.server.signals import Hangup, Terminal, end_within, handle
from tusserver.server.sockets import limit_unread

logger = logging.getLogger("tusserver.server")

_M_ARENA_MAX = -8
"""See mallopt(3)."""

PATIENCE = 0.5
"""Seconds that a stop takes in silence."""
GRACE = 5.0
"""Seconds beyond the longest wait for requests that a stop has for what runs besides them: a copy, a sync."""
AT_ONCE = 1.0
"""Seconds that a stop has after a second signal."""


class MakeServer(Protocol):
    """Makes the server of a process."""

    def __call__(
        self,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        on_wait: Callable[[int], None],
    ) -> Server:
        """Make it."""


class Server(uvicorn.Server):
    """uvicorn, with a stop that does not wait for uploads and an exit code of 0.

    `on_start` is called when requests are taken, `on_stop` first thing at the stop, `on_wait` with the number of
    requests that it has to wait for, `on_hangup` when the settings are to be read again: it says whether to stop then.
    `on_end` is called, in a thread, if the process ends although something still runs in it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        on_wait: Callable[[int], None],
        on_hangup: Callable[[], bool] = lambda: False,
        on_end: Callable[[], object] = logs.flush,
        terminal: Terminal | None = None,
    ) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._on_stop = on_stop
        self._on_wait = on_wait
        self._on_hangup = on_hangup
        self._on_end = on_end
        self._terminal = terminal or Terminal()
        self._signals = 0
        self._at_once = False
        self._running: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    @property
    def signalled(self) -> bool:
        """Whether a signal said to stop."""
        return self._signals > 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals from now on, also when the event loop has ended: the process may still wait for threads."""
        if threading.current_thread() is threading.main_thread():
            handle(self.handle_exit)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell that requests are taken from now on."""
        self._running = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            _spare_the_collector()
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cut the uploads, then stop as uvicorn does."""
        self._on_stop()
        self._stopping = True
        if self._at_once:
            self._drop_connections()
        telling = asyncio.get_running_loop().call_later(PATIENCE, self._tell)
        await super().shutdown(sockets)
        telling.cancel()

    def _tell(self) -> None:
        if self.server_state.tasks and not self._at_once:
            self._on_wait(len(self.server_state.tasks))

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # A moment to commit what came before; a download may not even notice that its client is gone.
        asyncio.get_running_loop().call_later(PATIENCE, self._cancel_requests)

    def _cancel_requests(self) -> None:
        for task in list(self.server_state.tasks):
            task.cancel()

    def stop(self, *, at_once: bool = False) -> None:
        """Begin the stop, with `at_once` without a wait for requests. To say it twice changes nothing."""
        self.should_exit = True
        if at_once and not self._at_once:
            self._at_once = True
            end_within(AT_ONCE, self._on_end)
            if self._stopping:
                self._call(self._drop_connections)

    def _call(self, call: Callable[[], object]) -> None:
        if self._running is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._running.call_soon_threadsafe(call)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count the signals.

        uvicorn would raise them anew at the end, so that the process dies of them, and would leave out the end of the
        lifespan after a second one.
        """
        meaning = self._terminal.hangup() if sig == signal.SIGHUP else Hangup.STOP
        if meaning is Hangup.RELOAD:
            self._call(self._reload)
        if meaning is not Hangup.STOP:
            return
        self._signals += 1
        if self._signals > 2:
            os._exit(1)
        if self._signals == 1 and self.config.timeout_graceful_shutdown is not None:
            end_within(self.config.timeout_graceful_shutdown + GRACE, self._on_end)
        self.stop(at_once=self._signals == 2)

    def _reload(self) -> None:
        if not self.should_exit and self._on_hangup():
            self.stop()


def run(
    app: ASGIApp,
    sockets: list[socket.socket],
    *,
    on_start: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
    on_wait: Callable[[int], None] = lambda requests: None,
    shutdown_timeout: float = 10.0,
    keep_alive: float = 75.0,
    backlog: int = 2048,
    idle_timeout: float = 30.0,
    head_size: int = HEAD_SIZE,
    limits: Limits | None = None,
    trusted: TrustedProxies | None = None,
    row: Row | None = None,
    make_server: MakeServer = Server,
) -> bool:
    """Serve until a signal says to stop; return whether it came to serving. Times are in seconds, sizes in bytes.

    A client that takes nothing of an answer for `idle_timeout` is cut off. Proxies that are `trusted` are counted in
    all, not by address. `row`: the connections of other workers, which count with ours.
    """
    _share_the_heap()
    limit_unread(sockets, idle_timeout)
    limits = limits or Limits()
    files, used = descriptors.ask_for(limits.connections), descriptors.in_use()
    share = descriptors.fit(limits, backlog, files, used, 1 if row is None else row.workers)
    gate = Gate(share.limits, trusted, row)
    config = uvicorn.Config(
        app,
        http=guarded(gate, head_size=head_size),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # Tus believes the proxies it is told to trust, and no other
        server_header=False,
        workers=1,  # else uvicorn asks WEB_CONCURRENCY
        backlog=share.backlog,
        timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # asyncio takes the fraction, and uvicorn hands it on
        timeout_graceful_shutdown=shutdown_timeout,  # type: ignore[arg-type]  # likewise
    )

    def stopping() -> None:
        gate.closing = True
        on_stop()

    server = make_server(config, on_start=on_start, on_stop=stopping, on_wait=on_wait)
    try:
        server.run(sockets)
    except SystemExit:  # what uvicorn makes of a failed start; it has logged why
        return False
    return server.started


def preload() -> None:
    """Import what a server would import when it is first needed: who forks servers wants none of them to."""
    for name in ("anyio._backends._asyncio", "uvicorn.lifespan.on"):
        importlib.import_module(name)
    uvicorn.Config("", log_config=None).get_loop_factory()


def _spare_the_collector() -> None:
    """Have the garbage collector look at what requests leave, less often, and never again at what was imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _share_the_heap() -> None:
    """Let all threads have two heaps of the C library: each of its own would keep what one thread once needed."""
    if "MALLOC_ARENA_MAX" not in os.environ:  # its own setting
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
