"""Ids of new uploads: random ones, and those that an app makes, checked."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

from tusserver.protocol.errors import UploadNotFound
from tusserver.protocol.upload import ID_DIGITS, UploadId, as_upload_id

_AT_ONCE = 256
"""Number of ids for which random bytes are fetched together, as one system call may cost 25 µs."""


class RandomIds:
    """Makes ids of `ID_DIGITS` hexadecimal digits."""

    def __init__(self) -> None:
        self._digits = ""
        self._process = 0

    def __call__(self) -> UploadId:
        """Return the next one."""
        if not self._digits or self._process != os.getpid():  # a forked child must not repeat its parent's
            self._digits, self._process = secrets.token_hex(ID_DIGITS // 2 * _AT_ONCE), os.getpid()
        name, self._digits = self._digits[:ID_DIGITS], self._digits[ID_DIGITS:]
        return UploadId(name)


def checked(new_id: Callable[[], str]) -> Callable[[], UploadId]:
    """Return `new_id` with a check: it raises ValueError where an app makes what is no id."""

    def checked_id() -> UploadId:
        name = new_id()
        try:
            return as_upload_id(name)
        except UploadNotFound:
            raise ValueError(f"new_id gave {name!r}: an id has 1 to 128 letters, digits, - and _") from None

    return checked_id
