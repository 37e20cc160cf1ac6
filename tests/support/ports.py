"""Ports for programs that must be told one."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port of this machine that nobody has.

    Below those that systems give out by themselves: one of these could go to another test's server, or to the near end
    of some connection, before the program has taken it.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("there is no free port")
