"""Chromium for the tests that need it, and lines to a server that can be held."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.browser import JS, Browser
from tests.conftest import InstallPackages
from tests.interop.goods import MIB
from tests.support.proxy import Fault, Proxy
from tests.support.server import TusServer
from tests.support.tus import Tus, eventually
from tests.support.wire import TIMEOUT


@pytest.fixture(scope="session")
def browser_packages(install_packages: InstallPackages) -> Path:
    """Where the driver of the browser, and the clients that run in it, are installed."""
    return install_packages(JS)


@pytest.fixture
def browser(browser_packages: Path, tmp_path: Path) -> Browser:
    """Runs scenarios in Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    return Browser(browser_packages, chromium, tmp_path)


@dataclass(frozen=True, slots=True)
class Held:
    """A way to a server on which bodies stand still in the middle: no scenario has to be faster than they are."""

    url: str
    """Where uploads are created."""
    ask: Mapping[str, Callable[[], object]]
    """`held` waits until the first one stands still; `release` lets everything pass from then on."""


PASSES = 8 * MIB

Hold = Callable[..., Held]
"""`hold(server, times=2)`: after half of 8 MiB a connection stands still, and after as many again another one."""


@pytest.fixture
def hold() -> Iterator[Hold]:
    with ExitStack() as stack:

        def held(server: TusServer, times: int = 1) -> Held:
            before = set(server.uploads())
            proxy = stack.enter_context(Proxy(server.host))
            passes = PASSES // times  # of files in so many parts none shall be whole before
            proxy.fail(Fault.STALL, after=passes, times=times)

            def stands_still() -> None:
                """It does, and the server has stored what passed."""
                assert proxy.failed.wait(TIMEOUT)
                new = set(server.uploads()) - before
                tus = Tus(server.url)
                assert eventually(lambda: sum(map(tus.offset, new)) > passes - MIB)

            def hung_up() -> None:
                """The page did. What the kernels hold of its body would still arrive if it was released before."""
                assert proxy.hung_up.wait(TIMEOUT)

            asks = {"held": stands_still, "hung_up": hung_up, "release": proxy.release}
            return Held(proxy.through(server.url), asks)

        yield held
