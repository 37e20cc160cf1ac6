"""Modules, classes and functions that the documents for developers name are there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

import pytest

from tests.documents.pages import PAGES, ROOT
from tusserver.settings.catalog import catalog

PAGES_FOR_DEVELOPERS = ("docs/architecture.md", "docs/contributing.md", "docs/glossary.md")

KNOWN: defaultdict[str, set[str]] = defaultdict(set)
"""What can stand behind the dot of a name: of a class or a module, everything that is defined in it."""
for _path in (ROOT / "tusserver").rglob("*.py"):
    for _node in ast.walk(ast.parse(_path.read_text("utf-8"))):
        if isinstance(_node, ast.ClassDef):
            KNOWN[_node.name] |= {
                name.id for name in ast.walk(_node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            } | {each.name for each in _node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))}
        if isinstance(_node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            KNOWN[_path.stem].add(_node.name)
        elif isinstance(_node, ast.Name) and isinstance(_node.ctx, ast.Store):
            KNOWN[_path.stem].add(_node.id)


def named(page: str) -> list[str]:
    """Every name in backticks, outside of blocks of code."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES_FOR_DEVELOPERS)
def test_files_that_a_document_names_exist(page: str) -> None:
    """Below the root or the package. NAME is for a name to come, in a folder that may be to come as well."""
    paths = [name for name in named(page) if re.fullmatch(r"[\w./-]+(/|\.py|\.md|\.toml|\.lock)", name)]
    missing = [path for path in paths if not any((folder / path).exists() for folder in (ROOT, ROOT / "tusserver"))]

    assert [path for path in missing if "NAME" not in path] == []


@pytest.mark.parametrize("page", PAGES_FOR_DEVELOPERS)
def test_classes_and_functions_that_a_document_names_exist(page: str) -> None:
    """`Class.method`, `module.function`: where the first part is one of ours."""
    names = [name for name in named(page) if re.fullmatch(r"\w+\.\w+(\(.*\))?", name)]
    parts = [tuple(name.partition("(")[0].split(".")) for name in names if name not in catalog()]

    assert [
        f"{owner}.{member}"
        for owner, member in parts
        if owner in KNOWN and member not in KNOWN[owner] and not re.fullmatch("py|md|toml|lock", member)
    ] == []
