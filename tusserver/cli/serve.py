"""`tusserver serve`: settings in, a running server out."""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import socket
import time
from functools import partial
from typing import Any

from tusserver import __version__
from tusserver.cli.flags import load_settings
from tusserver.protocol.extensions import Extension
from tusserver.server import signals
from tusserver.server.lines import LineWriter
from tusserver.settings.sources import LoadedSettings, SettingsError
from tusserver.settings.values import show_duration

PATIENCE = 1.0
"""Seconds for a port to become free: the workers of a parent that was killed let go of it a moment later."""
_TRY_AGAIN = 0.02
_STANDARD_OUTPUT = 1
_STANDARD_ERROR = 2
_STOPPED = "Stopped. Uploads are kept and can be resumed."

logger = logging.getLogger("tusserver.server")


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal comes.

    Raises:
        SettingsError
    """
    configured = load_settings(options)
    terminal = signals.Terminal()
    handlers = signals.prepare(terminal)
    out = LineWriter(_STANDARD_OUTPUT, keep_thread=False)
    try:
        return _Service(options, configured, terminal, out).serve()
    except KeyboardInterrupt:  # nothing was under way
        _finish(out, _STOPPED)
        return 0
    except SettingsError:
        signals.restore(handlers)
        raise
    except OSError as error:
        return _fail(f"the server could not start: {error}")


class _Service:
    """One `tusserver serve`: the settings that count, the sockets, and what is said of them to `out`."""

    def __init__(
        self, options: argparse.Namespace, configured: LoadedSettings, terminal: signals.Terminal, out: LineWriter
    ) -> None:
        self._options = options
        self._configured = configured
        self._terminal = terminal
        self._out = out
        self._workers = configured.settings.server.workers
        self._log()
        self._note()
        self._listeners = _listen(configured)
        self._server: Any = None
        self._fresh: Any = None
        """The site that is served next, after a reload in one process."""

    def serve(self) -> int:
        """Serve, in this process or in several; the exit code is returned."""
        from tusserver.assembly import assemble

        site = assemble(self._configured)
        if self._workers == 1:
            return self._serve_alone(site)
        self._announcement = self._announce(site)
        del site  # each worker makes its own: an inherited lock would exclude nobody
        return self._supervise()

    def _note(self) -> None:
        """Say which settings have another name now."""
        for line in self._configured.notices:
            logger.warning(line)

    def _log(self, worker: int | None = None) -> None:
        from tusserver.server import logs

        log = self._configured.settings.log
        logs.configure(log.level, log.format, worker=worker, keep_thread=worker is not None or self._workers == 1)

    def _announce(self, site: Any) -> str:
        from tusserver.server import protocol, sockets

        settings = self._configured.settings
        extensions = site.tus.extensions
        if not protocol.SUPPORTED:  # uvicorn's own protocol delivers no trailers, and so OPTIONS does not promise them
            extensions = tuple(extension for extension in extensions if extension is not Extension.CHECKSUM_TRAILER)
        address = f"http://{sockets.host_of(self._listeners[0])}"
        lines = [
            f"tusserver {__version__}"
            if self._workers == 1
            else f"tusserver {__version__} with {self._workers} workers",
            f"Storing in {settings.store.root.absolute()} (durability: {settings.store.durability})",
            f"Extensions: {', '.join(extensions) or 'none'}",
            f"Listening on {address}{settings.server.path}",
        ]
        if site.page is not None:
            lines.insert(-1, f"Upload page: {address}/")
        return "\n".join(lines)

    def _waiting(self, requests: int) -> None:
        longest = show_duration(self._configured.settings.server.shutdown_timeout)
        self._out.put(f"Waiting for running requests ({requests}), {longest} at most. Ctrl-C again ends them.")

    def _close(self) -> None:
        for listener in self._listeners:
            listener.close()

    def _reload(self) -> Any:
        """Read the settings again; return a site made of them, and None if they are wrong and change nothing.

        Nothing that goes wrong here may end a server: its own files may be those of another version by now.
        """
        from tusserver.assembly import assemble

        who = "the settings" if self._workers == 1 else "the workers"
        try:
            fresh = load_settings(self._options)
            site = assemble(fresh)
        except SettingsError as refusal:
            logger.error("%s stay as they are: %s", who, refusal)
            return None
        except Exception as error:
            logger.error("%s stay as they are, as the new settings cannot be tried: %s", who, _said(error))
            logger.debug("the trace of that", exc_info=True)
            return None
        self._configured = fresh
        self._log()
        self._note()
        return site

    # one process -----------------------------------------------------------------------------------------------------

    def _serve_alone(self, site: Any) -> int:
        """Serve in this process; after SIGHUP again, with the settings as they are then."""
        import asyncio

        on_start = partial(self._out.put, self._announce(site))
        while True:
            self._fresh = None
            served = _run(
                self._configured,
                site,
                [listener.dup() for listener in self._listeners],
                on_start=on_start,
                on_stop=partial(self._stop, site),
                on_wait=self._waiting,
                make_server=self._make_server,
            )
            asyncio.run(site.aclose())
            if not served:
                return _fail("the server could not start; the log above says why")
            if self._fresh is not None:
                signals.prepare(self._terminal)
            if self._fresh is None or self._server.signalled:
                _finish(self._out, _STOPPED)
                return 0
            site = self._fresh
            on_start = partial(logger.info, "serving again, with the settings as they are now")

    def _make_server(self, config: Any, **how: Any) -> Any:
        from tusserver.server import run

        self._server = run.Server(
            config,
            on_hangup=self._hangup,
            on_exit=partial(_finish, self._out, _STOPPED),
            terminal=self._terminal,
            **how,
        )
        return self._server

    def _hangup(self) -> bool:
        self._fresh = self._reload()
        return self._fresh is not None

    def _stop(self, site: Any) -> None:
        site.tus.close()
        if self._fresh is None:  # else who connects meanwhile waits until it is served again
            self._close()

    # several ---------------------------------------------------------------------------------------------------------

    def _supervise(self) -> int:
        from tusserver.server import run, supervisor, worker

        run.preload()

        def reload() -> bool:
            if self._reload() is None:
                return False
            gc.collect()
            return True

        parent = supervisor.Supervisor(
            self._workers,
            shutdown_timeout=self._configured.settings.server.shutdown_timeout.total_seconds(),
            on_start=lambda: self._out.put(self._announcement),
            on_stop=self._close,
            on_wait=self._waiting,
            reload=reload,
            terminal=self._terminal,
        )
        context = parent.run()
        if isinstance(context, worker.WorkerContext):
            return self._work(context)
        if parent.gave_up:
            return _fail("the workers could not start; the log above says why")
        _finish(self._out, _STOPPED)
        return context

    def _work(self, context: Any) -> int:
        from tusserver.assembly import assemble

        self._log(context.number)
        try:
            site = assemble(self._configured)
            served = _run(
                self._configured,
                site,
                self._listeners,
                on_start=context.ready,
                on_stop=site.tus.close,
                on_wait=context.waiting,
                make_server=context.server,
                counts=context.process_counts,
            )
        except Exception as error:
            logger.error("this worker cannot serve: %s", _said(error))
            logger.debug("the trace of that", exc_info=True)
            return 1
        return 0 if served else 1


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, SettingsError | OSError) else f"{type(error).__name__}: {error}"


def _finish(out: LineWriter, line: str) -> None:
    """Say the last words of a server, if they are read at once, behind those of the log."""
    from tusserver.server import logs

    logs.flush()
    out.put(line)
    out.flush()


def _fail(line: str) -> int:
    from tusserver.server import logs

    logs.flush()
    errors = LineWriter(_STANDARD_ERROR, keep_thread=False)
    errors.put(f"tusserver: {line}")
    errors.flush()
    return 1


def _run(configured: LoadedSettings, site: Any, listeners: list[socket.socket], **how: Any) -> bool:
    from tusserver.addresses import TrustedProxies
    from tusserver.server import connections, run

    settings = configured.settings
    limits = settings.limits
    return run.run(
        site,
        listeners,
        shutdown_timeout=settings.server.shutdown_timeout.total_seconds(),
        keep_alive=settings.server.keep_alive.total_seconds(),
        backlog=settings.server.backlog,
        idle_timeout=limits.idle_timeout.total_seconds(),
        head_size=limits.head_size,
        limits=connections.ConnectionLimits(
            connections=limits.connections,
            connections_per_address=limits.connections_per_address,
            head_timeout=None if limits.head_timeout is None else limits.head_timeout.total_seconds(),
            head_memory=limits.buffers,
        ),
        trusted=TrustedProxies(settings.proxies.trusted),
        **how,
    )


def _listen(configured: LoadedSettings) -> list[socket.socket]:
    from tusserver.server import sockets

    server = configured.settings.server
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return sockets.inherited() or sockets.listen(server.host, server.port, server.backlog)
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
