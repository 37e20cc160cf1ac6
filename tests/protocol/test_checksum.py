"""Upload-Checksum: what is announced, and the digest that runs along."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tusserver.protocol.checksum import ALGORITHMS, Checksum
from tusserver.protocol.errors import InvalidChecksum

REFERENCE = {
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "md5": lambda data: hashlib.md5(data).digest(),
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha512": lambda data: hashlib.sha512(data).digest(),
}
algorithms = st.sampled_from(sorted(ALGORITHMS))


def value_of(algorithm: str, data: bytes) -> bytes:
    digest = ALGORITHMS[algorithm][1]()
    digest.update(data)
    return digest.digest()


def header(algorithm: str, value: bytes) -> str:
    return f"{algorithm} {base64.b64encode(value).decode()}"


# the header ----------------------------------------------------------------------------------------------------------


@given(algorithms, st.data())
def test_every_checksum_of_the_right_size_is_read_as_written(algorithm: str, data: st.DataObject) -> None:
    size = ALGORITHMS[algorithm][0]
    value = data.draw(st.binary(min_size=size, max_size=size))
    assert Checksum.parse(header(algorithm, value)) == Checksum(algorithm, value)


@given(algorithms, st.binary(max_size=80))
def test_a_value_of_another_size_is_refused(algorithm: str, value: bytes) -> None:
    size = ALGORITHMS[algorithm][0]
    if len(value) != size:
        with pytest.raises(InvalidChecksum, match=f"a {algorithm} value has {size} bytes, this one {len(value)}"):
            Checksum.parse(header(algorithm, value))


@given(st.text(st.characters(max_codepoint=255), max_size=60))
@example("sha1")
@example("sha1 ")
@example(" ")
@example("sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0=")
@example("sha1\tKq5sNclPz7QV2+lfQIuc6R7oRu0=")
@example("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0")
@example("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0==")
@example("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=, md5 AAAAAAAAAAAAAAAAAAAAAA==")
@example("SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")
@example("sha3 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")
def test_any_other_text_is_refused(text: str) -> None:
    algorithm, _, encoded = text.partition(" ")
    try:
        checksum = Checksum.parse(text)
    except InvalidChecksum:
        return
    assert checksum.algorithm == algorithm
    assert re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", encoded)
    assert len(encoded) == -(-len(checksum.value) // 3) * 4


def test_the_example_of_the_tus_text_is_read() -> None:
    checksum = Checksum.parse("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")
    assert checksum.value == hashlib.sha1(b"hello world").digest()


def test_an_unknown_algorithm_is_refused_with_those_on_offer() -> None:
    with pytest.raises(InvalidChecksum, match="the algorithm must be one of sha1, md5, crc32, sha256, sha512"):
        Checksum.parse("sha3 AAAA")


# the digest ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(REFERENCE)), st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_a_body_in_pieces_has_the_checksum_of_the_whole(algorithm: str, data: bytes, cuts: list[int]) -> None:
    checksum = Checksum(algorithm, REFERENCE[algorithm](data))
    digest = checksum.digest()
    for start, stop in pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
        digest.update(memoryview(data)[start:stop])
    assert checksum.matches(digest)


@given(algorithms, st.binary(min_size=1, max_size=100), st.data())
def test_a_single_flipped_bit_is_noticed(algorithm: str, sent: bytes, data: st.DataObject) -> None:
    checksum = Checksum(algorithm, value_of(algorithm, sent))
    received = bytearray(sent)
    received[data.draw(st.integers(0, len(sent) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    digest = checksum.digest()
    digest.update(received)
    assert not checksum.matches(digest)


@given(algorithms)
def test_an_empty_body_has_a_checksum_too(algorithm: str) -> None:
    checksum = Checksum(algorithm, value_of(algorithm, b""))
    assert checksum.matches(checksum.digest())


# what is on offer ----------------------------------------------------------------------------------------------------


def test_sha1_is_offered_first() -> None:
    # "The Server MUST support at least the SHA1 checksum algorithm identified by sha1."
    assert next(iter(ALGORITHMS)) == "sha1"


def test_names_of_algorithms_are_lower_case_ascii() -> None:
    # "Tus-Checksum-Algorithm … names of the algorithms MUST only consist of ASCII characters with the modification
    # that uppercase characters are excluded."
    assert all(name.isascii() and name == name.lower() and "," not in name for name in ALGORITHMS)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_the_size_on_offer_is_that_of_the_digest(name: str) -> None:
    size, begin = ALGORITHMS[name]
    assert len(begin().digest()) == size
