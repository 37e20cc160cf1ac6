"""The house is what docs/architecture.md says: rooms, face, version, lock. For other documents see tests/documents."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import tusserver

ROOT = Path(__file__).parent.parent


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


def required(project: dict[str, Any]) -> list[str]:
    """What the package, its extras and its tests ask for."""
    extras = project["project"]["optional-dependencies"].values()
    return [*project["project"]["dependencies"], *project["dependency-groups"]["test"], *chain(*extras)]


def test_the_lowest_lock_pins_each_package_at_its_lower_bound() -> None:
    """So `make test-lowest` runs what pyproject.toml allows, and nothing newer."""
    lock = (ROOT / "requirements-lowest.lock").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([0-9.]+)", lock, re.MULTILINE))
    bounds = [re.match(r"([A-Za-z0-9-]+)(?:\[.*?\])?>=([0-9.]+)", requirement) for requirement in required(project)]
    wanted = {bound[1]: bound[2] for bound in bounds if bound}

    assert len(wanted) == len({re.split(r"[^A-Za-z0-9-]", name)[0] for name in required(project)} - {"tusserver"})
    assert {name: pinned[name].removesuffix(".0").removesuffix(".0") for name in wanted} == {
        name: version.removesuffix(".0") for name, version in wanted.items()
    }


def test_the_lock_names_every_dependency_and_no_package_host() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["build-system"]["requires"]]
    wanted += required(project)
    wanted += [name for name in project["dependency-groups"]["dev"] if isinstance(name, str)]
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0] for requirement in wanted} - {"tusserver"}

    assert [name for name in sorted(names) if not re.search(rf"^{name}==", lock, re.MULTILINE)] == []
    assert not re.search(r"https?://|index-url|find-links", lock)
