"""The ways from a client to the server: direct, or through a proxy that passes bodies on as they come.

The proxies take plain HTTP here, so that the requests of a client can be counted where they enter.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.examples import proxies
from tests.examples.running import EXAMPLES, Program, listens
from tests.support.ports import free_port
from tests.support.server import TusServer

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to the server."""

    name: str
    lacks: Callable[[], str | None]
    """Says what is not installed here, or None."""
    command: Callable[[Path, int, str], list[str | Path]] | None
    """Writes a configuration into a folder and returns what starts the proxy, on a port, in front of host:port."""

    @contextmanager
    def open(self, server: TusServer, folder: Path) -> Iterator[str]:
        """host:port where clients go in, for as long as the context lasts."""
        if self.command is None:
            yield server.host
            return
        folder.mkdir()
        port = free_port()
        with Program(
            self.command(folder, port, server.host),
            ready=lambda: listens(port),
            log=folder / "output.log",
            cwd=folder,
        ):
            yield f"127.0.0.1:{port}"


def _nginx(folder: Path, port: int, upstream: str) -> list[str | Path]:
    """The example's, without HTTPS."""
    assert proxies.NGINX is not None
    example = proxies.changed(
        EXAMPLES / "nginx" / "tusserver.conf",
        {"127.0.0.1:8080": upstream, "listen 443 ssl http2;": f"listen 127.0.0.1:{port};"},
    )
    site = re.sub(r"^ *ssl_certificate.*\n", "", example, flags=re.MULTILINE)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nevents {{ worker_connections 256; }}\n"
        f"http {{\naccess_log off;\n{paths}\n{site}\n}}\n"
    )
    return [proxies.NGINX, "-e", folder / "error.log", "-p", folder, "-c", config]


def _haproxy(folder: Path, port: int, upstream: str) -> list[str | Path]:
    assert HAPROXY is not None
    config = folder / "haproxy.cfg"
    config.write_text(
        f"""\
global
    maxconn 256
defaults
    mode http
    option http-no-delay
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend uploads
    bind 127.0.0.1:{port}
    default_backend tusserver
backend tusserver
    option forwardfor
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Proto http
    server tusserver {upstream}
    # While the server is away, 423 for HEAD: on another status tus-js-client begins again from nothing.
    http-request set-var(txn.method) method
    http-response set-var(txn.answered) bool(true)
    acl asked_by_head var(txn.method) -m str HEAD
    acl answered var(txn.answered) -m bool
    http-after-response set-status 423 reason Locked if asked_by_head !answered
"""
    )
    return [HAPROXY, "-db", "-f", config]


WAYS = {
    way.name: way
    for way in (
        Way(name="direct", lacks=lambda: None, command=None),
        Way(name="nginx", lacks=lambda: None if proxies.NGINX else "needs nginx", command=_nginx),
        Way(name="haproxy", lacks=lambda: None if HAPROXY else "needs HAProxy", command=_haproxy),
    )
}
"""By name."""
