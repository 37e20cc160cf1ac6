from __future__ import annotations

from collections.abc import Sequence

import pytest

from tusserver.protocol.extensions import NEEDS, Extension, enabled

ALL = frozenset(Extension)


@pytest.mark.parametrize(
    ("disable", "off"),
    [
        (["termination"], {"termination"}),
        (["checksum"], {"checksum", "checksum-trailer"}),
        (["concatenation"], {"concatenation", "concatenation-unfinished"}),
        (
            ["creation"],
            {
                "creation",
                "creation-with-upload",
                "creation-defer-length",
                "concatenation",
                "concatenation-unfinished",
            },
        ),
        (["creation-with-upload", "expiration"], {"creation-with-upload", "expiration"}),
        (list(Extension), set(Extension)),
    ],
)
def test_what_is_disabled_takes_with_it_what_makes_no_sense_without(disable: Sequence[str], off: set[str]) -> None:
    assert enabled(ALL, disable, expires=True) == {extension for extension in ALL if extension not in off}


def test_what_a_store_cannot_do_is_off() -> None:
    assert enabled(ALL - {Extension.CONCATENATION}, [], expires=True) == ALL - {
        Extension.CONCATENATION,
        Extension.CONCATENATION_UNFINISHED,
    }


def test_what_is_needed_by_others_is_looked_at_before_them() -> None:
    """One pass over the table is enough, however long the chains are."""
    seen: set[Extension] = set()
    for extension, needed in NEEDS.items():
        assert extension not in seen
        assert needed not in NEEDS or needed in seen
        seen.add(extension)
