"""Section W: creation with the first bytes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.conftest import Configured, Embed, Offers
from tests.conformance.profiles import HASTY, SPARTAN, SWEPT
from tests.support.server import TusServer
from tests.support.tus import OCTETS, Tus, checksum, eventually

TEN = b"0123456789"


@pytest.fixture(autouse=True)
def with_upload(offers: Offers) -> None:
    offers("creation-with-upload")


def test_w1_the_whole_body_may_come_with_the_creation(tus: Tus) -> None:
    """tus 1.0.0: "The Server MUST include the Upload-Offset header in the response … set to the offset after
    applying the accepted bytes".
    """
    answer = tus.create(10, body=TEN)
    assert (answer.status, answer["Upload-Offset"]) == (201, "10")
    assert tus.holds(tus.located(answer), TEN)


def test_w1_completion_is_told(embed: Embed) -> None:
    site = embed()
    site.tus.create(10, body=TEN)
    assert [upload.offset for upload in site.finished] == [10]


def test_w2_the_rest_may_follow(tus: Tus) -> None:
    answer = tus.create(10, body=b"012")
    assert (answer.status, answer["Upload-Offset"]) == (201, "3")
    url = tus.located(answer)
    assert tus.offset(url) == 3
    assert tus.patch(url, 3, b"3456789").status == 204
    assert tus.holds(url, TEN)


@pytest.mark.parametrize("media_type", ["text/plain", "application/octet-stream"])
def test_w3_a_body_of_another_type_is_ignored(tus: Tus, media_type: str) -> None:
    answer = tus.post({"Upload-Length": "10", "Content-Type": media_type}, TEN)
    assert answer.status == 201
    assert tus.offset(tus.located(answer)) == 0


def test_w4_the_body_may_be_empty(tus: Tus) -> None:
    answer = tus.create(10, {"Content-Type": OCTETS})
    assert (answer.status, answer["Upload-Offset"]) == (201, "0")


@pytest.mark.parametrize("body", [[TEN + b"beyond"], TEN + b"beyond"], ids=["chunked", "sized"])
def test_w5_a_body_that_runs_over_is_refused(tus: Tus, body: bytes | list[bytes]) -> None:
    answer = tus.create(10, body=body)
    if answer["Location"] is None:
        assert answer.status == 413
    else:
        assert answer["Upload-Offset"] == str(tus.offset(tus.located(answer)))


@pytest.mark.parametrize("body", [[TEN + b"beyond"], TEN + b"beyond"], ids=["chunked", "sized"])
def test_w5_what_nobody_knows_of_is_not_kept(tus: Tus, own: TusServer, body: bytes | list[bytes]) -> None:
    before = own.files()
    assert tus.create(10, body=body).status == 413
    assert own.files() == before


def test_w6_the_length_may_be_deferred(tus: Tus, offers: Offers) -> None:
    offers("creation-defer-length")
    answer = tus.create(None, body=b"012")
    assert (answer.status, answer["Upload-Offset"]) == (201, "3")
    head = tus.head(tus.located(answer))
    assert (head["Upload-Offset"], head["Upload-Defer-Length"]) == ("3", "1")


def test_w7_an_empty_upload_takes_no_bytes(tus: Tus) -> None:
    assert tus.create(0, body=b"012").status in (400, 413)


def test_w8_the_body_may_be_chunked(tus: Tus) -> None:
    answer = tus.create(10, body=[b"01234", b"56789"])
    assert (answer.status, answer["Upload-Offset"]) == (201, "10")
    assert tus.holds(tus.located(answer), TEN)


def test_w9_an_upload_whose_url_nobody_got_does_not_stay(configured: Configured) -> None:
    tus, server = configured(SWEPT)
    before = set(server.files())
    connection = tus.connect()
    headers = {"Upload-Length": "10", "Content-Type": OCTETS, "Content-Length": "10"}
    connection.ask("POST", tus.target(), tus.fields(headers), b"012")
    assert eventually(lambda: bool(set(server.files()) - before)), "the body is not received as it comes"
    connection.close()
    assert eventually(lambda: not set(server.files()) - before)


@pytest.mark.slow  # the timeout, and then the time in which a client may read what it is told
def test_w9_a_client_that_is_still_there_learns_the_url(configured: Configured) -> None:
    """One that fell silent is cut off, but what it sent is kept, so it must be told where."""
    tus, _ = configured(HASTY)
    with tus.connect() as connection:
        headers = {"Upload-Length": "10", "Content-Type": OCTETS, "Content-Length": "10"}
        connection.ask("POST", tus.target(), tus.fields(headers), b"012")
        answer = connection.answer()
        assert connection.closes()
    assert (answer.status, answer["Upload-Offset"]) == (201, "3")
    assert tus.offset(tus.located(answer)) == 3


def test_w10_a_wrong_checksum_keeps_nothing(tus: Tus, offers: Offers) -> None:
    """tus 1.0.0: "If the checksum does not match … the chunk MUST be discarded"."""
    offers("checksum")
    answer = tus.create(10, {"Upload-Checksum": checksum(b"other")}, TEN)
    assert answer.status in (201, 460)
    if answer.status == 201:
        assert tus.offset(tus.located(answer)) == 0
    else:
        assert answer["Location"] is None


def test_w10_a_wrong_checksum_leaves_no_file(tus: Tus, own: TusServer) -> None:
    before = own.files()
    assert tus.create(10, {"Upload-Checksum": checksum(b"other")}, TEN).status == 460
    assert own.files() == before


def test_w10_a_right_checksum_is_accepted(tus: Tus, offers: Offers) -> None:
    offers("checksum")
    answer = tus.create(10, {"Upload-Checksum": checksum(TEN)}, TEN)
    assert (answer.status, answer["Upload-Offset"]) == (201, "10")


@pytest.mark.parametrize("body", [TEN, [TEN]], ids=["sized", "chunked"])
def test_w11_a_creation_that_the_application_refuses_leaves_nothing(
    embed: Embed, tmp_path: Path, body: bytes | list[bytes]
) -> None:
    from tusserver import CreationRejected, Upload  # not there for whoever tests another server

    async def refuse(upload: Upload) -> None:
        raise CreationRejected("not today", status=402)

    site = embed(store=tmp_path, before_create=refuse)
    answer = site.tus.create(10, body=body)
    assert answer.status == 402
    assert answer["Location"] is None
    assert [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()] == []


def test_w12_without_the_extension_the_body_is_ignored(configured: Configured) -> None:
    tus, _ = configured(SPARTAN)
    answer = tus.create(10, body=TEN)
    assert answer.status == 201
    assert answer["Upload-Offset"] is None
    assert tus.offset(tus.located(answer)) == 0


def test_w13_an_offset_on_creation_is_ignored(tus: Tus) -> None:
    answer = tus.create(10, {"Upload-Offset": "3"}, b"012")
    assert (answer.status, answer["Upload-Offset"]) == (201, "3")
    assert tus.offset(tus.located(answer)) == 3


def test_w14_more_than_the_maximum_is_refused_before_it_is_read(limited: tuple[Tus, int]) -> None:
    tus, size = limited
    with tus.connect() as connection:
        headers = {"Upload-Length": str(size + 1), "Content-Type": OCTETS, "Content-Length": str(size + 10_000_000)}
        connection.ask("POST", tus.target(), tus.fields(headers))
        answer = connection.answer()
    assert answer.status == 413
    assert answer["Location"] is None
