"""The cases: what the clients do to a server, and what is measured meanwhile.

Each measurement has a fresh server with an empty data folder, warmed up by a few small uploads. Its counters are read
right before and right after the work; creating uploads and opening connections is not part of it, unless the case says
so. Then what is stored is compared.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine
from bench.load import Client, LoadFailed, Workshop
from bench.machine import GIB, KIB, MIB
from bench.servers import Running, Server

WARM_UP = 50
"""Small uploads."""
SMALL = KIB
"""Bytes of a small upload."""
SMALL_CONNECTIONS = 8
HEAD_CONNECTIONS = 4
HEAD_RATE = 400
"""HEAD requests a second. So few that every peer could answer them beside the upload."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Bytes, seconds and numbers."""

    big: int = 2 * GIB
    piece: int = 8 * MIB
    pieces: int = 256
    parallel: int = 64
    each: int = 32 * MIB
    small: int = 10_000
    slow: int = 5_000
    slow_seconds: int = 15
    parts: int = 4
    part: int = 512 * MIB


FULL = Sizes()
QUICK = Sizes(big=512 * MIB, pieces=64, each=8 * MIB, small=1000, slow=1000, slow_seconds=4, part=128 * MIB)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one run showed, raw. Times in seconds, memory in bytes."""

    seconds: float
    bytes: int = 0
    requests: int = 0
    cpu: float
    """Of the server."""
    memory: int = 0
    """The server's peak."""
    each: float = 0.0
    """What the server's memory grew by for each connection."""
    p50: float = 0.0
    p99: float = 0.0
    others: float = 0.0
    """Share of the machine that neither the server nor the clients used: noise, and the kernel's own threads."""
    stolen: float = 0.0
    """Share of the machine that the hypervisor gave to others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every case needs."""

    workshop: Workshop
    folder: Path
    """Where data folders are made."""
    sizes: Sizes
    checksums: dict[int, str] = field(default_factory=dict)

    def checksum(self, size: int) -> str:
        """Upload-Checksum of the first upload's first `size` bytes; made once."""
        if size not in self.checksums:
            self.checksums[size] = self.workshop.sha1(size)
        return self.checksums[size]

    def client(self, running: Running, mode: str, **options: object) -> Client:
        return Client(self.workshop, running, mode, **options)


class _Meter:
    """The counters of a server and its clients, from `__init__` to `stop`."""

    def __init__(self, running: Running, *clients: Client) -> None:
        self._running = running
        self._clients = clients
        machine.forget_peak(running.pid)
        self._began = time.monotonic()
        self._load = machine.Load.now()
        self._clients_cpu = self._of_clients()
        self._cpu = running.cpu()

    def _of_clients(self) -> float:
        return sum(machine.cpu_seconds(client.pid) for client in self._clients)

    def stop(self, **more: float) -> Measurement:
        cpu = self._running.cpu() - self._cpu
        used = cpu + self._of_clients() - self._clients_cpu
        load = machine.Load.now()
        passed = (time.monotonic() - self._began) * machine.cores()
        measured: dict[str, float] = {"memory": machine.memory(self._running.pid, "VmHWM"), **more}
        return Measurement(
            cpu=cpu,
            others=max(0.0, (load.busy - self._load.busy - used) / passed),
            stolen=(load.stolen - self._load.stolen) / passed,
            **measured,  # type: ignore[arg-type]  # the numbers of bytes and requests are whole ones
        )


# ── The cases ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _patch(bench: Bench, running: Running, *, uploads: int, bodies: int, size: int, checksum: str = "") -> Measurement:
    """Uploads at once, each of some PATCHes on a connection of its own."""
    options = {"uploads": uploads, "bodies": bodies, "size": size, "ids": bench.workshop.ids, "checksum": checksum}
    with bench.client(running, "patch", **options) as client:
        client.heard("ready")
        meter = _Meter(running, client)
        client.tell()
        found = client.result()
        measured = meter.stop(
            seconds=found.seconds, bytes=found.bytes, requests=found.requests, p50=found.p50, p99=found.p99
        )
    bench.workshop.verify(running.storage, bench.workshop.stored(), bodies * size)
    return measured


def patch(bench: Bench, running: Running) -> Measurement:
    return _patch(bench, running, uploads=1, bodies=1, size=bench.sizes.big)


def pieces(bench: Bench, running: Running) -> Measurement:
    return _patch(bench, running, uploads=1, bodies=bench.sizes.pieces, size=bench.sizes.piece)


def parallel(bench: Bench, running: Running) -> Measurement:
    return _patch(bench, running, uploads=bench.sizes.parallel, bodies=1, size=bench.sizes.each)


def sha1(bench: Bench, running: Running) -> Measurement:
    size = bench.sizes.big
    return _patch(bench, running, uploads=1, bodies=1, size=size, checksum=bench.checksum(size))


def small(bench: Bench, running: Running) -> Measurement:
    options = {"uploads": bench.sizes.small, "connections": SMALL_CONNECTIONS, "size": SMALL}
    with bench.client(running, "small", ids=bench.workshop.ids, **options) as client:
        client.heard("ready")
        meter = _Meter(running, client)
        client.tell()
        found = client.result()
        measured = meter.stop(seconds=found.seconds, requests=found.requests, p50=found.p50, p99=found.p99)
    bench.workshop.verify(running.storage, bench.workshop.stored(), SMALL)
    return measured


