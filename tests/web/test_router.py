from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tusserver.web.router import Router


def says(name: str) -> ASGIApp:
    """An app that answers with its name, and the path that it is mounted at."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"{name} {scope['root_path']}")(scope, receive, send)

    return app


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError(scope["type"])


async def get(path: str, exact: Mapping[str, ASGIApp], below: Mapping[str, ASGIApp], root_path: str = "") -> str:
    transport = httpx.ASGITransport(Router(exact=exact, below=below, other=nothing), root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
        answer = await http.get(root_path + path)
    if answer.status_code == 404:
        assert answer.headers["cache-control"] == "no-store"
        return "not found"
    return answer.text


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/", "page "),
        ("/livez", "health "),
        ("/livez/", "not found"),
        ("/files", "uploads /files"),
        ("/files/", "uploads /files"),
        ("/files/a/b", "uploads /files"),
        ("/files/health", "health "),
        ("/filesystem", "not found"),
        ("/a/b", "admin /a/b"),
        ("/a", "not found"),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/outside"])
async def test_each_path_goes_to_the_app_of_its_row(path: str, answer: str, root_path: str) -> None:
    exact = {"/": says("page"), "/livez": says("health"), "/files/health": says("health")}
    below = {"/files": says("uploads"), "/a/b": says("admin")}
    name, space, mounted = answer.partition(" ")
    expected = f"{name}{space}{root_path}{mounted}" if answer != "not found" else answer
    assert await get(path, exact, below, root_path) == expected


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_what_is_no_request_goes_to_the_app_for_it(kind: str) -> None:
    seen: list[str] = []

    async def other(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def receive() -> dict[str, str]:
        return {}

    async def send(message: object) -> None:
        raise AssertionError(message)

    await Router(exact={"/": nothing}, below={}, other=other)({"type": kind, "path": "/"}, receive, send)
    assert seen == [kind]
