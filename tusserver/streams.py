"""The shapes in which bytes travel: a Body comes in, a Source goes to the store, a Wire does what ASGI cannot say.

server (or plain ASGI)  →  web: Body  →  service: Intake, which is a Source  →  store

Where the server can write a body straight into a file, the store's `FileTarget` travels the other way, by the method
`receive_into` of each of the three.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tusserver.protocol.checksum import Checksum, Digest

WIRE = "tusserver.wire"
"""Key of the Wire in `scope["extensions"]`."""


class Disk(Protocol):
    """The disk that a body is written to; see `lanes.Lanes`."""

    @property
    def slow(self) -> bool:
        """Whether the loop must not wait for it."""

    def attempt(self, call: Callable[..., None], *args: object) -> Awaitable[None] | None:
        """Make a short call for its effect alone; None if it is done, else what must be awaited."""


OnProgress = Callable[[int], Awaitable[None] | None]
"""Called by the store with the number of bytes of this body that are written; may commit them. None: nothing to await.
"""
Reserve = Callable[[int, int], None]
"""`reserve(at, n)`, of a store: reserve space for `n` bytes at byte `at` of an open file. May raise: then they are not
written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTarget:
    """Where a store wants a body."""

    fd: int
    """Open for writing until `receive_into` returns."""
    offset: int
    """Byte of the file at which the body starts."""
    disk: Disk | None = None
    """The disk that the file is on, if that is known."""
    reserve: Reserve | None = None
    """Called, in any thread, before bytes of a body are written whose length was not announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyCallbacks:
    """What happens to the bytes of a body that is received into a file. All but `digest` are called on the loop."""

    on_written: Callable[[int], None]
    """Called after every `n` bytes that are written and given to `digest`."""
    admit: Callable[[int], None]
    """Called before `n` bytes are written of a body that is parsed. May raise: then they are not written, and the body
    ends with that error."""
    buffer_share: Callable[[], int]
    """Return how many bytes may be held in memory while they wait to be written."""
    digest: Digest | None = None
    """Is given all bytes, in any thread."""


class Wire(Protocol):
    """What our own server adds to one request. Without it everything works, a little slower."""

    @property
    def can_receive_into(self) -> bool:
        """Whether `receive_into` works: nothing of the body was received yet."""

    @property
    def fully_received(self) -> bool:
        """Whether all of the body has arrived."""

    @property
    def trailers(self) -> Mapping[str, str] | None:
        """Trailers by lower-case name, complete once the body has ended; None if this server cannot deliver any."""

    async def receive_into(self, target: FileTarget, callbacks: BodyCallbacks) -> None:
        """Write the body to a file until it ends: past the HTTP parser, or as that parses it (in chunks, behind TLS).

        Cancelling is safe: what was read from the socket is written and reported before the cancellation goes on.

        Raises:
            ClientDisconnected: all that had arrived was written and reported.
            OSError: the disk failed; what was reported is written.
            TusError: of `admit` and `reserve`.
        """

    def read_pending(self) -> None:
        """Read now what has arrived of a body that is being received: the kernel may hold back a few bytes."""

    async def send_interim(self, status: int, headers: Mapping[str, str]) -> bool:
        """Send a 1xx response, if the client can take one now, and does read; return whether it was sent."""


class Body(Protocol):
    """The body of one request, as the web layer gives it to the service."""

    @property
    def wire(self) -> Wire | None:
        """None under another server."""

    async def receive(self) -> bytes:
        """Return the next bytes, b"" at the end.

        Raises:
            ClientDisconnected: before all of the body had come.
        """

    async def receive_into(self, target: FileTarget, callbacks: BodyCallbacks) -> None:
        """See `Wire.receive_into`; only where there is a wire."""

    async def disconnected(self) -> None:
        """Return once the client has disconnected; for use when the body has ended."""

    def checksum(self) -> Checksum | None:
        """Return the checksum that came as a trailer, once the body has ended.

        Raises:
            InvalidChecksum
        """


class Source(Protocol):
    """Bytes for a store: bounded, and never raising; whatever cuts a body short looks like its end."""

    @property
    def can_receive_into(self) -> bool:
        """Whether `receive_into` works; else `read` does."""

    @property
    def expected(self) -> int | None:
        """Bytes that are announced; None if the framing does not say."""

    @property
    def limit(self) -> int | None:
        """Bytes that may come at most; None if there is no limit."""

    async def read(self, most: int) -> list[bytes]:
        """Return the next chunks, about `most` bytes in all or what came within a second; empty at the end."""

    async def receive_into(self, target: FileTarget, on_progress: OnProgress) -> int:
        """Write the whole body to a file, calling `on_progress` about once a second; return its bytes.

        Raises:
            OSError: the disk failed; the bytes that `on_progress` was called with are written.
            TusError: of `target.reserve`.
        """
