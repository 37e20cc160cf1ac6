"""Inside somebody else's app: mounted or routed, at any path, behind prefixes, with callbacks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.loop import JumpingLoop
from tests.support.tus import metadata
from tests.web.asking import GONE, OCTETS, Client, Exchange, chunk, patching
from tusserver import CreationRejected, Expiry, FileStore, MemoryStore, Proxies, Store, Tus, Upload


async def uploads(client: Client, path: str) -> str:
    """Make a whole upload in two requests at a collection, join two parts, and return the first one's URL."""
    client.path = path
    url = await client.upload(11, b"hello")
    assert (await client.patch(url, 5, b" world")).status_code == 204
    parts = [await client.complete(data, {"Upload-Concat": "partial"}) for data in (b"one ", b"two")]
    joined = await client.ask("POST", headers={"Upload-Concat": f"final;{' '.join(parts)}"})
    assert joined.status_code == 201, joined.text
    assert (await client.get(joined.headers["Location"])).content == b"one two"
    assert (await client.get(url)).content == b"hello world"
    return url


# where it lives ------------------------------------------------------------------------------------------------------

PathOf = Callable[[Tus], ASGIApp]


def routed(tus: Tus) -> ASGIApp:
    return Starlette(routes=[tus.route("/api/up"), Route("/api", lambda request: PlainTextResponse("app"))])


def mounted(tus: Tus) -> ASGIApp:
    return Starlette(routes=[Mount("/api/up", tus)])


def mounted_deep(tus: Tus) -> ASGIApp:
    return Starlette(routes=[Mount("/api", routes=[Mount("/up", tus)])])


def routed_deep(tus: Tus) -> ASGIApp:
    return Starlette(routes=[Mount("/api", routes=[tus.route("/up")])])


def fastapi_routed(tus: Tus) -> ASGIApp:
    app = FastAPI()
    app.router.routes.append(tus.route("/api/up/"))
    return app


def fastapi_mounted(tus: Tus) -> ASGIApp:
    app = FastAPI()
    app.mount("/api/up", tus)
    return app


def fastapi_in_fastapi(tus: Tus) -> ASGIApp:
    outer, inner = FastAPI(), FastAPI()
    inner.router.routes.append(tus.route("/up"))
    outer.mount("/api", inner)
    return outer


ROUTED = [routed, routed_deep, fastapi_routed, fastapi_in_fastapi]
MOUNTED = [mounted, mounted_deep, fastapi_mounted]


@pytest.mark.parametrize("embed", [*ROUTED, *MOUNTED])
async def test_uploads_work_wherever_it_is_put(store: Store, embed: PathOf) -> None:
    tus = Tus(store)
    async with tus.lifespan(), Client(embed(tus), tus) as client:
        assert (await uploads(client, "/api/up/")).startswith("http://tus.test/api/up/")


@pytest.mark.parametrize("embed", ROUTED)
async def test_a_route_needs_no_slash_at_the_end(store: Store, embed: PathOf) -> None:
    """A client that follows a redirect at all does not do so with its body."""
    tus = Tus(store)
    async with tus.lifespan(), Client(embed(tus), tus) as client:
        assert (await uploads(client, "/api/up")).startswith("http://tus.test/api/up/")


@pytest.mark.parametrize("embed", [routed, fastapi_routed])
@pytest.mark.parametrize("path", ["/api/upx", "/api/u", "/api/upx/y", "/up", "/api"])
async def test_a_route_takes_nothing_that_is_not_its_own(store: Store, embed: PathOf, path: str) -> None:
    tus = Tus(store)
    async with tus.lifespan(), Client(embed(tus), tus) as client:
        response = await client.ask("POST", path, {"Upload-Length": "5"})
    assert response.status_code in (404, 405)
    assert "Location" not in response.headers


async def test_it_may_be_the_whole_app(store: Store) -> None:
    tus = Tus(store)
    async with tus.lifespan(), Client(tus, tus) as client:
        for path in ("/", ""):
            assert (await uploads(client, path)).startswith("http://tus.test/")


async def test_it_may_be_the_route_at_the_root(store: Store) -> None:
    tus = Tus(store)
    async with tus.lifespan(), Client(Starlette(routes=[tus.route("/")]), tus) as client:
        assert (await uploads(client, "/")).startswith("http://tus.test/")


@pytest.mark.parametrize("embed", [routed, mounted, fastapi_in_fastapi])
async def test_a_root_path_stands_in_its_urls(store: Store, embed: PathOf) -> None:
    """As uvicorn does it with --root-path: the path has it, and so must the URL."""
    tus = Tus(store)
    async with tus.lifespan(), Client(embed(tus), tus, root_path="/behind") as client:
        url = await uploads(client, "/behind/api/up/")
    assert url.startswith("http://tus.test/behind/api/up/")


