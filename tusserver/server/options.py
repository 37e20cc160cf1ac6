"""Options of the server; fields are called as the settings that fill them. Nothing here imports uvicorn."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from tusserver.addresses import TrustedProxies

HEAD_SIZE: Final = 192 * 1024
"""Bytes of a request line with its header fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How it accepts connections, and how it stops."""

    shutdown_timeout: timedelta = timedelta(seconds=10)
    """Longest wait for running requests at the stop. Uploads do not use it."""
    keep_alive: timedelta = timedelta(seconds=75)
    """How long an idle connection stays open."""
    backlog: int = 2048
    """Connections that may wait to be accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections are accepted, and what their requests may take. None means no limit."""

    connections: int | None = None
    """Of all workers together."""
    connections_per_address: int | None = None
    """From one IPv4 address, or one /64 of IPv6."""
    head_timeout: timedelta | None = None
    """Until a request head is complete: from the start of the connection, or from the head's first byte."""
    head_size: int = HEAD_SIZE
    """Bytes of a request head."""
    buffers: int | None = None
    """Bytes that request heads of more than the usual size may use together, in one process."""
    idle_timeout: timedelta = timedelta(seconds=30)
    """A connection whose client takes nothing of an answer for so long is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """All options of a process that serves."""

    server: ServerOptions = field(default_factory=ServerOptions)
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    trusted: TrustedProxies = field(default_factory=TrustedProxies)
    """Proxies whose connections count in all, not by address."""
