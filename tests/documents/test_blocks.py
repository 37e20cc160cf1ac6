"""Every command and snippet in the documents runs, or says why it cannot."""

from __future__ import annotations

import ast
import configparser
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartServer
from tests.documents.pages import BLOCKS, FILES, PAGES, ROOT, Block
from tests.examples.running import Program
from tests.interop.goods import assert_arrived
from tests.support.server import TusServer
from tests.support.tus import metadata
from tests.support.wire import TIMEOUT
from tusserver.settings.sources import load

LANGUAGES = {"sh", "python", "js", "toml", "ini", "json"}

NOT_RUN = 8
"""Blocks that may be excused, in all documents."""


def named(blocks: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks, ids=str)


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


# all of them ---------------------------------------------------------------------------------------------------------


def test_every_block_of_code_is_found() -> None:
    fences = sum(len(re.findall(r"^\s*```", text, re.MULTILINE)) for text in PAGES.values())

    assert len(BLOCKS) * 2 == fences
    assert len([block for block in BLOCKS if block.steps]) > 10


@named([block for block in BLOCKS if block.language])
def test_every_block_is_of_a_kind_that_is_tested(block: Block) -> None:
    """A block without a language is a drawing."""
    kinds = {"sh": bool(not block.path), "python": not block.serves}

    assert block.language in LANGUAGES
    assert not block.mark or block.reason or block.serves or block.path, f"nothing knows the mark {block.mark!r}"
    assert kinds.get(block.language, not block.serves and not block.path)


def test_few_blocks_are_excused() -> None:
    excused = [block for block in BLOCKS if block.reason is not None]

    assert [str(block) for block in excused if len(block.reason or "") < 15] == []
    assert len(excused) <= NOT_RUN


@named([block for block in of("sh") if block.reason])
def test_shell_that_is_not_run_parses(block: Block) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=block.code, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )

    assert done.returncode == 0, done.stderr


@named(of("python"))
def test_python_parses(block: Block) -> None:
    ast.parse(block.code)


# the steps of a page -------------------------------------------------------------------------------------------------


def environment(folder: Path) -> dict[str, str]:
    """What a reader has: the commands of the environment that the tests run in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUSSERVER_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}


def run(page: str, server: TusServer, folder: Path) -> str:
    """Do what a page says, in its order, in one shell; return what was printed."""
    script = []
    for block in (block for block in BLOCKS if block.page == page and block.steps):
        code = block.code.replace(FILES, server.url)
        script.append(f"echo '--- {block}' >&2")
        if block.language == "sh":
            script.append(code)
        else:
            name = f"line{block.line}.py"
            (folder / name).write_text(code, "utf-8")
            script.append(f"python {name}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(script)],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


STEPPED = sorted({block.page for block in BLOCKS if block.steps})
WATCHED = ("docs/getting-started.md", "docs/command-line.md", "docs/clients.md", "docs/operations.md")
"""Pages whose outcome is looked at, each by a test of its own."""


@pytest.fixture
def reader(start_server: StartServer, tmp_path: Path) -> tuple[TusServer, Path]:
    """A server as `make serve` starts it, and the folder that it was started in, which has a .venv."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return start_server(storage=tmp_path / "storage"), tmp_path


@pytest.mark.parametrize("page", [page for page in STEPPED if page not in WATCHED])
def test_the_steps_of_a_page_work(page: str, reader: tuple[TusServer, Path]) -> None:
    run(page, *reader)


def test_the_walk_with_curl_uploads_resumes_compares_and_deletes(reader: tuple[TusServer, Path]) -> None:
    server, folder = reader

    lines = [line.rstrip() for line in run("docs/getting-started.md", server, folder).splitlines()]

    whole, url = (line for line in lines if line.startswith(server.url))
    assert_arrived(whole, (folder / "photo.raw").read_bytes())
    assert [line.split()[1] for line in lines if line.startswith("HTTP/1.1 ")] == ["204", "200", "204", "204"]
    offsets = [line.split()[1] for line in lines if line.lower().startswith("upload-offset:")]
    assert offsets == ["500000", "500000", "1500000"]
    assert "same" in lines
    assert [path for path in server.files() if url.rsplit("/", 1)[1] in path.name] == []


def test_the_commands_that_upload_and_download_do_so(reader: tuple[TusServer, Path]) -> None:
    server, folder = reader

    printed = run("docs/command-line.md", server, folder).splitlines()

    lines = [line for line in printed if line.startswith(server.url)]

    source = (folder / "photos" / "photo.raw").read_bytes()
    one, another, archive = (line.split("\t")[0] for line in lines)
    assert (folder / "photo.raw").read_bytes() == source
    assert f"{hashlib.sha256(source).hexdigest()}  -" in printed
    assert_arrived(one, source)
    assert_arrived(another, source)
    assert one != another
    assert source in httpx.get(archive, timeout=TIMEOUT).content


def test_the_clients_of_the_page_upload_their_file(reader: tuple[TusServer, Path]) -> None:
    server, folder = reader

    urls = [line for line in run("docs/clients.md", server, folder).splitlines() if line.startswith(server.url)]

    source = (folder / "photo.raw").read_bytes()
    assert len(urls) == 3
    for url, content in zip(urls, [source, source, source + source], strict=True):
        assert_arrived(url, content)


