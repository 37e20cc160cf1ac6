"""`tusserver serve`: settings in, a running server out."""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from tusserver import __version__
from tusserver.cli.flags import effective
from tusserver.cli.terminal import complain, say
from tusserver.protocol.messages import Extension
from tusserver.settings import Effective, SettingsError, show_duration

PATIENCE = 1.0
"""Seconds for a port to become free: the workers of a parent that was killed let go of it a moment later."""
_TRY_AGAIN = 0.02

logger = logging.getLogger("tusserver.server")


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal comes.

    Raises:
        SettingsError
    """
    configured = effective(options)
    settings = configured.settings

    # Only now: a wrong setting is told before the server is loaded.
    from tusserver.assembly import assemble
    from tusserver.server import logs, run, wire

    logs.configure(settings.log.level, settings.log.format)
    listeners = _listen(configured)
    site = assemble(configured)

    extensions = site.tus.extensions
    if not wire.AT_WORK:  # uvicorn's own protocol cannot deliver trailers, and so OPTIONS does not promise them
        extensions = tuple(extension for extension in extensions if extension is not Extension.CHECKSUM_TRAILER)

    has_page = site.page is not None

    def started() -> None:
        workers = settings.server.workers
        say(f"tusserver {__version__}" if workers == 1 else f"tusserver {__version__} with {workers} workers")
        say(f"Storing in {settings.store.root.absolute()} (durability: {settings.store.durability})")
        say(f"Extensions: {', '.join(extensions) or 'none'}")
        address = f"http://{run.address_of(listeners[0])}"
        if has_page:
            say(f"Upload page: {address}/")
        say(f"Listening on {address}{settings.server.path}")

    def waiting(requests: int) -> None:
        longest = show_duration(settings.server.shutdown_timeout)
        say(f"Waiting for running requests ({requests}), {longest} at most. Ctrl-C again ends them.")

    if settings.server.workers > 1:
        del site  # each worker makes its own: an inherited lock would exclude nobody
        return _supervise(options, configured, listeners, on_start=started, on_wait=waiting)
    if not _run(configured, site, listeners, on_start=started, on_wait=waiting):
        complain("the server could not start; the log above says why")
        return 1
    say("Stopped. Uploads are kept and can be resumed.")
    return 0


def _supervise(
    options: argparse.Namespace,
    configured: Effective,
    listeners: list[socket.socket],
    *,
    on_start: Callable[[], None],
    on_wait: Callable[[int], None],
) -> int:
    from tusserver.assembly import assemble
    from tusserver.server import logs, workers

    def stopping() -> None:
        for listener in listeners:
            listener.close()

    def reload() -> bool:
        nonlocal configured
        try:
            fresh = effective(options)
            assemble(fresh)
        except SettingsError as refusal:
            logger.error("the workers stay as they are: %s", refusal)
            return False
        configured = fresh
        logs.configure(fresh.settings.log.level, fresh.settings.log.format)
        gc.collect()
        return True

    supervisor = workers.Supervisor(
        configured.settings.server.workers,
        shutdown_timeout=configured.settings.server.shutdown_timeout.total_seconds(),
        on_start=on_start,
        on_stop=stopping,
        on_wait=on_wait,
        reload=reload,
    )
    seat = supervisor.run()
    if isinstance(seat, workers.Seat):
        logs.configure(configured.settings.log.level, configured.settings.log.format, worker=seat.number)
        site = assemble(configured)
        served = _run(configured, site, listeners, on_start=seat.ready, on_wait=seat.waiting, make_server=seat.server)
        return 0 if served else 1
    if supervisor.gave_up:
        complain("the workers could not start; the log above says why")
    else:
        say("Stopped. Uploads are kept and can be resumed.")
    return seat


def _run(configured: Effective, site: Any, listeners: list[socket.socket], **how: Any) -> bool:
    from tusserver.server import gate, run
    from tusserver.web.origin import Trusted

    settings = configured.settings
    limits = settings.limits
    return run.run(
        site,
        listeners,
        on_stop=site.tus.close,
        shutdown_timeout=settings.server.shutdown_timeout.total_seconds(),
        keep_alive=settings.server.keep_alive.total_seconds(),
        backlog=settings.server.backlog,
        idle_timeout=limits.idle_timeout.total_seconds(),
        head_size=limits.head_size,
        limits=gate.Limits(
            connections=limits.connections,
            per_address=limits.connections_per_address,
            head_timeout=None if limits.head_timeout is None else limits.head_timeout.total_seconds(),
        ),
        trusted=Trusted(settings.proxies.trusted),
        **how,
    )


def _listen(configured: Effective) -> list[socket.socket]:
    from tusserver.server import run

    server = configured.settings.server
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return run.inherited() or run.listen(server.host, server.port, server.backlog)
        except socket.gaierror as error:
            raise configured.refusal("server.host", f"is not known here ({error.strerror}); write an address") from None
        except ValueError as error:
            raise SettingsError(f"environment LISTEN_FDS: {error}") from None
        except OSError as error:
            match error.errno:
                case errno.EADDRINUSE if time.monotonic() < until:
                    time.sleep(_TRY_AGAIN)
                case errno.EADDRINUSE:
                    problem = (
                        f"is in use on {server.host}; stop the other program or choose another, 0 picks a free one"
                    )
                    raise configured.refusal("server.port", problem) from None
                case errno.EACCES:
                    problem = "needs more rights than this user has; choose one above 1023"
                    raise configured.refusal("server.port", problem) from None
                case _:
                    problem = f"cannot be listened on ({error.strerror}); write an address of this machine or 0.0.0.0"
                    raise configured.refusal("server.host", problem) from None
