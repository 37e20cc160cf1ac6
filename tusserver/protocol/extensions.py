"""The extensions of tus: their names, what each needs, and which are on."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Extension(StrEnum):
    """Extensions of tus 1.0.0, by the names OPTIONS gives them."""

    CREATION = "creation"
    CREATION_WITH_UPLOAD = "creation-with-upload"
    CREATION_DEFER_LENGTH = "creation-defer-length"
    EXPIRATION = "expiration"
    CHECKSUM = "checksum"
    CHECKSUM_TRAILER = "checksum-trailer"
    TERMINATION = "termination"
    CONCATENATION = "concatenation"
    CONCATENATION_UNFINISHED = "concatenation-unfinished"


NEEDS = {
    Extension.CREATION_WITH_UPLOAD: Extension.CREATION,
    Extension.CREATION_DEFER_LENGTH: Extension.CREATION,
    Extension.CHECKSUM_TRAILER: Extension.CHECKSUM,
    Extension.CONCATENATION: Extension.CREATION,
    Extension.CONCATENATION_UNFINISHED: Extension.CONCATENATION,
}
"""Extensions, each with the one that it needs."""


def enabled(can: frozenset[Extension], disable: Iterable[str], *, expires: bool) -> frozenset[Extension]:
    """Return the extensions that are on: those of the store without the disabled ones and those that need them.

    Raises:
        ValueError: a name in `disable` is no extension.
    """
    on = set(can)
    for name in disable:
        if name not in set(Extension):
            raise ValueError(f"features.disable: {name!r} is no extension; there are {', '.join(Extension)}")
        on.discard(Extension(name))
    if not expires:
        on.discard(Extension.EXPIRATION)
    for extension, needed in NEEDS.items():  # in an order in which what others need comes first
        if needed not in on:
            on.discard(extension)
    return frozenset(on)
