"""The data folder as a whole: which version of us may use it, and who may use it together.

    format    the version, in words that people can read too; a folder without it is of format 1, from before the mark
    in-use    the locks with which its users hold uploads; each has it open, under a shared flock

Locks keep apart only those who share them, so nobody may come with others while somebody is there. That is what
`in-use` is for. The kernel lets go of it for a process that dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from tusserver.disk import files

logger = logging.getLogger("tusserver.store")

FORMAT = 1
"""What is written today."""
FOLDERS = ("uploads", "calendar", "tally", "locks")
"""What is in it, made when it is needed."""
_WORLD = 0o007
_SCOPE = 128
"""Bytes: always as many, so that writing needs no room once it is there."""
_TRIES = 3
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_MARK = re.compile(rb"tusserver data folder, format ([1-9]\d{0,8})\n")


def prepare(root: Path, uploads: Path, *, file_mode: int, folder_mode: int) -> None:
    """Make a data folder ready for use, after `check_format` and `inspect`.

    Raises:
        ValueError: it cannot be used; the text says why, and the remedy.
    """
    try:
        marked = check_format(root)
        inspect(root, folder_mode)
        files.make_folder(uploads, folder_mode)
        if not os.access(uploads, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is not writable")
        if not marked:
            mark(root, file_mode)
    except OSError as error:
        raise ValueError(f"the data folder {root} cannot be used: {error.strerror}") from error


def check_format(root: Path) -> bool:
    """Return whether a folder, which need not be there, is marked; to be called before anything in it is touched.

    Raises:
        ValueError: this version cannot use it; the text says why, and the remedy.
        OSError
    """
    path = root / "format"
    try:
        text = files.read_file(str(path))
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


def inspect(root: Path, folder_mode: int) -> None:
    """Refuse folders that lead elsewhere; warn of those that others can look into.

    Raises:
        ValueError
    """
    for name in FOLDERS:
        path = root / name
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(mode):
            raise ValueError(f"{path} is a symbolic link; only the data folder as a whole may be one")
        if mode & _WORLD & ~folder_mode:
            logger.warning("all users of this machine can look into %s; chmod o= it, or allow it by folder_mode", path)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = root.stat().st_mode
        if mode & stat.S_IWOTH & ~folder_mode and not mode & stat.S_ISVTX:
            logger.warning("all users of this machine can change what is in %s; chmod o-w it", root)


def mark(root: Path, file_mode: int) -> None:
    """Mark a folder as one of today's format. Several processes may do so at once."""
    # Synced once in the life of a folder, so that no power cut leaves a mark that is cut off; none at all does no harm.
    temporary = f"{root}/format.{secrets.token_hex(4)}.new"
    with _room_permitting("it gets no mark of its format"):
        try:
            files.write_new_file(temporary, b"tusserver data folder, format %d\n" % FORMAT, file_mode, sync=True)
            os.rename(temporary, root / "format")
        except BaseException:
            files.unlink_quietly(temporary)
            raise


class Attachment:
    """Says with which locks somebody holds uploads in a data folder (see `SharedFolder.attach`).

    Raises:
        ValueError, OSError
    """

    def __init__(self, root: Path, scope: str, file_mode: int) -> None:
        self._fd = -1
        with _room_permitting("nothing keeps a server with other locks off it"):
            self._fd = files.make_file(f"{root}/in-use", os.O_RDWR, file_mode)
            if not self._agree(scope.encode().ljust(_SCOPE)):
                self.close()
                raise ValueError(
                    f"the data folder {root} is in use with other locks, which would keep nobody off our uploads;"
                    f" stop the other server, or let both lock in {root}/locks"
                )

    def _agree(self, scope: bytes) -> bool:
        """Write the scope if nobody else is here; return whether it is the one that is written."""
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.pwrite(self._fd, scope, 0)
            # Whoever comes between the two locks has written another scope, or has gone again. The wait is a short one.
            fcntl.flock(self._fd, fcntl.LOCK_SH)
            if os.pread(self._fd, _SCOPE, 0) == scope:
                return True
        return False

    def close(self) -> None:
        """See `Attachment.close`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


@contextlib.contextmanager
def _room_permitting(otherwise: str) -> Iterator[None]:
    """Go on where there is no room, or where a file system has no locks: a full disk must not keep us from clearing it.

    Raises:
        OSError: for all other reasons.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM | _NO_LOCKS:
            raise
        logger.warning("the data folder lacks something (%s), so %s", error.strerror, otherwise)
