"""A process that lets children die: each runs a scenario on a file store and is killed at its n-th system call.

Orders come as lines of JSON on standard input (see `Order`); what became of the child is answered on standard output
(see `End`). It forks, as a new Python for each death would take the most time; it has no threads, so it may.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from tests.contracts.sources import Chunks
from tests.contracts.stores import uncopied
from tests.support.uploads import changed
from tests.support.wire import TIMEOUT
from tusserver.app import Tus
from tusserver.disk import space
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.file.store import FileStore

ID = UploadId("upload")
PARTS = (UploadId("part-one"), UploadId("part-two"))
DATA = bytes(range(256)) * 90
STEP = len(DATA) // 3
NAME = "a.txt"

CHANGING = (
    *("mkdir", "write", "pwrite", "pwritev", "truncate", "ftruncate", "copy_file_range"),
    *("fsync", "fdatasync", "link", "rename", "unlink", "rmdir"),
)
"""Calls of `os` that change what is on the disk, or sync it; creating an `open` and `fallocate` are added."""
TEARABLE = ("write", "pwrite", "pwritev", "copy_file_range")
"""Calls of which a part may have happened."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a child shall do, and where it ends."""

    root: str
    scenario: str
    durability: str
    dies_at: int
    """Number of the system call that does not happen any more, from 1 on."""
    torn: bool = False
    """Whether half of that call happens."""


@dataclass(frozen=True, kw_only=True)
class End:
    """What became of it."""

    killed: bool
    """Whether it died; otherwise the scenario came to its end."""
    call: str = ""
    """Name of the call it died in."""
    told: dict[str, int] = field(default_factory=dict)
    """What clients had been told: by id the offset; and `id:sent`, how many bytes they had sent."""


def open_store(root: str | Path, durability: str) -> FileStore:
    """Open the store of all scenarios. The one in which files are renamed says so by a folder beside it."""
    finished = Path(root).with_name("finished")
    return FileStore(root, durability=durability, finished_folder=finished if finished.exists() else None)


# the children --------------------------------------------------------------------------------------------------------


