"""The upload page as its server gives it out. What it does in a browser: tests/browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib.resources import files

import httpx
import pytest
from starlette.applications import Starlette

from tusserver import UploadPage
from tusserver.web.pages import PATHS

STATIC = files("tusserver.web") / "static"


def client(page: UploadPage, at: str = "") -> httpx.AsyncClient:
    app = Starlette()
    app.mount(at, page)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://tus.example{at}/")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with client(UploadPage(endpoint="/files")) as http:
        yield http


@pytest.mark.parametrize("path", PATHS)
async def test_each_file_is_served_whole_with_its_type_and_nothing_is_guessed(
    http: httpx.AsyncClient, path: str
) -> None:
    answer = await http.get(path)
    kinds = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == kinds[[*path.rsplit(".", 1), "html"][1]]
    assert answer.headers["x-content-type-options"] == "nosniff"
    if path != "/":
        assert answer.content == (STATIC / path[1:]).read_bytes()


async def test_every_file_of_the_folder_is_served_and_they_are_small() -> None:
    names = {entry.name for entry in STATIC.iterdir()}

    assert names == {path[1:] or "upload.html" for path in PATHS}
    assert sum(len((STATIC / name).read_bytes()) for name in names) < 64 * 1024


async def test_head_tells_what_get_tells(http: httpx.AsyncClient) -> None:
    head, get = await http.head("/"), await http.get("/")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == get.headers


async def test_what_a_browser_has_is_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/upload.js")
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = await http.get("/upload.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
    assert (await http.get("/upload.js", headers={"If-None-Match": '"other"'})).status_code == 200
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_it_is_only_read(http: httpx.AsyncClient, method: str) -> None:
    answer = await http.request(method, "/upload.js")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path", ["/x", "/static/upload.js", "/../pages.py", "/%2e%2e/pages.py", "/upload.html", "/upload.js/"]
)
async def test_there_is_nothing_else(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404


@pytest.mark.parametrize("path", PATHS)
async def test_the_policy_has_no_exceptions(http: httpx.AsyncClient, path: str) -> None:
    rules = dict(rule.split(" ", 1) for rule in (await http.get(path)).headers["content-security-policy"].split("; "))
    own = {name for name, value in rules.items() if value == "'self'"}

    assert rules["default-src"] == "'none'"
    assert own == {"script-src", "style-src", "img-src", "connect-src"}
    assert rules["require-trusted-types-for"] == "'script'"
    assert {rules[name] for name in rules.keys() - own - {"require-trusted-types-for"}} == {"'none'"}


async def test_the_page_holds_nothing_that_the_policy_forbids(http: httpx.AsyncClient) -> None:
    page = (await http.get("/")).text

    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:|https?://", page)
    for name in PATHS[1:]:
        if name.endswith(".js"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://", (await http.get(name)).text
            )


@pytest.mark.parametrize("at", ["", "/upload", "/a/b"])
async def test_its_parts_are_found_below_any_path(at: str) -> None:
    async with client(UploadPage(), at) as http:
        page = await http.get("")
        named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert named
        for name in named:
            assert (await http.get(name)).status_code == 200


@pytest.mark.parametrize(
    ("endpoint", "written"), [("/files", "/files"), ('/a"><script>', "/a&quot;&gt;&lt;script&gt;"), ("files", "files")]
)
async def test_it_is_told_where_uploads_are_made(endpoint: str, written: str) -> None:
    async with client(UploadPage(endpoint)) as http:
        assert f'<meta name="tus-endpoint" content="{written}">' in (await http.get("/")).text


async def test_uploads_of_another_origin_are_let_in_by_the_policy() -> None:
    async with client(UploadPage("https://up.example:8443/files")) as http:
        assert "connect-src 'self' https://up.example:8443;" in (await http.get("/")).headers["content-security-policy"]


@pytest.mark.parametrize(("download", "told"), [(True, "yes"), (False, "no")])
async def test_it_knows_whether_links_lead_anywhere(download: bool, told: str) -> None:
    async with client(UploadPage(download=download)) as http:
        assert f'<meta name="tus-download" content="{told}">' in (await http.get("/")).text
