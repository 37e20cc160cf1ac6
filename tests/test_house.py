"""The documents stay true: what README says exists, what exists stands there, and its examples run."""

from __future__ import annotations

import ast
import asyncio
import importlib
import os
import re
import shutil
import subprocess
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import tusserver
from tests.support.server import TusServer
from tusserver.protocol import errors
from tusserver.settings import SHORT, declared

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
FILES = "http://127.0.0.1:8080/files"
"""Where the examples upload to; the tests put their own server there."""


def blocks(language: str, *, below: str = "", marked: str = "") -> list[str]:
    """Fenced code of README in a language: all, or those below a heading, or those behind a comment."""
    text = README
    if below:
        text = re.split(r"^#{1,3} ", text.split(f"# {below}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    mark = rf"<!-- {marked} -->\n" if marked else ""
    return re.findall(rf"^{mark}```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def table(header: str) -> list[str]:
    """Rows of the README's table with this header line."""
    rows = README.split(f"{header}\n", 1)[1].splitlines()[1:]
    return rows[: next(n for n, row in enumerate(rows) if not row.startswith("|"))]


def stored_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def code(text: str) -> str:
    return f"`{text}`" if text else ""


# tables --------------------------------------------------------------------------------------------------------------


def test_every_setting_stands_in_the_readme_with_its_default_and_meaning() -> None:
    expected = [f"| `{s.name}` | {code(s.default)} | {s.help} |" for s in declared().values()]

    assert table("| setting | default | meaning |") == expected, "README should have:\n" + "\n".join(expected)


def test_every_short_name_of_a_setting_stands_in_the_readme() -> None:
    expected = [
        f"| `--{word}` | `TUSSERVER_{word.replace('-', '_').upper()}` | `{name}` |" for word, name in SHORT.items()
    ]

    assert table("| flag | environment | setting |") == expected, "README should have:\n" + "\n".join(expected)


def refusals(kind: type[errors.TusError] = errors.TusError) -> Iterator[type[errors.TusError]]:
    """Every class of refusal that a client can meet: those that say a code of their own."""
    for child in kind.__subclasses__():
        if "code" in vars(child):
            yield child
        yield from refusals(child)


def test_every_refusal_stands_in_the_readme_with_its_status() -> None:
    listed = [re.match(r"\| `(ERR_\w+)` \| (\d{3}) \| \S", row) for row in table("| code | status | what it means |")]

    assert all(listed), "a row of the table cannot be read"
    rows = [(row[1], int(row[2])) for row in listed if row]
    assert sorted(rows) == sorted((refusal.code, refusal.status) for refusal in refusals())
    assert rows == sorted(rows, key=lambda row: row[1]), "the table is ordered by status"


# examples ------------------------------------------------------------------------------------------------------------


def test_the_walk_with_curl_uploads_resumes_compares_and_deletes(server: TusServer, tmp_path: Path) -> None:
    walk = "\n".join(blocks("sh", marked="walk")).replace(FILES, server.url)

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", walk], cwd=tmp_path, capture_output=True, text=True, timeout=50
    )

    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    url = next(line for line in lines if line.startswith(server.url))
    assert [line.split()[1] for line in lines if line.startswith("HTTP/1.1 ")] == ["204", "200", "204", "204"]
    offsets = [line.split()[1] for line in lines if line.lower().startswith("upload-offset:")]
    assert offsets == ["500000", "500000", "1500000"]
    assert "same" in lines
    assert [path for path in server.files() if url.rsplit("/", 1)[1] in path.name] == []


def test_the_example_for_tuspy_uploads_its_file(
    server: TusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = blocks("python", below="tuspy")
    monkeypatch.chdir(tmp_path)
    source = Path("photo.raw")
    source.write_bytes(os.urandom(100_000))
    names: dict[str, Any] = {}

    exec(example.replace(FILES, server.url), names)

    assert httpx.get(names["uploader"].url).content == source.read_bytes()


@pytest.mark.parametrize(("number", "path", "said"), [(0, "/files", "photo.raw: 5 bytes\n"), (1, "/api/files", "")])
async def test_the_embedded_app_of_the_readme_takes_an_upload(
    number: int,
    path: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks("python", below="In your own app")[number], names)
    app, tus = names["app"], {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    filename = {"Upload-Metadata": f"filename {b64encode(b'photo.raw').decode()}"}

    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        created = await http.post(path, headers={**tus, **filename, "Upload-Length": "5"}, content=b"hello")

        assert created.status_code == 201, created.text
        assert (await http.get(created.headers["Location"])).content == b"hello"
    assert capsys.readouterr().out == said


async def test_the_example_for_fastapi_refuses_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks("python", below="In your own app")[1], names)

    app = names["app"]
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        refused = await http.post("/api/files", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})

    assert refused.status_code == 403
    assert "only .raw files, please" in refused.text
    assert stored_below(tmp_path / "uploads" / "uploads") == []


@pytest.mark.parametrize("example", blocks("python"))
def test_python_in_the_readme_parses(example: str) -> None:
    ast.parse(example)


@pytest.mark.parametrize("example", blocks("sh"))
async def test_shell_in_the_readme_parses(example: str) -> None:
    shell = await asyncio.create_subprocess_exec("bash", "-n", stdin=asyncio.subprocess.PIPE)
    await shell.communicate(example.encode())

    assert shell.returncode == 0


@pytest.mark.node
@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js here")
@pytest.mark.parametrize("example", blocks("js"))
def test_javascript_in_the_readme_parses(example: str, tmp_path: Path) -> None:
    script = tmp_path / "example.mjs"
    script.write_text(example, "utf-8")

    subprocess.run(["node", "--check", str(script)], check=True, timeout=30)


@pytest.mark.parametrize("example", blocks("toml"))
def test_toml_in_the_readme_holds_settings_that_exist(example: str) -> None:
    names = [f"{group}.{key}" for group, keys in tomllib.loads(example).items() for key in keys]

    assert names
    assert set(names) <= set(declared())


def test_flags_and_variables_in_the_readme_exist() -> None:
    flags = {flag for setting in declared().values() for flag in setting.flags}
    variables = {variable for setting in declared().values() for variable in setting.variables}

    assert set(re.findall(r"--[a-z]+\.[a-z_]+", README)) <= flags
    assert set(re.findall(r"\bTUSSERVER_[A-Z_]*[A-Z]\b", README)) <= variables | {"TUSSERVER_CONFIG"}


@pytest.mark.parametrize(
    "document", ["README.md", "CHANGELOG.md", "docs/architecture.md", "tests/conformance/README.md"]
)
def test_links_between_the_documents_lead_somewhere(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text("utf-8"))

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_protocol_class_that_the_readme_names_exists() -> None:
    ((module, name),) = re.findall(r"uvicorn --http (\S+):(\S+) ", README)

    assert issubclass(getattr(importlib.import_module(module), name), asyncio.Protocol)


def test_targets_of_make_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    documents = README + (ROOT / ".ci" / "run").read_text("utf-8")

    assert set(re.findall(r"`(?:TUSSERVER_\w+=\S+ )?make ([a-z-]+)`", documents)) <= targets


# the house -----------------------------------------------------------------------------------------------------------


def test_every_room_stands_in_the_architecture_and_every_room_there_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    tree = text.split("```\ntusserver/\n", 1)[1].split("\n```", 1)[0]
    listed, folder = set(), ""
    for line in tree.splitlines():
        depth, name = len(line) - len(line.lstrip()), line.split()[0]
        folder = "" if depth == 2 else folder
        if name.endswith("/"):
            folder = name
        elif name.endswith(".py") and depth in (2, 4):
            listed.add(folder + name)
    package = ROOT / "tusserver"

    assert listed == {str(path.relative_to(package)) for path in package.rglob("*.py") if path.stat().st_size} - {
        f"{path.parent.name}/__init__.py" for path in package.glob("*/__init__.py")
    }


def test_the_face_exports_what_it_says() -> None:
    assert tusserver.__all__
    assert [name for name in tusserver.__all__ if not hasattr(tusserver, name)] == []
    assert len(set(tusserver.__all__)) == len(tusserver.__all__)


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    sources = (ROOT / "tusserver").rglob("*.py")

    assert "version" in project["dynamic"]
    assert "version" not in project
    assert [path.name for path in sources if f'"{tusserver.__version__}"' in path.read_text("utf-8")] == ["__init__.py"]


def test_the_lock_names_every_dependency_and_no_package_host() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["build-system"]["requires"], "editables"]  # an editable install asks for both
    wanted += [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0] for requirement in wanted} - {"tusserver"}

    assert [name for name in sorted(names) if not re.search(rf"^{name}==", lock, re.MULTILINE)] == []
    assert not re.search(r"https?://|index-url|find-links", lock)
