from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tusserver.addresses import parse_address
from tusserver.assembly import assemble, open_store, run_options
from tusserver.protocol.extensions import Extension
from tusserver.server.options import ConnectionLimits, ServerOptions
from tusserver.settings.sources import LoadedSettings, SettingsError, SetValue, Source, load


def loaded(storage: Path, **given: str) -> LoadedSettings:
    """Settings by flags, dots written as two underscores."""
    given["store__root"] = str(storage)
    names = {key.replace("__", "."): value for key, value in given.items()}
    return load({name: SetValue(value, Source("flag", f"--{name}")) for name, value in names.items()})


def client(configured: LoadedSettings, **more: object) -> httpx.AsyncClient:
    """Talk to a server that is put together but runs in this process."""
    transport = httpx.ASGITransport(assemble(configured), **more)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://tus.example", headers={"Tus-Resumable": "1.0.0"})


async def test_uploads_are_served_at_the_path_and_nothing_elsewhere(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, server__path="/a/b")) as http:
        created = await http.post("/a/b", headers={"Upload-Length": "3"})
        assert created.status_code == 201
        assert created.headers["location"].startswith("http://tus.example/a/b/")
        assert (await http.post("/a/b/", headers={"Upload-Length": "3"})).status_code == 201
        for path in ("/a", "/a/bc", "/b", "/favicon.ico"):
            answer = await http.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "text/plain; charset=utf-8")


async def test_health_is_served_beside_the_uploads(tmp_path: Path) -> None:
    async with client(loaded(tmp_path)) as http:
        assert (await http.get("/livez")).json() == {"status": "ok"}
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["checks"]) == (200, {"store": "ok", "locks": "ok"})
        assert (await http.get("/livez/x")).status_code == 404


async def test_the_upload_page_is_beside_the_uploads_and_knows_where_they_are(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, server__path="/a/b")) as http:
        page = await http.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert '<meta name="tus-endpoint" content="a/b">' in page.text
        assert (await http.get("/upload.js")).status_code == 200


async def test_the_upload_page_can_be_switched_off(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, pages__upload="false")) as http:
        assert (await http.get("/")).status_code == 404
        assert (await http.get("/upload.js")).status_code == 404


async def test_uploads_win_where_the_page_has_the_same_path(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, server__path="/upload.js")) as http:
        assert (await http.post("/upload.js", headers={"Upload-Length": "3"})).status_code == 201
        assert (await http.get("/")).status_code == 404


async def test_the_page_links_no_downloads_where_there_are_none(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, tus__download="false")) as http:
        assert '<meta name="tus-download" content="no">' in (await http.get("/")).text


async def test_limits_reach_the_protocol(tmp_path: Path) -> None:
    configured = loaded(tmp_path, limits__max_size="1KB", limits__metadata_size="20", limits__header_size="30")
    async with client(configured) as http:
        assert (await http.options("/files")).headers["tus-max-size"] == "1000"
        assert (await http.post("/files", headers={"Upload-Length": "1001"})).status_code == 413
        told = {"Upload-Length": "1", "Upload-Metadata": "k " + "YWFh" * 6}
        assert (await http.post("/files", headers=told)).status_code == 400
        told = {"Upload-Length": "1", "Upload-Metadata": "k " + "YWFh" * 9}
        assert (await http.post("/files", headers=told)).status_code == 431


async def test_expiry_reaches_the_protocol(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, expiry__after="off")) as http:
        created = await http.post("/files", headers={"Upload-Length": "3"})
        assert "upload-expires" not in created.headers
        assert "expiration" not in (await http.options("/files")).headers["tus-extension"]


async def test_an_extension_that_is_off_takes_along_what_needs_it(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, tus__disable="creation")) as http:
        assert (await http.options("/files")).headers["tus-extension"] == "expiration,checksum,termination"


async def test_every_extension_can_be_switched_off(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, tus__disable=",".join(Extension))) as http:
        assert "tus-extension" not in (await http.options("/files")).headers


async def test_downloads_can_be_switched_off(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, tus__download="false")) as http:
        created = await http.post("/files", headers={"Upload-Length": "0"})
        assert (await http.get(created.headers["location"])).status_code == 405


async def test_cors_reaches_the_answers(tmp_path: Path) -> None:
    configured = loaded(
        tmp_path,
        cors__origins="https://a.example",
        cors__credentials="true",
        cors__expose_headers="X-One",
        cors__allow_headers="X-Two",
        cors__max_age="90s",
    )
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "PATCH"}
    async with client(configured) as http:
        preflight = (await http.options("/files", headers=asked)).headers
        assert preflight["access-control-allow-origin"] == "https://a.example"
        assert preflight["access-control-allow-credentials"] == "true"
        assert preflight["access-control-max-age"] == "90"
        assert "X-Two" in preflight["access-control-allow-headers"]
        actual = (await http.get("/files/x", headers={"Origin": "https://a.example"})).headers
        assert "X-One" in actual["access-control-expose-headers"]
        other = (await http.get("/files/x", headers={"Origin": "https://b.example"})).headers
        assert "access-control-allow-origin" not in other


