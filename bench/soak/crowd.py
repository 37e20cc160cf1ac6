"""The clients of a soak: each kind does one thing for ever, in peace or in malice, and checks what it is told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from bench.soak.asking import OCTETS, Answer, Connection, Lost, ask

KIB = 1024
BASE = random.Random(1).randbytes(2048 * KIB)
LATER = (409, 423, 429, 503, 507)
"""What a client is told that may come again: the disk hangs, somebody else is at it, there is no room now."""
TRIES = 60


class Wrong(Exception):
    """The server said or kept what it must not."""


class Gone(Exception):
    """The upload has expired meanwhile."""


class Crowd:
    """Clients of the server at `host`, whose uploads are below `path`."""

    def __init__(self, host: str, path: str, *, seed: int, scale: float) -> None:
        self.host = host
        self.path = path
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._seed = seed
        self._scale = scale
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Let them come, in numbers that `scale` scales."""
        kinds: list[tuple[int, Callable[[random.Random], Awaitable[None]], float]] = [
            (150, self.slow, 1.0), (40, self.chunked, 1.0), (4, self.checksummed, 0.3), (8, self.cancelled, 0.3),
            (6, self.hostile, 0.3), (3, self.joined, 1.0), (2, self.left_untouched, 0.4), (4, self.tiny, 0.1),
            (4, self.read_slowly, 0.5),
        ]  # fmt: skip
        for count, habit, rest in kinds:
            for number in range(max(1, round(count * self._scale))):
                rng = random.Random(f"{self._seed} {habit.__name__} {number}")
                self._tasks.append(asyncio.create_task(self._live(habit, rng, rest)))

    async def stop(self) -> None:
        """Send them away."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _live(self, habit: Callable[[random.Random], Awaitable[None]], rng: random.Random, rest: float) -> None:
        name = habit.__name__
        await asyncio.sleep(rng.random() * 10 * rest)
        while True:
            try:
                await habit(rng)
                self.counts[f"{name}: done"] += 1
            except Lost:
                self.counts[f"{name}: connection lost"] += 1
            except Gone:
                self.counts[f"{name}: expired meanwhile"] += 1
            except Wrong as error:
                self.wrong.append(f"{name}: {error}")
            except TimeoutError:
                self.wrong.append(f"{name}: no answer within a minute")
            await asyncio.sleep(rest * rng.uniform(0.5, 1.5))

    # steps -----------------------------------------------------------------------------------------------------------

    def _data(self, rng: random.Random, least: int, most: int) -> bytes:
        start, size = rng.randrange(KIB), rng.randint(least, most)
        return rng.randbytes(16) + BASE[start : start + size]

    async def _ask(self, method: str, path: str, body: bytes = b"", **fields: str | int) -> Answer:
        """Ask until the answer is more than "later"."""
        for _ in range(TRIES):
            answer = await ask(self.host, method, path, body, **fields)
            if answer.status not in LATER or (answer.status == 409 and method == "PATCH"):
                return answer
            self.counts[f"told {answer.status}"] += 1
            await asyncio.sleep(min(5.0, float(answer.fields.get("retry-after", "1"))))
        raise Wrong(f"{method} was answered {answer.status} for minutes")

    async def _create(self, length: int | None, **fields: str | int) -> str:
        size: dict[str, str | int] = {"Upload-Defer-Length": 1} if length is None else {"Upload-Length": length}
        return self._located(await self._ask("POST", self.path, b"", **size, **fields))

    def _located(self, answer: Answer) -> str:
        if answer.status != 201:
            raise Wrong(f"an ordinary creation was answered {answer.status} {answer.body!r}")
        return "/" + answer.fields["location"].split("/", 3)[3]

    async def _offset(self, url: str) -> int:
        answer = await self._ask("HEAD", url)
        if answer.status == 404:
            raise Gone
        if answer.status != 200:
            raise Wrong(f"HEAD was answered {answer.status}")
        return answer.offset

    async def _push(self, url: str, data: bytes) -> None:
        """Send what is missing, in one go each time."""
        for _ in range(TRIES):
            try:
                offset = await self._offset(url)
                if offset == len(data):
                    return
                answer = await self._ask("PATCH", url, data[offset:], Upload_Offset=offset, Content_Type=OCTETS)
            except Lost:
                self.counts["resumed"] += 1
                await asyncio.sleep(1)
                continue
            if answer.status not in (204, 409, 404):
                raise Wrong(f"PATCH was answered {answer.status} {answer.body!r}")
        raise Wrong("an upload did not come to its end")

    async def _compare(self, url: str, data: bytes) -> None:
        answer = await self._ask("GET", url)
        if answer.status == 404:
            raise Gone
        if answer.status != 200 or answer.body != data:
            raise Wrong(f"GET was answered {answer.status} with {len(answer.body)} bytes, {len(data)} were sent")
        self.counts["compared"] += 1

    async def _trickle(
        self, url: str, data: bytes, pieces: list[bytes], fields: dict[str, str | int], rest: float
    ) -> bool:
        """Send a body in pieces; whether it was taken whole. Anything else is made good by who calls."""
        async with Connection(self.host) as connection:
            await connection.head("PATCH", url, {"Upload-Offset": 0, "Content-Type": OCTETS, **fields})
            for piece in pieces:
                await connection.send(piece)
                await asyncio.sleep(rest)
            answer = await connection.answer("PATCH")
        if answer.status == 204 and answer.offset != len(data):
            raise Wrong(f"a body of {len(data)} bytes was taken up to {answer.offset}")
        if answer.status not in (204, 404, 408, *LATER):
            raise Wrong(f"a slow PATCH was answered {answer.status} {answer.body!r}")
        return answer.status == 204

    # habits ----------------------------------------------------------------------------------------------------------

    async def slow(self, rng: random.Random) -> None:
        """A KiB a second for a minute; some leave half-way, and never come back."""
        data = self._data(rng, 20 * KIB, 60 * KIB)
        url = await self._create(len(data))
        pieces = [data[at : at + KIB] for at in range(0, len(data), KIB)]
        if rng.random() < 0.2:
            pieces = pieces[: len(pieces) // 2]
            async with Connection(self.host) as connection:
                fields: dict[str, str | int] = {"Upload-Offset": 0, "Content-Type": OCTETS, "Content-Length": len(data)}
                await connection.head("PATCH", url, fields)
                for piece in pieces:
                    await connection.send(piece)
                    await asyncio.sleep(1)
            return
        if not await self._trickle(url, data, pieces, {"Content-Length": len(data)}, 1.0):
            await self._push(url, data)
        await self._compare(url, data)

    async def chunked(self, rng: random.Random) -> None:
        """Chunks of all sizes, with pauses; of a length that is known or not."""
        data = self._data(rng, 1, 512 * KIB)
        url = await self._create(len(data))
        pieces = []
        at = 0
        while at < len(data):
            size = min(rng.choice([1, 100, 4 * KIB, 64 * KIB, 256 * KIB]), len(data) - at)
            pieces.append(b"%x\r\n%b\r\n" % (size, data[at : at + size]))
            at += size
        pieces = [b"".join(pieces[at : at + 20]) for at in range(0, len(pieces), 20)]
        if not await self._trickle(url, data, [*pieces, b"0\r\n\r\n"], {"Transfer-Encoding": "chunked"}, 0.5):
            await self._push(url, data)
        await self._compare(url, data)

    async def checksummed(self, rng: random.Random) -> None:
        """With checksums, of which some are wrong."""
        data = self._data(rng, 64 * KIB, 1024 * KIB)
        url = await self._create(len(data))
        while (at := await self._offset(url)) < len(data):
            piece = data[at : at + rng.randint(1, 300 * KIB)]
            right = rng.random() < 0.8
            digest = hashlib.sha1(piece if right else piece + b"!").digest()
            told = f"sha1 {base64.b64encode(digest).decode()}"
            if rng.random() < 0.5:
                answer = await self._ask(
                    "PATCH", url, piece, Upload_Offset=at, Content_Type=OCTETS, Upload_Checksum=told
                )
            else:
                answer = await self._with_trailer(url, at, piece, told)
            if answer.status not in ((204, 404, 409, *LATER) if right else (460, 404, 409, *LATER)):
                raise Wrong(f"a checksum that is {'right' if right else 'wrong'} was answered {answer.status}")
        await self._compare(url, data)

    async def _with_trailer(self, url: str, at: int, piece: bytes, told: str) -> Answer:
        fields: dict[str, str | int] = {"Transfer-Encoding": "chunked", "Trailer": "Upload-Checksum"}
        async with Connection(self.host) as connection:
            await connection.head("PATCH", url, {"Upload-Offset": at, "Content-Type": OCTETS, **fields})
            await connection.send(b"%x\r\n%b\r\n0\r\nUpload-Checksum: %b\r\n\r\n" % (len(piece), piece, told.encode()))
            return await connection.answer("PATCH")

    async def cancelled(self, rng: random.Random) -> None:
        """Cut off again and again, resumed, compared and deleted."""
        data = self._data(rng, 100 * KIB, 1500 * KIB)
        url = await self._create(len(data) if rng.random() < 0.7 else None)
        for _ in range(rng.randint(1, 4)):
            at = await self._offset(url)
            async with Connection(self.host) as connection:
                fields: dict[str, str | int] = {"Content-Type": OCTETS, "Content-Length": len(data) - at}
                await connection.head("PATCH", url, {"Upload-Offset": at, **fields})
                await connection.send(data[at : at + rng.randint(0, len(data) - at - 1)])
                await asyncio.sleep(rng.random() * 0.2)
                connection.cut()
        at = await self._offset(url)
        length: dict[str, str | int] = {"Upload-Length": len(data)} if rng.random() < 0.5 else {}
        await self._ask("PATCH", url, data[at:], Upload_Offset=at, Content_Type=OCTETS, **length)
        if not length:
            at = await self._offset(url)
            await self._ask("PATCH", url, data[at:], Upload_Offset=at, Content_Type=OCTETS, Upload_Length=len(data))
        await self._push(url, data)
        await self._compare(url, data)
        if rng.random() < 0.7:
            answer = await self._ask("DELETE", url)
            if answer.status not in (204, 404):
                raise Wrong(f"DELETE was answered {answer.status}")

    async def hostile(self, rng: random.Random) -> None:
        """What nobody in his right mind sends."""
        line = f"POST {self.path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n".encode()
        chunked = (
            line + b"Upload-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Type: " + OCTETS.encode() + b"\r\n\r\n"
        )
        said = rng.choice([
            rng.randbytes(rng.randint(1, 3000)),
            line,
            line + b"".join(b"a%d: b\r\n" % number for number in range(rng.randint(100, 20_000))),
            line + b"A: " + b"x" * rng.randint(1, 400 * KIB),
            chunked + b"zz\r\n",
            chunked + b"5;" + b"x" * rng.randint(1, 100 * KIB),
            chunked + b"5\r\nhello\r\n0\r\nUpload-Checksum: sha1 " + b"A" * 9000,
            chunked + b"fffffffffffffffff\r\n",
            line + b"Upload-Length: 99999999999999999\r\n\r\n",
            line + b"Upload-Length: 5\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            f"HEAD {self.path}/{'0' * 32} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 100,
            b"\r\n" * 5000,
        ])  # fmt: skip
        async with Connection(self.host) as connection:
            await connection.send(said)
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 5)
            if rng.random() < 0.5:
                connection.cut()

    async def joined(self, rng: random.Random) -> None:
        """Parts at once, and the final upload made of them, sometimes before they are complete."""
        parts = [self._data(rng, KIB, 700 * KIB) for _ in range(rng.randint(2, 5))]
        urls = [await self._create(len(part), Upload_Concat="partial") for part in parts]
        early = rng.random() < 0.5
        concat = f"final;{' '.join(urls)}"
        final = self._located(await self._ask("POST", self.path, Upload_Concat=concat)) if early else ""
        await asyncio.gather(*(self._push(url, part) for url, part in zip(urls, parts, strict=True)))
        final = final or self._located(await self._ask("POST", self.path, Upload_Concat=concat))
        for _ in range(TRIES):
            if await self._offset(final) == sum(map(len, parts)):
                return await self._compare(final, b"".join(parts))
            await asyncio.sleep(0.5)
        raise Wrong("a final upload was not joined")

    async def left_untouched(self, rng: random.Random) -> None:
        """An upload that never gets a byte."""
        await self._create(rng.randint(1, 1024 * KIB))

    async def tiny(self, rng: random.Random) -> None:
        """Five bytes with their creation."""
        answer = await self._ask("POST", self.path, b"hello", Upload_Length=5, Content_Type=OCTETS)
        url = self._located(answer)
        if rng.random() < 0.1:
            await self._compare(url, b"hello")

    async def read_slowly(self, rng: random.Random) -> None:
        """Download what hardly fits into the sockets, and take it slowly or not at all."""
        data = self._data(rng, 1000 * KIB, 2000 * KIB)
        url = await self._create(len(data))
        await self._push(url, data)
        async with Connection(self.host) as connection:
            await connection.head("GET", url, {})
            await asyncio.sleep(rng.random() * 4)
            if rng.random() < 0.5:
                connection.cut()
                return
            answer = await connection.answer("GET")
        if answer.status == 200 and answer.body != data:
            raise Wrong("a slow download differs")
