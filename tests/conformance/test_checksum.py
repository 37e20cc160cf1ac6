"""Section K: checksums, under which a body is all or nothing."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable

import pytest

from tests.conformance.conftest import Offers
from tests.support.tus import OCTETS, Tus, base64_of, checksum, eventually, patching
from tests.support.wire import Answer, chunk

TEN = b"0123456789"


@pytest.fixture(autouse=True)
def verifying(offers: Offers) -> None:
    offers("checksum")


def assert_appended(tus: Tus, url: str, answer: Answer, offset: int) -> None:
    assert answer.status == 204
    assert answer["Upload-Offset"] == str(offset)
    assert tus.offset(url) == offset


def assert_discarded(tus: Tus, url: str, answer: Answer, *statuses: int, offset: int = 0) -> None:
    """tus 1.0.0: "the chunk MUST be discarded and the upload and its offset MUST NOT be updated"."""
    assert answer.status in statuses
    assert tus.offset(url) == offset


def test_k1_a_right_checksum_is_accepted(tus: Tus) -> None:
    url = tus.upload(10)
    assert_appended(tus, url, tus.patch(url, 0, TEN, {"Upload-Checksum": checksum(TEN)}), 10)
    assert tus.holds(url, TEN)


def test_k2_a_wrong_checksum_discards_the_body(tus: Tus) -> None:
    """tus 1.0.0: "460 Checksum Mismatch if the checksums mismatch"."""
    url = tus.upload(10)
    assert_discarded(tus, url, tus.patch(url, 0, TEN, {"Upload-Checksum": checksum(b"other")}), 460)


def test_k3_the_same_bytes_may_come_again(tus: Tus) -> None:
    url = tus.upload(10)
    tus.patch(url, 0, TEN, {"Upload-Checksum": checksum(b"other")})
    assert_appended(tus, url, tus.patch(url, 0, TEN, {"Upload-Checksum": checksum(TEN)}), 10)
    assert tus.holds(url, TEN)


def test_k4_an_unknown_algorithm_is_refused(tus: Tus) -> None:
    """tus 1.0.0: "400 Bad Request if the checksum algorithm is not supported by the server"."""
    url = tus.upload(10)
    assert_discarded(tus, url, tus.patch(url, 0, TEN, {"Upload-Checksum": f"crc99 {base64_of(b'1234')}"}), 400)


@pytest.mark.parametrize("value", ["sha1", "sha1 ", "sha1 @@", "", " ", "sha1  a b"])
def test_k5_a_checksum_is_a_name_and_base64(tus: Tus, value: str) -> None:
    """tus 1.0.0: "consists of the name of the used checksum algorithm and the Base64 encoded checksum separated
    by a space".
    """
    url = tus.upload(10)
    assert_discarded(tus, url, tus.patch(url, 0, TEN, {"Upload-Checksum": value}), 400)


def test_k6_an_algorithm_in_upper_case_is_known_or_refused(tus: Tus) -> None:
    url = tus.upload(10)
    answer = tus.patch(url, 0, TEN, {"Upload-Checksum": checksum(TEN).replace("sha1", "SHA1")})
    assert answer.status in (204, 400)
    assert tus.offset(url) == (10 if answer.status == 204 else 0)


@pytest.mark.parametrize("digest", [b"", b"short", bytes(40)])
def test_k7_a_digest_of_the_wrong_length_is_refused(tus: Tus, digest: bytes) -> None:
    url = tus.upload(10)
    assert_discarded(tus, url, tus.patch(url, 0, TEN, {"Upload-Checksum": f"sha1 {base64_of(digest)}"}), 400, 460)


def test_k8_a_checksum_is_of_this_body_alone(tus: Tus) -> None:
    """tus 1.0.0: "contains information about the checksum of the current body payload"."""
    url = tus.upload(10, body=b"012")
    assert_appended(tus, url, tus.patch(url, 3, b"345", {"Upload-Checksum": checksum(b"345")}), 6)
    assert_discarded(tus, url, tus.patch(url, 6, b"6789", {"Upload-Checksum": checksum(TEN)}), 460, offset=6)


def test_k9_a_body_that_was_cut_is_not_kept_unverified(tus: Tus) -> None:
    """tus 1.0.0: "Once the entire request has been received, the Server MUST verify the uploaded chunk"."""
    url = tus.upload(10)
    tus.begin_patch(url, 0, 10, b"01234", {"Upload-Checksum": checksum(TEN)}).close()
    answers: list[Answer] = []

    def let_in() -> bool:
        answers.append(tus.patch(url, 0, TEN, {"Upload-Checksum": checksum(TEN)}))
        return answers[-1].status != 423

    assert eventually(let_in)
    assert_appended(tus, url, answers[-1], 10)
    assert tus.holds(url, TEN)


def test_k10_a_chunked_body_is_verified_too(tus: Tus) -> None:
    url = tus.upload(10)
    wrong = tus.patch(url, 0, [b"01234", b"56789"], {"Upload-Checksum": checksum(b"other")})
    assert_discarded(tus, url, wrong, 460)
    right = tus.patch(url, 0, [b"01234", b"56789"], {"Upload-Checksum": checksum(TEN)})
    assert_appended(tus, url, right, 10)


def test_k11_an_empty_body_has_a_checksum(tus: Tus) -> None:
    url = tus.upload(10)
    assert_appended(tus, url, tus.patch(url, 0, b"", {"Upload-Checksum": checksum(b"")}), 0)


def digest(algorithm: str, data: bytes) -> bytes | None:
    """Digest by an algorithm of OPTIONS; None if this suite does not know it."""
    if algorithm in ("crc32", "adler32"):
        function: Callable[[bytes], int] = getattr(zlib, algorithm)
        return function(data).to_bytes(4, "big")
    try:
        return hashlib.new(algorithm.replace("-", "_") if algorithm.startswith("sha3") else algorithm, data).digest()
    except (ValueError, TypeError):
        return None


def test_k12_every_announced_algorithm_works(tus: Tus) -> None:
    known = 0
    for algorithm in tus.options().listed("Tus-Checksum-Algorithm"):
        if (right := digest(algorithm, TEN)) is None:
            continue
        known += 1
        url = tus.upload(10)
        wrong = base64_of(right[:-1] + bytes([right[-1] ^ 1]))
        assert_discarded(tus, url, tus.patch(url, 0, TEN, {"Upload-Checksum": f"{algorithm} {wrong}"}), 460)
        assert_appended(tus, url, tus.patch(url, 0, TEN, {"Upload-Checksum": f"{algorithm} {base64_of(right)}"}), 10)
    assert known


def patch_with_trailer(tus: Tus, url: str, trailer: str | None, header: str | None = None) -> Answer:
    """PATCH@0 of TEN in chunks that announces a checksum as a trailer."""
    headers = {
        **patching(0),
        "Content-Type": OCTETS,
        "Transfer-Encoding": "chunked",
        "Trailer": "Upload-Checksum",
        "Upload-Checksum": header,
    }
    with tus.connect(url) as connection:
        connection.ask("PATCH", tus.target(url), tus.fields(headers), chunk(b"01234") + chunk(b"56789") + b"0\r\n")
        connection.send((b"" if trailer is None else f"Upload-Checksum: {trailer}\r\n".encode()) + b"\r\n")
        return connection.answer()


@pytest.fixture
def trailers(tus: Tus) -> None:
    """What our own server must announce is a matter of test_options."""
    if "checksum-trailer" not in tus.options().listed("Tus-Extension"):
        pytest.skip("the server does not announce checksum-trailer")


@pytest.mark.usefixtures("trailers")
def test_k13_a_right_checksum_in_a_trailer_is_accepted(tus: Tus) -> None:
    """tus 1.0.0: "If the hash cannot be calculated at the beginning of the upload, it MAY be included as a trailer"."""
    url = tus.upload(10)
    assert_appended(tus, url, patch_with_trailer(tus, url, checksum(TEN)), 10)
    assert tus.holds(url, TEN)


@pytest.mark.usefixtures("trailers")
def test_k14_a_wrong_checksum_in_a_trailer_discards_the_body(tus: Tus) -> None:
    url = tus.upload(10)
    assert_discarded(tus, url, patch_with_trailer(tus, url, checksum(b"other")), 460)


@pytest.mark.usefixtures("trailers")
def test_k15_an_unknown_algorithm_in_a_trailer_discards_the_body(tus: Tus) -> None:
    url = tus.upload(10)
    assert_discarded(tus, url, patch_with_trailer(tus, url, f"crc99 {base64_of(b'1234')}"), 400)


@pytest.mark.usefixtures("trailers")
def test_k16_a_trailer_that_was_announced_must_come(tus: Tus) -> None:
    url = tus.upload(10)
    assert_discarded(tus, url, patch_with_trailer(tus, url, None), 400, 460)


@pytest.mark.usefixtures("trailers")
def test_k17_a_checksum_comes_once(tus: Tus) -> None:
    url = tus.upload(10)
    assert_discarded(tus, url, patch_with_trailer(tus, url, checksum(TEN), checksum(TEN)), 400)


def test_k18_after_a_mismatch_the_upload_becomes_whole(tus: Tus) -> None:
    url = tus.upload(10, body=b"012")
    tus.patch(url, 3, b"xxxxxxx", {"Upload-Checksum": checksum(b"3456789")})
    assert tus.patch(url, 3, b"345", {"Upload-Checksum": checksum(b"345")}).status == 204
    tus.patch(url, 6, b"yyyy", {"Upload-Checksum": checksum(b"6789")})
    assert tus.patch(url, 6, b"6789").status == 204
    assert tus.holds(url, TEN)
