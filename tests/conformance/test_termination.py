"""Section T: termination."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.conftest import Configured, Offers
from tests.conformance.profiles import SPARTAN
from tests.support.server import TusServer
from tests.support.tus import Tus, checksum, eventually

GONE = (404, 410)


@pytest.fixture(autouse=True)
def terminating(offers: Offers) -> None:
    offers("termination")


def test_t1_an_unfinished_upload_is_removed(tus: Tus) -> None:
    """tus 1.0.0: "When receiving a DELETE request for an existing upload the Server SHOULD free associated
    resources and MUST respond with the 204 No Content status".
    """
    answer = tus.delete(tus.upload(10, body=b"01234"))
    assert answer.status == 204
    assert answer.bodiless


def test_t2_what_was_removed_is_gone(tus: Tus) -> None:
    """tus 1.0.0: "For all future requests to this URL, the Server SHOULD respond with the 404 Not Found or 410
    Gone".
    """
    url = tus.upload(10)
    tus.delete(url)
    assert tus.head(url).status in GONE
    assert tus.patch(url, 0, b"01234").status in GONE
    assert tus.get(url).status in GONE
    assert tus.delete(url).status in GONE


def test_t3_a_complete_upload_is_removed(tus: Tus) -> None:
    url = tus.complete(b"0123456789")
    assert tus.delete(url).status == 204
    assert tus.head(url).status in GONE


def test_t4_an_unknown_upload_is_not_found(tus: Tus) -> None:
    assert tus.delete(tus.child("0123456789abcdef")).status == 404


def test_t5_without_the_extension_nothing_is_removed(configured: Configured) -> None:
    tus, _ = configured(SPARTAN)
    url = tus.upload(10)
    assert tus.delete(url).status in (405, 404, 501)
    assert tus.offset(url) == 0


def test_t6_post_may_stand_for_delete(tus: Tus) -> None:
    """tus 1.0.0: "The X-HTTP-Method-Override request header … MUST be interpreted as the request's method"."""
    url = tus.upload(10)
    assert tus.request("POST", url, {"X-HTTP-Method-Override": "DELETE"}, b"").status == 204
    assert tus.head(url).status in GONE


def test_t7_a_stalled_patch_does_not_hold_up_removal(tus: Tus) -> None:
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, b"01234") as stalled:
        assert tus.request("DELETE", url).status == 204
        assert stalled.ends() != 204
    assert tus.head(url).status in GONE


def test_t7_removal_ends_a_patch_that_is_alive(tus: Tus) -> None:
    """The user said that it is not wanted."""
    data = bytes(1000)
    url = tus.upload(len(data))
    with tus.slow_patch(url, data, pieces=400) as patch:
        assert eventually(lambda: tus.head(url).status == 200)
        assert tus.request("DELETE", url).status == 204
        assert patch.ends() != 204
    assert tus.head(url).status in GONE


def test_t7_a_removed_upload_does_not_come_back(tus: Tus, own: TusServer) -> None:
    before = own.files()
    url = tus.upload(1000)
    with tus.slow_patch(url, bytes(1000), pieces=400) as patch:
        assert tus.delete(url).status == 204
        patch.finish()
        patch.ends()
    assert own.files() == before


def test_t8_of_four_removals_at_once_one_succeeds(tus: Tus) -> None:
    url = tus.upload(10, body=b"01234")
    together = threading.Barrier(4)

    def remove(_: int) -> int:
        together.wait()
        return tus.delete(url).status

    with ThreadPoolExecutor(4) as threads:
        statuses = sorted(threads.map(remove, range(4)))
    assert statuses[0] == 204
    assert set(statuses[1:]) <= set(GONE)


def test_t9_a_final_upload_outlives_its_parts(tus: Tus, offers: Offers) -> None:
    offers("concatenation")
    parts = tus.part(b"01234"), tus.part(b"56789")
    final = tus.located(tus.join(*parts))
    assert [tus.delete(part).status for part in parts] == [204, 204]
    assert tus.holds(final, b"0123456789")


def test_t10_nothing_of_an_upload_stays_behind(tus: Tus, own: TusServer) -> None:
    before = own.files()
    parts = tus.part(b"01234"), tus.part(b"56789")
    unfinished = tus.upload(10, {"Upload-Metadata": "filename d29ybGQudHh0"}, body=b"012")
    tus.patch(unfinished, 3, b"345", {"Upload-Checksum": checksum(b"other")})
    urls = [
        *parts,
        tus.located(tus.join(*parts)),
        unfinished,
        tus.complete(b"0123456789"),
        tus.upload(None),
        tus.upload(0),
    ]
    assert len(set(own.files()) - set(before)) >= len(urls)
    assert [tus.delete(url).status for url in urls] == [204] * len(urls)
    assert own.files() == before


def test_t11_the_collection_is_not_removed(tus: Tus) -> None:
    assert tus.delete("").status in (404, 405)
