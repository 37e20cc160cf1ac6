"""Tus, the app: what it is made of, what it offers, and its own lifespan in plain ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from starlette.routing import Match, NoMatchFound
from starlette.types import Message

import tusserver
from tusserver import Expiry, Extension, Features, FileStore, Limits, MemoryLocker, MemoryStore, Proxies, Tus, TusError

ALL = frozenset(Extension)


# extensions ----------------------------------------------------------------------------------------------------------


def test_all_that_a_store_can_do_is_on_by_default() -> None:
    assert set(Tus(MemoryStore()).extensions) == ALL


def test_extensions_are_listed_in_the_order_of_the_protocol() -> None:
    assert Tus(MemoryStore()).extensions == tuple(Extension)


def test_expiration_is_off_where_nothing_expires() -> None:
    assert Extension.EXPIRATION not in Tus(MemoryStore(), expiry=Expiry(after=None)).extensions


def test_a_name_that_is_no_extension_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"'checksums' is no extension; there are creation, creation-with-upload"):
        Tus(MemoryStore(), features=Features(disable=["checksums"]))


def test_a_proxy_that_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="not-an-address"):
        Tus(MemoryStore(), proxies=Proxies(trusted=["not-an-address"]))


# the public API ------------------------------------------------------------------------------------------------------


def test_the_public_api_has_what_it_says() -> None:
    assert sorted(tusserver.__all__) == list(tusserver.__all__)
    assert all(hasattr(tusserver, name) for name in tusserver.__all__)


def test_every_refusal_that_an_app_may_meet_is_one_of_ours() -> None:
    assert issubclass(tusserver.CreationRejected, TusError)


# the route -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "matches"),
    [("/files", True), ("/files/", True), ("/files/abc", True), ("/filesx", False), ("/", False), ("/x/files", False)],
)
@pytest.mark.parametrize("written", ["/files", "/files/"])
def test_a_route_takes_its_path_and_all_below(written: str, path: str, matches: bool) -> None:
    route = Tus(MemoryStore()).route(written)
    scope = {"type": "http", "method": "GET", "path": path, "root_path": ""}
    match, child = route.matches(scope)
    assert match is (Match.FULL if matches else Match.NONE)
    assert not matches or child["root_path"] == "/files"


def test_a_route_takes_no_websocket_and_has_no_name() -> None:
    route = Tus(MemoryStore()).route("/files")
    assert route.matches({"type": "websocket", "path": "/files", "root_path": ""})[0] is Match.NONE
    with pytest.raises(NoMatchFound):
        route.url_path_for("files")


# its own lifespan ----------------------------------------------------------------------------------------------------


class Server:
    """As much of an ASGI server as a lifespan needs."""

    def __init__(self, app: Tus) -> None:
        self._app = app
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def _send(self, message: Message) -> None:
        await self.sent.put(message)

    async def start(self) -> str:
        """Start the app; return what it answers."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
        self._task = asyncio.create_task(self._app(scope, self._messages.get, self._send))
        return await self.tell("lifespan.startup")

    async def tell(self, kind: str) -> str:
        await self._messages.put({"type": kind})
        return str((await self.sent.get())["type"])

    async def stop(self) -> str:
        """Stop the app; return what it answers."""
        assert self._task is not None
        told = await self.tell("lifespan.shutdown")
        await self._task
        return told


class Watched(MemoryStore):
    """Tells when it was asked what is due, and how often it was tidied."""

    def __init__(self) -> None:
        super().__init__()
        self.swept = asyncio.Event()
        self.tidied = 0

    async def flush(self) -> None:
        self.tidied += 1
        self.swept.set()


async def test_served_at_the_root_it_runs_its_own_lifespan() -> None:
    store = Watched()
    server = Server(Tus(store))
    assert await server.start() == "lifespan.startup.complete"
    await store.swept.wait()
    assert await server.stop() == "lifespan.shutdown.complete"
    assert store.tidied == 2


async def test_the_sweeper_ends_with_the_lifespan() -> None:
    tus = Tus(Watched())
    async with tus.lifespan():
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert names.count("tusserver sweeper") == 1
    assert "tusserver sweeper" not in [task.get_name() for task in asyncio.all_tasks()]


