"""Peak memory of the server process while it takes one huge upload, many at once, and thousands of slow ones.

    python bench/memory.py                         # 4 GiB, 64 x 64 MiB, 2,000 connections of 1 KiB/s
    python bench/memory.py --only slow --slow 500  # one case, scaled down
    python bench/memory.py -- --durability none    # with flags for the server

Every case starts a server of its own, so that no case profits from memory that an earlier one asked for; the client is
this process, so only the server counts. The peak is the kernel's own (VmHWM, set back after the start), not a sample.
What was uploaded is read back and compared byte for byte, then deleted. Ends with 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import random
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.server import TusServer

KIB = 1024
MIB = 1024 * KIB
BLOCK = MIB

_BASE = random.Random(1).randbytes(BLOCK)


@dataclass(kw_only=True, slots=True)
class Case:
    """One load, and what the server may take for it. Sizes are bytes."""

    name: str
    uploads: int
    size: int
    seconds: float = 0.0
    """How long each upload takes; 0: as fast as it goes."""
    peak: int | None = None
    """Bound of the resident memory."""
    growth: int | None = None
    """Bound of what it grows by."""
    growth_each: int | None = None
    """Bound of what it grows by for each connection."""


@dataclass(kw_only=True, slots=True)
class Result:
    case: Case
    baseline: int
    """Resident memory of the server at rest, after one tiny upload."""
    peak: int
    took: float
    faults: list[str] = field(default_factory=list)

    @property
    def growth(self) -> int:
        return self.peak - self.baseline

    @property
    def growth_each(self) -> float:
        return self.growth / self.case.uploads

    def missed(self) -> list[str]:
        """What is wrong, in words."""
        case, missed = self.case, list(self.faults)
        if case.peak is not None and self.peak >= case.peak:
            missed.append(f"{case.name}: peak {mib(self.peak)} MiB, bound {mib(case.peak)} MiB")
        if case.growth is not None and self.growth >= case.growth:
            missed.append(f"{case.name}: growth {mib(self.growth)} MiB, bound {mib(case.growth)} MiB")
        if case.growth_each is not None and self.growth_each >= case.growth_each:
            each, bound = self.growth_each / KIB, case.growth_each / KIB
            missed.append(f"{case.name}: {each:.1f} KiB each, bound {bound:.0f} KiB")
        return missed


def mib(size: float) -> str:
    return f"{size / MIB:.1f}"


# ── What is uploaded: blocks that differ by upload and place ────────────────────────────────────────────────────────


def blocks(upload: int, size: int) -> Iterator[memoryview]:
    """The bytes of one upload. Each block is good until the next one is asked for."""
    block = bytearray(_BASE[:size])
    for start in range(0, size, BLOCK):
        block[:16] = start.to_bytes(8, "big") + upload.to_bytes(8, "big")
        yield memoryview(block)[: min(BLOCK, size - start)]


# ── The client: asyncio on bare sockets, so that it costs as little as it can ───────────────────────────────────────


class Connection:
    """One kept connection to the server."""

    def __init__(self, server: TusServer) -> None:
        self._server = server
        self._socket = socket.socket()
        self._socket.setblocking(False)

    async def __aenter__(self) -> Connection:
        host, port = self._server.host.rsplit(":", 1)
        await asyncio.get_running_loop().sock_connect(self._socket, (host, int(port)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def send(self, data: bytes | memoryview) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def begin(self, method: str, target: str, **headers: str | int) -> None:
        """Send the head of a request."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._server.host}", "Tus-Resumable: 1.0.0"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def answer(self, expected: int) -> dict[str, str]:
        """Read the head of an answer without a body, which has to have the status `expected`."""
        got = b""
        while b"\r\n\r\n" not in got:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
            if not data:
                raise ConnectionError(f"the server hung up after {got!r}")
            got += data
        status, *lines = got.decode().split("\r\n\r\n")[0].split("\r\n")
        if status.split(" ")[1] != str(expected):
            raise ConnectionError(f"expected {expected}, got {got!r}")
        return {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}

    async def create(self, size: int) -> str:
        """Create an upload and return its path."""
        await self.begin("POST", "/" + self._server.url.split("/", 3)[3], Upload_Length=size, Content_Length=0)
        location = (await self.answer(201))["location"]
        return "/" + location.split("/", 3)[3] if "://" in location else location

    async def begin_patch(self, path: str, size: int) -> None:
        await self.begin(
            "PATCH", path, Upload_Offset=0, Content_Length=size, Content_Type="application/offset+octet-stream"
        )

    async def delete(self, path: str) -> None:
        await self.begin("DELETE", path)
        await self.answer(204)


async def upload(server: TusServer, number: int, case: Case) -> str:
    """Send one upload and return its path."""
    async with Connection(server) as connection:
        path = await connection.create(case.size)
        await connection.begin_patch(path, case.size)
        for block in blocks(number, case.size):
            if case.seconds:
                await trickle(connection, block, case.seconds * len(block) / case.size)
            else:
                await connection.send(block)
        assert (await connection.answer(204))["upload-offset"] == str(case.size)
        return path


