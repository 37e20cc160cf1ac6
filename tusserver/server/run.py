"""Runs an app on uvicorn, with our own sockets, log and stop.

A stop first ends the uploads: what arrived is kept, their clients get 503 and resume later. Then uvicorn waits, for
`shutdown_timeout` at most, for other requests (downloads). A second signal closes the connections, and ends the process
a second later whatever its threads do; a third ends it at once. None of this can tear a commit.
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

from tusserver.server import descriptors, logs
from tusserver.server.connections import ConnectionLimiter
from tusserver.server.options import RunOptions
from tusserver.server.protocol import limited_protocol
from tusserver.server.shared_counts import ProcessCounts
from tusserver.server.signals import Hangup, Terminal, exit_within, install
from tusserver.server.sockets import limit_unread

logger = logging.getLogger("tusserver.server")

_M_ARENA_MAX = -8
"""See mallopt(3)."""

REPORT_DELAY = 0.5
"""Seconds from the start of a stop until it is reported what it waits for."""
COMMIT_SECONDS = 0.5
"""For requests whose connections were closed, to commit what arrived before they are cancelled."""
STOP_GRACE = 5.0
"""Seconds that a stop has beyond the longest wait for requests, for what runs besides them: a copy, a sync."""
STOP_NOW_GRACE = 1.0
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
    """uvicorn, with a stop that does not wait for uploads and ends with exit code 0.

    `on_start` is called when requests are accepted, `on_stop` at the start of the stop, `on_wait` with the number of
    requests that it waits for, `on_hangup` when the settings are to be read again: it returns whether to stop then.
    `on_exit` is called, in a thread, if the process ends while some of its threads still run.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        on_wait: Callable[[int], None],
        on_hangup: Callable[[], bool] = lambda: False,
        on_exit: Callable[[], object] = logs.flush,
        terminal: Terminal | None = None,
    ) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._on_stop = on_stop
        self._on_wait = on_wait
        self._on_hangup = on_hangup
        self._on_exit = on_exit
        self._terminal = terminal or Terminal()
        self._signals = 0
        self._at_once = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    @property
    def signalled(self) -> bool:
        """Whether it was stopped by a signal."""
        return self._signals > 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install the handlers for good: after the end of the event loop the process may still wait for threads."""
        if threading.current_thread() is threading.main_thread():
            install(self.handle_exit)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call `on_start`."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            _tune_garbage_collector()
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the uploads, then stop as uvicorn does."""
        self._on_stop()
        self._stopping = True
        if self._at_once:
            self._abort_connections()
        report = asyncio.get_running_loop().call_later(REPORT_DELAY, self._report_wait)
        await super().shutdown(sockets)
        report.cancel()

    def _report_wait(self) -> None:
        if self.server_state.tasks and not self._at_once:
            self._on_wait(len(self.server_state.tasks))

    def _abort_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # Uploads end by themselves; a download may not notice that its client is gone.
        asyncio.get_running_loop().call_later(COMMIT_SECONDS, self._cancel_requests)

    def _cancel_requests(self) -> None:
        for task in list(self.server_state.tasks):
            task.cancel()

    def stop(self, *, at_once: bool = False) -> None:
        """Start the stop; `at_once`: without waiting for requests. Calling it again changes nothing."""
        self.should_exit = True
        if at_once and not self._at_once:
            self._at_once = True
            exit_within(STOP_NOW_GRACE, self._on_exit)
            if self._stopping:
                self._call(self._abort_connections)

    def _call(self, call: Callable[[], object]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(call)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count the signals.

        uvicorn would raise them again at the end, so that the process dies of them, and after a second one would leave
        out the end of the lifespan.
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
            exit_within(self.config.timeout_graceful_shutdown + STOP_GRACE, self._on_exit)
        self.stop(at_once=self._signals == 2)

    def _reload(self) -> None:
        if not self.should_exit and self._on_hangup():
            self.stop()


def run(
    app: ASGIApp,
    sockets: list[socket.socket],
    options: RunOptions,
    *,
    on_start: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
    on_wait: Callable[[int], None] = lambda requests: None,
    counts: ProcessCounts | None = None,
    make_server: MakeServer = Server,
) -> bool:
    """Serve until a signal says to stop; return whether the server could start.

    `counts`: connections of the other workers, which count with ours.
    """
    _limit_arenas()
    server, limits = options.server, options.limits
    limit_unread(sockets, limits.idle_timeout.total_seconds())
    files, used = descriptors.raise_limit(limits.connections), descriptors.count_open()
    fitted = descriptors.fit(limits, server.backlog, files, used, 1 if counts is None else counts.workers)
    limiter = ConnectionLimiter(
        fitted.limits, options.trusted, counts, per_process=fitted.per_process, max_rejected=fitted.max_rejected
    )
    config = uvicorn.Config(
        app,
        http=limited_protocol(limiter, head_size=limits.head_size),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # Tus trusts the configured proxies and no others
        server_header=False,
        workers=1,  # else uvicorn asks WEB_CONCURRENCY
        backlog=fitted.backlog,
        # asyncio takes the fractions, and uvicorn passes them on.
        timeout_keep_alive=server.keep_alive.total_seconds(),  # type: ignore[arg-type]  # see above
        timeout_graceful_shutdown=server.shutdown_timeout.total_seconds(),  # type: ignore[arg-type]  # see above
    )

    def stopping() -> None:
        limiter.closing = True
        on_stop()

    serving = make_server(config, on_start=on_start, on_stop=stopping, on_wait=on_wait)
    try:
        serving.run(sockets)
    except SystemExit:  # what uvicorn makes of a failed start; it has logged why
        return False
    return serving.started


def preload() -> None:
    """Import what a server would import when it first needs it, so that forked servers import nothing."""
    for name in ("anyio._backends._asyncio", "uvicorn.lifespan.on"):
        importlib.import_module(name)
    uvicorn.Config("", log_config=None).get_loop_factory()


def _tune_garbage_collector() -> None:
    """Collect less often, and never look again at what was imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _limit_arenas() -> None:
    """Let all threads share two heaps of the C library: a heap of its own keeps what a thread once needed."""
    if "MALLOC_ARENA_MAX" not in os.environ:  # the C library's own setting
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