async def test_a_prefix_that_a_proxy_took_away_stands_in_its_urls(store: Store) -> None:
    tus = Tus(store, proxies=Proxies(trusted=["127.0.0.1"]))
    outside = {"X-Forwarded-Prefix": "/public", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "files.example.org"}
    async with tus.lifespan(), Client(routed(tus), tus) as client:
        client.http.headers.update(outside)
        client.path, parts = "/api/up", []
        for data in (b"one ", b"two"):
            url = await client.upload(len(data), headers={"Upload-Concat": "partial"})
            assert url.startswith("https://files.example.org/public/api/up/")
            assert (await client.patch(inside(url), 0, data)).status_code == 204
            parts.append(url)
        joined = await client.ask("POST", headers={"Upload-Concat": f"final;{' '.join(parts)}"})
        assert joined.status_code == 201
        assert (await client.get(inside(joined.headers["Location"]))).content == b"one two"


def inside(url: str) -> str:
    """What a proxy makes of a URL that it serves."""
    return url.removeprefix("https://files.example.org/public")


async def test_two_of_them_in_one_app_know_nothing_of_each_other(tmp_path: Path) -> None:
    first, second = Tus(FileStore(tmp_path / "first")), Tus(FileStore(tmp_path / "second"))
    app = Starlette(routes=[first.route("/first"), second.route("/second")])
    async with AsyncExitStack() as stack:
        for tus in (first, second):
            await stack.enter_async_context(tus.lifespan())
        client = await stack.enter_async_context(Client(app, first))
        one, two = await uploads(client, "/first"), await uploads(client, "/second")
        assert (await client.head(one.replace("/first/", "/second/"))).status_code == 404
        foreign = await client.ask("POST", "/second", {"Upload-Concat": f"final;{one}"})
        assert foreign.status_code == 400
        assert (await client.ask("DELETE", two)).status_code == 204
        assert (await client.head(one)).status_code == 200


def test_a_route_needs_a_path_that_begins_with_a_slash() -> None:
    with pytest.raises(ValueError, match="must start with /"):
        Tus(MemoryStore()).route("files")


# what stands around it -----------------------------------------------------------------------------------------------


async def signed_in(request: Request) -> None:
    if request.headers.get("authorization") != "Bearer right":
        raise HTTPException(401, "who are you?")


async def test_a_guarded_app_keeps_its_guard_and_its_routes(store: Store) -> None:
    """Dependencies of FastAPI are of its own routes; what is mounted beside them is guarded by middleware."""
    app, tus = FastAPI(dependencies=[Depends(signed_in)]), Tus(store)

    @app.get("/me")
    async def me() -> str:
        return "me"

    app.router.routes.append(tus.route("/files"))
    async with tus.lifespan(), Client(app, tus) as client:
        assert (await client.get("/me")).status_code == 401
        assert (await client.get("/me", {"Authorization": "Bearer right"})).json() == "me"
        await uploads(client, "/files")


