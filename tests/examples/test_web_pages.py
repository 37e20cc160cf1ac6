"""The example pages in Chromium, from another origin than the server's: upload, pause, reload, cancel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import InstallPackages
from tests.documents.pages import FILES
from tests.examples.chromium import CHROMIUM, Chromium, lay, site
from tests.examples.running import EXAMPLES
from tests.interop.goods import MIB, assert_arrived, make_bytes
from tests.support.proxy import Fault, Proxy
from tests.support.server import TusServer
from tests.support.tus import eventually
from tests.support.wire import TIMEOUT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
    pytest.mark.timeout(120),
]

OpenPage = Callable[[str, str], Chromium]
"""`open_page(example, files)`: the page of an example that uploads to `files`."""


@pytest.fixture
def open_page(install_packages: InstallPackages, tmp_path: Path) -> Iterator[OpenPage]:
    with ExitStack() as stack:

        def opened(name: str, files: str) -> Chromium:
            folder = tmp_path / name
            folder.mkdir()
            example = EXAMPLES / name
            assert FILES in (example / "upload.js").read_text("utf-8")
            lay(example, install_packages(example), folder, [(FILES, files)])
            origin = stack.enter_context(site(folder))
            browser = stack.enter_context(Chromium(install_packages(Path(__file__).parent / "js")))
            browser.open(origin)
            stack.callback(lambda: check(browser, {urlsplit(origin).netloc, urlsplit(files).netloc}))
            return browser

        yield opened


def check(browser: Chromium, known: set[str]) -> None:
    """It asked nobody else for anything."""
    assert browser.hosts <= known


@pytest.fixture
def proxy(server: TusServer) -> Iterator[Proxy]:
    with Proxy(server.host) as proxy:
        yield proxy


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file to choose."""
    path = tmp_path / "Größe 計画.raw"
    path.write_bytes(make_bytes(6 * MIB + 7))
    return path


def stuck(page: Chromium, photo: Path, server: TusServer, proxy: Proxy) -> None:
    """Choose a file whose upload stops in the middle, and wait until the server has noted what was sent.

    The command line tells: it asks nobody to leave, as HEAD would.
    """
    before = set(server.files())
    proxy.fail(Fault.STALL, after=4 * MIB)
    page.choose("#file", photo)
    assert proxy.failed.wait(TIMEOUT)
    (begun,) = {path.name.split(".")[0] for path in set(server.files()) - before}
    show = [sys.executable, "-m", "tusserver", "show", begun, "--storage", str(server.storage), "--json"]
    assert eventually(lambda: json.loads(subprocess.check_output(show, timeout=TIMEOUT))["offset"] > 3 * MIB)


def test_the_page_of_tus_js_client_uploads_a_file(server: TusServer, open_page: OpenPage, photo: Path) -> None:
    page = open_page("tus-js-client", server.url)

    page.choose("#file", photo)
    page.wait("#uploads a")

    (url,) = page.links("#uploads a")
    assert_arrived(url, photo.read_bytes())
    assert page.read("#uploads a") == photo.name
    assert page.read("#state") == "Done. Choose another file."
    assert page.complaints == []


def test_its_upload_goes_on_after_a_reload(server: TusServer, open_page: OpenPage, photo: Path, proxy: Proxy) -> None:
    page = open_page("tus-js-client", proxy.through(server.url))

    stuck(page, photo, server, proxy)
    page.reload()
    page.choose("#file", photo)
    page.wait("#uploads a")

    (url,) = page.links("#uploads a")
    assert_arrived(proxy.around(url), photo.read_bytes())
    assert proxy.sent < 7 * MIB, "what had arrived is not sent again"
    assert page.complaints == []


def test_its_upload_can_be_paused_and_goes_on(
    server: TusServer, open_page: OpenPage, photo: Path, proxy: Proxy
) -> None:
    page = open_page("tus-js-client", proxy.through(server.url))

    stuck(page, photo, server, proxy)
    page.click("#pause")
    page.wait("#resume:enabled")
    assert page.read("#state") == "Paused. What has arrived is kept."
    page.click("#resume")
    page.wait("#uploads a")

    (url,) = page.links("#uploads a")
    assert_arrived(proxy.around(url), photo.read_bytes())
    assert proxy.sent < 7 * MIB, "what had arrived is not sent again"
    assert page.complaints == []


def test_a_cancelled_upload_is_deleted(server: TusServer, open_page: OpenPage, photo: Path, proxy: Proxy) -> None:
    before = server.files()
    page = open_page("tus-js-client", proxy.through(server.url))

    stuck(page, photo, server, proxy)
    assert server.files() != before
    page.click("#cancel")
    page.wait("#cancel:disabled")

    assert server.files() == before
    assert page.read("#state") == "Cancelled. Choose another file."


def test_the_page_says_what_went_wrong(
    start_server: Callable[..., TusServer], open_page: OpenPage, photo: Path
) -> None:
    server = start_server("--max-size", "1MB")
    page = open_page("tus-js-client", server.url)

    page.choose("#file", photo)
    page.wait("#resume:enabled")

    assert "ERR_MAX_SIZE_EXCEEDED" in page.read("#state")
    assert server.files() == []


def test_the_page_of_uppy_uploads_several_files(server: TusServer, open_page: OpenPage, tmp_path: Path) -> None:
    sources = {f"photo {number}.raw": make_bytes(2 * MIB + number, seed=number) for number in range(3)}
    for name, source in sources.items():
        (tmp_path / name).write_bytes(source)
    page = open_page("uppy", server.url)

    page.choose(".uppy-Dashboard-input >> nth=0", *(tmp_path / name for name in sources))
    page.click(".uppy-StatusBar-actionBtn--upload")
    page.wait("#uploads a", count=3)

    arrived = {
        httpx.head(url, headers={"Tus-Resumable": "1.0.0"}, timeout=TIMEOUT).headers["Upload-Length"]: url
        for url in page.links("#uploads a")
    }
    for source in sources.values():
        assert_arrived(arrived[str(len(source))], source)
    assert page.complaints == []


def test_an_upload_of_uppy_survives_a_cut(server: TusServer, open_page: OpenPage, photo: Path, proxy: Proxy) -> None:
    page = open_page("uppy", proxy.through(server.url))
    proxy.fail(Fault.RESET, after=4 * MIB)

    page.choose(".uppy-Dashboard-input >> nth=0", photo)
    page.click(".uppy-StatusBar-actionBtn--upload")
    page.wait("#uploads a")

    assert proxy.failed.is_set()
    (url,) = page.links("#uploads a")
    assert_arrived(proxy.around(url), photo.read_bytes())
