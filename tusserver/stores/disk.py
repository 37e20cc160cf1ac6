"""System calls of the file store, as plain functions to be run in threads; each says what a crash leaves behind."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tusserver.protocol.errors import MaxSizeExceeded, OutOfSpace, StoreUnavailable
from tusserver.stores.space import Free, Watch

logger = logging.getLogger("tusserver.store")

_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}
EVERY = 30.0
"""Seconds between two lines of the log about the same trouble."""
QUIET = 10.0
"""Seconds without a failure after which it is over."""
_LITTLE = 1 << 20
"""Bytes that are reserved without an exact look at the free space first."""
_LOOK = 0.25
"""Seconds for which a look at plenty of free space counts."""
_IOV_MAX = 1024
_READ = 16 * 1024
_MANY = 64
_OTHERS = 0o077


class Troubles:
    """What goes wrong with one storage: told to clients in general, and to the log in detail but not without end.

    Of each kind of trouble the log hears at once, then every `EVERY` seconds how often it came, and when it is over.
    `clock`: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turn what the operating system says into what a client may read.

        Raises:
            OutOfSpace, StoreUnavailable
        """
        try:
            yield
        except OSError as error:
            full = error.errno in _FULL
            self._note(doing, error, full)
            raise (OutOfSpace if full else StoreUnavailable) from error
        if self._troubles:  # else nothing is worth a look
            self._note_success(doing)

    def _note(self, doing: str, error: OSError, full: bool) -> None:
        now = self._clock()
        with self._guard:
            trouble = self._troubles.setdefault(doing, _Trouble(since=now))
            trouble.count += 1
            trouble.last = now
            if trouble.full is full and now - trouble.told < EVERY:
                return
            trouble.full, trouble.told = full, now
            often = f" ({trouble.count} times in {now - trouble.since:.0f} s)" if trouble.count > 1 else ""
        if full:
            logger.warning("storage is full while %s%s", doing, often)
        else:
            logger.error("storage failed while %s: %s%s", doing, error, often)

    def _note_success(self, doing: str) -> None:
        now = self._clock()
        with self._guard:
            trouble = self._troubles.get(doing)
            if trouble is None or now - trouble.last < QUIET:  # a small upload may fit where a large one does not
                return
            del self._troubles[doing]
        logger.info("storage works again while %s; it had failed %d times", doing, trouble.count)


@dataclass(slots=True, kw_only=True)
class _Trouble:
    since: float
    count: int = 0
    last: float = 0.0
    told: float = -math.inf
    full: bool | None = None


def _find_fallocate() -> Callable[[int, int, int], int] | None:
    """fallocate(2) itself: where the file system cannot reserve, glibc's posix_fallocate writes to every block."""
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (AttributeError, OSError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    call.restype = ctypes.c_int
    return lambda fd, at, length: ctypes.get_errno() if call(fd, 0, at, length) else 0


_fallocate = _find_fallocate()


def file_system(path: Path) -> str:
    """Type of the file system below `path` ("ext4", "tmpfs"), empty where the system does not tell."""
    try:
        device = os.stat(path).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""


class Reserver:
    """Reserves space in files below one folder.

    By `fallocate`; where that is missing, or slow as on tmpfs (0.3 ms for each MiB), `ftruncate` and a look at the
    free space stand in, and the log says so once. `keep`: bytes of the disk that stay free, and the same share of its
    inodes.
    """

    def __init__(self, folder: Path, keep: int = 0) -> None:
        self._folder = folder
        self._keep = keep
        self._roomy_until = 0.0
        self._watch = Watch()
        self._sparse = _fallocate is None
        if file_system(folder) == "tmpfs":
            self._stop_reserving("tmpfs")

    def _stop_reserving(self, why: str) -> None:
        self._sparse = True
        logger.info("space is checked but not reserved in %s (%s)", self._folder, why)

    def require_room(self, length: int = 0, *, files: int = 0) -> None:
        """Refuse what would leave less free than is to be kept. Where there is plenty, it looks now and then.

        `files`: how many are made; what is open already needs no inode.

        Raises:
            OutOfSpace, OSError
        """
        now = time.monotonic()
        if now < self._roomy_until and length <= _LITTLE:
            return
        free = Free.of(os.statvfs(self._folder), self._keep)
        if free.plenty:
            self._roomy_until = now + _LOOK
        self._watch.require(free, length=length, files=files)

    def free(self) -> int:
        """Bytes of the disk that may be used.

        Raises:
            OSError
        """
        return max(0, Free.of(os.statvfs(self._folder), self._keep).bytes)

    @property
    def sparse(self) -> bool:
        """Whether nothing is reserved here."""
        return self._sparse

    def reserve(self, fd: int, at: int, length: int) -> None:
        """Make sure that `length` bytes fit from `at` on, and give the file at least that size.

        Raises:
            OutOfSpace: they do not fit now.
            MaxSizeExceeded: they never can.
            OSError
        """
        if length <= 0:
            return
        if length <= _LITTLE and not self._sparse and _fallocate is not None:
            self.require_room(length)
            if _fallocate(fd, at, length) == 0:
                return
        # A look first: fallocate would eat up all free space before it notices that there is not enough.
        self._look(fd, at, length)
        if not self._sparse and _fallocate is not None:
            while (failed := _fallocate(fd, at, length)) == errno.EINTR:
                pass  # nothing was reserved
            if failed == 0:
                return
            if failed == errno.EFBIG:
                raise MaxSizeExceeded("the file system has no files of this size")
            if failed not in _UNSUPPORTED:
                raise OSError(failed, os.strerror(failed))
            self._stop_reserving(os.strerror(failed))
        if os.fstat(fd).st_size < at + length:
            _stretch(fd, at + length)

    def require_fit(self, fd: int, length: int) -> None:
        """Refuse what cannot be reserved now in an empty file, as far as a look can tell; and reserve nothing.

        Raises:
            OutOfSpace, MaxSizeExceeded: see `reserve`.
            OSError
        """
        self._look(fd, 0, length)
        _stretch(fd, length)
        os.ftruncate(fd, 0)

    def _look(self, fd: int, at: int, length: int) -> None:
        disk = os.fstatvfs(fd)
        if length > disk.f_blocks * disk.f_frsize:
            raise MaxSizeExceeded("this is more than the whole storage holds")
        if length > Free.of(disk, self._keep).bytes + self._allocated(fd, at):
            raise OutOfSpace

    def _allocated(self, fd: int, at: int) -> int:
        """Bytes behind `at` that the file has already, at most."""
        return max(0, os.fstat(fd).st_blocks * 512 - at)


def _stretch(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise MaxSizeExceeded("the file system has no files of this size") from error
        raise


def probe(folder: Path) -> None:
    """Write a little below a folder, and leave nothing, not even after a crash: the file never has a name.

    Raises:
        OSError: it cannot be written there.
    """
    try:
        fd = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except AttributeError:  # no such thing on this system
        fd = -1
    except OSError as error:
        if error.errno not in _UNSUPPORTED | {errno.EISDIR}:
            raise
        fd = -1  # nor on this file system
    if fd < 0:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    try:
        os.write(fd, b"tusserver")
    finally:
        os.close(fd)


def write_all(fd: int, chunks: Sequence[bytes | memoryview], at: int) -> int:
    """Write all chunks from byte `at` on, without joining them; return their bytes."""
    written = 0
    chunks = list(chunks)
    while chunks:
        done = os.pwritev(fd, chunks[:_IOV_MAX], at + written)
        written += done
        while chunks and done >= len(chunks[0]):
            done -= len(chunks.pop(0))
        if done:
            chunks[0] = memoryview(chunks[0])[done:]
    return written


def copy(source: int, start: int, target: int, at: int, length: int) -> None:
    """Copy `length` bytes of `source` from `start` on to byte `at` of `target` inside the kernel.

    The file system shares the blocks where it can (reflink), else the kernel moves the pages.

    Raises:
        OSError: also when `source` is too short.
    """
    done = 0
    while done < length:
        moved = _copy_some(source, target, start + done, at + done, length - done)
        if moved == 0:
            raise OSError(errno.EIO, "a partial upload is shorter than its record says")
        done += moved


def _copy_some(source: int, target: int, start: int, at: int, most: int) -> int:
    try:
        return os.copy_file_range(source, target, most, start, at)
    except (AttributeError, OSError) as error:
        # Two file systems (EXDEV), or one or a system without the call: sendfile is the kernel's other way.
        if isinstance(error, OSError) and error.errno not in _UNSUPPORTED | {errno.EXDEV, errno.EBADF}:
            raise
    os.lseek(target, at, os.SEEK_SET)
    return os.sendfile(target, source, start, most)


def make_folder(path: Path, mode: int, *, sync: bool = True) -> None:
    """Create a folder and its parents. `sync`: each new one survives a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent, mode, sync=sync)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    if mode & _OTHERS:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _settle_mode(fd, mode)
        finally:
            os.close(fd)
    if sync:
        sync_folder(path.parent)


def open_folder_below(folder: Path, parts: Sequence[str], mode: int) -> int:
    """Open a folder some levels below another, and make what is missing of it.

    `folder` may be a link; none of the levels may, whoever put it there.

    Raises:
        OSError
    """
    make_folder(folder, mode)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            inner = _open_level(fd, part, mode)
            os.close(fd)
            fd = inner
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_level(fd: int, name: str, mode: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=fd)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=fd)
    except NotADirectoryError as error:
        raise OSError(errno.ELOOP, f"{name} is a link or a file, where a folder is needed") from error
    inner = os.open(name, flags, dir_fd=fd)
    try:
        if mode & _OTHERS:
            _settle_mode(inner, mode)
        os.fsync(fd)
    except BaseException:
        os.close(inner)
        raise
    return inner


def make_file(path: str, flags: int, mode: int) -> int:
    """Open a file, made if it is not there, with exactly these permissions whatever the umask."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    if mode & _OTHERS:
        try:
            _settle_mode(fd, mode)
        except BaseException:
            os.close(fd)
            raise
    return fd


def _settle_mode(fd: int, mode: int) -> None:
    """Give back what the umask took away. It leaves the owner's part alone, so the strict modes cost nothing."""
    found = os.fstat(fd).st_mode
    if stat.S_IMODE(found) & 0o777 != mode:
        with contextlib.suppress(PermissionError):  # another user's, and there already
            os.fchmod(fd, mode | found & stat.S_ISGID)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out that lock the same folder; a crash frees it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sync_file(path: str) -> None:
    """Make a file survive a power cut, its times too."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_data(fd: int) -> None:
    """Make the bytes and the size of a file survive a power cut.

    Raises:
        OSError: EIO, also if the disk was full. The kernel tells that once and takes the bytes for written from then
            on, so they count for nothing until they have come again: a second sync may succeed and mean nothing.
    """
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise OSError(errno.EIO, f"not synced ({error.strerror})") from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_file(path: str) -> bytes:
    """Return what a small file holds."""
    fd = _open_to_read(path)
    try:
        content = os.read(fd, _READ)
        if len(content) < _READ:
            return content
        pieces = [content]
        # Larger from piece to piece, and joined once: what is thought to be small may not be.
        while content := os.read(fd, min(len(pieces), _MANY) * _READ):
            pieces.append(content)
        return b"".join(pieces)
    finally:
        os.close(fd)


def read_lines(path: str, size: int) -> Iterator[list[bytes]]:
    """Go through the lines of a file, as many at once as there are in a block of `size` bytes.

    What somebody appends meanwhile comes too. Of a line that is longer than a block only the beginning is kept.
    """
    fd = _open_to_read(path)
    try:
        rest = b""
        while (block := os.read(fd, size)) or rest:
            *lines, rest = (rest + (block or b"\n")).split(b"\n")
            rest = rest[:size]
            yield lines
    finally:
        os.close(fd)


def _open_to_read(path: str) -> int:
    # Without waiting: what lies there may be a pipe, put there by somebody.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def replace_file(path: str, content: bytes, mode: int, *, sync: bool) -> None:
    """Write a whole file so that a crash leaves the old one or the new one. `sync`: a power cut too."""
    temporary = path + ".new"
    try:
        _write_file(temporary, content, os.O_TRUNC, mode, sync=sync)
        os.rename(temporary, path)
    except BaseException:
        discard(temporary)
        raise
    if sync:
        sync_folder(Path(path).parent)


def write_new_file(path: str, content: bytes, mode: int, *, sync: bool) -> None:
    """Write a whole file that is not there yet. A crash may leave it empty; `sync`: a power cut nothing else.

    Raises:
        FileExistsError
    """
    _write_file(path, content, os.O_EXCL, mode, sync=sync)
    if sync:
        sync_folder(Path(path).parent)


def _write_file(path: str, content: bytes, flag: int, mode: int, *, sync: bool) -> None:
    fd = make_file(path, os.O_WRONLY | flag, mode)
    try:
        write_all(fd, [content], 0)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def write_line(fd: int, line: str) -> None:
    """Add a line to an open file. It begins with a line break too, as the one before may have been cut off.

    Raises:
        OSError: also if only a part of it found room.
    """
    content = f"\n{line}\n".encode()
    if os.write(fd, content) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def written_at(path: str) -> int | None:
    """Return when a file was last written, in nanoseconds; None if it is not there, or is a link or no file."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None


def may_exist(path: str) -> bool:
    """Whether there is a file of whatever kind, or the system cannot tell."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def leads_elsewhere(path: str) -> bool:
    """Whether there is a symbolic link."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:  # whoever opens it hears the same
        return False


def excess(path: str, size: int) -> int:
    """Return the bytes that a file takes beyond `size`, also what is reserved behind its end; 0 if it is not there."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    # Of the blocks one is begun by the last bytes, and one may list the others.
    return max(0, found.st_size - size, found.st_blocks * 512 - size - 2 * found.st_blksize)


def cut(path: str, size: int) -> None:
    """Make a file no longer than `size`, and give back what is reserved behind that."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_size >= size:  # also if it is as long: there may be blocks behind its end
            os.ftruncate(fd, size)
    finally:
        os.close(fd)


def unlink(path: str | Path) -> bool:
    """Remove a file; return whether it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def discard(*paths: str) -> None:
    """Remove what came of something that failed, as far as that is possible: what failed is told, not this."""
    for path in paths:
        with contextlib.suppress(OSError):
            unlink(path)


def sync_file_system(folder: Path) -> None:
    """Make everything written so far below `folder` survive a power cut.

    Raises:
        OSError: something may not have reached the disk.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        failed = errno.ENOSYS if syncfs is None else ctypes.get_errno() if syncfs(fd) else 0
        if failed == errno.ENOSYS:
            os.sync()
        elif failed:
            raise OSError(failed, os.strerror(failed))
    finally:
        os.close(fd)
