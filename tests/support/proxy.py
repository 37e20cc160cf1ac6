"""A TCP proxy that does to a connection what networks do: cut it, stall it, slow it down, lose its answer.

Clients that talk through it send its address as `Host`, so every URL the server gives out leads through it too.
A fault is armed before the client comes and strikes at an exact byte, whichever connection brings that byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import select
import socket
import struct
import termios
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count, cycle, repeat
from types import TracebackType

from tests.support.exchanges import Conversation, Exchange
from tests.support.wire import TIMEOUT

_OUTLIVES = 20.0
"""Seconds for which the receiver keeps a connection whose sender is gone, at most (`Fault.LINGER`)."""

_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)  # POLLRDHUP is known to Linux alone


class Fault(Enum):
    """What happens to the connection that brings the fatal byte."""

    CLOSE = auto()
    """The receiver sees an orderly end (FIN) of both directions. A sender that goes on sending then sees a reset."""
    RESET = auto()
    """Both sides see a reset (RST)."""
    HALF_CLOSE = auto()
    """The receiver sees the end of the sender's stream (FIN); the other direction stays open."""
    STALL = auto()
    """Nothing more passes this way, and nobody is told, until `release()` or until one side hangs up."""
    SPOIL = auto()
    """The byte arrives as another one, and the connection goes on."""
    PAUSE = auto()
    """Nothing passes this way for the next of the `pauses`; then the connection goes on."""
    LINGER = auto()
    """The sender sees a reset. What it had sent trickles to the receiver for a while, as `linger` says; then
    the receiver sees nothing more, neither bytes nor an end."""


class _Closed(Exception):
    """Ends a connection."""


class _Reset(Exception):
    """Ends a connection with a reset."""


@dataclass(slots=True)
class _Armed:
    fault: Fault
    after: int
    left: int
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lingering:
    held: int
    piece: int
    pause: float


class _Direction:
    """One way through the proxy, over all its connections: what passed, and the fault that waits."""

    def __init__(self) -> None:
        self.passed = 0
        self._armed: _Armed | None = None
        self._lock = threading.Lock()

    def arm(self, armed: _Armed) -> None:
        with self._lock:
            self._armed = armed

    def admit(self, size: int) -> tuple[int, Fault | None]:
        """How many of `size` bytes pass at once, and what happens then to the last of them."""
        with self._lock:
            armed, fault = self._armed, None
            if armed is not None and size >= armed.left:
                size, fault = armed.left, armed.fault
                armed.left, armed.times = armed.after, armed.times - 1
                if armed.times == 0:
                    self._armed = None
            elif armed is not None:
                armed.left -= size
            self.passed += size
            return size, fault


