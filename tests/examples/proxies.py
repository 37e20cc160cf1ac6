"""nginx, Caddy, HAProxy and Apache httpd with the configurations of the examples, on ports the system picks.

The example is used as it stands, but for what every reader changes too: the name, the certificate, the ports.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.examples.running import EXAMPLES, Program, listens
from tests.support.ports import free_port

FOLDERS = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"
NGINX = shutil.which("nginx", path=FOLDERS)
CADDY = shutil.which("caddy")
HAPROXY = shutil.which("haproxy", path=FOLDERS)
HTTPD = shutil.which("apache2", path=FOLDERS)
"""As Debian calls it."""
HTTPD_MODULES = Path("/usr/lib/apache2/modules")


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A proxy in front of a server: HTTPS at `url`, with a certificate of `authority`."""

    url: str
    """Where uploads are created."""
    authority: Path
    program: Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the configurations are told."""

    folder: Path
    public: Path
    """A folder that any user of the machine can read: a proxy started by root gives its rights away."""
    port: int
    upstream: str
    """host:port"""
    certificate: Path
    key: Path


def changed(path: Path, changes: dict[str, str]) -> str:
    """Return a file of the examples with each text replaced. All of them have to be there."""
    text = path.read_text("utf-8")
    for old, new in changes.items():
        assert old in text, f"{path} has no {old!r} any more"
        text = text.replace(old, new)
    return text


def nginx(site: Site) -> list[str | Path]:
    """Write its configuration; return its command."""
    assert NGINX is not None
    example = changed(
        EXAMPLES / "nginx" / "tusserver.conf",
        {
            "127.0.0.1:8080": site.upstream,
            "listen 443 ssl http2": f"listen 127.0.0.1:{site.port} ssl http2",
            "server_name uploads.example.com": "server_name localhost",
            "/etc/ssl/uploads.example.com.pem": str(site.certificate),
            "/etc/ssl/uploads.example.com.key": str(site.key),
        },
    )
    (site.folder / "tusserver.conf").write_text(example)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"    {kind}_temp_path {site.folder}/{kind};" for kind in kinds)
    main = site.folder / "nginx.conf"
    main.write_text(
        f"""\
daemon off;
worker_processes 1;
pid {site.folder}/nginx.pid;
error_log {site.folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
{paths}
    include {site.folder}/tusserver.conf;
}}
"""
    )
    return [NGINX, "-e", site.folder / "error.log", "-p", site.folder, "-c", main]


def caddy(site: Site) -> list[str | Path]:
    """Write its configuration; return its command."""
    assert CADDY is not None
    changes = {
        "127.0.0.1:8080": site.upstream,
        "uploads.example.com {": f"https://localhost:{site.port} {{\n\ttls {site.certificate} {site.key}",
    }
    text = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + changed(EXAMPLES / "caddy" / "Caddyfile", changes)
    config = site.folder / "Caddyfile"
    config.write_text(text)
    return [CADDY, "run", "--config", config, "--adapter", "caddyfile"]


def haproxy(site: Site) -> list[str | Path]:
    """Write its configuration; return its command."""
    assert HAPROXY is not None
    both = site.folder / "both.pem"
    both.write_bytes(site.certificate.read_bytes() + site.key.read_bytes())
    changes = {
        "127.0.0.1:8080": site.upstream,
        "bind :443": f"bind 127.0.0.1:{site.port}",
        "/etc/ssl/uploads.example.com.pem": str(both),
    }
    config = site.folder / "haproxy.cfg"
    config.write_text(changed(EXAMPLES / "haproxy" / "haproxy.cfg", changes))
    return [HAPROXY, "-W", "-f", config]


def httpd(site: Site) -> list[str | Path]:
    """Write its configuration; return its command."""
    assert HTTPD is not None
    away = site.public / "away.asis"
    shutil.copy(EXAMPLES / "httpd" / "away.asis", away)
    example = changed(
        EXAMPLES / "httpd" / "tusserver.conf",
        {
            "127.0.0.1:8080": site.upstream,
            "<VirtualHost *:443>": f"<VirtualHost 127.0.0.1:{site.port}>",
            "ServerName uploads.example.com": "ServerName localhost",
            "/etc/ssl/uploads.example.com.pem": str(site.certificate),
            "/etc/ssl/uploads.example.com.key": str(site.key),
            "/etc/apache2/tusserver-away.asis": str(away),
        },
    )
    (site.folder / "tusserver.conf").write_text(example)
    # Those of the header of the example, what they need, and what Debian switches on.
    modules = (
        *("mpm_event", "authz_core", "ssl", "http2", "headers", "proxy", "proxy_http", "asis"),
        *("alias", "setenvif", "reqtimeout", "mime", "filter", "deflate"),
    )
    load = "\n".join(f"LoadModule {name}_module {HTTPD_MODULES}/mod_{name}.so" for name in modules)
    main = site.folder / "httpd.conf"
    main.write_text(
        f"""\
ServerName localhost
ServerRoot {site.folder}
DefaultRuntimeDir {site.folder}
PidFile {site.folder}/httpd.pid
ErrorLog {site.folder}/error.log
{load}
{"User nobody" if os.geteuid() == 0 else ""}
TypesConfig /dev/null
AddOutputFilterByType DEFLATE text/html text/plain
<Directory />
    Require all denied
</Directory>
Listen 127.0.0.1:{site.port}
Include {site.folder}/tusserver.conf
"""
    )
    return [HTTPD, "-f", main, "-DFOREGROUND"]


KINDS: dict[str, tuple[str | None, Callable[[Site], list[str | Path]]]] = {
    "nginx": (NGINX, nginx),
    "caddy": (CADDY, caddy),
    "haproxy": (HAPROXY, haproxy),
    "httpd": (HTTPD, httpd),
}
"""Where each is installed, and what starts it."""


@contextmanager
def in_front(kind: str, upstream: str, folder: Path) -> Iterator[Front]:
    """Run a proxy of a kind in front of the server at `upstream` (host:port)."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(folder / "own.key"))
    (folder / "own.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tusserver-") as public:
        Path(public).chmod(0o755)
        site = Site(
            folder=folder,
            public=Path(public),
            port=port,
            upstream=upstream,
            certificate=folder / "own.pem",
            key=folder / "own.key",
        )
        data, config = folder / "data", folder / "config"
        program = Program(
            KINDS[kind][1](site),
            ready=lambda: listens(port),
            log=folder / "output.log",
            cwd=folder,
            env={"HOME": str(folder), "XDG_DATA_HOME": str(data), "XDG_CONFIG_HOME": str(config)},
        )
        with program:
            yield Front(url=f"https://localhost:{port}/files", authority=folder / "authority.pem", program=program)


STOP = {"nginx": signal.SIGTERM, "caddy": signal.SIGKILL, "haproxy": signal.SIGTERM, "httpd": signal.SIGTERM}
"""The quick end of each: what runs is cut. Caddy's own stop waits for requests under way."""

RELOAD = {"nginx": signal.SIGHUP, "haproxy": signal.SIGUSR2, "httpd": signal.SIGUSR1}
"""What makes each read its configuration again. Caddy is told through a port of its own, which the tests close."""
