"""An event loop whose clock jumps: nothing is to do but wait for a timer, so it is that time at once.

Half a minute of silence takes no time, and a slow machine is not mistaken for a silent client.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Ready = list[tuple[selectors.SelectorKey, int]]


class JumpingLoop(asyncio.SelectorEventLoop):
    """Never waits for a timer, unless a thread is at work: what that brings comes first."""

    def __init__(self) -> None:
        self._now = 1000.0
        self.threads = 0
        """Calls that run in threads just now."""
        super().__init__(_Selector(self))

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run a call in a thread, and know of it."""
        self.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        self.threads -= 1

    def time(self) -> float:
        """Seconds, as the loop's timers count them."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class _Selector(selectors.BaseSelector):
    """The usual selector; where it would wait for a timer, the loop jumps there instead."""

    def __init__(self, loop: JumpingLoop) -> None:
        self._loop = loop
        self._selector = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> Ready:
        ready = self._selector.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self._loop.threads:
            return self._selector.select(None)
        self._loop.jump(timeout)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def close(self) -> None:
        self._selector.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()
