"""What every test may use: servers, npm's packages, and the option that points the conformance suite elsewhere."""

from __future__ import annotations

import importlib
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conformance.rows import Rows
from tests.interop.node import install
from tests.support.server import TusServer

StartServer = Callable[..., TusServer]
"""`start_server(*options, env=…, storage=…)`"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tus-endpoint",
        metavar="URL",
        help="run tests/conformance against this tus server (the URL where uploads are created) and not our own",
    )
    parser.addoption("--tus-chunked", action="store_true", help="with --tus-endpoint: announce no length of bodies")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has started us in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else all that we start would ignore Ctrl-C too
    endpoint = config.getoption("--tus-endpoint")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise pytest.UsageError(f"--tus-endpoint {endpoint}: a URL is needed, like http://localhost:1080/files")
    config.pluginmanager.register(Rows(config), "tus-rows")
    with suppress(ImportError):  # the conformance suite needs pytest alone
        importlib.import_module("tests.support.properties")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TusServer]:
    """A server with default settings and an empty data folder, shared by the tests of one module."""
    with TusServer(tmp_path_factory.mktemp("storage")) as running:
        yield running


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start servers with options of one's own; they end with the test."""
    running: list[TusServer] = []

    def start(*options: str, env: dict[str, str] | None = None, storage: Path | None = None) -> TusServer:
        server = TusServer(storage or tmp_path_factory.mktemp("storage"), *options, env=env)
        running.append(server)
        return server.start()

    yield start
    for server in running:
        server.stop()


InstallPackages = Callable[[Path], Path]
"""`install_packages(folder)`: where the packages of the folder's package-lock.json are."""


@pytest.fixture(scope="session")
def install_packages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> InstallPackages:
    """Installs packages of npm in pytest's cache, so that only the first run has to fetch them."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs Node.js and npm")
    cache: pytest.Cache | None = request.config.cache

    def below(name: str) -> Path:
        return cache.mkdir(name) if cache is not None else tmp_path_factory.getbasetemp() / name

    return lambda source: install(below(f"npm-{source.name}"), source)


@pytest.fixture(scope="session")
def node_packages(install_packages: InstallPackages) -> Path:
    """Where tus-js-client is installed."""
    return install_packages(Path(__file__).parent / "interop" / "js")