class Proxy:
    """Forwards connections to `target` (host:port) from its making until `stop`."""

    def __init__(self, target: str, *, exchanges: list[Exchange] | None = None) -> None:
        """`exchanges`: where the requests and answers that pass are noted, if they are HTTP/1.1 in plain text."""
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._requests = _Direction()
        self._answers = _Direction()
        self._piece, self._pause = 64 * 1024, 0.0
        self._lingering = _Lingering(held=0, piece=1, pause=0.0)
        self._pauses: Iterator[float] = repeat(0.0)
        self._losing: Counter[str] = Counter()
        self._exchanges = exchanges
        self._talks = count(1)
        self.connections = 0
        """How many came."""
        self._released = threading.Event()
        self.failed = threading.Event()
        """Set when a fault strikes; cleared by `fail`."""
        self.hung_up = threading.Event()
        """Set when one side of a stalled connection hangs up; what was held is dropped then. Cleared by `fail`."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def sent(self) -> int:
        """Bytes that clients got through to the server so far, headers included."""
        return self._requests.passed

    def through(self, url: str) -> str:
        """`url` of the target as it is reached through the proxy."""
        return url.replace("{}:{}".format(*self._target), self.host)

    def around(self, url: str) -> str:
        """`url` as it is reached without the proxy, for questions that are not to be counted in `sent`."""
        return url.replace(self.host, "{}:{}".format(*self._target))

    def fail(
        self, fault: Fault, *, after: int, times: int = 1, answers: bool = False, pauses: Sequence[float] = (0.0,)
    ) -> None:
        """Strike when the `after`th byte from now went from clients to the server (`answers`: the other way).

        That byte still passes. `times`: how often, counting from zero each time. `pauses`: the seconds of
        each `Fault.PAUSE`, over and over.
        """
        self._pauses = cycle(pauses)
        self.failed.clear()
        self.hung_up.clear()
        self._released.clear()
        (self._answers if answers else self._requests).arm(_Armed(fault, after, after, times))

    def slow(self, piece: int, pause: float) -> None:
        """From now on pass at most `piece` bytes at once, and wait `pause` seconds before each (0: at full speed)."""
        self._piece, self._pause = piece, pause

    def linger(self, *, held: int, piece: int, pause: float) -> None:
        """How `Fault.LINGER` goes on: of `held` bytes that were sent, `piece` bytes pass every `pause` seconds."""
        self._lingering = _Lingering(held=held, piece=piece, pause=pause)

    def lose(self, method: str, *, times: int = 1) -> None:
        """Throw away the next answers to requests with this method, and reset their connections. Needs `exchanges`."""
        assert self._exchanges is not None
        self.failed.clear()
        self._losing[method] = times

    def release(self) -> None:
        """Let the stalled connections go on."""
        self._released.set()

    def stop(self) -> None:
        """Cut everything and wait until it is gone."""
        with contextlib.suppress(RuntimeError):  # it was stopped before
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _serve(self) -> None:
        with self._listener:
            async with asyncio.TaskGroup() as connections:
                while True:
                    client, _ = await self._loop.sock_accept(self._listener)
                    connections.create_task(self._connect(client))

    async def _connect(self, client: socket.socket) -> None:
        """One connection, from its first byte to its last."""
        self.connections += 1
        with client, socket.socket() as server:
            server.setblocking(False)
            try:
                await self._loop.sock_connect(server, self._target)
            except OSError:  # the server is down: the client shall see a dead connection, not an empty answer
                _reset_on_close(client)
                return
            talk = None if self._exchanges is None else Conversation(next(self._talks), self._exchanges)
            try:
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self._carry(client, server, self._requests, talk))
                    ways.create_task(self._carry(server, client, self._answers, talk))
            except* _Reset:
                _reset_on_close(client)
                _reset_on_close(server)
            except* _Closed:
                pass

    async def _carry(
        self, source: socket.socket, sink: socket.socket, direction: _Direction, talk: Conversation | None
    ) -> None:
        """Pass on what `source` sends until it ends or a fault ends it."""
        try:
            while data := await self._loop.sock_recv(source, self._piece):
                if self._pause:
                    await asyncio.sleep(self._pause)
                if talk and direction is self._answers and self._loses(talk.answer(data)):
                    raise _Reset
                if not await self._pass(data, source, sink, direction, talk):
                    # The server may have said why before it left: the client gets to read that, so take what it sends.
                    while data := await self._loop.sock_recv(source, 64 * 1024):
                        if talk and direction is self._answers:
                            talk.answer(data)
                    return
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        except OSError as error:  # reset by the source: so shall the sink be
            raise _Reset from error

    def _loses(self, answered: list[Exchange]) -> bool:
        """Whether one of these answers shall not arrive."""
        for exchange in answered:
            if self._losing[exchange.method]:
                self._losing[exchange.method] -= 1
                exchange.lost = True
                self.failed.set()
        return any(exchange.lost for exchange in answered)

    async def _pass(
        self, data: bytes, source: socket.socket, sink: socket.socket, direction: _Direction, talk: Conversation | None
    ) -> bool:
        """Send `data`, with the faults that are due; False when the sink takes no more."""
        while data:
            allowed, fault = direction.admit(len(data))
            now, data = data[:allowed], data[allowed:]
            if fault is Fault.SPOIL:
                now = now[:-1] + bytes([now[-1] ^ 0xFF])
            if talk and direction is self._requests:
                talk.ask(now)
            try:
                await self._loop.sock_sendall(sink, now)
            except OSError:
                return False
            if fault is not None:
                await self._arrive(sink)
                self.failed.set()
            match fault:
                case Fault.CLOSE:
                    raise _Closed
                case Fault.RESET:
                    raise _Reset
                case Fault.HALF_CLOSE:
                    sink.shutdown(socket.SHUT_WR)
                    return False
                case Fault.PAUSE:
                    await asyncio.sleep(next(self._pauses))
                case Fault.LINGER:
                    await self._outlive(data, source, sink, direction, talk)
                    raise _Closed
                case Fault.STALL:
                    await self._hold(source, sink)
                    if not self._released.is_set():
                        if _is_gone(source):
                            raise _Closed
                        return False
        return True

    async def _outlive(
        self, data: bytes, source: socket.socket, sink: socket.socket, direction: _Direction, talk: Conversation | None
    ) -> None:
        """Take some more from `source`, reset it, and let that trickle to `sink`. Ends with it, or after a while."""
        lingering, held = self._lingering, bytearray(data)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(1):
                while len(held) < lingering.held and (more := await self._loop.sock_recv(source, 64 * 1024)):
                    held += more
        del held[lingering.held :]
        _reset_on_close(source)
        source.close()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_OUTLIVES):
                while not _is_gone(sink):
                    await asyncio.sleep(lingering.pause or 0.05)
                    piece = bytes(held[: lingering.piece])
                    del held[: lingering.piece]
                    if talk:
                        talk.ask(piece)
                    await self._loop.sock_sendall(sink, piece)
                    direction.passed += len(piece)

    async def _arrive(self, sink: socket.socket) -> None:
        """Wait until the other side's kernel has all that was sent: a reset would throw away what is still here."""
        pending = bytearray(4)
        with contextlib.suppress(OSError):  # a system that does not tell
            while fcntl.ioctl(sink, termios.TIOCOUTQ, pending) == 0 and any(pending):
                if _is_gone(sink):
                    return
                await asyncio.sleep(0.001)

    async def _hold(self, *ends: socket.socket) -> None:
        """Keep still until released or until one side hangs up. Reads nothing, so that the sender feels it."""
        while not self._released.is_set():
            if any(map(_is_gone, ends)):
                self.hung_up.set()
                return
            await asyncio.sleep(0.01)


def _is_gone(end: socket.socket) -> bool:
    poll = select.poll()
    poll.register(end, _GONE)
    return bool(poll.poll(0))


def _reset_on_close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be gone already
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
