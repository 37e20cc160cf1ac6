"""Upload-Metadata: kept to the letter, read with care."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tusserver.protocol.errors import InvalidMetadata
from tusserver.protocol.metadata import Metadata

BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", re.ASCII)

keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=20)
pairs = st.dictionaries(keys, st.binary(max_size=60), max_size=12)

# What a server may be sent: latin-1 text without outer blanks.
texts = st.text(st.characters(max_codepoint=255), max_size=60).map(lambda text: text.strip(" \t"))
nearly = st.lists(
    st.sampled_from(["a", "b", "kéy", " ", "  ", ",", ",,", "YQ==", "YQ", "=", "\t", "notb64!", "a YQ==", "\x00"])
).map(lambda pieces: "".join(pieces).strip(" \t"))


def b64(value: bytes | str) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def written(values: dict[str, bytes], *, bare: bool = False) -> str:
    """As clients write it; `bare`: without the blank where a value is empty."""
    return ",".join(key if bare and not value else f"{key} {b64(value)}" for key, value in values.items())


# the codec -----------------------------------------------------------------------------------------------------------


@given(pairs, st.booleans())
def test_every_pair_is_read_as_it_was_written_and_in_order(values: dict[str, bytes], bare: bool) -> None:
    assert list(Metadata.parse(written(values, bare=bare)).pairs().items()) == list(values.items())


@given(texts | nearly)
@example("a YQ==, b Yg==")
@example("k")
@example("k ")
def test_what_is_accepted_comes_back_to_the_letter(text: str) -> None:
    try:
        metadata = Metadata.parse(text)
    except InvalidMetadata:
        return
    assert metadata.text == text


@given(texts | nearly)
def test_what_is_accepted_breaks_no_rule_of_the_protocol(text: str) -> None:
    """ "The key MUST NOT contain spaces and commas and MUST NOT be empty … the value MUST be Base64 encoded.
    All keys MUST be unique." """
    try:
        Metadata.parse(text)
    except InvalidMetadata:
        return
    seen = set()
    for pair in text.split(",") if text else []:
        key, _, value = pair.lstrip(" \t").partition(" ")
        assert re.fullmatch(r"[\x21-\x7e]+", key)
        assert BASE64.fullmatch(value)
        assert key not in seen
        seen.add(key)


@given(pairs.filter(bool), st.data())
def test_one_key_twice_is_refused_wherever_it_stands(values: dict[str, bytes], data: st.DataObject) -> None:
    again = f"{data.draw(st.sampled_from(sorted(values)))} YQ=="
    with pytest.raises(InvalidMetadata, match="stands twice"):
        Metadata.parse(f"{again},{written(values)}")


# single cases, as the tus text and today's clients have them ---------------------------------------------------------


def test_the_example_of_the_tus_text_is_read() -> None:
    text = "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential"
    assert Metadata.parse(text).pairs() == {"filename": b"world_domination_plan.pdf", "is_confidential": b""}


def test_no_metadata_are_no_pairs() -> None:
    assert Metadata.parse("").pairs() == {}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("k YQ==,k Yg==", "the key of pair 2 stands twice"),
        ("k notb64!", "the value of pair 1 is not Base64 with padding"),
        ("k d29ybGQ", "the value of pair 1 is not Base64 with padding"),
        ("k YWJj=", "the value of pair 1 is not Base64 with padding"),
        ("k YQ== x", "the value of pair 1 is not Base64 with padding"),
        ("key  YQ==", "the value of pair 1 is not Base64 with padding"),
        ("a YQ==,,b Yg==", "pair 2 is empty"),
        ("a YQ==,", "pair 2 is empty"),
        (",a YQ==", "pair 1 is empty"),
        (",", "pair 1 is empty"),
        ("kéy YQ==", "the key of pair 1 is not visible ASCII"),
        ("a\tb YQ==", "the key of pair 1 is not visible ASCII"),
        ("a\x00 YQ==", "the key of pair 1 is not visible ASCII"),
        ("a\x7f YQ==", "the key of pair 1 is not visible ASCII"),
        ("a YQ==\xa0", "the value of pair 1 is not Base64 with padding"),
    ],
)
def test_malformed_metadata_are_refused_with_the_pair_and_the_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidMetadata, match=re.escape(rule)):
        Metadata.parse(text)


def test_a_refusal_never_repeats_what_the_client_wrote() -> None:
    with pytest.raises(InvalidMetadata) as refusal:
        Metadata.parse("secret\r\n notb64!")
    assert "secret" not in str(refusal.value)


def test_a_blank_after_a_comma_is_accepted() -> None:
    assert Metadata.parse("a YQ==, b Yg==").pairs() == {"a": b"a", "b": b"b"}


# what the server itself reads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["filename", "name"])
def test_the_name_of_the_file_is_found_under_the_keys_of_all_clients(key: str) -> None:
    assert Metadata(f"{key} {b64('naïve.txt')}").name == "naïve.txt"


def test_the_key_of_tus_clients_wins_over_that_of_uppy() -> None:
    assert Metadata(f"name {b64('uppy')},filename {b64('tus')}").name == "tus"


def test_an_empty_name_gives_way_to_the_other_key() -> None:
    assert Metadata(f"filename ,name {b64('uppy')}").name == "uppy"


def test_without_a_name_there_is_none() -> None:
    assert Metadata(f"other {b64('x')}").name is None


@pytest.mark.parametrize("key", ["filetype", "type"])
def test_the_media_type_is_found_under_the_keys_of_all_clients(key: str) -> None:
    assert Metadata(f"{key} {b64('image/png')}").type == "image/png"


def test_a_name_that_is_no_utf8_is_read_with_replacements() -> None:
    assert Metadata(f"filename {b64(bytes([0x61, 0xFC, 0x62]))}").name == "a\ufffdb"


@given(st.binary(min_size=1, max_size=40))
def test_a_name_of_any_bytes_is_text_that_can_be_encoded(value: bytes) -> None:
    name = Metadata(f"filename {b64(value)}").name
    assert name is not None
    assert name.encode().decode() == name
