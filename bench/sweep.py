"""What a sweep of very many overdue uploads costs, and what it leaves of the server meanwhile.

    python -m bench.sweep                                  # 1,000,000 ids, 50,000 uploads; some minutes
    python -m bench.sweep --ids 100000 --uploads 5000      # scaled down

Cases: `rest`, a server with nothing to do, which tells what the machine itself makes of `/livez`. `ids`, a list of
overdue ids that have no files (any more). `create`, uploads created over HTTP, by clients that do nothing else.
`remove`, that many small uploads that are overdue, as the server finds them at its start. `both`, the same while the
clients create. `/livez` is asked all the time, by a process of its own. Each case starts a server of its own. On a busy
machine compare what a second of CPU is good for.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import multiprocessing
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

from bench import machine
from tests.support.server import TusServer
from tusserver.protocol.upload import Upload, UploadId
from tusserver.stores.file.store import FileStore

MIB = 1 << 20
CLIENTS = 8
"""Clients that create at once, beside one alone."""
CREATED = 4000
"""Uploads that are created to find out how fast that goes."""
_PAUSE = 0.005
"""Seconds between two questions for `/livez`."""


class Beside:
    """Another process, which does something to the server until it is asked what came of it."""

    def __init__(self, target: Callable[..., None], *args: object) -> None:
        self._stop = multiprocessing.Event()
        self._found: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
        self._process = multiprocessing.Process(target=target, args=(*args, self._stop, self._found), daemon=True)
        self._process.start()

    def end(self, *, hurry: bool = True) -> list[float]:
        """Stop it, if it does not stop by itself; return the seconds that each request took."""
        if hurry:
            self._stop.set()
        found = self._found.get(timeout=600)
        self._process.join()
        return found


def ask(host: str, stop: Event, found: multiprocessing.Queue[list[float]]) -> None:
    """Ask for `/livez` again and again."""
    connection, took = http.client.HTTPConnection(host, timeout=60), []
    while not stop.is_set():
        began = time.perf_counter()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        took.append(time.perf_counter() - began)
        time.sleep(_PAUSE)
    found.put(took)


def create(host: str, clients: int, most: int, stop: Event, found: multiprocessing.Queue[list[float]]) -> None:
    """Create uploads of 1 KiB without their bytes, over `clients` connections, until there are `most`."""
    name, port = host.rsplit(":", 1)
    request = f"POST /files HTTP/1.1\r\nHost: {host}\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 1024\r\n\r\n".encode()
    took: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection(name, int(port))
        while not stop.is_set() and len(took) < most:
            began = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if b" 201 " not in answer:
                raise RuntimeError(answer.decode())
            took.append(time.perf_counter() - began)
        writer.close()

    async def all_clients() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())

    asyncio.run(all_clients())
    found.put(took)


def prepare(folder: Path) -> None:
    """Make a data folder by a server, which notes what it does at its first start only."""
    server = TusServer(folder, "--log.level", "warning").start()
    while not (folder / "calendar" / "policy").exists():
        time.sleep(0.05)
    server.stop()


def make_list(folder: Path, ids: Iterable[str]) -> None:
    """Let a data folder have one list of overdue ids, and no other."""
    calendar = folder / "calendar"
    for path in calendar.glob("[0-9]*"):
        path.unlink()
    with (calendar / str(int(time.time()) - 60)).open("w") as names:
        names.writelines(f"\n{upload_id}\n" for upload_id in ids)


async def make_uploads(folder: Path, uploads: int) -> None:
    """Fill a data folder with small uploads that are overdue."""
    prepare(folder)
    store = FileStore(folder, durability="none")
    now = datetime.now(UTC)
    ids = [UploadId(secrets.token_hex(16)) for _ in range(uploads)]
    for upload_id in ids:
        await store.create(Upload(id=upload_id, created_at=now, length=100, expires_at=now - timedelta(seconds=10)))
    make_list(folder, ids)


def overdue(folder: Path) -> list[str]:
    """Lists that the sweep of a server that was just started has not done with."""
    now = time.time()
    names = (path.name for path in (folder / "calendar").iterdir())
    return [name for name in names if name.endswith(".claimed") or (name.isdigit() and int(name) < now - 30)]


def stored(folder: Path) -> int:
    """How many uploads there are."""
    return sum(1 for _ in (folder / "uploads").glob("*/*.record"))


class Run:
    """A server on a data folder with something overdue, until its sweep is over."""

    def __init__(self, folder: Path, durability: str, clients: int = 0, least: float = 0.0) -> None:
        before = stored(folder)
        server = TusServer(folder, "--durability", durability, "--log.level", "warning").start()
        began = time.monotonic()
        host = server.url.split("/")[2]
        try:
            assert server.process is not None
            asking = Beside(ask, host)
            creating = Beside(create, host, clients, 1 << 40) if clients else None
            while overdue(folder) or time.monotonic() < began + least:
                time.sleep(0.05)
                if server.process.poll() is not None:
                    raise RuntimeError("the server died: " + "".join(server.output[-3:]))
            self.seconds = time.monotonic() - began
            created = creating.end() if creating is not None else []
            self.created = len(created) / self.seconds
            self.removed = (before + len(created) - stored(folder)) / self.seconds
            self.alive = asking.end()
            self.cpu = machine.cpu_seconds(server.process.pid)
            self.peak = machine.memory(server.process.pid, "VmHWM")
        finally:
            server.stop()

    def __str__(self) -> str:
        p50, p99 = statistics.median(self.alive), sorted(self.alive)[len(self.alive) * 99 // 100]
        return (
            f"{self.seconds:.1f} s, {self.cpu:.1f} s of CPU, peak {self.peak / MIB:5.1f} MiB, "
            f"/livez p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, worst {max(self.alive) * 1000:.1f} ms"
        )


def creation_rate(folder: Path, durability: str, clients: int) -> str:
    """Uploads a second that clients create with no sweep beside."""
    server = TusServer(folder, "--durability", durability, "--log.level", "warning").start()
    try:
        assert server.process is not None
        cpu, began = machine.cpu_seconds(server.process.pid), time.monotonic()
        created = len(Beside(create, server.url.split("/")[2], clients, CREATED).end(hurry=False))
        return (
            f"{created / (time.monotonic() - began):,.0f} uploads/s, "
            f"{created / (machine.cpu_seconds(server.process.pid) - cpu):,.0f} in a second of CPU"
        )
    finally:
        server.stop()


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--uploads", type=int, default=50_000)
    parser.add_argument("--only", choices=("rest", "ids", "create", "remove", "both"))
    parser.add_argument("--durability", choices=("none", "ack"), action="append")
    parser.add_argument("--folder", type=Path, help="where the data folders go (default: the system's for such things)")
    given = parser.parse_args()

    def fresh(case: str) -> Path | None:
        if given.only not in (None, case):
            return None
        shutil.rmtree(work / "data", ignore_errors=True)
        return work / "data"

    with tempfile.TemporaryDirectory(dir=given.folder, prefix="tusserver-sweep-") as name:
        work = Path(name)
        if (folder := fresh("rest")) is not None:
            prepare(folder)
            tell(f"at rest: {Run(folder, 'none', least=10)}")
        if (folder := fresh("ids")) is not None:
            prepare(folder)
            make_list(folder, (secrets.token_hex(16) for _ in range(given.ids)))
            tell(f"{given.ids:,} ids without files: {Run(folder, 'none')}")
        for durability in given.durability or ("none", "ack"):
            for clients in (1, CLIENTS):
                if (folder := fresh("create")) is not None:
                    tell(f"{durability}: {clients} clients create {creation_rate(folder, durability, clients)}")
            if (folder := fresh("remove")) is not None:
                asyncio.run(make_uploads(folder, given.uploads))
                run = Run(folder, durability)
                tell(f"{durability}: {given.uploads:,} uploads removed, {run.removed:,.0f}/s: {run}")
            for clients in (1, CLIENTS):
                if (folder := fresh("both")) is not None:
                    asyncio.run(make_uploads(folder, given.uploads))
                    run = Run(folder, durability, clients)
                    tell(
                        f"{durability}: {given.uploads:,} uploads removed beside {clients} clients, "
                        f"{run.removed:,.0f}/s, while {run.created:,.0f}/s were created: {run}"
                    )


if __name__ == "__main__":
    main()
