"""Memory of a server while a crowd of clients holds connections: paused or trickling bodies, unfinished heads.

    python -m bench.crowd                                   # every case: a few minutes
    python -m bench.crowd --only chunked,heads --clients 500
    python -m bench.crowd --only uvicorn --chunk 65536

Every case starts a server of its own; the clients are this process. What is told is resident memory: at rest, the most
while the clients send (VmHWM), and a moment after they fell silent. Then each body is ended and its answer read, so
that nothing is measured of clients that were turned away. Ends with 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench import machine
from bench.machine import KIB, MIB
from bench.memory import allow_descriptors, mib

COMMANDS = {
    "tusserver": "{python} -m tusserver serve --port 0 --storage {storage}",
    "uvicorn": "{python} -m uvicorn bench.embedded:app --port 0 --log-level info --no-access-log",
    "h11": "{python} -m uvicorn bench.embedded:app --port 0 --log-level info --no-access-log --http h11",
    "asyncio": "{python} -m uvicorn bench.embedded:app --port 0 --log-level info --no-access-log --loop asyncio",
    "hypercorn": "{python} -m hypercorn bench.embedded:app --bind 127.0.0.1:0",
    "granian": "{python} -m granian bench.embedded:app --interface asgi --port {port}",
}
_LISTENS = re.compile(r"(?:Listening|Running|running) on (?:at )?(http://[\d.:]+)|Listening at: (http://[\d.:]+)")
REST = 3.0
"""Seconds after the last byte until the memory is read again: what a server gathers for a second is gone then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What each client does. Sizes are bytes."""

    name: str
    clients: int
    bound: int
    server: str = "tusserver"
    framing: str = "chunked"
    """chunked, length or head."""
    sends: int = MIB
    """Bytes that each client sends, and then falls silent."""
    chunk: int = MIB
    slowly: float = 0.0
    """Seconds over which it sends them, in pieces of 1 KiB; 0: as fast as it goes."""
    head: bytes = b""
    """What stands in the heads, if those are what does not end."""
    fields: tuple[tuple[str, str], ...] = ()
    """Further ones of each PATCH."""
    answered: int = 204
    """What each PATCH is to be answered in the end."""


# ── The server ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def serving(kind: str, storage: Path) -> Iterator[tuple[int, int]]:
    """Start a server; yield its process id and port."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [part.format(python=sys.executable, storage=storage, port=port) for part in COMMANDS[kind].split()]
    log = storage / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "STORAGE": str(storage), "PYTHONUNBUFFERED": "1"}
        )
    try:
        until = time.monotonic() + 20
        while (listens := _LISTENS.search(log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        url = listens.group(1) or listens.group(2)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        worker = int(children[-1]) if kind in ("granian", "hypercorn") and children else process.pid
        yield worker, int(url.rsplit(":", 1)[1])
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ── The clients ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Client:
    """One connection. `hold` brings it to where it falls silent, `end` from there to its answer."""

    def __init__(self, case: Case, port: int) -> None:
        self._case = case
        self._port = port
        self._socket = socket.socket()
        self._socket.setblocking(False)

    async def _send(self, data: bytes | memoryview) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _answer(self) -> bytes:
        got = b""
        while b"\r\n\r\n" not in got:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
            if not data:
                raise ConnectionError(f"the server hung up after {got!r}")
            got += data
        return got

    async def hold(self, gate: asyncio.Semaphore) -> None:
        async with gate:
            await asyncio.get_running_loop().sock_connect(self._socket, ("127.0.0.1", self._port))
            if self._case.framing == "head":
                with contextlib.suppress(ConnectionError):  # it may be turned away: that is one way to bound them
                    await self._send(b"GET /files/a HTTP/1.1\r\nHost: here\r\n" + self._case.head)
                return
            size = self._case.sends + 1
            fields = {"Tus-Resumable": "1.0.0", "Host": "here", "Upload-Length": str(size), "Content-Length": "0"}
            await self._ask("POST", "/files", fields)
            created = await self._answer()
            location = re.search(rb"(?i)\r\nlocation: (?:https?://[^/]*)?(\S+)", created)
            if location is None:
                raise ConnectionError(f"no upload was created: {created!r}")
            fields = {"Tus-Resumable": "1.0.0", "Host": "here", "Upload-Offset": "0"}
            fields["Content-Type"] = "application/offset+octet-stream"
            chunked = self._case.framing == "chunked"
            fields |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
            await self._ask("PATCH", location.group(1).decode(), {**fields, **dict(self._case.fields)})
        await self._body()

    async def _ask(self, method: str, target: str, fields: dict[str, str]) -> None:
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        await self._send("\r\n".join(lines).encode())

    async def _body(self) -> None:
        case = self._case
        piece = KIB if case.slowly else case.chunk
        began = time.monotonic()
        for at in range(0, case.sends, piece):
            size = min(piece, case.sends - at)
            data = _NOISE[:size]
            if case.framing == "chunked":
                await self._send(b"%x\r\n%b\r\n" % (size, data))
            else:
                await self._send(data)
            if case.slowly:
                due = began + case.slowly * (at + size) / case.sends
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def end(self) -> bytes:
        """Send the last byte; return the head of the answer."""
        try:
            if self._case.framing == "head":
                return b""
            await self._send(b"1\r\nz\r\n0\r\n\r\n" if self._case.framing == "chunked" else b"z")
            return await self._answer()
        finally:
            self._socket.close()


_NOISE = os.urandom(8 * MIB)


# ── The measurement ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    case: Case
    rest: int
    peak: int
    held: int
    seconds: float
    wrong: int
    """Clients that were not answered in the end as they should be."""
    example: str


async def crowd(case: Case, port: int, measure: Callable[[str], int], rest: int) -> Result:
    """Let the clients come, fall silent, and end."""
    clients = [Client(case, port) for _ in range(case.clients)]
    gate = asyncio.Semaphore(64)  # connecting and creating; not sending
    began = time.monotonic()
    await asyncio.gather(*(client.hold(gate) for client in clients))
    took = time.monotonic() - began
    await asyncio.sleep(REST)
    peak, held = measure("VmHWM"), measure("VmRSS")
    answers = await asyncio.gather(*(client.end() for client in clients), return_exceptions=True)
    right = b"" if case.framing == "head" else b" %d " % case.answered
    wrong = [answer for answer in answers if not (isinstance(answer, bytes) and right in answer[:20])]
    example = str(wrong[0])[-120:] if wrong else ""
    return Result(case=case, rest=rest, peak=peak, held=held, seconds=took, wrong=len(wrong), example=example)


def run(case: Case, folder: Path | None) -> Result:
    """Run one case against a fresh server with an empty data folder."""
    with (
        tempfile.TemporaryDirectory(prefix="tusserver-crowd-", dir=folder) as storage,
        serving(case.server, Path(storage)) as (pid, port),
    ):
        asyncio.run(_warm_up(Case(name="warm-up", clients=1, bound=0, sends=KIB, server=case.server), port))
        rest = machine.memory(pid, "VmRSS")
        machine.forget_peak(pid)
        return asyncio.run(crowd(case, port, lambda key: machine.memory(pid, key), rest))


async def _warm_up(case: Case, port: int) -> None:
    client = Client(case, port)
    await client.hold(asyncio.Semaphore(1))
    await client.end()


def cases(clients: int, chunk: int) -> list[Case]:
    fields = b"".join(b"%x:%x\r\n" % (number + 16, number + 16) for number in range(3_000))
    checksum = ("Upload-Checksum", "sha1 " + "A" * 27 + "=")
    paused = Case(name="chunked", clients=clients, bound=150 * MIB, chunk=chunk)
    trickle = replace(paused, name="trickle", sends=10 * KIB, slowly=10.0)
    length = replace(paused, name="length", framing="length")
    many = replace(trickle, name="slow-chunked", clients=8 * clients, bound=300 * MIB)
    heads = replace(many, name="heads", framing="head", head=fields, slowly=0.0)
    return [
        paused,
        trickle,
        length,
        replace(paused, name="trailer", fields=(("Trailer", "Upload-Checksum"),), answered=400),
        replace(paused, name="checksum", fields=(checksum,), answered=460),
        replace(paused, name="uvicorn", server="uvicorn"),
        replace(trickle, name="uvicorn-trickle", server="uvicorn"),
        replace(length, name="uvicorn-length", server="uvicorn"),
        *(replace(paused, name=server, server=server) for server in ("h11", "asyncio", "hypercorn", "granian")),
        many,
        replace(many, name="slow-length", framing="length"),
        heads,
        replace(heads, name="heads-long", head=b"X: " + b"a" * 180_000),
    ]


def tell(result: Result) -> str:
    """One line."""
    case = result.case
    told = f"{case.name:16} {case.clients:6} clients  {result.seconds:5.1f} s"
    told += f"  rest {mib(result.rest):>6}  peak {mib(result.peak):>7}  held {mib(result.held):>7} MiB"
    told += f"  {(result.held - result.rest) / case.clients / KIB:7.1f} KiB each"
    return told if not result.wrong else f"{told}  {result.wrong} answers are wrong, as: {result.example}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="names of cases, with commas between them")
    parser.add_argument("--clients", type=int, default=1000, help="at once; eight times as many where they are slow")
    parser.add_argument("--chunk", type=int, default=MIB, help="bytes of a chunk (1 MiB)")
    parser.add_argument("--folder", type=Path, help="where the data folders are made (the system's temporary folder)")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else []
    wanted = [case for case in cases(given.clients, given.chunk) if not names or case.name in names]
    allow_descriptors(2 * max(case.clients for case in wanted) + 500)
    missed = 0
    for case in wanted:
        result = run(case, given.folder)
        sys.stdout.write(tell(result) + "\n")
        sys.stdout.flush()
        missed += result.peak >= case.bound or result.wrong > 0
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
