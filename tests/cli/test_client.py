"""What the client commands send of logins, and how they take a server's wish to wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.support.served import Served
from tests.support.wire import TIMEOUT

Upload = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """Upload three bytes in an own process."""
    (tmp_path / "a").write_bytes(b"abc")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUSSERVER_")}

    def upload(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tusserver", "upload", "a", *arguments],
            cwd=tmp_path,
            env={**kept, "XDG_STATE_HOME": str(tmp_path / "state"), **more},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    return upload


class Heard:
    """A server that notes who asks; uploads live at `home`, which may be another server."""

    def __init__(self, *, home: str = "", busy: int = 0) -> None:
        self.home = home
        self.authorizations: list[str | None] = []
        self._busy = busy

    def app(self) -> Starlette:
        """The server as an app."""
        return Starlette(
            routes=[
                Route("/files", self._create, methods=["POST"]),
                Route("/files/a", self._append, methods=["PATCH"]),
            ]
        )

    async def _create(self, request: Request) -> Response:
        self.authorizations.append(request.headers.get("authorization"))
        if self._busy:
            self._busy -= 1
            return PlainTextResponse("busy", 503, {"Retry-After": "0"})
        return Response(status_code=201, headers={"Location": f"{self.home}/files/a"})

    async def _append(self, request: Request) -> Response:
        self.authorizations.append(request.headers.get("authorization"))
        return Response(status_code=204, headers={"Upload-Offset": str(len(await request.body()))})


def test_the_token_goes_with_every_request_to_its_server(upload: Upload, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    heard = Heard()
    with Served(heard.app()) as served:
        done = upload(f"{served.url}/files", "--token-file", "token", TUSSERVER_TOKEN="of-the-variable")
        assert (done.returncode, done.stderr) == (0, "")
        done = upload(f"{served.url}/files", TUSSERVER_TOKEN="of-the-variable")
        assert (done.returncode, done.stderr) == (0, "")
    assert heard.authorizations == ["Bearer of-the-file"] * 2 + ["Bearer of-the-variable"] * 2


def test_the_token_does_not_go_to_another_server(upload: Upload) -> None:
    other = Heard()
    with Served(other.app()) as elsewhere:
        first = Heard(home=elsewhere.url)
        with Served(first.app()) as served:
            done = upload(f"{served.url}/files", TUSSERVER_TOKEN="secret")
    assert (done.returncode, done.stderr) == (0, "")
    assert first.authorizations == ["Bearer secret"]
    assert other.authorizations == [None]


def test_a_busy_server_is_asked_again(upload: Upload) -> None:
    heard = Heard(busy=2)
    with Served(heard.app()) as served:
        done = upload(f"{served.url}/files")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(heard.authorizations) == 4