async def test_a_dependency_guards_it_where_the_app_hands_requests_on(store: Store) -> None:
    app, tus = FastAPI(), Tus(store)

    class HandedOn(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await tus({**scope, "root_path": scope.get("root_path", "") + "/files"}, receive, send)

    async def hand_on(request: Request, _: Annotated[None, Depends(signed_in)]) -> Response:
        return HandedOn()

    for path in ("/files", "/files/{rest:path}"):
        app.add_api_route(path, hand_on, methods=["OPTIONS", "POST", "HEAD", "PATCH", "GET", "DELETE"])
    async with tus.lifespan(), Client(app, tus) as client:
        assert (await client.create(5)).status_code == 401
        client.http.headers["Authorization"] = "Bearer right"
        assert (await uploads(client, "/files")).startswith("http://tus.test/files/")


class Guard:
    """Plain ASGI middleware that lets nobody in without a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (b"authorization", b"Bearer right") not in scope["headers"]:
            await PlainTextResponse("who are you?", 401)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def test_middleware_guards_every_verb(store: Store) -> None:
    tus = Tus(store)
    app = Starlette(routes=[tus.route("/files")], middleware=[Middleware(Guard)])
    async with tus.lifespan(), Client(app, tus) as client:
        client.http.headers["Authorization"] = "Bearer right"
        url = await uploads(client, "/files")
        client.http.headers["Authorization"] = "Bearer wrong"
        for method in ("POST", "HEAD", "PATCH", "GET", "DELETE", "OPTIONS"):
            assert (await client.ask(method, url)).status_code == 401


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["X-Seen"] = "yes"
    return response


async def test_middleware_of_the_function_kind_may_stand_around_it(store: Store) -> None:
    """`@app.middleware("http")`: it hands bodies and answers on in pieces of its own."""
    tus, app = Tus(store), FastAPI()
    app.router.routes.append(tus.route("/files"))
    app.middleware("http")(pass_on)
    async with tus.lifespan(), Client(app, tus) as client:
        url = await uploads(client, "/files")
        assert (await client.head(url)).headers["X-Seen"] == "yes"


async def test_a_broken_connection_is_no_error_to_middleware_around_it(store: Store) -> None:
    tus = Tus(store)
    app = Starlette(routes=[tus.route("/files")], middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)])
    async with tus.lifespan(), Client(app, tus) as client:
        url = await client.upload(11)
        path = url.removeprefix("http://tus.test")
        await Exchange(app, "PATCH", path, patching(0, 11), [chunk(b"hel"), chunk(b"lo"), GONE]).run()
        assert (await client.head(url)).headers["Upload-Offset"] == "5"


async def test_a_slow_body_passes_through_middleware_of_the_function_kind(store: Store) -> None:
    """A batch is written after a second: what waits for more then must not lose it."""
    tus = Tus(store)
    app = Starlette(routes=[tus.route("/files")], middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)])
    async with tus.lifespan(), Client(app, tus) as client:
        url = await client.upload(11)
        exchange = Exchange(app, "PATCH", url.removeprefix("http://tus.test"), patching(0, 11))
        running = asyncio.create_task(exchange.run())
        for letter in b"hello world":
            await asyncio.sleep(0.7)
            exchange.feed(chunk(bytes([letter])))
        exchange.feed(chunk(b"", more=False))
        await running
        assert (exchange.status, exchange.header("Upload-Offset")) == (204, "11")
        assert (await client.get(url)).content == b"hello world"


# its life ------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


async def sweeps(store: Store, clock: Clock) -> bool:
    """Whether what expires is removed by itself."""
    clock.now += timedelta(days=2)
    for _ in range(100):  # sweeps, some of which wait for a slow disk
        await asyncio.sleep(60)
        if [upload async for upload in store.uploads()] == []:
            return True
    return False


async def test_the_lifespan_of_an_app_removes_what_expires() -> None:
    store, clock = MemoryStore(), Clock()
    tus = Tus(store, now=clock)
    app = Starlette(routes=[tus.route("/files")], lifespan=tus.lifespan)
    async with app.router.lifespan_context(app), Client(app, tus) as client:
        await client.upload(5)
        assert await sweeps(store, clock)


async def test_an_app_with_a_lifespan_of_its_own_enters_it_there() -> None:
    store, clock = MemoryStore(), Clock()
    tus = Tus(store, now=clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async with tus.lifespan():
            yield {"db": "open"}

    app = FastAPI(lifespan=lifespan)
    app.router.routes.append(tus.route("/files"))
    async with app.router.lifespan_context(app), Client(app, tus) as client:
        await client.upload(5)
        assert await sweeps(store, clock)


async def test_it_removes_what_expires_even_if_its_lifespan_was_forgotten() -> None:
    store, clock = MemoryStore(), Clock()
    tus = Tus(store, now=clock)
    async with Client(Starlette(routes=[tus.route("/files")]), tus) as client:
        await client.upload(5)
        assert await sweeps(store, clock)


async def test_the_end_of_the_lifespan_keeps_the_bytes_of_running_requests(store: Store) -> None:
    tus = Tus(store)
    app = Starlette(routes=[tus.route("/files")])
    async with Client(app, tus) as client:
        async with tus.lifespan():
            url = await client.upload(11)
            exchange = Exchange(app, "PATCH", url.removeprefix("http://tus.test"), patching(0, 11), [chunk(b"hello")])
            running = asyncio.create_task(exchange.run())
            await exchange.hungry.wait()
        await running
        assert exchange.status == 503
        assert (await client.head(url)).headers["Upload-Offset"] == "5"


def test_an_app_may_be_started_again(tmp_path: Path) -> None:
    """As tests do it with one app, and an event loop and a lifespan for each of them."""
    tus = Tus(FileStore(tmp_path))

    async def use() -> str:
        async with tus.lifespan(), Client(tus, tus, path="/") as client:
            return await uploads(client, "/")

    assert len({asyncio.run(use()) for _ in range(3)}) == 3


def test_an_app_may_be_asked_from_one_event_loop_after_another(tmp_path: Path) -> None:
    """As test clients without a lifespan do it; each loop sweeps while it lasts."""
    clock = Clock()
    store = FileStore(tmp_path)
    tus = Tus(store, now=clock)

    async def use() -> None:
        async with Client(tus, tus, path="/") as client:
            await client.upload(5)
            assert await sweeps(store, clock)

    for _ in range(3):
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(use())


# callbacks -----------------------------------------------------------------------------------------------------------


class Recorder:
    """Notes what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Upload]] = []

    def __call__(self, name: str) -> Callable[[Upload], Awaitable[None]]:
        async def note(upload: Upload) -> None:
            self.calls.append((name, upload))

        return note

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def files_of_uploads(folder: Path) -> list[Path]:
    """Every file that belongs to uploads in a data folder."""
    return [path for path in folder.rglob("*") if path.is_file() and "uploads" in path.relative_to(folder).parts]


