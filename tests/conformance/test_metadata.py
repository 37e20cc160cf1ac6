"""Section M: Upload-Metadata, which comes back exactly as it was given."""

from __future__ import annotations

import base64

import pytest

from tests.support.server import TusServer
from tests.support.tus import Tus, metadata


def assert_echoed(tus: Tus, text: str) -> None:
    """tus 1.0.0: "the Server … MUST include the Upload-Metadata header in the response" to HEAD "with its value
    as specified by the Client".
    """
    answer = tus.create(10, {"Upload-Metadata": text})
    assert answer.status == 201
    assert tus.head(tus.located(answer))["Upload-Metadata"] == text.strip()


def assert_refused(tus: Tus, text: str | bytes) -> None:
    answer = tus.create(10, {"Upload-Metadata": text})
    assert answer.status == 400
    assert answer["Location"] is None


def test_m1_metadata_comes_back_with_head(tus: Tus) -> None:
    assert_echoed(tus, "filename d29ybGQudHh0")


@pytest.mark.parametrize("text", ["b Mg==,a MQ==,c", "z Mg==,y ,x MQ=="])
def test_m2_metadata_keeps_its_order_and_spelling(tus: Tus, text: str) -> None:
    assert_echoed(tus, text)


def test_m3_a_value_may_be_any_bytes(tus: Tus) -> None:
    """They are no text: what is not UTF-8 must not become U+FFFD."""
    assert_echoed(tus, "k /wANClgtRXZpbDogMQ==")


@pytest.mark.parametrize("text", ["key", "key "])
def test_m4_a_value_may_be_empty(tus: Tus, text: str) -> None:
    """tus 1.0.0: "Since metadata can contain … the value MAY be empty. In these cases, the space … MAY be left out"."""
    assert_echoed(tus, text)


def test_m5_a_key_stands_once(tus: Tus) -> None:
    """tus 1.0.0: "All keys MUST be unique"."""
    assert_refused(tus, "k YQ==,k Yg==")


def test_m6_a_value_is_base64(tus: Tus) -> None:
    """tus 1.0.0: "the value MUST be Base64 encoded"."""
    assert_refused(tus, "k notb64!")


def test_m7_a_value_is_padded(tus: Tus) -> None:
    assert_refused(tus, "k d29ybGQ")


def test_m8_a_blank_before_the_first_key_is_trimmed(tus: Tus) -> None:
    """HTTP removes it, so what looked like a value arrives as a key."""
    assert_echoed(tus, " YQ==")


@pytest.mark.parametrize("text", ["a YQ==,,b Yg==", "a YQ==,"])
def test_m9_a_pair_is_not_empty(tus: Tus, text: str) -> None:
    """tus 1.0.0: "The key MUST NOT contain spaces and commas and MUST NOT be empty"."""
    assert_refused(tus, text)


def test_m10_a_blank_after_a_comma_is_accepted(tus: Tus) -> None:
    assert_echoed(tus, "a YQ==, b Yg==")


def test_m11_key_and_value_are_parted_by_one_space(tus: Tus) -> None:
    """tus 1.0.0: "The key and value MUST be separated by a space"."""
    assert_refused(tus, "key  YQ==")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_m12_a_key_is_ascii(tus: Tus, encoding: str) -> None:
    """tus 1.0.0: "The key SHOULD be ASCII encoded"."""
    assert_refused(tus, "kéy YQ==".encode(encoding))


def test_m13_an_empty_header_counts_as_absent(tus: Tus) -> None:
    """tuspy sends it whenever there is no metadata."""
    answer = tus.create(10, {"Upload-Metadata": ""})
    assert answer.status == 201
    assert tus.head(tus.located(answer))["Upload-Metadata"] is None


def test_m14_a_hundred_keys_in_16_kib_come_back(tus: Tus) -> None:
    value = base64.b64encode(bytes(111)).decode()  # 148 characters
    text = ",".join(f"key-{number:08d} {value}" for number in range(100))
    assert 16_000 < len(text) <= 16_384
    assert_echoed(tus, text)


def test_m14_more_than_the_limit_is_refused(tus: Tus, own: TusServer) -> None:
    """Ours takes 16 KiB of metadata and 17 KiB of one header."""
    for size in (16_385, 17_500, 100_000):
        assert tus.create(10, {"Upload-Metadata": "k " + "A" * (size - 2 - size % 4)}).status in (400, 431), size


EVIL = metadata(filename="x.txt\r\nX-Evil: 1", filetype="text/plain\r\nX-Evil: 1")


def test_m15_a_value_with_line_breaks_never_becomes_a_header(tus: Tus) -> None:
    """tus 1.0.0: "the Server SHOULD validate or sanitize" metadata "to avoid header smuggling"."""
    url = tus.complete(b"hello", {"Upload-Metadata": EVIL})
    head, download = tus.head(url), tus.get(url)
    assert head["X-Evil"] is None
    assert download["X-Evil"] is None
    assert download.status < 500


def test_m15_a_value_with_line_breaks_never_becomes_a_line_of_the_log(tus: Tus, own: TusServer) -> None:
    tus.get(tus.complete(b"hello", {"Upload-Metadata": EVIL}))
    assert not any(line.lstrip().startswith("X-Evil") for line in own.output)


def test_m16_metadata_on_patch_is_ignored(tus: Tus) -> None:
    url = tus.upload(10, {"Upload-Metadata": "a YQ=="})
    assert tus.patch(url, 0, b"hello", {"Upload-Metadata": "k notb64!,,"}).status == 204
    assert tus.head(url)["Upload-Metadata"] == "a YQ=="
