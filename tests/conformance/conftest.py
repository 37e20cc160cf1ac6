"""The server under test: our own, in the configuration that a row needs, or the one of --tus-endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.expired import CONTENT, Expired
from tests.conformance.profiles import BRIEF, DEFAULT, SMALL, Profile
from tests.conformance.rows import EXCHANGES, OUTPUT
from tests.support.server import TusServer
from tests.support.tus import Headers, Tus, eventually

Configured = Callable[[Profile], tuple[Tus, TusServer]]
"""A client of our server in this configuration, and its process. Skips under --tus-endpoint."""

Offers = Callable[[str], None]
"""`offers("checksum")` skips the test if the server does not announce it (our own must)."""

Embed = Callable[..., "Site"]
"""`embed(store=folder, delete_parts=True)` runs `tusserver.Tus` with these options in this process."""

SMALL_ENOUGH = 8 << 20
"""Bytes that a test is ready to send to reach the maximum size of a foreign server."""

SOON_ENOUGH = 10
"""Seconds that a test is ready to wait for an upload of a foreign server to expire."""


@dataclass
class Servers:
    """Our servers, started when first asked for."""

    factory: pytest.TempPathFactory
    stack: ExitStack = field(default_factory=ExitStack)
    running: dict[Profile, TusServer] = field(default_factory=dict)

    def of(self, profile: Profile) -> TusServer:
        if profile not in self.running:
            server = TusServer(self.factory.mktemp("storage"), *profile.options)
            self.running[profile] = self.stack.enter_context(server)
        return self.running[profile]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory)
    with servers.stack:
        yield servers


@pytest.fixture(scope="session")
def foreign(pytestconfig: pytest.Config) -> str | None:
    """URL of the server of --tus-endpoint; None if our own is tested."""
    url: str | None = pytestconfig.getoption("--tus-endpoint")
    return url


@pytest.fixture
def exchanges(request: pytest.FixtureRequest) -> list[str]:
    """What the clients of a test said and heard, kept where a failure finds it."""
    noted: list[str] = []
    request.node.stash[EXCHANGES] = noted
    return noted


@pytest.fixture
def tus(foreign: str | None, request: pytest.FixtureRequest, exchanges: list[str]) -> Iterator[Tus]:
    """A client of the server under test."""
    if foreign:
        client = Tus(foreign, exchanges, chunked=request.config.getoption("--tus-chunked"))
        if not eventually(lambda: answers(client)):  # it may be started again
            request.session.shouldstop = f"{foreign} does not answer (any more)"
            pytest.fail(request.session.shouldstop)
        yield client
        tidy(client)
    else:
        own: TusServer = request.getfixturevalue("own")
        yield Tus(own.url, exchanges)


@pytest.fixture
def own(foreign: str | None, configured: Configured) -> TusServer:
    """The process behind `tus`, for what cannot be seen from outside."""
    if foreign:
        pytest.skip("needs to look inside the server")
    return configured(DEFAULT)[1]


@pytest.fixture
def inside(foreign: str | None) -> None:
    """For tests that build an app of their own: there is nothing to see of another server."""
    if foreign:
        pytest.skip("needs to look inside the server")


class Clock:
    """The time an embedded server believes in. It moves when told to."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Site:
    """An embedded server: how to talk to it, what it told its callbacks, and what it would do at another time."""

    tus: Tus
    app: Any
    finished: list[Any]
    clock: Clock
    call: Callable[..., Any]
    """`call(site.app.sweep)` awaits something where the app runs."""


@pytest.fixture
def embed(inside: None, exchanges: list[str]) -> Iterator[Embed]:
    # Imported here: whoever tests another server needs neither tusserver nor what it stands on.
    from starlette.applications import Starlette

    import tusserver
    from tests.support.served import Served

    stack = ExitStack()

    def start(path: str = "/files", store: Path | None = None, root_path: str = "", **options: Any) -> Site:
        finished: list[Any] = []
        clock = Clock()

        async def on_finished(upload: Any) -> None:
            finished.append(upload)

        app = tusserver.Tus(
            tusserver.MemoryStore() if store is None else tusserver.FileStore(store),
            **{"on_finished": on_finished, "now": clock, **options},
        )
        served = stack.enter_context(
            Served(Starlette(routes=[app.route(path)], lifespan=lambda _: app.lifespan()), root_path)
        )
        return Site(Tus(served.url + path, exchanges), app, finished, clock, served.call)

    with stack:
        yield start