async def test_callbacks_tell_the_life_of_an_upload_in_order(store: Store) -> None:
    record, clock = Recorder(), Clock()
    tus = Tus(
        store,
        now=clock,
        before_create=record("before"),
        on_created=record("created"),
        on_finished=record("finished"),
        on_terminated=record("terminated"),
        on_expired=record("expired"),
    )
    async with Client(tus, tus, path="/") as client:
        url = await client.complete(b"hello", {"Upload-Metadata": metadata(filename="a.txt")})
        await client.ask("DELETE", url)
        await client.upload(5, b"hel")
        clock.now += timedelta(days=1, minutes=3)
        assert await tus.sweep() == 1
    assert record.names == ["before", "created", "finished", "terminated", "before", "created", "expired"]
    created, finished, expired = record.calls[1][1], record.calls[2][1], record.calls[-1][1]
    assert (created.offset, created.length, created.metadata.name) == (0, 5, "a.txt")
    assert (finished.id, finished.offset, finished.complete) == (created.id, 5, True)
    assert (expired.offset, expired.length) == (3, 5)


async def test_a_callback_is_awaited_before_its_client_is_answered(store: Store) -> None:
    thinking, answer = asyncio.Event(), asyncio.Event()

    async def think(upload: Upload) -> None:
        thinking.set()
        await answer.wait()

    tus = Tus(store, on_finished=think)
    async with tus.lifespan(), Client(tus, tus, path="/") as client:
        url = await client.upload(5)
        patching = asyncio.create_task(client.patch(url, 0, b"hello"))
        await thinking.wait()
        assert not patching.done()
        answer.set()
        assert (await patching).status_code == 204


async def test_an_app_may_refuse_an_upload_with_words_and_a_status_of_its_own(tmp_path: Path) -> None:
    async def only_raw(upload: Upload) -> None:
        if not (upload.metadata.name or "").endswith(".raw"):
            raise CreationRejected("only .raw files, please", status=403)

    store = FileStore(tmp_path)
    tus = Tus(store, before_create=only_raw)
    async with tus.lifespan(), Client(tus, tus, path="/") as client:
        response = await client.create(5, {"Upload-Metadata": metadata(filename="a.txt")}, b"hello")
        assert response.status_code == 403
        assert (
            response.text
            == "ERR_UPLOAD_REJECTED: upload creation has been rejected by server: only .raw files, please\n"
        )
        assert response.headers["Tus-Resumable"] == "1.0.0"
        assert [upload async for upload in store.uploads()] == []
        assert files_of_uploads(tmp_path) == []
        assert (await client.create(5, {"Upload-Metadata": metadata(filename="a.raw")})).status_code == 201


async def test_a_callback_that_fails_at_the_creation_leaves_nothing(store: Store) -> None:
    async def fail(upload: Upload) -> None:
        raise RuntimeError("the database is down")

    tus = Tus(store, on_created=fail)
    async with tus.lifespan(), Client(tus, tus, path="/") as client:
        response = await client.create(5)
        assert (response.status_code, "database" in response.text) == (500, False)
        assert "Location" not in response.headers
        assert [upload async for upload in store.uploads()] == []


