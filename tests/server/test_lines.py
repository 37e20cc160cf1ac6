"""Lines that are written by a thread: logging never waits for their reader."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tusserver.server.lines import MAX_WAITING, LineWriter


class Pipe:
    """A pipe that is full until it is read."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, 4096)
        self._read = b""
        self._full = os.write(self.into, b"." * fcntl.fcntl(self.into, fcntl.F_GETPIPE_SZ))

    def empty(self) -> None:
        """Read what it was filled with."""
        self._full -= len(os.read(self.out, self._full))
        assert self._full == 0

    def line(self) -> str:
        """Read a line; waits for it."""
        while b"\n" not in self._read:
            self._read += os.read(self.out, 4096)
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A full pipe."""
    made = Pipe()
    yield made
    os.close(made.out)
    os.close(made.into)


@pytest.mark.parametrize("keep_thread", [True, False])
def test_lines_wait_for_their_reader_and_keep_their_order(pipe: Pipe, keep_thread: bool) -> None:
    writer = LineWriter(pipe.into, keep_thread=keep_thread)
    lines = [f"line {number}" for number in range(200)]
    for line in lines:
        writer.put(line)
    assert not writer.flush(0.0)
    pipe.empty()
    assert [pipe.line() for _ in lines] == lines
    assert writer.flush(10)


def test_lines_beyond_the_limit_are_lost_and_counted_once_the_pipe_is_read(pipe: Pipe) -> None:
    writer = LineWriter(pipe.into, lost=lambda count: f"{count} lost")
    line = "x" * (MAX_WAITING // 10)
    for _ in range(30):
        writer.put(line)
    pipe.empty()
    first, second = sorted((pipe.line(), pipe.line()))  # the first line may have been under way when others were lost
    lost = int(first.removesuffix(" lost"))
    kept = [second, *(pipe.line() for _ in range(30 - lost - 1))]
    assert kept == [line] * len(kept)
    assert MAX_WAITING // 2 < len(kept) * len(line) <= MAX_WAITING


def test_lines_without_a_reader_are_lost_and_nothing_is_raised(pipe: Pipe) -> None:
    out, into = os.pipe()
    os.close(out)
    writer = LineWriter(into, lost=lambda count: f"{count} lost")
    for _ in range(3):
        writer.put("line")
        assert writer.flush(10)
    os.close(into)
    writer.put("line")
    assert writer.flush(10)


def test_a_full_disk_loses_lines_and_they_are_counted_once_there_is_room() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    out, into = os.pipe()
    writer = LineWriter(full, lost=lambda count: f"{count} lost")
    for _ in range(3):
        writer.put("line")
    assert writer.flush(10)
    os.dup2(into, full)
    writer.put("again")
    assert writer.flush(10)
    assert os.read(out, 100) == b"3 lost\nagain\n"
    for fd in (full, out, into):
        os.close(fd)


def test_after_a_timeout_the_next_flush_does_not_wait(pipe: Pipe) -> None:
    writer = LineWriter(pipe.into)
    writer.put("line")
    assert not writer.flush(0.01)
    assert not writer.flush(3600)
    pipe.empty()
    assert pipe.line() == "line"
    writer.put("another")
    assert pipe.line() == "another"
    assert writer.flush(3600)


FORKED = """
import fcntl, os, sys
from tusserver.server.lines import LineWriter
out, into = os.pipe()
fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
os.write(into, b"." * 4096)
writer = LineWriter(into)
writer.put("of the parent")
writer._changed.acquire()
if (child := os.fork()) == 0:
    os.read(out, 4096)
    writer.put("of the child")
    os._exit(writer.flush(20))
writer._changed.release()
_, status = os.waitpid(child, 0)
writer.flush(20)
print(os.waitstatus_to_exitcode(status), sorted(os.read(out, 100).split(b"\\n")))
"""


def test_a_forked_child_writes_its_own_lines_and_the_parent_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 [b'', b'of the child', b'of the parent']\n"
