"""What becomes of a connection, seen by a client of the real server."""

from __future__ import annotations

from tests.support.server import TusServer
from tests.support.tus import Tus, patching

MIB = 1 << 20


def test_large_bodies_follow_each_other_on_one_connection(server: TusServer) -> None:
    tus = Tus(server.url)
    url = tus.upload(3 * MIB)
    with tus.connect(url) as connection:
        for at in range(0, 3 * MIB, MIB):
            tus.ask(connection, "PATCH", url, patching(at), bytes(MIB))
            answer = connection.answer()
            assert (answer.status, answer["Upload-Offset"], answer["Connection"]) == (204, str(at + MIB), None)


def test_a_large_body_that_is_refused_is_answered_at_once_and_the_connection_closes(server: TusServer) -> None:
    tus = Tus(server.url)
    url = tus.upload(3 * MIB)
    with tus.connect(url) as connection:
        tus.ask(connection, "PATCH", url, patching(5), bytes(MIB))
        answer = connection.answer()
        assert (answer.status, answer["Connection"]) == (409, "close")
        assert connection.closes()


def test_a_small_body_that_is_refused_leaves_the_connection_open(server: TusServer) -> None:
    tus = Tus(server.url)
    url = tus.upload(100)
    with tus.connect(url) as connection:
        for offset, status in ((5, 409), (0, 204)):
            tus.ask(connection, "PATCH", url, patching(offset), bytes(50))
            assert connection.answer().status == status
