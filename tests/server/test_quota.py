"""Unfinished uploads are counted by client and in all, across servers on one folder and across their restarts."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from tests.conftest import StartServer
from tests.support.processes import children
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually
from tests.support.wire import Connection

LENGTH = {"Upload-Length": "10"}


def test_a_client_is_who_a_trusted_proxy_says_and_nobody_else(start_server: StartServer) -> None:
    server = start_server("--limits.uploads_per_client", "2", "--proxies.trusted", "127.0.0.1")
    tus = Tus(server.url)

    def create(sender: str) -> int:
        return tus.post({**LENGTH, "X-Forwarded-For": sender}).status

    assert [create("1.2.3.4") for _ in range(3)] == [201, 201, 429]
    assert create("9.9.9.9, 1.2.3.4") == 429
    assert create("1.2.3.4, 9.9.9.9") == 201
    assert [create(f"2001:db8:0:7::{host}") for host in (1, 2, 3)] == [201, 201, 429]


def test_a_client_is_not_who_it_says_itself(start_server: StartServer) -> None:
    tus = Tus(start_server("--limits.uploads_per_client", "2", "--proxies.trusted", "127.0.0.1").url)

    def create(*lines: str) -> int:
        sent = "".join(f"{line}\r\n" for line in lines)
        with Connection(tus.endpoint) as connection:
            connection.send(
                f"POST /files HTTP/1.1\r\nHost: h\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n{sent}\r\n".encode()
            )
            return connection.answer().status

    lines = [(f"Forwarded: for=9.9.9.{n}", f"X-Forwarded-For: 8.8.8.{n}", "X-Forwarded-For: 1.2.3.4") for n in range(3)]
    assert [create(*each) for each in lines] == [201, 201, 429]
    # A proxy behind the first one, which added a line and not an item.
    assert create("X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 127.0.0.1") == 429


def test_a_client_that_is_no_proxy_cannot_pass_for_others(start_server: StartServer) -> None:
    tus = Tus(start_server("--limits.uploads_per_client", "2").url)
    statuses = [tus.post({**LENGTH, "X-Forwarded-For": f"1.2.3.{host}"}).status for host in range(4)]
    assert statuses == [201, 201, 429, 429]


def test_the_refusal_is_one_that_a_browser_may_read(start_server: StartServer) -> None:
    tus = Tus(start_server("--limits.uploads_per_client", "1").url)
    tus.upload(10)
    answer = tus.post({**LENGTH, "Origin": "https://example.org"})
    assert (answer.status, answer["Retry-After"], answer["Access-Control-Allow-Origin"]) == (429, "10", "*")
    assert answer.body.startswith(b"ERR_TOO_MANY_UPLOADS: ")


def test_workers_count_together(start_server: StartServer) -> None:
    server = start_server("--server.workers", "2", "--limits.uploads_per_client", "6")
    statuses = [Tus(server.url).post(LENGTH).status for _ in range(20)]  # each on a connection of its own
    assert sorted(statuses) == [201] * 6 + [429] * 14


def created(server: TusServer) -> int:
    """Return the status of a creation on a connection of its own; 0 if there is no answer, as a worker was killed."""
    try:
        return Tus(server.url).post(LENGTH).status
    except (OSError, AssertionError):
        return 0


def create_at_once(server: TusServer, clients: int, each: int, then: Callable[[], None] = lambda: None) -> Counter[int]:
    """Return the statuses of creations by clients that do not wait for each other. `then` is done in between."""

    def creations(number: int) -> list[int]:
        statuses = []
        for turn in range(each):
            if (number, turn) == (clients // 2, 1):
                then()
            statuses.append(created(server))
        return statuses

    with ThreadPoolExecutor(clients) as pool:
        return Counter(chain.from_iterable(pool.map(creations, range(clients))))


def kept(storage: Path) -> int:
    return sum(record.stat().st_size > 0 for record in (storage / "uploads").rglob("*.record"))


def test_of_many_creations_at_once_four_workers_let_in_no_more_than_the_limit(
    start_server: StartServer, tmp_path: Path
) -> None:
    options = ("--server.workers", "4", "--limits.uploads_per_client", "10")
    server = start_server(*options, storage=tmp_path / "data")
    assert create_at_once(server, 50, 4) == {201: 10, 429: 190}
    assert kept(tmp_path / "data") == 10


def test_a_worker_that_is_killed_meanwhile_neither_lets_more_in_nor_keeps_places(
    start_server: StartServer, tmp_path: Path
) -> None:
    options = ("--server.workers", "4", "--limits.uploads_per_client", "10")
    server = start_server(*options, storage=tmp_path / "data")
    create_at_once(server, 30, 4, lambda: os.kill(children(server.pid)[0], signal.SIGKILL))
    assert kept(tmp_path / "data") <= 10
    assert eventually(lambda: created(server) == 429)  # that were made without an answer count
    assert kept(tmp_path / "data") == 10


def test_servers_on_one_folder_count_together_and_a_restart_forgets_nothing(
    start_server: StartServer, tmp_path: Path
) -> None:
    limit = ("--limits.uploads", "4")
    one, two = (start_server(*limit, storage=tmp_path / "data") for _ in range(2))
    urls = [Tus(server.url).upload(10) for server in (one, two, one, two)]
    assert [Tus(server.url).post(LENGTH).status for server in (one, two)] == [503, 503]
    one.kill()
    one.start()
    tus = Tus(one.url)
    assert tus.post(LENGTH).status == 503
    one.wait_for_output("limits.uploads is reached")
    assert tus.delete(tus.child(urls[0].rsplit("/", 1)[1])).status == 204
    assert eventually(lambda: tus.post(LENGTH).status == 201)
