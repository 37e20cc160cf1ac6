"""What the documents say is so: settings, refusals, extensions, commands, links, targets."""

from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from docs.pages import settings_page
from tests.documents.pages import PAGES, ROOT, table
from tests.support.wire import TIMEOUT
from tusserver.protocol import errors
from tusserver.protocol.extensions import Extension
from tusserver.settings.catalog import catalog

BENCH = "| work | tusserver | tusd 2.9.1 | rustus 0.5 | @tus/server 2.4 | tuspyserver 4.4 |"
"""Head of the table of figures, without the floor."""

ALL = "\n".join(PAGES.values())
OTHERS = ("CHANGELOG.md", "tests/conformance/README.md", "bench/README.md")
LINKED = {**PAGES, **{page: (ROOT / page).read_text("utf-8") for page in OTHERS}}


def test_the_page_of_settings_is_what_the_declaration_makes() -> None:
    assert PAGES["docs/settings.md"] == settings_page(), "renew it with: make docs"


def test_every_setting_stands_in_its_page_with_its_default_and_meaning() -> None:
    rows = [line for line in settings_page().splitlines() if re.match(r"\| `\w+\.\w+` \|", line)]

    assert rows == [
        f"| `{setting.name}` | {f'`{setting.default}`' if setting.default else ''} | {setting.help} |"
        for setting in catalog().values()
    ]


def refusals(kind: type[errors.TusError] = errors.TusError) -> Iterator[type[errors.TusError]]:
    """Every class of refusal that a client can meet: those that say a code of their own."""
    for child in kind.__subclasses__():
        if "code" in vars(child):
            yield child
        yield from refusals(child)


def test_every_refusal_stands_in_the_documents_with_its_status() -> None:
    listed = [
        re.match(r"\| `(ERR_\w+)` \| (\d{3}) \| \S", row)
        for row in table("docs/protocol.md", "| code | status | what it means |")
    ]

    assert all(listed), "a row of the table cannot be read"
    rows = [(row[1], int(row[2])) for row in listed if row]
    assert sorted(rows) == sorted((refusal.code, refusal.status) for refusal in refusals())
    assert rows == sorted(rows, key=lambda row: row[1]), "the table is ordered by status"


def test_every_extension_stands_in_the_documents() -> None:
    rows = table("docs/protocol.md", "| extension | | what is worth knowing |")

    assert sorted(re.findall(r"^\| `([a-z-]+)` \| yes \|", "\n".join(rows), re.MULTILINE)) == sorted(Extension)
    assert len(rows) == len(Extension)


def test_every_command_stands_in_the_documents() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tusserver", "--help"], capture_output=True, text=True, check=True, timeout=TIMEOUT
    ).stdout
    commands = re.findall(r"^    ([a-z]+)(?: |$)", told, re.MULTILINE)

    assert commands
    listed = re.findall(r"^\| `tusserver ([a-z]+)", PAGES["docs/command-line.md"], re.MULTILINE)
    assert sorted(listed) == sorted(commands)


def test_figures_in_the_readme_are_those_of_the_benchmarks() -> None:
    measured = {tuple(row.split("|")[1:7]) for row in table("docs/benchmarks.md", BENCH + " floor |")}
    shown = {tuple(row.split("|")[1:7]) for row in table("README.md", BENCH)} - {tuple(["---"] * 6)}

    assert len(shown) >= 5
    assert shown <= measured


def test_flags_and_variables_in_the_documents_exist() -> None:
    flags = {flag for setting in catalog().values() for flag in setting.flags}
    variables = {variable for setting in catalog().values() for variable in setting.variables}

    assert set(re.findall(r"--[a-z]+\.[a-z_]+", ALL)) <= flags
    assert set(re.findall(r"\bTUSSERVER_[A-Z_]*[A-Z]\b", ALL)) <= variables | {"TUSSERVER_CONFIG", "TUSSERVER_TOKEN"}


def test_settings_that_the_documents_name_exist() -> None:
    groups = "|".join({name.split(".")[0] for name in catalog()} - {"tus"})  # `tus` is a variable, too
    documents = "\n".join(text for page, text in PAGES.items() if page != "docs/architecture.md")  # speaks of modules

    assert set(re.findall(rf"`((?:{groups})\.[a-z_]+)", documents)) <= set(catalog())


def test_the_protocol_class_that_the_documents_name_exists() -> None:
    named = set(re.findall(r"--http (\S+):(\w+)", ALL))

    assert named
    for module, name in named:
        assert issubclass(getattr(importlib.import_module(module), name), asyncio.Protocol)


def test_targets_of_make_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    documents = ALL + (ROOT / ".ci" / "run").read_text("utf-8")

    assert set(re.findall(r"`(?:TUSSERVER_\w+=\S+ )?make ([a-z-]+)`", documents)) <= targets


def test_no_entry_stands_in_the_changelog_twice() -> None:
    """A merge can leave an older wording of an entry beside the newer one."""
    starts = re.findall(r"^- (.{55})", LINKED["CHANGELOG.md"], re.MULTILINE)

    assert sorted(start for start in set(starts) if starts.count(start) > 1) == []


# links ---------------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The names that a page's headings can be linked by."""
    headings = re.findall(r"^#{1,4} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED)
def test_links_between_the_documents_lead_somewhere(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", LINKED[page]):
        file, _, anchor = link.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text("utf-8"))):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_the_readme_leads_to_every_page(page: str) -> None:
    assert f"]({page})" in PAGES["README.md"]


def test_every_example_stands_in_their_list() -> None:
    folder = ROOT / "examples"
    listed = set(re.findall(r"^\| \[.+?\]\((.+?)\)", PAGES["examples/README.md"], re.MULTILINE))
    heads = {path.parts[len(folder.parts)] for path in folder.rglob("*") if path.is_file()}

    assert {link.split("/")[0] for link in listed} == heads - {"README.md", "__pycache__", "node_modules"}
