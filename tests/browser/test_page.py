"""The upload page in a browser: what its users see, and what the server has at the end."""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.browser import Browser
from tests.browser.conftest import Held, Hold
from tests.conftest import StartServer
from tests.interop.goods import KIB, MIB, assert_arrived, make_bytes
from tests.support.server import TusServer
from tests.support.wire import TIMEOUT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SIZE = 24 * MIB
"""Three times what passes a line before it is held, and more than the buffers on its way hold besides."""


def home(server: TusServer | Held) -> str:
    """Where the page is."""
    return server.url.removesuffix("files")


@pytest.fixture
def goods(tmp_path: Path) -> Path:
    """A file in the middle of which something can happen."""
    path = tmp_path / "goods.bin"
    path.write_bytes(make_bytes(SIZE))
    return path


def metadata(url: str) -> dict[str, str]:
    told = httpx.head(url, headers={"Tus-Resumable": "1.0.0"}, timeout=TIMEOUT).headers["upload-metadata"]
    pairs = (pair.split(" ") for pair in told.split(","))
    return {name: b64decode(value).decode() for name, value in pairs}


def assert_alone(seen: dict[str, Any], source: Path) -> None:
    """There is one upload, it holds this file, and nothing went wrong on the page."""
    assert seen["errors"] == []
    assert [link["name"] for link in seen["links"]] == [source.name]
    assert_arrived(seen["links"][0]["url"], source.read_bytes())


# the way of a file ---------------------------------------------------------------------------------------------------


