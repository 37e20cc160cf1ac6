"""A server behind a proxy that writes down request heads of any size, and answers as it is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tests.support.wire import TIMEOUT


class Recorder:
    """Takes requests without bodies until the end of the context; `headers` are those of every answer.

    With the status 0 it closes the connection where an answer would be.
    """

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        lines = [f"HTTP/1.1 {status} Told", "Content-Length: 0", *(f"{n}: {v}" for n, v in (headers or {}).items())]
        self._answer = "\r\n".join([*lines, "", ""]).encode("latin-1") if status else b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = {self._listener}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[dict[str, str]] = []
        """Header fields of every request, their names in lower case."""
        self.methods: list[str] = []

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with self._lock:
                if self._closed:
                    connection.close()
                    return
                self._open.add(connection)
                self._begin(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        got = b""
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    got += data
                    while b"\r\n\r\n" in got:
                        head, got = got.split(b"\r\n\r\n", 1)
                        self._record(head.decode("latin-1"))
                        if not self._answer:
                            return
                        connection.sendall(self._answer)
            except OSError:
                return
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _record(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        self.methods.append(first.split(" ", 1)[0])
        fields = (line.partition(":") for line in lines)
        self.heads.append({name.lower(): value.strip() for name, _, value in fields})

    def _begin(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            for each in self._open:
                with contextlib.suppress(OSError):  # the other side was faster
                    each.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for thread in self._threads:
            thread.join(TIMEOUT)
