"""The shapes in which bytes travel: a Body comes in, a Source goes to the store, a Wire does what ASGI cannot say.

server (or plain ASGI)  →  web: Body  →  service: Intake, which is a Source  →  store
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
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


class Wire(Protocol):
    """What our own server adds to one request. Without it everything works, a little slower."""

    @property
    def drainable(self) -> bool:
        """Whether the body can go from the socket to a file: plain TCP, a known length, nothing received yet."""

    @property
    def pourable(self) -> bool:
        """Whether the body can go to a file as it is parsed: in chunks, or behind TLS; nothing received yet."""

    @property
    def whole(self) -> bool:
        """Whether all of the body has arrived."""

    @property
    def trailers(self) -> Mapping[str, str] | None:
        """Trailers by lower-case name, complete once the body has ended; None if this server cannot deliver any."""

    async def drain(
        self, fd: int, at: int, digest: Digest | None, moved: Callable[[int], None], disk: Disk | None = None
    ) -> None:
        """Write the body to `fd` from byte `at` on, until it ends. `disk`: where the file is, if that is known.

        `moved(n)` is called, on the loop, after every `n` bytes that are written (and given to `digest`). Cancelling
        is safe: what was read from the socket is written and reported before the cancellation goes on.

        Raises:
            ClientDisconnected: the client went away; all that had arrived was written and reported.
            OSError: the disk failed; what was reported is written.
        """

    async def pour(
        self,
        fd: int,
        at: int,
        digest: Digest | None,
        moved: Callable[[int], None],
        disk: Disk | None = None,
        *,
        admit: Callable[[int], None],
        share: Callable[[], int],
        make_room: MakeRoom | None = None,
    ) -> None:
        """Write the body to `fd` as the server parses it. See `drain`, and beyond that:

        `admit(n)` is called, on the loop, before `n` bytes are written, and may raise: then they are not, and the body
        ends with that error. `share` tells how many bytes may be held while they wait to be written. `make_room`: see
        `Source.drain_to`.
        """

    def catch_up(self) -> None:
        """Take now what has arrived of a body that is being drained: a slow client's bytes may wait to be gathered."""

    async def inform(self, status: int, headers: Mapping[str, str]) -> None:
        """Send a 1xx response, if the client can take one."""


class Body(Protocol):
    """The body of one request, as the web hands it to the service."""

    @property
    def wire(self) -> Wire | None:
        """None under another server."""

    async def receive(self) -> bytes:
        """Return the next bytes, b"" at the end.

        Raises:
            ClientDisconnected: the client went away before its body was whole.
        """

    async def drain(
        self, fd: int, at: int, digest: Digest | None, moved: Callable[[int], None], disk: Disk | None = None
    ) -> None:
        """See `Wire.drain`; only where there is a wire."""

    async def pour(
        self,
        fd: int,
        at: int,
        digest: Digest | None,
        moved: Callable[[int], None],
        disk: Disk | None = None,
        *,
        admit: Callable[[int], None],
        share: Callable[[], int],
        make_room: MakeRoom | None = None,
    ) -> None:
        """See `Wire.pour`; only where there is a wire."""

    async def gone(self) -> None:
        """Return once the client has gone away; for use when the body has ended."""

    def checksum(self) -> Checksum | None:
        """Return the checksum that came as a trailer, once the body has ended.

        Raises:
            InvalidChecksum
        """


OnProgress = Callable[[int], Awaitable[None] | None]
"""Told by the store how many bytes of this body are written so far; may commit them. None: nothing is to be awaited."""


MakeRoom = Callable[[int, int], None]
"""Of a store: makes room for `n` bytes at byte `at` of a file that is open. May raise: then they are not written."""


class Source(Protocol):
    """Bytes for a store: bounded, and never raising; whatever cuts a body short looks like its end."""

    @property
    def drainable(self) -> bool:
        """Whether `drain_to` works; else `read` does."""

    @property
    def expected(self) -> int | None:
        """Bytes that are announced; None if the framing does not say."""

    @property
    def room(self) -> int | None:
        """Bytes that may come at most; None if there is no limit."""

    async def read(self, most: int) -> list[bytes]:
        """Return the next chunks, about `most` bytes in all or what came within a second; empty at the end."""

    async def drain_to(
        self, fd: int, at: int, on_progress: OnProgress, disk: Disk | None = None, make_room: MakeRoom | None = None
    ) -> int:
        """Let the whole body flow to `fd` from byte `at` on, with `on_progress` about once a second; return its bytes.

        `disk`: where the file is. `make_room` is called, in any thread, before bytes are written where it was not
        announced how many come.

        Raises:
            OSError: the disk failed; what `on_progress` was told is written.
        """
