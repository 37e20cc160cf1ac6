"""A file on its way to the socket, by the kernel alone.

Small pieces go on the loop if they are in memory. All else goes in a thread as long as the client takes it; while it
does not, the loop waits for the socket and no thread is held.
"""

from __future__ import annotations

import asyncio
import os
import select
from time import perf_counter

from tusserver.protocol.errors import ClientDisconnected
from tusserver.threads import Threads

SMALL = 64 << 10
"""Bytes that may be sent on the loop."""
PIECE = 1 << 20
"""Bytes of one call."""
SLICE = 0.5
"""Seconds until a thread reports, so that a cancelled task does not wait for long."""
QUIET = 0.025
"""Seconds that a thread waits for a client before it gives the socket back to the loop."""
THREADS = 4

_CAN_READ_CACHED = hasattr(os, "RWF_NOWAIT")
_threads = Threads(THREADS, "tusserver-send")  # started when they are needed, and shared by the process


async def send_file(transport: asyncio.Transport, own: int, fd: int, at: int, count: int) -> None:
    """Send `count` bytes of `fd` from byte `at` on, past `transport`, which has sent everything it was given.

    `own`: our own descriptor of its socket: if the transport closes, its number may soon be another connection's.

    Raises:
        ClientDisconnected: the client went away.
        EOFError: the file is shorter than that.
        OSError: the disk failed.
    """
    end = at + count
    while at < end:
        if transport.is_closing():
            raise ClientDisconnected
        sent = _send_cached(own, fd, at, end) if end - at <= SMALL else None
        if sent is None:
            sent = await _threads.run(_send, own, fd, at, end)
        at += sent
        if at < end:
            await _writable(own)


def _send_cached(target: int, fd: int, at: int, end: int) -> int | None:
    """Send what is in memory, without waiting for anything; return the bytes sent, None if a thread must try."""
    if not _CAN_READ_CACHED:
        return None
    data = bytearray(end - at)
    try:
        if os.preadv(fd, (data,), at, os.RWF_NOWAIT) < len(data):
            return None
    except OSError:
        return None
    try:
        return os.write(target, data)
    except BlockingIOError:
        return 0
    except ConnectionError:
        raise ClientDisconnected from None


def _send(target: int, fd: int, at: int, end: int) -> int:
    """Send until the client takes no more; return the bytes sent."""
    start = at
    until = perf_counter() + SLICE
    while at < end and perf_counter() < until:
        try:
            sent = os.sendfile(target, fd, at, min(PIECE, end - at))
        except BlockingIOError:
            if not _takes_more(target):
                break
            continue
        except ConnectionError:
            raise ClientDisconnected from None
        if sent == 0:
            raise EOFError("the file is shorter than its length")
        at += sent
    return at - start


def _takes_more(target: int) -> bool:
    poll = select.poll()
    poll.register(target, select.POLLOUT)
    return bool(poll.poll(QUIET * 1000))


async def _writable(target: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(target, wake)
    try:
        await ready
    finally:
        loop.remove_writer(target)