class Run:
    """One child's work: the store, and what clients were told."""

    def __init__(self, order: Order, tell: Callable[[dict[str, Any]], None]) -> None:
        self._order = order
        self._tell = tell
        self._calls = 0
        self._dying = threading.Lock()
        self.store = open_store(order.root, order.durability)
        self.counts = False
        """Whether calls count. What a scenario takes for granted is made before."""

    def watch(self) -> None:
        """Let the calls count and, one day, kill."""
        os.fsync = os.fdatasync = lambda fd: None  # they count, but this death is none of the machine
        for name in CHANGING:
            setattr(os, name, self._mortal(name, getattr(os, name)))
        real_open, mortal_open = os.open, self._mortal("open", os.open)

        def open_file(path: Any, flags: int, *args: Any, **options: Any) -> int:
            return (mortal_open if flags & os.O_CREAT else real_open)(path, flags, *args, **options)

        os.open = open_file
        if space._fallocate is not None:
            space._fallocate = self._mortal("fallocate", space._fallocate)

    def _mortal(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self.counts:
                with self._dying:
                    self._calls += 1
                    if self._calls == self._order.dies_at:
                        self._die(name, real, args)
            return real(*args, **options)

        return call

    def _die(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> NoReturn:
        self._tell({"call": name})
        self.counts = False
        if self._order.torn and name in TEARABLE:
            match name:
                case "pwritev":
                    content = b"".join(args[1])
                    os.pwrite(args[0], content[: len(content) // 2], args[2])
                case "copy_file_range":
                    real(args[0], args[1], args[2] // 2, *args[3:])
                case _:
                    real(args[0], args[1][: len(args[1]) // 2], *args[2:])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    # steps, in the order of the service ------------------------------------------------------------------------------

    async def create(self, upload_id: UploadId, **values: Any) -> Upload:
        now = datetime.now(UTC).replace(microsecond=0)  # as a record keeps it: what stays the same is not synced again
        upload = Upload(id=upload_id, created_at=now, expires_at=now + timedelta(hours=1), **values)
        await self.store.create(upload)
        self._tell({upload_id: 0})
        return upload

    async def append(self, upload: Upload, data: bytes) -> Upload:
        self._tell({f"{upload.id}:sent": upload.offset + len(data)})

        def on_progress(count: int) -> Awaitable[None] | None:
            return self.store.checkpoint(changed(upload, offset=upload.offset + count))

        written = await self.store.write(upload, Chunks([data[:5], data[5:]]), on_progress)
        upload = changed(upload, offset=upload.offset + written)
        await self.store.commit(upload)
        self._tell({upload.id: upload.offset})
        return upload

    async def put(self, upload: Upload, data: bytes) -> Upload:
        upload = changed(upload, offset=upload.offset + len(data))
        self._tell({f"{upload.id}:sent": upload.offset})
        await self.store.put(upload, data)
        self._tell({upload.id: upload.offset})
        return upload

    async def finish(self, upload: Upload) -> Upload:
        upload = replace(await self.store.finalize(upload), finished=True, expires_at=None)
        await self.store.commit(upload)
        self._tell({f"{upload.id}:finished": 1})
        return upload

    async def remove(self, upload_id: UploadId) -> None:
        self._tell({f"{upload_id}:removing": 1})
        await self.store.remove(upload_id)
        self._tell({f"{upload_id}:removed": 1})

    async def whole(self, upload_id: UploadId = ID, **values: Any) -> Upload:
        upload = await self.create(upload_id, length=len(DATA), **values)
        for at in range(0, len(DATA), STEP):
            upload = await self.append(upload, DATA[at : at + STEP])
        return await self.finish(upload)

    async def forget_looks(self) -> None:
        """Let the calendar have no more reason to look at anything."""
        async for _ in self.store.due(datetime.now(UTC) + timedelta(days=1)):
            pass


NAMED = Metadata("filename YS50eHQ=")


async def known(run: Run) -> None:
    """An upload of known length."""
    run.counts = True
    await run.whole(metadata=NAMED)


async def small(run: Run) -> None:
    """Small bodies that come with their requests."""
    run.counts = True
    run._tell({f"{ID}:sent": STEP})
    now = datetime.now(UTC).replace(microsecond=0)
    upload = Upload(
        id=ID, created_at=now, expires_at=now + timedelta(hours=1), length=len(DATA), offset=STEP, metadata=NAMED
    )
    await run.store.create(upload, DATA[:STEP])
    run._tell({ID: STEP})
    for at in range(STEP, len(DATA), STEP):
        upload = await run.put(upload, DATA[at : at + STEP])
    await run.finish(upload)


async def deferred(run: Run) -> None:
    """The length comes late."""
    run.counts = True
    upload = await run.create(ID, length=None)
    upload = await run.append(upload, DATA[:STEP])
    upload = changed(upload, length=len(DATA))
    await run.store.replace(upload)
    upload = await run.append(upload, DATA[STEP:])
    await run.finish(upload)


async def joined(run: Run) -> None:
    """Partial uploads become one while it waits for them."""
    parts = [
        await run.create(part, length=size, role=Role.PARTIAL)
        for part, size in zip(PARTS, (STEP, 2 * STEP), strict=True)
    ]
    parts[0] = await run.finish(await run.append(parts[0], DATA[:STEP]))
    run.counts = True
    final = await run.create(ID, length=None, role=Role.FINAL, parts=PARTS)
    await run.store.add_dependent(ID, PARTS[1])
    parts[1] = await run.finish(await run.append(parts[1], DATA[STEP:]))
    final = changed(final, length=len(DATA))
    await run.store.replace(final)
    await run.store.concatenate(final, parts, uncopied)
    final = changed(final, offset=len(DATA))
    await run.store.commit(final)
    await run.finish(final)


async def removed(run: Run) -> None:
    """A client removes a finished upload that nobody has looked at for long."""
    await run.whole(metadata=NAMED)
    await run.forget_looks()
    run.counts = True
    await run.remove(ID)


async def abandoned(run: Run) -> None:
    """A client removes an upload it had only begun."""
    await run.append(await run.create(ID, length=None), DATA[:STEP])
    await run.forget_looks()
    run.counts = True
    await run.remove(ID)


async def swept(run: Run) -> None:
    """A sweep removes what has expired."""
    for upload_id in (ID, *PARTS):
        await run.append(await run.create(upload_id, length=len(DATA)), DATA[:STEP])
    run.counts = True
    run._tell({f"{upload_id}:removing": 1 for upload_id in (ID, *PARTS)})
    await Tus(run.store, locker=MemoryLocker(), now=lambda: datetime.now(UTC) + timedelta(days=1)).sweep()


async def split(run: Run) -> None:
    """Sweeps open a list of far deadlines when some of them are over and some are not."""
    now = datetime.now(UTC)
    for upload_id in (ID, *PARTS):
        await run.create(upload_id, length=5)
    await run.forget_looks()
    for number, upload_id in enumerate((ID, *PARTS)):
        deadline = now + timedelta(hours=24 + 2 * number)
        await run.store.commit(replace(await run.store.load(upload_id), expires_at=deadline))
        await run.store.schedule(upload_id, deadline)
        run._tell({f"{upload_id}:removing": 1})
    run.counts = True
    for hours in (22, 25, 27):
        await Tus(run.store, locker=MemoryLocker(), now=lambda hours=hours: now + timedelta(hours=hours)).sweep()  # type: ignore[misc]


async def remade(run: Run) -> None:
    """The schedule was lost and is rebuilt."""
    await run.append(await run.create(ID, length=len(DATA)), DATA[:STEP])
    await run.forget_looks()
    shutil.rmtree(run.store.root / "calendar")
    run.counts = True
    await Tus(run.store, locker=MemoryLocker()).sweep()


SCENARIOS: dict[str, Callable[[Run], Awaitable[None]]] = {
    call.__name__: call for call in (known, small, deferred, joined, removed, abandoned, swept, split, remade)
}


def live(order: Order, pipe: int) -> NoReturn:
    """Be the child."""
    write = os.write
    status = 1

    def tell(facts: dict[str, Any]) -> None:
        write(pipe, json.dumps(facts).encode() + b"\n")

    async def story() -> None:
        await SCENARIOS[order.scenario](run)

    try:
        run = Run(order, tell)
        run.watch()
        asyncio.run(story())
        status = 0
    except BaseException:
        tell({"error": traceback.format_exc()})
    finally:
        os._exit(status)


# the process that lets them die --------------------------------------------------------------------------------------


def serve() -> None:
    """Carry out orders until there are no more."""
    for line in sys.stdin:
        order = Order(**json.loads(line))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            live(order, writing)
        os.close(writing)
        facts: dict[str, Any] = {}
        with open(reading, encoding="utf-8") as answers:
            for answer in answers:
                facts.update(json.loads(answer))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        end = {"error": facts.get("error"), "killed": status == -signal.SIGKILL, "call": facts.pop("call", "")}
        print(json.dumps({**end, "told": facts}), flush=True)  # noqa: T201 - it is the answer


class Executioner:
    """That process, as tests see it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.crash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def run(self, order: Order) -> End:
        """Let one child live and die."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if (error := answer.pop("error")) is not None:
            raise AssertionError(f"{order} failed:\n{error}")
        return End(**answer)

    def __enter__(self) -> Executioner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """An empty folder for one life."""
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    serve()
