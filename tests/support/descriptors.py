"""Descriptors of this process, and coroutines that are cancelled wherever they wait."""

from __future__ import annotations

import asyncio
import os
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any


def open_files(pid: int | str = "self") -> dict[str, str]:
    """Descriptors of a process, and what each of them is."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[number] = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:  # that of the list itself
            continue
    return found


Story = Callable[[], Awaitable[Coroutine[Any, Any, Any]]]
"""Prepares what is to be cancelled, and returns it."""


async def cancelled_everywhere(story: Story, *, late: bool = False) -> int:
    """Run a story again and again, each time cancelled where it waits for the next time; return how often.

    `late`: in the moment in which what it waits for is there. After each run no file may be open that was not before,
    but for the last list of the calendar, which stays open.
    """
    times = 0
    while True:
        coroutine = await story()
        before = open_files()
        try:
            await asyncio.create_task(_cancelled(coroutine, times, late))
        except asyncio.CancelledError:
            times += 1
        else:
            return times
        finally:
            left = {name for number, name in open_files().items() if before.get(number) != name}
            assert not [name for name in left if "/calendar/" not in name], f"cancelled at {times} it leaves {left}"


async def _cancelled(coroutine: Coroutine[Any, Any, Any], at: int, late: bool) -> Any:
    return await _driven(coroutine, at, late)


@types.coroutine
def _driven(coroutine: Coroutine[Any, Any, Any], at: int, late: bool) -> Generator[Any, Any, Any]:
    task = asyncio.current_task()
    assert task is not None
    call = _sending(coroutine, None)
    while True:
        try:
            waited = call()
        except StopIteration as end:
            return end.value
        if at == 0 and late and isinstance(waited, asyncio.Future):
            waited.add_done_callback(lambda _: task.cancel())
        elif at == 0:
            task.cancel()
        at -= 1
        try:
            value = yield waited
        except BaseException as error:
            call = _throwing(coroutine, error)
        else:
            call = _sending(coroutine, value)


def _throwing(coroutine: Coroutine[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(error)


def _sending(coroutine: Coroutine[Any, Any, Any], value: object) -> Callable[[], Any]:
    return lambda: coroutine.send(value)
