"""Sockets that listen: opened here or by a service manager, and what connections inherit from them."""

from __future__ import annotations

import os
import socket

_FIRST_INHERITED = 3
"""The first descriptor that a service manager passes on."""


def listen(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen on every address that `host` resolves to (localhost has two), all on one port.

    Raises:
        OSError: the name is not known, or an address cannot be listened on.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found):
            if sockets:
                port = sockets[0].getsockname()[1]  # the one that the system chose
            both = family == socket.AF_INET6 and address == "::" and socket.has_dualstack_ipv6()
            sockets.append(socket.create_server((address, port), family=family, backlog=backlog, dualstack_ipv6=both))
    except OSError:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def inherited() -> list[socket.socket]:
    """Return the sockets on which a service manager listens for us (`LISTEN_FDS`, as systemd's socket activation does).

    Raises:
        ValueError: one of them cannot be served.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for fd in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count)):
        try:
            os.set_inheritable(fd, False)
            listener = socket.socket(fileno=fd)
            listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ValueError(f"descriptor {fd} is no socket ({error.strerror})") from None
        if not listens or listener.family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"descriptor {fd} is no TCP socket that listens; write ListenStream= with a port")
        sockets.append(listener)
    return sockets


def host_of(listener: socket.socket) -> str:
    """Return `127.0.0.1:8080` or `[::1]:8080`, as in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def limit_unread(listeners: list[socket.socket], timeout: float) -> None:
    """Have the kernel end connections that could not send for `timeout` seconds: the client reads nothing, or is gone.

    Accepted connections inherit this option from the listener.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        for listener in listeners:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout * 1000)))