def head(bench: Bench, running: Running) -> Measurement:
    """HEAD of one upload while another one is sent. The latencies are those of HEAD, the speed that of the upload."""
    upload = {"uploads": 1, "bodies": 1, "size": bench.sizes.big, "ids": bench.workshop.ids}
    with (
        bench.client(running, "head", connections=HEAD_CONNECTIONS, rate=HEAD_RATE) as asking,
        bench.client(running, "patch", **upload) as sending,
    ):
        asking.heard("ready")
        sending.heard("ready")
        meter = _Meter(running, asking, sending)
        asking.tell()
        sending.tell()
        sent = sending.result()
        asking.tell()
        found = asking.result()
        measured = meter.stop(
            seconds=sent.seconds, bytes=sent.bytes, requests=found.requests, p50=found.p50, p99=found.p99
        )
    bench.workshop.verify(running.storage, bench.workshop.stored(), bench.sizes.big)
    return measured


def slow(bench: Bench, running: Running) -> Measurement:
    """Memory counts from before the connections are opened; CPU and time while all of them are open and sending."""
    count, seconds = bench.sizes.slow, bench.sizes.slow_seconds
    with bench.client(running, "slow", uploads=count, seconds=seconds, ids=bench.workshop.ids) as client:
        client.heard("ready")
        before = machine.memory(running.pid, "VmRSS")
        client.tell()
        client.heard("open")
        meter = _Meter(running, client)
        client.tell()
        client.heard("window")
        peak = machine.memory(running.pid, "VmHWM")
        measured = meter.stop(seconds=seconds, requests=count, each=max(0, peak - before) / count)
        client.tell()
        client.result()
    bench.workshop.verify(running.storage, bench.workshop.stored(), (seconds + 1) * KIB)
    return measured


def concat(bench: Bench, running: Running) -> Measurement:
    """Only the POST of the final upload counts."""
    options = {"parts": bench.sizes.parts, "size": bench.sizes.part}
    with bench.client(running, "concat", ids=bench.workshop.ids, **options) as client:
        client.heard("ready")
        meter = _Meter(running, client)
        client.tell()
        found = client.result()
        measured = meter.stop(seconds=found.seconds, bytes=found.bytes, requests=1)
    bench.workshop.verify_final(running.storage, bench.workshop.stored(), bench.sizes.part)
    return measured


def get(bench: Bench, running: Running) -> Measurement:
    """The first download is measured, its bytes dropped in the client's kernel; a second one is compared."""
    with bench.client(running, "get", size=bench.sizes.big, ids=bench.workshop.ids) as client:
        client.heard("ready")
        meter = _Meter(running, client)
        client.tell()
        found = client.result()
        measured = meter.stop(seconds=found.seconds, bytes=found.bytes, requests=1)
        client.tell()
    bench.workshop.verify(running.storage, bench.workshop.stored(), bench.sizes.big)
    return measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    name: str
    """On the command line."""
    title: Callable[[Sizes], str]
    run: Callable[[Bench, Running], Measurement]
    counts: str = "bytes"
    """What speed and CPU refer to: bytes, requests or connections."""
    rounds: int = 1_000
    """At most, since it takes long."""


def _size(size: int) -> str:
    return f"{size // GIB} GiB" if size % GIB == 0 else f"{size // MIB} MiB"


CASES = [
    Case(name="patch", title=lambda at: f"one PATCH of {_size(at.big)}", run=patch),
    Case(name="sha1", title=lambda at: f"one PATCH of {_size(at.big)} with sha1", run=sha1),
    Case(name="pieces", title=lambda at: f"{at.pieces} PATCHes of {_size(at.piece)}, one connection", run=pieces),
    Case(name="parallel", title=lambda at: f"{at.parallel} uploads of {_size(at.each)} at once", run=parallel),
    Case(name="small", title=lambda at: f"{at.small:,} uploads of 1 KiB", run=small, counts="requests"),
    Case(name="head", title=lambda at: f"HEAD during an upload of {_size(at.big)}", run=head),
    Case(name="concat", title=lambda at: f"concatenation of {at.parts} parts of {_size(at.part)}", run=concat),
    Case(name="get", title=lambda at: f"download of {_size(at.big)}", run=get),
    Case(name="slow", title=lambda at: f"{at.slow:,} connections of 1 KiB/s", run=slow, counts="connections", rounds=2),
]


def measure(bench: Bench, case: Case, server: Server) -> Measurement:
    """Run a case once.

    Raises:
        LoadFailed
        RuntimeError: the server did not start.
    """
    storage = Path(tempfile.mkdtemp(prefix="storage-", dir=bench.folder))
    try:
        os.sync()  # what the run before left to be written is not this one's
        with Running(server, storage) as running:
            warm_up = bench.client(running, "small", uploads=WARM_UP, connections=SMALL_CONNECTIONS, size=SMALL)
            with warm_up as client:
                client.heard("ready")
                client.tell()
                client.result()
            try:
                return case.run(bench, running)
            except LoadFailed as error:
                if running.alive:
                    raise
                raise LoadFailed(f"{error}; the server has ended: {running.said()}") from None
    finally:
        shutil.rmtree(storage, ignore_errors=True)
