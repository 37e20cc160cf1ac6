"""The package is as docs/architecture.md says: tree, layers, sizes, public API. Other documents: tests/documents."""

from __future__ import annotations

import ast
import graphlib
import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import tusserver

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tusserver"
MODULES = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
"""The source of each module by its path in the package."""
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

MODULE_LINES = 450
FUNCTION_LINES = 60
"""Of a `def` from its name to its end, docstring included."""
INIT_LINES = 40
"""`Tus.__init__` has fewer."""


# the document --------------------------------------------------------------------------------------------------------


def listed_modules() -> set[str]:
    """Paths of the modules in the tree of docs/architecture.md."""
    tree = ARCHITECTURE.split("```\ntusserver/\n", 1)[1].split("\n```", 1)[0]
    listed: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        del folders[depth - 1 :]
        if name.endswith("/"):
            folders.append(name)
        elif name.endswith(".py"):
            listed.add("".join(folders) + name)
    return listed


def test_every_module_stands_in_the_architecture_and_every_module_there_exists() -> None:
    """A package's `__init__.py` may have its docstring alone; then its line in the tree is that of the package."""
    assert listed_modules() == set(MODULES) - {path for path in MODULES if path.endswith("/__init__.py")}


def test_the_layers_in_the_architecture_are_those_that_import_linter_checks() -> None:
    listed = ARCHITECTURE.split("\n## Layers\n", 1)[1].split("```\n", 2)[1].splitlines()
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]

    assert [contract["layers"] for contract in contracts if contract["type"] == "layers"] == [listed]


# sizes and cycles ----------------------------------------------------------------------------------------------------


def functions(path: str) -> Iterator[tuple[str, int]]:
    """Each function of a module, nested ones too, as "path: Class.name" with its lines."""

    def within(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inner = (*names, child.name)
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{path}: {'.'.join(inner)}", (child.end_lineno or child.lineno) - child.lineno + 1
            yield from within(child, inner)

    return within(ast.parse(MODULES[path]), ())


FUNCTIONS = dict(chain.from_iterable(functions(path) for path in MODULES))


def test_no_module_is_large() -> None:
    assert [path for path, text in MODULES.items() if len(text.splitlines()) > MODULE_LINES] == []


def test_no_function_is_long() -> None:
    assert [name for name, lines in FUNCTIONS.items() if lines > FUNCTION_LINES] == []


def test_the_app_is_made_in_few_lines() -> None:
    assert FUNCTIONS["app.py: Tus.__init__"] < INIT_LINES


def imported(path: str) -> set[str]:
    """Paths of the modules of the package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[path])):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, *inner = name.split(".")
            if root != "tusserver":
                continue
            for parts in (inner, inner[:-1]):  # what is imported may be a module, or stand in one
                candidates = ("/".join(parts) + ".py", "/".join([*parts, "__init__.py"]))
                if module := next((candidate for candidate in candidates if candidate in MODULES), None):
                    found.add(module)
                    break
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    sorter = graphlib.TopologicalSorter({path: imported(path) for path in MODULES})
    try:
        order = list(sorter.static_order())
    except graphlib.CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None

    assert order.index("protocol/errors.py") < order.index("app.py") < order.index("__init__.py")


# the package ---------------------------------------------------------------------------------------------------------


def test_the_public_api_exports_what_it_says() -> None:
    assert tusserver.__all__
    assert [name for name in tusserver.__all__ if not hasattr(tusserver, name)] == []
    assert len(set(tusserver.__all__)) == len(tusserver.__all__)


def test_the_version_stands_in_one_place() -> None:
    project = PYPROJECT["project"]

    assert "version" in project["dynamic"]
    assert "version" not in project
    assert [path for path, text in MODULES.items() if f'"{tusserver.__version__}"' in text] == ["__init__.py"]


def required() -> list[str]:
    """What the package, its extras and its tests ask for."""
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    return [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["test"], *chain(*extras)]


def test_the_lowest_lock_pins_each_package_at_its_lower_bound() -> None:
    """So `make test-lowest` runs what pyproject.toml allows, and nothing newer."""
    lock = (ROOT / "requirements-lowest.lock").read_text("utf-8")
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([0-9.]+)", lock, re.MULTILINE))
    bounds = [re.match(r"([A-Za-z0-9-]+)(?:\[.*?\])?>=([0-9.]+)", requirement) for requirement in required()]
    wanted = {bound[1]: bound[2] for bound in bounds if bound}

    assert len(wanted) == len({re.split(r"[^A-Za-z0-9-]", name)[0] for name in required()} - {"tusserver"})
    assert {name: pinned[name].removesuffix(".0").removesuffix(".0") for name in wanted} == {
        name: version.removesuffix(".0") for name, version in wanted.items()
    }


def test_the_lock_names_every_dependency_and_no_package_host() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    wanted = [*PYPROJECT["build-system"]["requires"]]
    wanted += required()
    wanted += [name for name in PYPROJECT["dependency-groups"]["dev"] if isinstance(name, str)]
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0] for requirement in wanted} - {"tusserver"}

    assert [name for name in sorted(names) if not re.search(rf"^{name}==", lock, re.MULTILINE)] == []
    assert not re.search(r"https?://|index-url|find-links", lock)
