"""What a disk that hangs costs those who need none: how fast /livez answers meanwhile.

    python -m bench.hang                            # 10 s in which every call to the data folder hangs, beside uploads
    python -m bench.hang --seconds 3 --clients 4    # scaled down
    python -m bench.hang --delay 20                 # every call takes 20 ms instead
    python -m bench.hang -- --durability none       # with flags for the server

The disk is that of tests/support/faults.c: a library that the server is started with. Clients make uploads of 5 bytes
and of 1 MiB over and over, /livez is asked a hundred times a second, and /readyz once. Ends with 1 if the 99th
percentile of /livez is above --most milliseconds, or /readyz took longer than its 2 s and half a second more.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.servers import Running, Server, own
from tests.support.faults import SOURCE, Faults
from tests.support.preload import build

PAUSE = 0.01
"""Seconds between two questions."""
SIZES = (5, 1 << 20)
READY_MOST = 2.5


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Health:
    """Asks a server on one connection; a new one if that breaks."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, path: str) -> tuple[int, float]:
        """Return the status, and the seconds that it took."""
        began = time.perf_counter()
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - began


def upload(port: int, over: threading.Event) -> None:
    """Make uploads until it is over; an answer may take as long as the disk does."""
    for size in itertools.cycle(SIZES):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            usual = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
            connection.request("POST", "/files", headers={**usual, "Upload-Length": str(size)})
            response = connection.getresponse()
            response.read()
            location = response.headers["Location"]
            if location is not None:
                connection.request("PATCH", location, bytes(size), {**usual, "Upload-Offset": "0"})
                connection.getresponse().read()
        except OSError:
            pass  # the server was stopped
        finally:
            connection.close()
        if over.is_set():
            return


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def arrive(port: int, over: threading.Event) -> None:
    """Let a new client come ten times a second, as those who were there before all wait for the disk soon."""
    once = threading.Event()
    once.set()
    while not over.wait(0.1):
        threading.Thread(target=upload, args=(port, once), daemon=True).start()


def watch(port: int, seconds: float) -> list[float]:
    """Ask /livez again and again; return what each answer took."""
    health, times = Health(port), []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        status, took = health.ask("/livez")
        assert status == 200, status
        times.append(took)
        time.sleep(PAUSE)
    return times


def describe(name: str, times: list[float]) -> float:
    """Tell the answers' times; return the 99th percentile in milliseconds."""
    p50, p99, most = (percentile(times, share) * 1000 for share in (0.5, 0.99, 1.0))
    say(f"{name:8} {len(times):6} answers, p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {most:.1f} ms")
    return p99


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the disk hangs (10)")
    parser.add_argument("--delay", type=int, help="milliseconds that every call takes, instead of hanging")
    parser.add_argument("--clients", type=int, default=12, help="clients that upload meanwhile (12)")
    parser.add_argument("--most", type=float, default=50.0, help="milliseconds of the 99th percentile (50)")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / ".work", help="where the server stores")
    parser.add_argument("flags", nargs="*", help="flags for the server, behind --")
    given = parser.parse_args()

    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        work, storage = Path(folder), Path(folder) / "data"
        if build(SOURCE, work) is None:
            sys.exit("The disk is written in C: install a C compiler (cc).")
        faults = Faults(work)
        plain = own("ack", "tusserver")
        server = Server(
            name=plain.name, version=plain.version, command=(*plain.command, *given.flags), environment=faults.env
        )
        over = threading.Event()
        with Running(server, storage) as running:
            clients = [threading.Thread(target=upload, args=(running.port, over)) for _ in range(given.clients)]
            for client in clients:
                client.start()
            describe("before", watch(running.port, min(2.0, given.seconds)))
            if given.delay:
                faults.delay(f"{storage}/", given.delay)
            else:
                faults.hang(f"{storage}/")  # its log lies beside it
            ready: list[tuple[int, float]] = []
            asking = threading.Thread(target=lambda: ready.append(Health(running.port).ask("/readyz")))
            asking.start()
            clients.append(threading.Thread(target=arrive, args=(running.port, over)))
            clients[-1].start()
            times = watch(running.port, given.seconds)
            over.set()
            faults.end()
            asking.join()
            for client in clients:
                client.join()
            p99 = describe("meanwhile", times)
            status, took = ready[0]
            say(f"/readyz said {status} after {took:.2f} s; load of the machine {os.getloadavg()[0]:.1f}")
    return 0 if p99 <= given.most and took <= READY_MOST else 1


if __name__ == "__main__":
    sys.exit(main())