async def trickle(connection: Connection, block: memoryview, seconds: float) -> None:
    """Send `block` in pieces of 1 KiB, evenly spread over `seconds`."""
    start = time.monotonic()
    for at in range(0, len(block), KIB):
        await connection.send(block[at : at + KIB])
        due = start + seconds * (at + KIB) / len(block)
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def load(server: TusServer, case: Case) -> list[str]:
    """Send all uploads of a case at the same time; slow ones begin spread over their first second."""

    async def begin(number: int) -> str:
        if case.seconds:
            await asyncio.sleep(number / case.uploads)
        return await upload(server, number, case)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(begin(number)) for number in range(case.uploads)]
    return [task.result() for task in tasks]


# ── The measurement ─────────────────────────────────────────────────────────────────────────────────────────────────


def memory(server: TusServer, key: str) -> int:
    """A figure of /proc/PID/status in bytes: VmRSS (now) or VmHWM (the most it was)."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * KIB
    raise LookupError(key)


def forget_peak(server: TusServer) -> None:
    """Reset VmHWM."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")


def differences(server: TusServer, number: int, path: str, case: Case) -> list[str]:
    """Read an upload back and compare it."""
    with contextlib.closing(http.client.HTTPConnection(server.host, timeout=60)) as client:
        client.request("GET", path)
        answer = client.getresponse()
        if answer.status != 200:
            return [f"{case.name}: GET {path} was answered {answer.status}"]
        for index, block in enumerate(blocks(number, case.size)):
            if answer.read(len(block)) != block:
                return [f"{case.name}: {path} differs from what was sent in block {index}"]
        return [f"{case.name}: {path} is too long"] if answer.read(1) else []


async def clear(server: TusServer, paths: list[str]) -> None:
    async with Connection(server) as connection:
        for path in paths:
            await connection.delete(path)


async def warm_up(server: TusServer) -> None:
    """One tiny upload, so that what is loaded on first use belongs to the baseline."""
    case = Case(name="warm-up", uploads=1, size=KIB)
    await clear(server, [await upload(server, 0, case)])


def measure(case: Case, folder: Path | None, options: list[str]) -> Result:
    """Run one case against a fresh server with an empty data folder."""
    with tempfile.TemporaryDirectory(prefix="tusserver-bench-", dir=folder) as storage:
        server = TusServer(Path(storage), *options)
        with server:
            asyncio.run(warm_up(server))
            baseline = memory(server, "VmRSS")
            forget_peak(server)
            started = time.monotonic()
            paths = asyncio.run(load(server, case))
            result = Result(case=case, baseline=baseline, peak=memory(server, "VmHWM"), took=time.monotonic() - started)
            for number, path in enumerate(paths):
                result.faults += differences(server, number, path, case)
            asyncio.run(clear(server, paths))
            result.faults += [f"{case.name}: {path} is left behind" for path in server.files()]
        return result


def table(results: list[Result]) -> str:
    heads = ["case", "seconds", "MB/s", "baseline MiB", "peak MiB", "growth MiB", "KiB each"]
    rows = [
        [
            result.case.name,
            f"{result.took:.1f}",
            f"{result.case.uploads * result.case.size / result.took / 1e6:.0f}",
            mib(result.baseline),
            mib(result.peak),
            mib(result.growth),
            f"{result.growth_each / KIB:.1f}" if result.case.uploads > 1 else "",
        ]
        for result in results
    ]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in [heads, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def allow_descriptors(wanted: int) -> None:
    """Raise the limit of open files for this process and the servers it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        sys.exit(f"The hard limit of open files is {hard}; {wanted} are needed. Raise it, or lower --slow.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--huge-mib", type=int, default=4096, help="size of the one huge upload (4096)")
    parser.add_argument("--parallel", type=int, default=64, help="uploads at once (64)")
    parser.add_argument("--parallel-mib", type=int, default=64, help="size of each of them (64)")
    parser.add_argument("--slow", type=int, default=2000, help="slow connections, of 1 KiB/s each (2000)")
    parser.add_argument("--seconds", type=int, default=15, help="how long each of them lasts (15)")
    parser.add_argument("--only", choices=["huge", "parallel", "slow"], action="append", help="some of the cases")
    parser.add_argument("--folder", type=Path, help="where the data folders are made (the system's temporary folder)")
    parser.add_argument("server", nargs="*", help="flags for the server, after --")
    given = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("The peak memory of a process is read from /proc, as Linux has it.")

    cases = {
        "huge": Case(
            name=f"1 x {given.huge_mib} MiB", uploads=1, size=given.huge_mib * MIB, peak=80 * MIB, growth=16 * MIB
        ),
        "parallel": Case(
            name=f"{given.parallel} x {given.parallel_mib} MiB",
            uploads=given.parallel,
            size=given.parallel_mib * MIB,
            peak=150 * MIB,
        ),
        "slow": Case(
            name=f"{given.slow} x 1 KiB/s",
            uploads=given.slow,
            size=given.seconds * KIB,
            seconds=given.seconds,
            growth_each=48 * KIB,
        ),
    }
    allow_descriptors(2 * max(given.slow, given.parallel) + 500)
    results = []
    for name in given.only or cases:
        sys.stderr.write(f"{cases[name].name} …\n")
        results.append(measure(cases[name], given.folder, given.server))
    sys.stdout.write(table(results) + "\n")
    missed = [line for result in results for line in result.missed()]
    sys.stdout.writelines(line + "\n" for line in missed or ["All bounds are kept; every byte was compared."])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
