"""What tests do not do: lean on each other, patch constants of the package, fetch an answer and not read it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted((ROOT / "tests").rglob("*.py"))
    if "node_modules" not in path.parts
}
"""Each module of the tests by its path."""


def modules(tree: ast.Module) -> dict[str, str]:
    """Names that a module imports, with what each stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                names[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def test_no_test_imports_from_another_test() -> None:
    """What tests share stands in a module of their folder or in `tests/support`: so a test can be moved or split."""
    found = []
    for path, tree in TREES.items():
        found += [f"{path}: {name}" for name in modules(tree).values() if re.search(r"(^|\.)test_\w+(\.|$)", name)]

    assert [line for line in found if ": tests." in line] == []


def _is_setattr(function: ast.expr) -> bool:
    return ast.unparse(function).rpartition(".")[2] == "setattr"


def _full_name(owner: ast.expr, name: str, names: dict[str, str]) -> str:
    first, *rest = ast.unparse(owner).split(".")
    return ".".join([names.get(first, first), *rest, name])


def patched(tree: ast.Module) -> Iterator[str]:
    """Constants of the package that a test replaces: `module.NAME`."""
    names = modules(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=function, args=[ast.Constant(value=str(target)), *_]) if _is_setattr(function):
                pass
            case ast.Call(func=function, args=[owner, ast.Constant(value=str(name)), *_]) if _is_setattr(function):
                target = _full_name(owner, name, names)
            case ast.Subscript(
                value=ast.Call(func=ast.Name(id="vars"), args=[owner]),
                slice=ast.Constant(value=str(name)),
                ctx=ast.Store(),
            ):
                target = _full_name(owner, name, names)
            case _:
                continue
        if target.startswith("tusserver.") and re.fullmatch(r"_?[A-Z][A-Z0-9_]*", target.rpartition(".")[2]):
            yield target


def test_no_test_patches_a_constant_of_the_package() -> None:
    """A constant that a test wants otherwise is a keyword with a default: that survives a move of the constant."""
    assert [f"{path}: {target}" for path, tree in TREES.items() for target in patched(tree)] == []


def unread(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names that are bound to the outcome of a call and bound again, or never read: line and name."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for function in functions:
        for holder in ast.walk(function):
            for body in (getattr(holder, field, None) for field in ("body", "orelse", "finalbody")):
                if isinstance(body, list):
                    yield from _unread_within(body, function)


def _unread_within(body: list[ast.stmt], function: ast.AST) -> Iterator[tuple[int, str]]:
    for place, statement in enumerate(body):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Await() | ast.Call()):
                pass
            case _:
                continue
        again = None
        for later in body[place + 1 :]:
            uses = [node for node in ast.walk(later) if isinstance(node, ast.Name) and node.id == name]
            if any(isinstance(node.ctx, ast.Load) for node in uses):
                break
            if uses and isinstance(later, ast.Assign):
                again = later
                break
        else:
            outside = any(
                isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
                for node in ast.walk(function)
            ) or any(isinstance(node, (ast.Nonlocal, ast.Global)) and name in node.names for node in ast.walk(function))
            if outside:
                continue
            again = statement
        if again is not None:
            yield statement.lineno, name


def test_no_answer_is_fetched_and_never_read() -> None:
    """An answer that nobody looks at was to be asserted, or needs no name."""
    assert [f"{path}:{line} {name}" for path, tree in TREES.items() for line, name in unread(tree)] == []


def test_what_tests_do_not_do_would_be_found() -> None:
    tree = ast.parse(
        """
from tusserver.server import door
async def test(monkeypatch, client):
    monkeypatch.setattr(door, "YIELD", 1)
    monkeypatch.setattr("tusserver.stores.naming._TRIES", 1)
    monkeypatch.setattr(door, "function", 1)
    vars(door)["PAUSE"] = 1
    answer = await client.head()
    answer = await client.get()
    assert answer.status_code == 200
    if answer:
        other = await client.get()
"""
    )

    assert list(patched(tree)) == [
        f"tusserver.{name}" for name in ("server.door.YIELD", "stores.naming._TRIES", "server.door.PAUSE")
    ]
    assert list(unread(tree)) == [(8, "answer"), (12, "other")]
