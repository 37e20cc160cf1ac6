"""System calls on files and folders, as plain functions to be run in threads; each says what a crash leaves behind."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}
"""What a call fails with that a system or a file system lacks."""
_IOV_MAX = 1024
_READ = 16 * 1024
_MANY = 64
_OTHERS = 0o077


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
        if error.errno not in UNSUPPORTED | {errno.EISDIR}:
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
        if isinstance(error, OSError) and error.errno not in UNSUPPORTED | {errno.EXDEV, errno.EBADF}:
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
            _apply_mode(fd, mode)
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
            _apply_mode(inner, mode)
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
            _apply_mode(fd, mode)
        except BaseException:
            os.close(fd)
            raise
    return fd


def _apply_mode(fd: int, mode: int) -> None:
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


def sync_data_of(path: str) -> None:
    """Do the same for a file that is not open."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        sync_data(fd)
    finally:
        os.close(fd)


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
        unlink_quietly(temporary)
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


def mtime_ns(path: str) -> int | None:
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


def is_symlink(path: str) -> bool:
    """Whether there is a symbolic link."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:  # opening it fails in the same way
        return False


def excess(path: str, size: int) -> int:
    """Return the bytes that a file takes beyond `size`, also what is reserved behind its end; 0 if it is not there."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    # Of the blocks one is begun by the last bytes, and one may list the others.
    return max(0, found.st_size - size, found.st_blocks * 512 - size - 2 * found.st_blksize)


def truncate_to(path: str, size: int) -> None:
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


def unlink_quietly(*paths: str) -> None:
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
