"""The example apps as their headers say they are run: a real server, real clients, users who try what is not theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from tusclient.client import TusClient

from tests.examples.running import ROOT, uvicorn
from tests.interop.goods import MIB, make_bytes
from tests.support.ports import free_port
from tests.support.tus import eventually, metadata, patching
from tests.support.wire import TIMEOUT

TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture(scope="module")
def starlette(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with uvicorn("starlette_app", port, tmp_path_factory.mktemp("starlette")):
        yield f"http://127.0.0.1:{port}"


def add_user(folder: Path, name: str) -> None:
    command = [sys.executable, "-m", "examples.fastapi_login", "add-user", name]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=env, input=f"{name}'s password\n", text=True, check=True, timeout=TIMEOUT)


@pytest.fixture(scope="module")
def fastapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With the users ada and bob."""
    folder, port = tmp_path_factory.mktemp("fastapi"), free_port()
    add_user(folder, "ada")
    add_user(folder, "bob")
    with uvicorn("fastapi_login", port, folder):
        yield f"http://127.0.0.1:{port}"


def logged_in(app: str, name: str) -> httpx.Client:
    """A client that sends the user's token, and no cookie."""
    answer = httpx.post(f"{app}/login", json={"name": name, "password": f"{name}'s password"}, timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    return httpx.Client(
        base_url=app, headers={**TUS, "Authorization": f"Bearer {answer.json()['token']}"}, timeout=TIMEOUT
    )


@pytest.fixture
def ada(fastapi: str) -> Iterator[httpx.Client]:
    with logged_in(fastapi, "ada") as client:
        yield client


@pytest.fixture
def bob(fastapi: str) -> Iterator[httpx.Client]:
    with logged_in(fastapi, "bob") as client:
        yield client


def uploaded(
    client: httpx.Client, data: bytes, headers: dict[str, str] | None = None, length: int | None = None
) -> str:
    """Create an upload with its first bytes and return its URL."""
    size = {"Upload-Length": str(len(data) if length is None else length)}
    octets = {"Content-Type": "application/offset+octet-stream"}
    answer = client.post("/files/", headers={**size, **octets, **(headers or {})}, content=data)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


# plain Starlette -----------------------------------------------------------------------------------------------------


def test_the_starlette_app_takes_an_upload_and_lists_it(starlette: str) -> None:
    source = make_bytes(2 * MIB + 1)
    uploader = TusClient(f"{starlette}/files").uploader(
        file_stream=BytesIO(source), chunk_size=MIB, metadata={"filename": "photo.raw"}
    )
    uploader.upload()

    url = str(uploader.url)
    assert httpx.get(url, timeout=TIMEOUT).content == source
    listed = httpx.get(f"{starlette}/", timeout=TIMEOUT).text
    assert f"photo.raw ({len(source)} bytes, {url.rsplit('/', 1)[1]})\n" in listed


def test_the_starlette_app_refuses_what_has_no_name(starlette: str) -> None:
    refused = httpx.post(f"{starlette}/files", headers={**TUS, "Upload-Length": "1"}, timeout=TIMEOUT)

    assert refused.status_code == 400
    assert "name your file" in refused.text


# FastAPI with a login ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "Bearer", "Bearer made-up", "Basic YWRhOmFkYQ=="])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/files/"), ("HEAD", "/files/abc"), ("OPTIONS", "/files/"), ("GET", "/mine")]
)
def test_nothing_is_open_without_a_login(fastapi: str, token: str | None, method: str, path: str) -> None:
    headers = {**TUS, "Upload-Length": "5", **({} if token is None else {"Authorization": token})}

    assert httpx.request(method, fastapi + path, headers=headers, timeout=TIMEOUT).status_code == 401


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_a_wrong_password_gives_no_token(fastapi: str, name: str) -> None:
    answer = httpx.post(f"{fastapi}/login", json={"name": name, "password": "wrong"}, timeout=TIMEOUT)

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_user_uploads_with_tuspy_and_finds_it_listed(fastapi: str, ada: httpx.Client) -> None:
    source = make_bytes(3 * MIB + 5)
    client = TusClient(f"{fastapi}/files/", headers={"Authorization": ada.headers["Authorization"]})
    uploader = client.uploader(file_stream=BytesIO(source), chunk_size=MIB, metadata={"filename": "thesis.pdf"})
    uploader.upload()

    path = str(uploader.url).removeprefix(fastapi)
    assert {"url": path, "name": "thesis.pdf", "size": len(source)} in ada.get("/mine").json()
    assert ada.get(path).content == source


