"""A slow client that sends is not cut off, also where the kernel holds back its bytes before it wakes the server."""

from __future__ import annotations

from tests.support.server import TusServer
from tests.support.tus import Tus, eventually


def test_asking_how_far_a_trickle_came_does_not_stop_it(server: TusServer) -> None:
    tus = Tus(server.url)
    data = bytes(200_000)
    url = tus.upload(len(data))
    with tus.slow_patch(url, data, pieces=len(data) // 100) as trickle:
        # By then several small reads have come, and the kernel has been asked to hold back bytes.
        assert eventually(lambda: tus.offset(url) >= 2_000)
        for _ in range(5):
            before = tus.offset(url)
            assert eventually(lambda before=before: tus.offset(url) > before)  # type: ignore[misc]
        trickle.finish()
        assert trickle.answer().status == 204
    assert tus.holds(url, data)
