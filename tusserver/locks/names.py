"""Names of the sockets on which the processes that share a folder of locks are asked.

A process that is killed leaves its name. Nobody is behind a name that refuses a connection: a name ends in `.sock` once
its socket is bound, and not before, so that this holds at any moment, and whatever number its process had and wherever.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
import time

_OURS = re.compile(r"[0-9]+-[0-9a-f]{8}\.sock")
_BEING_MADE = re.compile(r"[0-9]+-[0-9a-f]{8}\.sock\.new")
_MAKING = 3600.0
"""Seconds after which a socket that was to get its name does not get it any more; that takes no millisecond."""


def address(folder: int, name: str) -> str:
    """Return the address of a name, by way of the open folder: it may have 107 characters, and folders have more."""
    return f"/proc/self/fd/{folder}/{name}"


def datagrams() -> socket.socket:
    """Return a socket without a name."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def bind(listener: socket.socket, folder: int) -> str:
    """Give a socket a name, and return it. In two steps: one that has it but is not bound yet would look dead.

    Raises:
        OSError: there is no room for it.
    """
    made = f"{os.getpid()}-{secrets.token_hex(4)}"
    listener.bind(address(folder, f"{made}.sock.new"))
    try:
        os.rename(f"{made}.sock.new", f"{made}.sock", src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(f"{made}.sock.new", dir_fd=folder)
        raise
    return f"{made}.sock"


def listed(folder: int) -> list[str]:
    """Return the names that are there, of the living and the dead.

    Raises:
        OSError: the folder cannot be read.
    """
    return [name for name in _names(folder) if _OURS.fullmatch(name)]


def _names(folder: int) -> list[str]:
    """List the folder by an open file of its own: two threads that list by one take each other's names away."""
    return os.listdir(address(folder, ""))


def is_socket(folder: int, name: str) -> bool:
    """Whether a name is that of a socket: nothing else is ours, and a link could lead to anybody's.

    Raises:
        OSError: it is gone.
    """
    return stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def clear(folder: int, most: int | None = None) -> int:
    """Remove the names that killed processes have left, after a look at `most` of all; return how many were removed."""
    removed = 0
    with contextlib.suppress(OSError), datagrams() as probe:
        for name in sorted(_names(folder))[:most]:
            with contextlib.suppress(OSError):
                if is_socket(folder, name) and _is_left(folder, name, probe):
                    os.unlink(name, dir_fd=folder)
                    removed += 1
    return removed


def _is_left(folder: int, name: str, probe: socket.socket) -> bool:
    if _BEING_MADE.fullmatch(name):
        return abs(time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime) > _MAKING
    if not _OURS.fullmatch(name):
        return False
    try:
        probe.connect(address(folder, name))
    except ConnectionRefusedError:
        return True
    return False
