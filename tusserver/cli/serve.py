"""`tusserver serve`: settings in, a running server out."""

from __future__ import annotations

import argparse
import errno
import socket

from tusserver import __version__
from tusserver.cli.flags import effective
from tusserver.cli.terminal import complain, say
from tusserver.protocol.messages import Extension
from tusserver.settings import Effective, show_duration


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal comes.

    Raises:
        SettingsError
    """
    configured = effective(options)
    settings = configured.settings
    limits = settings.limits

    # Only now: a wrong setting is told before the server is loaded.
    from tusserver.assembly import assemble
    from tusserver.server import gate, logs, run, wire
    from tusserver.web.origin import Trusted

    logs.configure(settings.log.level, settings.log.format)
    listeners = _listen(configured)
    site = assemble(configured)

    extensions = site.tus.extensions
    if not wire.AT_WORK:  # uvicorn's own protocol cannot deliver trailers, and so OPTIONS does not promise them
        extensions = tuple(extension for extension in extensions if extension is not Extension.CHECKSUM_TRAILER)

    def started() -> None:
        say(f"tusserver {__version__}")
        say(f"Storing in {settings.store.root.absolute()} (durability: {settings.store.durability})")
        say(f"Extensions: {', '.join(extensions) or 'none'}")
        say(f"Listening on http://{run.address_of(listeners[0])}{settings.server.path}")

    def waiting(requests: int) -> None:
        longest = show_duration(settings.server.shutdown_timeout)
        say(f"Waiting for running requests ({requests}), {longest} at most. Ctrl-C again ends them.")

    served = run.run(
        site,
        listeners,
        on_start=started,
        on_stop=site.tus.close,
        on_wait=waiting,
        shutdown_timeout=settings.server.shutdown_timeout.total_seconds(),
        keep_alive=settings.server.keep_alive.total_seconds(),
        backlog=settings.server.backlog,
        idle_timeout=limits.idle_timeout.total_seconds(),
        limits=gate.Limits(
            connections=limits.connections,
            per_address=limits.connections_per_address,
            head_timeout=None if limits.head_timeout is None else limits.head_timeout.total_seconds(),
        ),
        trusted=Trusted(settings.proxies.trusted),
    )
    if not served:
        complain("the server could not start; the log above says why")
        return 1
    say("Stopped. Uploads are kept and can be resumed.")
    return 0


def _listen(configured: Effective) -> list[socket.socket]:
    from tusserver.server.run import listen

    server = configured.settings.server
    try:
        return listen(server.host, server.port, server.backlog)
    except socket.gaierror as error:
        raise configured.refusal("server.host", f"is not known here ({error.strerror}); write an address") from None
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                problem = f"is in use on {server.host}; stop the other program or choose another, 0 picks a free one"
                raise configured.refusal("server.port", problem) from None
            case errno.EACCES:
                problem = "needs more rights than this user has; choose one above 1023"
                raise configured.refusal("server.port", problem) from None
            case _:
                problem = f"cannot be listened on ({error.strerror}); write an address of this machine or 0.0.0.0"
                raise configured.refusal("server.host", problem) from None