def test_files_of_any_name_arrive_and_their_names_are_text(browser: Browser, server: TusServer, tmp_path: Path) -> None:
    files = {
        "photo.raw": make_bytes(700 * KIB),
        "empty.txt": b"",
        "<img src=x onerror=document.write(1)><b>.html": b"<script>alert(1)</script>",
        "Größe 試験 🎈.txt": b"many letters",
        "ملف للرفع.pdf": b"from right to left",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    seen = browser.run("page.finish", home=home(server), files=[str(tmp_path / name) for name in files])

    assert seen["errors"] == []
    assert seen["markup"] == 0
    assert seen["origins"] == [home(server).rstrip("/")]
    assert {link["name"] for link in seen["links"]} == set(files)
    assert seen["sum"].startswith("5 of 5 done")
    for link in seen["links"]:
        assert_arrived(link["url"], files[link["name"]])
        assert metadata(link["url"])["filename"] == link["name"]


def test_a_folder_arrives_with_its_paths(browser: Browser, server: TusServer, tmp_path: Path) -> None:
    folder = tmp_path / "trip" / "day 1"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a")
    (tmp_path / "trip" / "b.txt").write_bytes(b"b")
    seen = browser.run("page.finish", home=home(server), files=str(tmp_path / "trip"), folder=True, count=2)

    assert {link["name"] for link in seen["links"]} == {"trip/day 1/a.txt", "trip/b.txt"}
    assert {metadata(link["url"])["relativePath"] for link in seen["links"]} == {"trip/day 1/a.txt", "trip/b.txt"}


def test_a_dropped_file_arrives(browser: Browser, server: TusServer) -> None:
    seen = browser.run("page.drop", home=home(server))

    assert seen["errors"] == []
    assert_arrived(seen["links"][0]["url"], b"dropped")


def test_a_big_file_goes_in_parts_that_are_removed_once_they_are_joined(
    browser: Browser, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server("--durability", "none")
    big = tmp_path / "big.bin"
    with big.open("wb") as file:  # mostly a hole, so that it costs the disk nothing
        for at in range(0, 257 * MIB, 50 * MIB):
            file.seek(at)
            file.write(make_bytes(KIB, seed=at))
        file.truncate(257 * MIB)
    seen = browser.run("page.finish", home=home(server), files=[str(big)])
    kinds = [request["concat"] for request in seen["requests"] if request["method"] == "POST"]

    assert_alone(seen, big)
    assert kinds[:3] == ["partial"] * 3
    assert kinds[3].startswith("final;")
    parts = {request["path"] for request in seen["requests"] if request["method"] == "PATCH"}
    assert len(parts) == 3
    for part in parts:
        assert (
            httpx.head(home(server) + part[1:], headers={"Tus-Resumable": "1.0.0"}, timeout=TIMEOUT).status_code == 404
        )


def test_a_paused_upload_goes_on_where_it_was(browser: Browser, server: TusServer, goods: Path, hold: Hold) -> None:
    line = hold(server)
    seen = browser.run("page.pause", line.ask, home=home(line), files=[str(goods)])

    assert_alone(seen, goods)
    assert seen["paused"].startswith("Paused, ")
    assert "kept until" in seen["paused"]
    assert [request["method"] for request in seen["after"]] == ["HEAD", "PATCH"]
    assert int(seen["after"][1]["offset"]) > 0


def test_an_upload_outlives_a_reload_and_the_browser_and_takes_no_other_file(
    browser: Browser, server: TusServer, goods: Path, tmp_path: Path, hold: Hold
) -> None:
    other = tmp_path / "other" / goods.name
    other.parent.mkdir()
    other.write_bytes(b"x")
    line = hold(server, times=2)
    seen = browser.run("page.again", line.ask, home=home(line), files=[str(goods)], other=[str(other)])

    assert_alone(seen, goods)
    assert seen["refused"].startswith("It has changed since: goods.bin had 25.2 MB")
    assert "POST" not in [request["method"] for request in seen["requests"]]
    assert [int(request["offset"]) > SIZE / 4 for request in seen["requests"] if request["method"] == "PATCH"] == [True]


def test_a_browser_that_can_open_the_file_again_goes_on_by_itself(
    browser: Browser, server: TusServer, hold: Hold
) -> None:
    line = hold(server, times=2)
    seen = browser.run("page.reopened", line.ask, home=home(line), size=SIZE)
    piece = bytes(n % 251 for n in range(MIB))

    assert seen["errors"] == []
    assert_arrived(seen["links"][0]["url"], piece * (SIZE // MIB))
    assert [request["method"] for request in seen["requests"]].count("POST") == 1


def test_a_cancelled_upload_is_gone_from_the_server_and_from_the_page(
    browser: Browser, start_server: StartServer, goods: Path, hold: Hold
) -> None:
    server = start_server()
    line = hold(server)
    seen = browser.run("page.cancel", line.ask, home=home(line), files=[str(goods)])

    assert seen == {"kept": 1, "status": 204, "left": 0, "focus": "choose", "after": 0, "errors": []}
    assert server.uploads() == []


def test_a_restart_of_the_server_is_only_a_wait(
    browser: Browser, start_server: StartServer, goods: Path, hold: Hold
) -> None:
    server = start_server()
    line = hold(server)
    seen = browser.run(
        "page.restart", {**line.ask, "stop": server.stop, "start": server.start}, home=home(line), files=[str(goods)]
    )

    assert_alone(seen, goods)
    assert seen["waiting"].startswith("Waiting for the server; it goes on by itself.")


def test_a_second_tab_keeps_off(browser: Browser, server: TusServer, goods: Path, hold: Hold) -> None:
    line = hold(server)
    seen = browser.run("page.tabs", line.ask, home=home(line), files=[str(goods)])

    assert_alone(seen, goods)
    assert seen["said"] == "Is being uploaded in another tab"
    assert [request["method"] for request in seen["requests"]] == ["OPTIONS", "POST", "PATCH"]


# trouble -------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_too_large_is_refused_before_a_byte_is_sent(
    browser: Browser, start_server: StartServer, goods: Path
) -> None:
    server = start_server("--max-size", "1MB")
    seen = browser.run("page.refused", home=home(server), files=[str(goods)])

    assert seen["said"] == "Too large: this server takes 1.00 MB at most."
    assert seen["heard"] == f"goods.bin: {seen['said']}"
    assert [request["method"] for request in seen["requests"]] == ["OPTIONS"]


@pytest.mark.parametrize(
    ("method", "status", "said"),
    [
        ("POST", 507, "The server's disk is full. Try again when there is room."),
        ("PATCH", 507, "The server's disk is full. Try again when there is room."),
        ("POST", 403, "The server does not allow this upload. The server said: only <b>.raw</b>"),
        (
            "PATCH",
            404,
            "The server no longer has what was sent; its time was over. Try again to send it from the start.",
        ),
    ],
)
def test_what_the_server_refuses_is_said_and_can_be_tried_again(
    browser: Browser, server: TusServer, goods: Path, method: str, status: int, said: str
) -> None:
    answer = {
        "status": status,
        "contentType": "text/plain",
        "body": "ERR_X: only <b>.raw</b>\n" if status == 403 else "",
    }
    seen = browser.run("page.refused", home=home(server), files=[str(goods)], method=method, answer=answer)

    assert seen["said"] == said
    assert_alone(seen, goods)


def test_an_upload_whose_time_was_over_begins_anew(
    browser: Browser, start_server: StartServer, goods: Path, hold: Hold
) -> None:
    server = start_server()

    def expire() -> None:
        (upload,) = server.uploads()
        assert httpx.delete(upload, headers={"Tus-Resumable": "1.0.0"}, timeout=TIMEOUT).status_code == 204

    line = hold(server)
    seen = browser.run("page.expired", {**line.ask, "expire": expire}, home=home(line), files=[str(goods)])

    assert seen["said"].startswith("The server no longer has what was sent")
    assert_alone(seen, goods)


def test_a_limit_for_one_request_is_found_out(browser: Browser, start_server: StartServer, goods: Path) -> None:
    server = start_server("--limits.body_size", "1MB")
    seen = browser.run("page.finish", home=home(server), files=[str(goods)])

    assert_alone(seen, goods)


# for everybody -------------------------------------------------------------------------------------------------------


def test_the_keyboard_does_it_all_and_is_never_lost(
    browser: Browser, server: TusServer, goods: Path, hold: Hold
) -> None:
    line = hold(server)
    seen = browser.run("page.keyboard", line.ask, home=home(line), files=[str(goods)])

    assert seen["errors"] == []
    assert seen["first"] == "choose"
    assert seen["path"] == ["pause", "go", "cancel", "cancel", "open"]
    assert seen["name"] == "upload-1-open upload-1-name"


@pytest.mark.parametrize(
    ("label", "media"),
    [
        ("light", {"colorScheme": "light"}),
        ("dark", {"colorScheme": "dark"}),
        ("phone", {"viewport": {"width": 360, "height": 740}, "isMobile": True, "hasTouch": True}),
    ],
)
def test_no_state_shuts_anybody_out(
    browser: Browser, server: TusServer, tmp_path: Path, goods: Path, label: str, media: dict[str, Any], hold: Hold
) -> None:
    """axe-core finds nothing. PICTURES names a folder for pictures of what it looked at."""
    names = [
        "a" * 90 + ".tar.gz",
        "ملف للرفع من اليمين إلى اليسار.pdf",
        "Report of the year 2026, final (3).docx",
        "x.txt",
    ]
    for name in names:
        (tmp_path / name).write_bytes(make_bytes(5000))
    failing = tmp_path / "too much.iso"
    failing.write_bytes(b"x")
    line = hold(server)
    seen = browser.run(
        "page.looks",
        line.ask,
        home=home(line),
        big=[str(goods)],
        files=[str(tmp_path / name) for name in names],
        failing=[str(failing)],
        media=media,
        label=label,
        pictures=os.environ.get("PICTURES"),
    )

    assert seen["found"] == []
    assert seen["wide"] == 0, "it has to be scrolled sideways"
    assert seen["errors"] == []


# at full length ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_arrives_through_two_restarts_and_a_reload(
    browser: Browser, start_server: StartServer, tmp_path: Path, record_property: Any
) -> None:
    """HARDSHIP is its size in MiB; 1024 is what it was made for, 300 what each check can afford."""
    server = start_server("--durability", "none")
    size = int(os.environ.get("HARDSHIP", "300")) * MIB
    source, digest = tmp_path / "source.bin", hashlib.sha256()
    with source.open("wb") as file:
        for seed in range(size // (4 * MIB)):
            piece = make_bytes(4 * MIB, seed)
            file.write(piece)
            digest.update(piece)
    size = source.stat().st_size

    def restart() -> None:
        server.stop()
        server.start()

    seen = browser.run("page.hardships", {"restart": restart}, home=home(server), files=[str(source)], speed=size // 12)
    record_property("seconds", seen["seconds"])
    url = seen["links"][0]["url"]
    arrived = hashlib.sha256()
    with httpx.stream("GET", url, timeout=120) as answer:
        assert answer.headers["content-length"] == str(size)
        for piece in answer.iter_bytes():
            arrived.update(piece)

    assert arrived.digest() == digest.digest()
    assert seen["errors"] == []
    assert sum(request["concat"] == "partial" for request in seen["requests"] if request["method"] == "POST") == 3