def test_a_page_of_the_app_needs_the_cookie_only(fastapi: str) -> None:
    with httpx.Client(base_url=fastapi, headers=TUS, timeout=TIMEOUT) as page:
        answer = page.post("/login", json={"name": "ada", "password": "ada's password"})
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=strict" in answer.headers["set-cookie"]
        url = uploaded(page, b"hello")
        assert page.get(url).content == b"hello"
        page.post("/logout")
        assert page.get(url).status_code == 401


@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "DELETE", "POST", "OPTIONS"])
@pytest.mark.parametrize("form", ["{}", "{}/", "{}?a=b"])
def test_an_upload_of_somebody_else_does_not_exist(
    ada: httpx.Client, bob: httpx.Client, method: str, form: str
) -> None:
    url = uploaded(ada, b"hello", length=10)
    override = {"X-HTTP-Method-Override": "PATCH"} if method == "POST" else {}
    headers = {**patching(5), **override}

    answer = bob.request(method, form.format(url), headers=headers, content=b" you!" if method != "HEAD" else None)

    assert answer.status_code == 404
    assert ada.head(url).headers["Upload-Offset"] == "5"
    assert ada.patch(url, headers=patching(5), content=b" mine").status_code == 204
    assert ada.get(url).content == b"hello mine"


def test_parts_of_somebody_else_cannot_be_joined(ada: httpx.Client, bob: httpx.Client) -> None:
    secret, own = (uploaded(user, b"part", {"Upload-Concat": "partial"}) for user in (ada, bob))

    refused = bob.post("/files/", headers={"Upload-Concat": f"final;{own} {secret}"})
    joined = ada.post("/files/", headers={"Upload-Concat": f"final;{secret} {secret}"})

    assert refused.status_code == 400
    assert "Location" not in refused.headers
    assert ada.get(joined.headers["Location"]).content == b"partpart"


def test_what_is_deleted_is_listed_no_more(ada: httpx.Client) -> None:
    url = uploaded(ada, b"hello", {"Upload-Metadata": metadata(filename="gone.txt")})
    assert "gone.txt" in ada.get("/mine").text

    assert ada.delete(url).status_code == 204

    assert "gone.txt" not in ada.get("/mine").text


def test_users_see_their_own_uploads_only(ada: httpx.Client, bob: httpx.Client) -> None:
    uploaded(ada, b"hello", {"Upload-Metadata": metadata(filename="diary.txt")})

    assert "diary.txt" in ada.get("/mine").text
    assert "diary.txt" not in bob.get("/mine").text


def test_several_processes_are_one_app(tmp_path: Path) -> None:
    """A login at one is known to the others, and so are uploads and their owners; each request may meet any of them."""
    add_user(tmp_path, "ada")
    add_user(tmp_path, "bob")
    port = free_port()
    with uvicorn("fastapi_login", port, tmp_path, "--workers", "3") as program:
        app = f"http://127.0.0.1:{port}"
        assert eventually(lambda: program.output().count("Application startup complete") == 3)
        with logged_in(app, "ada") as client:
            ada, url = dict(client.headers), uploaded(client, b"0", length=10)
        with logged_in(app, "bob") as client:
            bob = dict(client.headers)
        for at in range(1, 10):  # each on a connection of its own
            assert httpx.head(url, headers=bob, timeout=TIMEOUT).status_code == 404
            patched = httpx.patch(url, headers={**ada, **patching(at)}, content=str(at).encode(), timeout=TIMEOUT)
            assert patched.status_code == 204, patched.text
        assert httpx.get(url, headers=ada, timeout=TIMEOUT).content == b"0123456789"
        assert [listed["size"] for listed in httpx.get(f"{app}/mine", headers=ada, timeout=TIMEOUT).json()] == [10]