def test_a_backup_of_a_running_server_can_be_restored(
    reader: tuple[TusServer, Path], start_server: StartServer
) -> None:
    server, folder = reader
    octets = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    named = {"Upload-Metadata": metadata(filename="photo.raw")}
    urls = []
    for length in ("5", "8"):  # one that is whole, one that is not
        made = httpx.post(
            server.url, headers={**octets, **named, "Upload-Length": length}, content=b"hello", timeout=TIMEOUT
        )
        urls.append(made.headers["Location"])

    printed = run("docs/operations.md", server, folder)

    assert printed.count("photo.raw") == 2
    restored = start_server(storage=folder / "restored")
    whole, begun = (url.replace(server.url, restored.url) for url in urls)
    assert httpx.get(whole, timeout=TIMEOUT).content == b"hello"
    patched = httpx.patch(begun, headers={**octets, "Upload-Offset": "5"}, content=b", w", timeout=TIMEOUT)
    assert patched.status_code == 204
    assert httpx.get(begun, timeout=TIMEOUT).content == b"hello, w"


# servers -------------------------------------------------------------------------------------------------------------

COMMANDS = [
    pytest.param(block, command, id=f"{block} {command}")
    for block in BLOCKS
    if block.serves
    for command in block.code.replace("\\\n", "").splitlines()
]


@pytest.mark.parametrize(("block", "command"), COMMANDS)
def test_a_command_that_serves_starts_listens_and_stops_cleanly(block: Block, command: str, tmp_path: Path) -> None:
    """`yourmodule` is the first app of the page."""
    for app in [other for other in BLOCKS if other.page == block.page and other.path][:1]:
        (tmp_path / "yourmodule.py").write_text(app.code, "utf-8")
    log = tmp_path / "log"
    program, *arguments = shlex.split(command, comments=True)
    executable = shutil.which(program, path=environment(tmp_path)["PATH"])
    assert executable is not None, f"there is no command {program}"
    ports = {"TUSSERVER_PORT": "0", "UVICORN_PORT": "0", "PYTHONUNBUFFERED": "1"}

    def listening() -> str | None:
        found = re.search(r"(?:Listening|running) on (http://[0-9.]+:[1-9]\d*)", log.read_text("utf-8"))
        return found[1] if found else None

    server = Program(
        [executable, *arguments],
        ready=lambda: listening() is not None,
        log=log,
        cwd=tmp_path,
        env={**environment(tmp_path), **ports, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    with server:
        answer = httpx.options(f"{listening()}/files", timeout=TIMEOUT)
        assert (answer.status_code, answer.headers["Tus-Version"]) == (204, "1.0.0")
        assert server.stop(signal.SIGINT) == 0, server.output()


# apps ----------------------------------------------------------------------------------------------------------------


def made_by(block: Block) -> Any:
    """The app that a block makes, in the working folder."""
    names: dict[str, Any] = {}
    exec(block.code, names)
    return names["app"]


@named([block for block in BLOCKS if block.path])
async def test_an_app_takes_an_upload(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = made_by(block)
    headers = {
        "Tus-Resumable": "1.0.0",
        "Content-Type": "application/offset+octet-stream",
        "Upload-Metadata": f"filename {b64encode(b'photo.raw').decode()}",
        "Upload-Length": "5",
    }

    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        created = await http.post(block.path, headers=headers, content=b"hello")

        assert created.status_code == 201, created.text
        assert (await http.get(created.headers["Location"])).content == b"hello"


@named([block for block in BLOCKS if block.path and "def finished" in block.code])
async def test_an_app_says_what_has_arrived(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await test_an_app_takes_an_upload(block, tmp_path, monkeypatch)

    assert capsys.readouterr().out == "photo.raw: 5 bytes\n"


@named([block for block in BLOCKS if block.path and "CreationRejected" in block.code])
async def test_an_app_refuses_what_it_says(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = made_by(block)

    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        refused = await http.post(block.path, headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})

    assert refused.status_code == 403
    assert "only .raw files, please" in refused.text
    assert sorted(path for path in (tmp_path / "uploads" / "uploads").rglob("*") if path.is_file()) == []


# JavaScript ----------------------------------------------------------------------------------------------------------


@pytest.mark.node
@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js here")
@named(of("js"))
def test_javascript_parses(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "example.mjs"
    script.write_text(block.code, "utf-8")

    subprocess.run(["node", "--check", str(script)], check=True, timeout=TIMEOUT)


_RUNNER = """\
import { start } from "./example.mjs";
const file = Object.assign(Buffer.alloc(100_000, "tus"), { name: "photo.raw", type: "image/x-raw" });
start(file);
"""


@pytest.mark.node
@named([block for block in of("js") if not block.reason])
def test_javascript_uploads_its_file(block: Block, server: TusServer, node_packages: Path, tmp_path: Path) -> None:
    """In Node.js, where a Buffer stands in for the file that a user has chosen."""
    (tmp_path / "node_modules").symlink_to(node_packages / "node_modules")
    (tmp_path / "example.mjs").write_text(block.code.replace(FILES, server.url), "utf-8")
    (tmp_path / "run.mjs").write_text(_RUNNER, "utf-8")

    done = subprocess.run(
        ["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "100000 of 100000" in done.stdout
    url = re.findall(r"^done: (\S+)$", done.stdout, re.MULTILINE)
    assert len(url) == 1, done.stdout
    assert_arrived(url[0], (b"tus" * 33334)[:100_000])


# settings ------------------------------------------------------------------------------------------------------------


@named([block for block in of("toml") if not block.reason])
def test_toml_is_settings_that_a_server_takes(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "tusserver.toml"
    file.write_text(block.code, "utf-8")

    given = load(config=file).given

    assert set(given) == {f"{group}.{key}" for group, keys in tomllib.loads(block.code).items() for key in keys}
    assert given


@named(of("ini"))
def test_units_of_systemd_parse(block: Block) -> None:
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # keys keep their case
    parser.read_string(block.code)

    assert parser.sections()
    for command in parser["Service"].values():
        assert shlex.split(command)


@named(of("json"))
def test_json_parses(block: Block) -> None:
    json.loads(block.code)