class SlowToClose(MemoryLocker):
    """Takes a while to close, and then may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.closed = False
        self._error = error

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True
        if self._error is not None:
            raise self._error


async def test_a_locker_that_fails_to_close_keeps_nobody_off_the_data_folder(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    with pytest.raises(OSError, match="gone"):
        async with Tus(store, locker=SlowToClose(OSError("gone"))).lifespan():
            pass
    store.attach("another").close()


async def test_a_lifespan_that_is_cancelled_closes_all_the_same(tmp_path: Path) -> None:
    store, locker = FileStore(tmp_path), SlowToClose()
    with anyio.CancelScope() as scope:
        async with Tus(store, locker=locker).lifespan():
            scope.cancel()
            await anyio.sleep_forever()
    assert locker.closed
    store.attach("another").close()


async def test_a_websocket_is_turned_away() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await Tus(MemoryStore())({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close"}]


async def ask(app: Tus, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Send a request without a body in plain ASGI."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


TUS = {"Tus-Resumable": "1.0.0"}


async def test_a_request_without_a_host_gets_a_url_without_one() -> None:
    status, headers = await ask(Tus(MemoryStore()), "POST", "/", {**TUS, "Upload-Length": "5"})
    assert (status, headers["location"].count("/")) == (201, 1)


async def test_locations_can_be_relative() -> None:
    tus = Tus(MemoryStore(), proxies=Proxies(relative_location=True))
    partial = {**TUS, "Host": "inside", "Upload-Length": "0", "Upload-Concat": "partial"}
    _, headers = await ask(tus, "POST", "/", partial)
    assert headers["location"].startswith("/")
    final = {**TUS, "Host": "inside", "Upload-Concat": f"final;https://outside{headers['location']}"}
    assert (await ask(tus, "POST", "/", final))[0] == 201


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        ({"limits": Limits(max_size=7)}, "tus-max-size", "7"),
        ({"features": Features(disable=[*Extension])}, "tus-extension", None),
        ({"features": Features(disable=["checksum"])}, "tus-checksum-algorithm", None),
        ({}, "tus-max-size", None),
    ],
)
async def test_options_says_what_is_offered(options: dict[str, Any], header: str, value: str | None) -> None:
    status, headers = await ask(Tus(MemoryStore(), **options), "OPTIONS", "/", {})
    assert (status, headers.get(header)) == (204, value)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"limits": Limits(metadata_size=20_000)}, ("metadata_size", "header_size")),
        ({"limits": Limits(header_size=1000)}, ("metadata_size", "header_size")),
        ({"limits": Limits(header_size=200_000)}, ("header_size", "head_size")),
        ({"limits": Limits(parts=6000)}, ("parts", "head_size")),
        ({"limits": Limits(parts=100_000), "new_id": lambda: "a"}, ("parts", "head_size")),
    ],
)
def test_limits_that_do_not_fit_together_are_refused_by_name(options: dict[str, Any], names: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=rf"^limits.{names[0]} = \d+ .* limits.{names[1]} \(\d+\) .*raise") as refused:
        Tus(MemoryStore(), **options)
    assert "\n" not in str(refused.value)


def test_limits_that_fit_together_are_taken() -> None:
    Tus(MemoryStore(), limits=Limits(parts=6000, head_size=256 * 1024))
    Tus(MemoryStore(), limits=Limits(parts=6000), new_id=lambda: "a")  # whose ids may be short
    Tus(MemoryStore(), limits=Limits(parts=6000), features=Features(disable=["concatenation"]))


async def test_what_has_expired_can_be_removed_by_hand() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    tus = Tus(MemoryStore(), now=lambda: now)
    for _ in range(3):
        await ask(tus, "POST", "/", {**TUS, "Upload-Length": "5"})
    assert await tus.sweep() == 0
    now += timedelta(hours=24)
    assert await tus.sweep() == 3


async def test_a_closed_app_takes_no_bytes_but_makes_uploads_and_tells_how_far_they_are() -> None:
    """tuspy asks for a new upload once, and would give up."""
    ids = iter(("one", "two"))
    tus = Tus(MemoryStore(), new_id=lambda: next(ids))
    await ask(tus, "POST", "/", {**TUS, "Upload-Length": "5"})
    tus.close()
    patching = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert (await ask(tus, "PATCH", "/one", {**patching, "Content-Length": "5"}))[0] == 503
    assert (await ask(tus, "POST", "/", {**TUS, "Upload-Length": "5"}))[0] == 201
    assert (await ask(tus, "HEAD", "/one", TUS))[0] == 200
    assert (await ask(tus, "HEAD", "/two", TUS))[0] == 200


@pytest.mark.parametrize("callback", ["before_create", "on_created", "on_finished"])
async def test_each_callback_is_called_for_its_own_event_and_once(callback: str) -> None:
    called: list[str] = []

    def note(name: str) -> Callable[[tusserver.Upload], Any]:
        async def call(upload: tusserver.Upload) -> None:
            called.append(name)

        return call

    tus = Tus(MemoryStore(), **{callback: note(callback)})  # type: ignore[arg-type]  # names of callbacks
    await ask(tus, "POST", "/", {**TUS, "Upload-Length": "0"})
    assert called == [callback]


async def test_apps_of_several_processes_on_one_folder_count_uploads_together(tmp_path: Path) -> None:
    one, two = (Tus(FileStore(tmp_path / "data"), limits=Limits(uploads=2)) for _ in range(2))

    async def create(tus: Tus) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=tus), base_url="http://here") as http:
            return (await http.post("/", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "3"})).status_code

    async with one.lifespan(), two.lifespan():
        assert [await create(tus) for tus in (one, two, one, two)] == [201, 201, 503, 503]