async def test_a_callback_that_fails_at_the_removal_does_not_bring_the_upload_back(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(upload: Upload) -> None:
        raise RuntimeError("the database is down")

    tus = Tus(store, on_terminated=fail)
    async with tus.lifespan(), Client(tus, tus, path="/") as client:
        url = await client.upload(5)
        with caplog.at_level(logging.ERROR):
            assert (await client.ask("DELETE", url)).status_code == 500
        assert (await client.head(url)).status_code == 404
    assert "the database is down" in caplog.text


# names of its own ----------------------------------------------------------------------------------------------------


async def test_an_app_may_name_uploads(store: Store) -> None:
    names = iter(["tenant-7_0001", "x" * 128])
    tus = Tus(store, new_id=lambda: next(names))
    async with tus.lifespan(), Client(tus, tus, path="/") as client:
        assert await client.upload(5) == "http://tus.test/tenant-7_0001"
        assert await client.upload(5) == f"http://tus.test/{'x' * 128}"


async def test_a_name_that_is_taken_is_refused_and_the_first_upload_stays(store: Store) -> None:
    tus = Tus(store, new_id=lambda: "same")
    async with tus.lifespan(), Client(tus, tus, path="/") as client:
        url = await client.complete(b"hello")
        for body in (None, b"other"):
            assert (await client.create(5, None, body)).status_code == 409
        assert (await client.get(url)).content == b"hello"


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../evil", "nul\x00", "x" * 129, "caf\u00e9", "a b", "a\n"])
async def test_a_name_that_cannot_be_is_an_error_of_the_app_and_makes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    root = tmp_path / "data"
    tus = Tus(FileStore(root), new_id=lambda: name)
    async with tus.lifespan(), Client(tus, tus, path="/") as client:
        with caplog.at_level(logging.ERROR):
            assert (await client.create(5, None, b"hello")).status_code == 500
    assert "an id has 1 to 128 letters, digits, - and _" in caplog.text
    assert files_of_uploads(tmp_path) == []


async def test_names_of_our_own_are_long_and_never_the_same(store: Store) -> None:
    tus = Tus(store)
    async with tus.lifespan(), Client(tus, tus, path="/") as client:
        urls = {await client.upload(5) for _ in range(300)}
    assert len(urls) == 300
    assert {len(url.rpartition("/")[2]) for url in urls} == {32}


# expiry in headers ---------------------------------------------------------------------------------------------------


async def test_what_expires_says_when_and_what_is_complete_does_not(store: Store) -> None:
    clock = Clock()
    tus = Tus(store, now=clock, expiry=Expiry(after=timedelta(hours=1)))
    async with tus.lifespan(), Client(tus, tus, path="/") as client:
        created = await client.create(10)
        url = created.headers["Location"]
        answers: list[httpx.Response] = [
            created,
            await client.patch(url, 0, b"hello"),
            await client.head(url),
            await client.patch(url, 9, b"wrong"),
        ]
        assert all(answer.headers["Upload-Expires"].endswith("GMT") for answer in answers)
        for answer in (await client.patch(url, 5, b" you!"), await client.head(url), await client.create(0)):
            assert "Upload-Expires" not in answer.headers


async def test_the_router_of_the_server_is_one_app_among_others(store: Store) -> None:
    tus = Tus(store)
    router = Router(routes=[tus.route("/files"), Route("/health", lambda request: PlainTextResponse("fine"))])
    async with tus.lifespan(), Client(router, tus) as client:
        assert (await client.get("/health")).text == "fine"
        await uploads(client, "/files")


def test_the_test_client_of_starlette_can_upload(tmp_path: Path) -> None:
    """As people try out what they embed it in."""
    tus = Tus(FileStore(tmp_path))
    body = bytes(range(256)) * 300
    digest = base64.b64encode(hashlib.sha1(body[:1000]).digest()).decode()
    usual = {"Tus-Resumable": "1.0.0"}
    with TestClient(Starlette(routes=[tus.route("/files")], lifespan=tus.lifespan), headers=usual) as client:
        made = client.post(
            "/files", headers={"Upload-Length": str(len(body)), "Content-Type": OCTETS}, content=body[:9]
        )
        assert (made.status_code, made.headers["Upload-Offset"]) == (201, "9")
        url = made.headers["Location"]

        def patch(at: int, content: bytes | Iterator[bytes], **headers: str) -> int:
            sent = {"Upload-Offset": str(at), "Content-Type": OCTETS, **headers}
            status: int = client.patch(url, headers=sent, content=content).status_code
            return status

        assert patch(9, body[9:20], **{"Upload-Checksum": f"sha1 {digest}"}) == 460
        assert patch(9, body[9:20]) == 204
        assert patch(9, body[9:20]) == 409
        assert patch(20, iter([body[20:500], body[500:]])) == 204
        assert client.head(url).headers["Upload-Offset"] == str(len(body))
        assert client.get(url).content == body


async def test_a_store_that_delegates_to_one_in_a_folder_is_shared_as_that_is(tmp_path: Path) -> None:
    """Else two processes would have locks of their own. Some versions of Python do not find such methods by type."""

    class Counted:
        def __init__(self, store: FileStore) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

    app = Tus(Counted(FileStore(tmp_path / "data")))
    async with app.lifespan():
        assert (tmp_path / "data" / "locks").exists()