@pytest.fixture
def configured(
    foreign: str | None, servers: Servers, exchanges: list[str], request: pytest.FixtureRequest
) -> Configured:
    def find(profile: Profile) -> tuple[Tus, TusServer]:
        if foreign:
            pytest.skip(f"needs a server configured with {profile.needs}")
        server = servers.of(profile)
        request.node.stash[OUTPUT] = server.output
        return Tus(server.url, exchanges), server

    return find


@pytest.fixture
def offers(foreign: str | None, tus: Tus) -> Offers:
    def check(extension: str) -> None:
        announced = extension in tus.options().listed("Tus-Extension")
        if foreign and not announced:
            pytest.skip(f"the server does not announce {extension}")
        assert announced, f"our own server must announce {extension}"

    return check


@pytest.fixture
def downloads(foreign: str | None, tus: Tus) -> None:
    """For tests of GET."""
    if foreign and not tus.downloads:
        pytest.skip("the server does not offer downloads")


@pytest.fixture
def limited(foreign: str | None, tus: Tus, request: pytest.FixtureRequest) -> tuple[Tus, int]:
    """A client of a server with a maximum size, and that size in bytes."""
    if not foreign:
        configured: Configured = request.getfixturevalue("configured")
        client, _ = configured(SMALL)
        return client, int(client.options()["Tus-Max-Size"] or "0")
    size = tus.options()["Tus-Max-Size"]
    if size is None:
        pytest.skip("needs a server configured with a maximum size, and that OPTIONS says so")
    return tus, int(size)


@pytest.fixture
def reachable(limited: tuple[Tus, int]) -> tuple[Tus, int]:
    """The same, with a size that a test can send."""
    if limited[1] > SMALL_ENOUGH:
        pytest.skip(f"needs a server configured with a maximum size below {SMALL_ENOUGH} bytes")
    return limited


@pytest.fixture(scope="session")
def expired_uploads(foreign: str | None, servers: Servers) -> Expired:
    """Waited for once (about two seconds)."""
    tus = Tus(foreign or servers.of(BRIEF).url)
    expires = tus.create(10)["Upload-Expires"]
    if foreign and (expires is None or seconds_until(expires) > SOON_ENOUGH):
        pytest.skip(f"needs a server configured with an expiry below {SOON_ENOUGH} seconds")
    parts = "concatenation" in tus.options().listed("Tus-Extension")
    uploads = Expired(
        tus,
        unfinished=tus.upload(20),
        part=at_once(tus, b"hello", 10, {"Upload-Concat": "partial"}) if parts else "",
        to_be_deleted=tus.upload(20),
        complete=at_once(tus, CONTENT),
    )
    expires = tus.head(uploads.to_be_deleted)["Upload-Expires"]
    gone = eventually(lambda: tus.head(uploads.to_be_deleted).status in (404, 410))
    assert gone, f"an upload that was to expire at {expires} is still there"
    return uploads


def at_once(tus: Tus, content: bytes, length: int | None = None, headers: Headers | None = None) -> str:
    """Create an upload and send its bytes before its time is over, again if that took too long; return its URL."""
    url = ""

    def arrives() -> bool:
        nonlocal url
        url = tus.upload(len(content) if length is None else length, headers)
        return tus.patch(url, 0, content).status == 204

    assert eventually(arrives), "no body arrives before its upload expires"
    return url


@pytest.fixture
def expired(expired_uploads: Expired, exchanges: list[str]) -> Expired:
    """Uploads that are past their time."""
    return replace(expired_uploads, tus=Tus(expired_uploads.tus.endpoint, exchanges))


def seconds_until(date: str) -> float:
    return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()


def answers(client: Tus) -> bool:
    try:
        client.connect().close()
    except OSError:
        return False
    return True


def tidy(client: Tus) -> None:
    """Leave a foreign server as it was, as far as it lets us."""
    if client.created and "termination" in client.options().listed("Tus-Extension"):
        for url in client.created:
            with suppress(AssertionError, OSError, ValueError):  # some answers are tests of their own
                client.delete(url)
