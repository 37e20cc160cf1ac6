"""Sockets that listen: opened here or by a service manager, and what connections inherit from them."""

from __future__ import annotations

import os
import socket

_FIRST_INHERITED = 3
"""The first descriptor that a service manager passes on."""


def listen(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen on every address that `host` stands for (localhost has two), all on one port.

    Raises:
        OSError: the name is not known, or the address not to be had.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found):
            if sockets:
                port = sockets[0].getsockname()[1]  # the one the system picked
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
        ValueError: one of them is none that we can serve.
    """
    meant, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    if meant != str(os.getpid()) or not count.isdigit():
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


def address_of(listener: socket.socket) -> str:
    """`127.0.0.1:8080` or `[::1]:8080`, as it stands in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def limit_unread(listeners: list[socket.socket], timeout: float) -> None:
    """Have the kernel end connections on which it waits so long to send, because the client reads nothing or is gone.

    What a listener has set, the connections that it accepts inherit.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        for listener in listeners:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout * 1000)))
