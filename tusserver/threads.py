"""Threads for calls that block and hold descriptors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


class Threads:
    """A few threads of their own for one kind of work, so that a slow disk does not starve the rest of an app.

    Not `anyio.to_thread`: a task that is cancelled by asyncio itself, as servers do when they stop, leaves that while
    the call goes on; and a call of ours may hold a descriptor that the task would close.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, call: Callable[..., T], *args: object, discard: Callable[[T], object] | None = None) -> T:
        """Run a call; when cancelled, wait until it has ended. `discard`: see `outlast`."""
        return await outlast(self.start(call, *args), discard)

    def start(self, call: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Run a call; whoever is not to leave it behind awaits `outlast` of what this returns."""
        return asyncio.get_running_loop().run_in_executor(self._pool, call, *args)


async def outlast(future: asyncio.Future[T], discard: Callable[[T], object] | None = None) -> T:
    """Return what a call in a thread returns; when cancelled, wait until it has ended.

    `discard`: does away with what the call returned if nobody is left to take it, as a descriptor must be closed.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await until_done(future)
        # Looked at in any case: nothing awaits it any more, and asyncio would log it.
        if not future.cancelled() and future.exception() is None and discard is not None:
            discard(future.result())
        raise


async def until_done(future: asyncio.Future[Any]) -> None:
    """Wait for a call in a thread, however often that is cancelled."""
    with anyio.CancelScope(shield=True):  # else anyio would cancel us again in every turn of the loop
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
