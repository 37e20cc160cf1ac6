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
"""Extension → the one it makes no sense without."""


def enabled(can: frozenset[Extension], disable: Iterable[str], *, expires: bool) -> frozenset[Extension]:
    """Return the extensions that are on: what the store can, less what is disabled and what needs that.

    Raises:
        ValueError: a name in `disable` is no extension.
    """
    on = set(can)
    for name in disable:
        if name not in set(Extension):
            raise ValueError(f"disable: {name!r} is no extension; there are {', '.join(Extension)}")
        on.discard(Extension(name))
    if not expires:
        on.discard(Extension.EXPIRATION)
    for extension, needed in NEEDS.items():  # ordered: what is needed by others comes first
        if needed not in on:
            on.discard(extension)
    return frozenset(on)
