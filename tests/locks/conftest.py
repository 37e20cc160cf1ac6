from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from tests.support.loop import JumpingLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test of this folder on a loop whose clock jumps."""
    return {"jumping": JumpingLoop}
