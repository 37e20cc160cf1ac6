"""System calls of the file store, and what stands in where a file system lacks one."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stores.conftest import Mount
from tusserver.disk import faults, files, space
from tusserver.protocol.errors import MaxSizeExceeded, OutOfSpace, StoreUnavailable

MIB = 1 << 20


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def failing(code: int) -> Callable[..., Any]:
    def call(*args: object) -> Any:
        raise OSError(code, os.strerror(code))

    return call


def answering(*answers: int) -> Callable[[int, int, int], int]:
    """A fallocate that answers so, and the last for ever."""
    left = list(answers)
    return lambda fd, at, length: left.pop(0) if len(left) > 1 else left[0]


# reserving -----------------------------------------------------------------------------------------------------------


def test_what_is_reserved_is_allocated(fd: int, tmp_path: Path) -> None:
    if space.file_system(tmp_path) == "tmpfs":
        pytest.skip("tmpfs reserves nothing")
    space.SpaceReservation(tmp_path).reserve(fd, 0, 3 * MIB)
    found = os.fstat(fd)
    assert (found.st_size, found.st_blocks * 512 >= 3 * MIB) == (3 * MIB, True)


def test_reserving_behind_bytes_leaves_them_alone(fd: int, tmp_path: Path) -> None:
    os.pwrite(fd, b"hello", 0)
    space.SpaceReservation(tmp_path).reserve(fd, 5, MIB)
    assert os.pread(fd, 5, 0) == b"hello"
    assert os.fstat(fd).st_size == MIB + 5


def test_reserving_nothing_does_nothing(fd: int, tmp_path: Path) -> None:
    space.SpaceReservation(tmp_path).reserve(fd, 5, 0)
    assert os.fstat(fd).st_size == 0


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_a_file_system_cannot_reserve_the_size_is_set_and_the_log_says_so_once(
    fd: int, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(space, "_fallocate", answering(code))
    reserver = space.SpaceReservation(tmp_path)
    with caplog.at_level(logging.INFO, "tusserver.store"):
        reserver.reserve(fd, 0, MIB)
        reserver.reserve(fd, MIB, MIB)
    assert os.fstat(fd).st_size == 2 * MIB
    assert len(caplog.records) == 1
    assert "space is checked but not reserved" in caplog.text


def test_where_the_system_has_no_call_for_it_the_size_is_set(
    fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "_fallocate", None)
    space.SpaceReservation(tmp_path).reserve(fd, 0, MIB)
    assert os.fstat(fd).st_size == MIB


def test_on_tmpfs_nothing_is_reserved_as_that_is_slow_there(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(space, "_fallocate", lambda *args: pytest.fail("it was asked to"))
    folder = mount("tmpfs", 8 * MIB)
    with caplog.at_level(logging.INFO, "tusserver.store"), open(folder / "file", "wb") as file:
        space.SpaceReservation(folder).reserve(file.fileno(), 0, 2 * MIB)
        assert os.fstat(file.fileno()).st_size == 2 * MIB
    assert "tmpfs" in caplog.text


def test_a_signal_does_not_keep_space_from_being_reserved(
    fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = space._fallocate
    assert real is not None
    answers = [errno.EINTR, errno.EINTR, errno.EINTR]
    monkeypatch.setattr(space, "_fallocate", lambda *args: answers.pop() if answers else real(*args))
    space.SpaceReservation(tmp_path).reserve(fd, 0, MIB)
    assert os.fstat(fd).st_size == MIB


@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_larger_than_the_file_system_can_never_be(fd: int, tmp_path: Path, sparse: bool) -> None:
    reserver = space.SpaceReservation(tmp_path)
    reserver._sparse = sparse
    with pytest.raises(MaxSizeExceeded, match="more than the whole storage holds"):
        reserver.reserve(fd, 0, 2**63 - 1)
    assert os.fstat(fd).st_size == 0


def a_disk(monkeypatch: pytest.MonkeyPatch, *, blocks: int, free: int) -> None:
    """Let every file system seem to have so many blocks of a KiB."""
    real = os.fstatvfs

    def fstatvfs(fd: int) -> os.statvfs_result:
        found = list(real(fd))
        found[0], found[1], found[2], found[3], found[4] = 1024, 1024, blocks, free, free
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "fstatvfs", fstatvfs)


def test_a_disk_without_room_is_not_filled_in_vain(fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # fallocate would take all that is free before it notices, and others would fail meanwhile.
    a_disk(monkeypatch, blocks=4096, free=1024)
    monkeypatch.setattr(space, "_fallocate", lambda *args: pytest.fail("it was tried"))
    with pytest.raises(OutOfSpace):
        space.SpaceReservation(tmp_path).reserve(fd, 0, 2 * MIB)


def test_room_that_the_file_has_already_counts(fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if space.file_system(tmp_path) == "tmpfs":
        pytest.skip("tmpfs reserves nothing")
    reserver = space.SpaceReservation(tmp_path)
    reserver.reserve(fd, 0, 2 * MIB)
    a_disk(monkeypatch, blocks=4096, free=0)
    reserver.reserve(fd, MIB, MIB)


@pytest.mark.parametrize(
    ("code", "refusal"),
    [(errno.EFBIG, MaxSizeExceeded), (errno.ENOSPC, OSError), (errno.EDQUOT, OSError), (errno.EIO, OSError)],
)
def test_what_the_file_system_refuses_is_told(
    fd: int, tmp_path: Path, code: int, refusal: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "_fallocate", answering(code))
    with pytest.raises(refusal) as told:
        space.SpaceReservation(tmp_path).reserve(fd, 0, MIB)
    assert not isinstance(told.value, OSError) or told.value.errno == code


def test_a_file_system_without_such_large_files_says_so_also_where_it_cannot_reserve(
    fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "_fallocate", None)
    monkeypatch.setattr(os, "ftruncate", failing(errno.EFBIG))
    with pytest.raises(MaxSizeExceeded):
        space.SpaceReservation(tmp_path).reserve(fd, 0, MIB)


def test_the_type_of_a_file_system_is_known(mount: Mount) -> None:
    assert space.file_system(mount("tmpfs", MIB)) == "tmpfs"
    assert space.file_system(Path("/proc")) == "proc"


def test_the_type_of_what_is_not_there_is_not_known(tmp_path: Path) -> None:
    assert space.file_system(tmp_path / "missing") == ""


# words for failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        (errno.ENOSPC, OutOfSpace),
        (errno.EDQUOT, OutOfSpace),
        (errno.EIO, StoreUnavailable),
        (errno.EROFS, StoreUnavailable),
    ],
)
def test_a_failure_is_told_to_clients_in_general_and_to_the_log_in_detail(
    code: int, refusal: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(refusal) as told, faults.FaultLog().translating("testing"):
        raise OSError(code, "details", "/secret/path")
    assert "/secret/path" not in str(told.value)
    assert "while testing" in caplog.text


# writing -------------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.lists(st.binary(max_size=50), max_size=30), at=st.integers(0, 100), most=st.integers(1, 60))
def test_every_byte_is_written_even_if_the_system_takes_a_few_at_a_time(
    fd: int, chunks: list[bytes], at: int, most: int
) -> None:
    def pwritev(fd: int, buffers: list[bytes], at: int) -> int:
        return os.pwrite(fd, b"".join(buffers)[:most], at)

    whole = b"".join(chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", pwritev)
        os.ftruncate(fd, 0)
        assert files.write_all(fd, chunks, at) == len(whole)
    assert os.pread(fd, 10_000, at) == whole


def test_more_chunks_than_one_call_takes_are_written(fd: int) -> None:
    assert files.write_all(fd, [b"ab"] * 5000, 1) == 10_000
    assert os.pread(fd, 20_000, 1) == b"ab" * 5000


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"long content", b"short"):
        files.replace_file(str(path), content, 0o600, sync=True)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_crash_left_of_a_replacement_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "file.new").write_bytes(b"left over from long ago")
    files.replace_file(str(tmp_path / "file"), b"new", 0o600, sync=False)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_new_file(str(path), b"first", 0o600, sync=True)
    with pytest.raises(FileExistsError):
        files.write_new_file(str(path), b"second", 0o600, sync=True)
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 100_000])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    assert files.read_file(str(path)) == path.read_bytes()


def test_removing_says_whether_there_was_anything(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert files.unlink(tmp_path / "file") is True
    assert files.unlink(tmp_path / "file") is False


def test_folders_are_made_with_their_parents_and_may_be_there(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b", 0o700)
    assert (tmp_path / "a" / "b").is_dir()


def test_everything_below_a_folder_can_be_synced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    files.sync_file_system(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"hello"


# copying inside the kernel -------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 1000 + b"beyond")
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


LENGTH = 256 * 1000


def check_copy(source: int, target: int) -> None:
    os.pwrite(target, b"before" + bytes(LENGTH) + b"behind", 0)
    files.copy(source, 0, target, 6, LENGTH)
    assert os.pread(target, 2 * LENGTH, 0) == b"before" + bytes(range(256)) * 1000 + b"behind"


def test_bytes_are_copied_to_their_place_and_nothing_else(source: int, fd: int) -> None:
    check_copy(source, fd)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_where_files_cannot_be_copied_the_kernel_sends_them(
    source: int, fd: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", failing(code))
    check_copy(source, fd)


def test_a_system_without_that_call_sends_them_too(source: int, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "copy_file_range")
    check_copy(source, fd)


def test_a_copy_that_the_kernel_makes_in_pieces_is_whole(source: int, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", lambda a, b, most, *at: original(a, b, min(most, 1000), *at))
    check_copy(source, fd)


def test_a_copy_may_start_anywhere(source: int, fd: int) -> None:
    files.copy(source, 1000, fd, 10, 300)
    assert os.pread(fd, LENGTH, 0) == bytes(10) + (bytes(range(256)) * 1000)[1000:1300]


def test_no_byte_goes_through_python(source: int, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in ("read", "pread", "readv", "preadv", "write", "pwrite", "writev", "pwritev"):
        monkeypatch.setattr(os, call, lambda *args, name=call: pytest.fail(f"{name} was called"))
    files.copy(source, 0, fd, 0, LENGTH)
    monkeypatch.undo()
    assert os.pread(fd, LENGTH, 0) == bytes(range(256)) * 1000


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_copy_that_fails_is_told(source: int, fd: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", failing(code))
    with pytest.raises(OSError, match=os.strerror(code)):
        files.copy(source, 0, fd, 0, LENGTH)


def test_a_source_that_is_too_short_is_told_and_does_not_hang(source: int, fd: int) -> None:
    with pytest.raises(OSError, match="shorter than its record says"):
        files.copy(source, 0, fd, 0, LENGTH + 7)


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 5_000_000])
def test_a_file_is_read_whole_whatever_its_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    assert files.read_file(str(path)) == path.read_bytes()


def test_a_large_file_is_read_in_few_pieces_that_are_joined_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It copied what it had with each piece: 16 MiB were copied a thousand times."""
    path = tmp_path / "file"
    path.write_bytes(bytes(16 << 20))
    calls = 0
    real = os.read

    def read(fd: int, size: int) -> bytes:
        nonlocal calls
        calls += 1
        return real(fd, size)

    monkeypatch.setattr(os, "read", read)
    assert len(files.read_file(str(path))) == 16 << 20
    assert calls < 100


@given(content=st.binary(max_size=400) | st.text("ab\n", max_size=400).map(str.encode), size=st.integers(1, 50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_are_those_of_the_file_whatever_the_blocks(tmp_path: Path, content: bytes, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    found = [line for lines in files.read_lines(str(path), size) for line in lines if line]
    expected = [line for line in content.split(b"\n") if line]
    assert len(found) == len(expected)
    assert all(line[:size] == whole[:size] for line, whole in zip(found, expected, strict=True))
    if all(len(line) <= size for line in expected):
        assert found == expected


def test_a_file_that_cannot_be_seen_may_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert files.may_exist(str(tmp_path / "link"))
    assert not files.may_exist(str(tmp_path / "file"))
    assert not files.may_exist(str(tmp_path / "link" / "file"))

    def fail(path: str) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "lstat", fail)
    assert files.may_exist(str(tmp_path / "file"))
