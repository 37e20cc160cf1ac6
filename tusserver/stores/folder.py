"""The data folder as a whole: which version of us may use it.

    format    says so, in words that people can read too

A folder without that file is one of format 1, made before there was a mark, or a new one.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path

from tusserver.stores import disk

logger = logging.getLogger("tusserver.store")

FORMAT = 1
"""What is written today."""
_MARK = re.compile(rb"tusserver data folder, format ([1-9]\d{0,8})\n")


def check_format(root: Path) -> bool:
    """Return whether a folder, which need not be there, is marked; to be called before anything in it is touched.

    Raises:
        ValueError: this version cannot use it; the text says why, and the remedy.
        OSError
    """
    path = root / "format"
    try:
        text = disk.read_file(str(path))
    except FileNotFoundError:
        return False
    if not text.strip(b"\0"):
        return False  # a power cut came before it had reached the disk
    found = _MARK.fullmatch(text)
    if found is None:
        raise ValueError(f"{path} says nothing that this version understands; put it back from a backup, or remove it")
    if (number := int(found[1])) > FORMAT:
        raise ValueError(
            f"the data folder {root} has format {number}, and this version knows {FORMAT} at most;"
            " run the newer version that wrote it"
        )
    return True


def mark(root: Path, file_mode: int) -> None:
    """Mark a folder as one of today's format. Several processes may do so at once."""
    # Synced once in the life of a folder, so that no power cut leaves a mark that is cut off; none at all does no harm.
    temporary = f"{root}/format.{secrets.token_hex(4)}.new"
    try:
        disk.write_new_file(temporary, b"tusserver data folder, format %d\n" % FORMAT, file_mode, sync=True)
        os.rename(temporary, root / "format")
    except BaseException:
        disk.unlink(temporary)
        raise
    logger.debug("marked the data folder %s as format %d", root, FORMAT)
