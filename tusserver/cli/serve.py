"""`tusserver serve`: settings in, a running server out.

Most of the server is imported after signals are handled: a signal that comes meanwhile ends the start without a trace.
"""

from __future__ import annotations

import argparse
import gc
import logging
from functools import partial
from typing import Any

from tusserver import __version__
from tusserver.cli.flags import load_settings
from tusserver.protocol.extensions import Extension
from tusserver.server import logs, signals
from tusserver.server.lines import LineWriter
from tusserver.settings.sources import LoadedSettings, SettingsError
from tusserver.settings.values import show_duration

_STANDARD_OUTPUT = 1
_STANDARD_ERROR = 2
_STOPPED = "Stopped. Uploads are kept and can be resumed."

logger = logging.getLogger("tusserver.server")


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal comes; return the exit code.

    Raises:
        SettingsError
    """
    configured = load_settings(options)
    terminal = signals.Terminal()
    handlers = signals.prepare(terminal)
    out = LineWriter(_STANDARD_OUTPUT, keep_thread=False)
    try:
        return _Service(options, configured, terminal, out).serve()
    except KeyboardInterrupt:  # a signal during the start
        _finish(out, _STOPPED)
        return 0
    except SettingsError:
        signals.restore(handlers)
        raise
    except OSError as error:
        return _fail(f"the server could not start: {error}")


class _Service:
    """One run of `tusserver serve`: its settings, its sockets, and what is printed to `out`."""

    def __init__(
        self, options: argparse.Namespace, configured: LoadedSettings, terminal: signals.Terminal, out: LineWriter
    ) -> None:
        from tusserver.assembly import open_listeners

        self._options = options
        self._configured = configured
        self._terminal = terminal
        self._out = out
        self._workers = configured.settings.server.workers
        self._log()
        self._note()
        self._listeners = open_listeners(configured)
        self._server: Any = None
        self._next_app: Any = None
        """The app that is served next, after a reload in one process."""

    def serve(self) -> int:
        """Serve, in this process or in several; return the exit code."""
        from tusserver.assembly import assemble

        app = assemble(self._configured)
        if self._workers == 1:
            return self._serve_alone(app)
        self._announcement = self._announce(app)
        del app  # each worker makes its own: an inherited lock would exclude nobody
        return self._supervise()

    def _note(self) -> None:
        """Say which settings have another name now."""
        for line in self._configured.notices:
            logger.warning(line)

    def _log(self, worker: int | None = None) -> None:
        log = self._configured.settings.log
        logs.configure(log.level, log.format, worker=worker, keep_thread=worker is not None or self._workers == 1)

    def _announce(self, app: Any) -> str:
        from tusserver.server import protocol, sockets

        settings = self._configured.settings
        extensions = app.tus.extensions
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
        if app.page is not None:
            lines.insert(-1, f"Upload page: {address}/")
        return "\n".join(lines)

    def _report_wait(self, requests: int) -> None:
        longest = show_duration(self._configured.settings.server.shutdown_timeout)
        self._out.put(f"Waiting for running requests ({requests}), {longest} at most. Ctrl-C again ends them.")

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()

    def _reload(self) -> Any:
        """Read the settings again; return an app made of them, and None if they are wrong and change nothing.

        No error here may end a server: the files of the package may be those of another version by now.
        """
        from tusserver.assembly import assemble

        who = "the settings" if self._workers == 1 else "the workers"
        try:
            configured = load_settings(self._options)
            app = assemble(configured)
        except SettingsError as refusal:
            logger.error("%s stay as they are: %s", who, refusal)
            return None
        except Exception as error:
            logger.error("%s stay as they are, as the new settings cannot be tried: %s", who, _describe(error))
            logger.debug("the traceback of that", exc_info=True)
            return None
        self._configured = configured
        self._log()
        self._note()
        return app

    def _run(self, app: Any, listeners: list[Any], **callbacks: Any) -> bool:
        from tusserver.assembly import run_options
        from tusserver.server import run

        return run.run(app, listeners, run_options(self._configured), **callbacks)

    # one process -----------------------------------------------------------------------------------------------------

    def _serve_alone(self, app: Any) -> int:
        """Serve in this process; after SIGHUP again, with the settings as they are then."""
        import asyncio

        on_start = partial(self._out.put, self._announce(app))
        while True:
            self._next_app = None
            started = self._run(
                app,
                [listener.dup() for listener in self._listeners],
                on_start=on_start,
                on_stop=partial(self._stop, app),
                on_wait=self._report_wait,
                make_server=self._make_server,
            )
            asyncio.run(app.aclose())
            if not started:
                return _fail("the server could not start; the log above says why")
            if self._next_app is not None:
                signals.prepare(self._terminal)
            if self._next_app is None or self._server.signalled:
                _finish(self._out, _STOPPED)
                return 0
            app = self._next_app
            on_start = partial(logger.info, "serving again, with the settings as they are now")

    def _make_server(self, config: Any, **callbacks: Any) -> Any:
        from tusserver.server import run

        self._server = run.Server(
            config,
            on_hangup=self._on_hangup,
            on_exit=partial(_finish, self._out, _STOPPED),
            terminal=self._terminal,
            **callbacks,
        )
        return self._server

    def _on_hangup(self) -> bool:
        self._next_app = self._reload()
        return self._next_app is not None

    def _stop(self, app: Any) -> None:
        app.tus.close()
        if self._next_app is None:  # else new connections wait until it is served
            self._close_listeners()

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
            on_stop=self._close_listeners,
            on_wait=self._report_wait,
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
        """Serve as a worker; return its exit code."""
        from tusserver.assembly import assemble

        self._log(context.number)
        try:
            app = assemble(self._configured)
            started = self._run(
                app,
                self._listeners,
                on_start=context.ready,
                on_stop=app.tus.close,
                on_wait=context.waiting,
                make_server=context.server,
                counts=context.process_counts,
            )
        except Exception as error:
            logger.error("this worker cannot serve: %s", _describe(error))
            logger.debug("the traceback of that", exc_info=True)
            return 1
        return 0 if started else 1


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, SettingsError | OSError) else f"{type(error).__name__}: {error}"


def _finish(out: LineWriter, line: str) -> None:
    """Print the last line of a server behind its log, unless nobody reads either."""
    logs.flush()
    out.put(line)
    out.flush()


def _fail(line: str) -> int:
    logs.flush()
    errors = LineWriter(_STANDARD_ERROR, keep_thread=False)
    errors.put(f"tusserver: {line}")
    errors.flush()
    return 1
