"""Refusals: every class has a status, a code and words that clients and operators can rely on."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

from tusserver.protocol import errors
from tusserver.protocol.errors import BadRequest, CreationRejected, InternalError, OffsetMismatch, TusError


def refusals(kind: type[TusError] = TusError) -> Iterator[type[TusError]]:
    for sub in kind.__subclasses__():
        if sub.__module__ == errors.__name__:
            yield sub
            yield from refusals(sub)


REFUSALS = sorted(set(refusals()), key=lambda kind: kind.__name__)
SPOKEN = [kind for kind in REFUSALS if kind is not BadRequest]
each = pytest.mark.parametrize("kind", SPOKEN, ids=lambda kind: kind.__name__)


def drawn() -> dict[str, int]:
    """Classes in the tree at the head of the module, with the status of their line."""
    found: dict[str, int] = {}
    status = 0
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        if "─" in line or "│" in line:
            line = re.sub(r"\(.*?\)|\(.*|[├│└─]", " ", line)  # words in brackets are remarks
            if (number := re.search(r"\b\d{3}\b", line)) is not None:
                status = int(number.group())
            found.update(dict.fromkeys(re.findall(r"\b[A-Z][a-z]+[A-Za-z]+\b", line), status))
    return found


def test_the_tree_at_the_head_of_the_module_shows_every_refusal_with_its_status() -> None:
    assert drawn() == {kind.__name__: kind.status for kind in REFUSALS}


@each
def test_a_refusal_is_an_error_status(kind: type[TusError]) -> None:
    assert 400 <= kind.status < 600


@each
def test_a_code_is_one_upper_case_word(kind: type[TusError]) -> None:
    assert re.fullmatch(r"ERR_[A-Z_]+", kind.code)


def test_no_two_refusals_share_a_code() -> None:
    codes = [kind.code for kind in REFUSALS if "code" in vars(kind)]
    assert len(codes) == len(set(codes))


@each
def test_every_refusal_has_words_of_one_line(kind: type[TusError]) -> None:
    assert kind.message
    assert kind.message.isprintable()


@each
def test_only_what_clients_retry_says_when_to_retry(kind: type[TusError]) -> None:
    """tus-js-client and tuspy forget the upload on any other 4xx, so what is transient is always 423 or 5xx.

    429 comes before there is an upload to forget, and Uppy waits with its whole queue. When an error in this server is
    over, nobody knows.
    """
    passes = kind.status in (423, 429) or kind.status >= 500
    assert (kind.retry_after is not None) == (passes and kind is not InternalError)


@each
def test_a_refusal_that_closes_the_connection_tells_to_come_again(kind: type[TusError]) -> None:
    assert not kind.closes or kind.retry_after is not None


def test_words_come_with_the_facts() -> None:
    assert str(errors.SizeExceeded("the body has 6 bytes")) == "upload's size exceeded: the body has 6 bytes"


def test_words_stand_alone_without_facts() -> None:
    assert str(errors.UploadLocked()) == "upload is currently written by another request"


def test_a_wrong_offset_tells_both_numbers() -> None:
    refusal = OffsetMismatch(expected=5, provided=7)
    assert (refusal.expected, refusal.provided) == (5, 7)
    assert str(refusal) == "mismatched offset: the offset of the upload is 5, Upload-Offset is 7"


def test_an_application_chooses_the_status_and_words_of_its_refusal() -> None:
    refusal = CreationRejected("over quota", status=402)
    assert refusal.status == 402
    assert "over quota" in str(refusal)


def test_the_status_of_one_refusal_does_not_change_its_class() -> None:
    CreationRejected(status=402)
    assert CreationRejected().status == 400
