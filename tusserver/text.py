"""Text from outside, made safe: for the name of a file, for one line of a log or a terminal."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

_LONGEST_NAME = 200
"""Bytes of one name: file systems take 255, and a number may have to fit in."""
_LONGEST_SUFFIX = 32
"""Bytes; a longer one is no suffix but part of the name."""
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u202a-\u202e\u2066-\u2069]+')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def safe_filename(name: str) -> str:
    """Turn what a client calls a file into one component of a path; empty if nothing is left of it.

    >>> safe_filename("../../etc/pass\\0wd")
    'etc_pass_wd'
    """
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    name = _UNSAFE.sub("_", name).strip(" ._")
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    path = Path(name)
    stem, suffix = path.stem, path.suffix
    if len(suffix.encode()) > _LONGEST_SUFFIX:
        stem, suffix = name, ""
    limit = _LONGEST_NAME - len(suffix.encode())
    return stem.encode()[:limit].decode("utf-8", "ignore").rstrip(" .") + suffix


def printable(text: str) -> str:
    r"""Return `text` with what is not printable (line ends, ESC, right-to-left marks) as \n, \x1b, \u202e."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
