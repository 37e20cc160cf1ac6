"""An ASGI app of this process on a real port, so that a test can both talk to it over the wire and reach inside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.support.tus import eventually

T = TypeVar("T")


class Served:
    """Runs an app, lifespan included, on its own event loop in a thread. `http`: as uvicorn has it."""

    def __init__(self, app: Any, root_path: str = "", http: Any = "auto") -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                port=0,
                http=http,
                root_path=root_path,
                lifespan="on",
                log_config=None,  # else uvicorn sets up the logging of this process
                log_level="warning",
                proxy_headers=False,
                server_header=False,
            )
        )
        self._stack = ExitStack()
        self._portal: BlockingPortal

    @property
    def url(self) -> str:
        """http://host:port"""
        host, port = self._server.servers[0].sockets[0].getsockname()
        return f"http://{host}:{port}"

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await something on the loop of the app."""
        return self._portal.call(function, *args)

    def __enter__(self) -> Self:
        self._portal = self._stack.enter_context(start_blocking_portal())
        serving = self._portal.start_task_soon(self._server.serve)
        assert eventually(lambda: self._server.started or serving.done()), "the app did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._stack.close()