async def test_cors_can_be_switched_off(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, cors__enabled="false")) as http:
        answer = await http.options("/files", headers={"Origin": "https://a.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(("address", "scheme"), [("10.1.2.3", "https"), ("192.0.2.1", "http")])
async def test_only_trusted_proxies_are_believed(tmp_path: Path, address: str, scheme: str) -> None:
    async with client(loaded(tmp_path, proxies__trusted="10.0.0.0/8"), client=(address, 1)) as http:
        created = await http.post("/files", headers={"Upload-Length": "3", "X-Forwarded-Proto": "https"})
        assert created.headers["location"].startswith(f"{scheme}://tus.example/files/")


async def test_location_can_be_a_path(tmp_path: Path) -> None:
    async with client(loaded(tmp_path, proxies__relative_location="true")) as http:
        created = await http.post("/files", headers={"Upload-Length": "3"})
        assert created.headers["location"].startswith("/files/")


async def test_finished_files_get_their_readable_name(tmp_path: Path) -> None:
    configured = loaded(
        tmp_path / "data",
        store__finished_folder=str(tmp_path / "done"),
        store__finished_name="{id}/{filename}",
        store__file_mode="640",
        store__folder_mode="750",
    )
    async with client(configured) as http:
        told = {"Upload-Length": "0", "Upload-Metadata": "filename YS50eHQ="}
        created = await http.post("/files", headers=told)
        name = created.headers["location"].rpartition("/")[2]
    place = tmp_path / "done" / name / "a.txt"
    assert place.stat().st_mode & 0o777 == 0o640
    assert place.parent.stat().st_mode & 0o777 == 0o750


# refusals ------------------------------------------------------------------------------------------------------------


def refused(configured: LoadedSettings) -> str:
    """The one line about a store that cannot be."""
    with pytest.raises(SettingsError) as error:
        open_store(configured)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused(loaded(tmp_path / "file" / "data"))
    assert line.startswith(f'store.root = "{tmp_path}/file/data" (flag --store.root) cannot be used: ')


def test_a_data_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("tusserver data folder, format 999\n")
    line = refused(loaded(tmp_path))
    assert line.startswith(f'store.root = "{tmp_path}" (flag --store.root) cannot be used: ')
    assert line.endswith("run the newer version that wrote it")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_data_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "(flag --store.root) cannot be used: " in refused(loaded(tmp_path))


def test_a_template_with_unknown_fields_is_refused(tmp_path: Path) -> None:
    line = refused(loaded(tmp_path, store__finished_folder=str(tmp_path / "done"), store__finished_name="{name}"))
    assert line.startswith('store.finished_name = "{name}" (flag --store.finished_name) cannot be used: ')
    assert "{filename}" in line


@pytest.mark.parametrize("inside", ["uploads", "uploads/done", "calendar"])
def test_finished_files_among_the_unfinished_are_refused(tmp_path: Path, inside: str) -> None:
    line = refused(loaded(tmp_path, store__finished_folder=str(tmp_path / inside)))
    assert line.endswith("is where unfinished uploads live; name another folder")


def test_finished_files_on_another_file_system_are_refused(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    line = refused(loaded(tmp_path, store__finished_folder=str(other)))
    assert line.startswith('store.finished_folder = "/dev/shm" (flag --store.finished_folder) cannot be used: ')
    assert "same file system" in line


def test_settings_of_connections_and_of_the_stop_reach_the_options_of_the_server(tmp_path: Path) -> None:
    settings = {
        "server__shutdown_timeout": "3s",
        "server__keep_alive": "1500ms",
        "server__backlog": "7",
        "limits__connections": "12",
        "limits__connections_per_address": "4",
        "limits__head_timeout": "off",
        "limits__head_size": "320KiB",
        "limits__buffers": "1MiB",
        "limits__idle_timeout": "9s",
        "proxies__trusted": "10.0.0.0/8",
    }
    options = run_options(loaded(tmp_path, **settings))
    assert options.server == ServerOptions(
        shutdown_timeout=timedelta(seconds=3), keep_alive=timedelta(milliseconds=1500), backlog=7
    )
    assert options.limits == ConnectionLimits(
        connections=12,
        connections_per_address=4,
        head_timeout=None,
        head_size=320 << 10,
        buffers=1 << 20,
        idle_timeout=timedelta(seconds=9),
    )
    assert options.trusted.trusts(parse_address("10.1.2.3"))
