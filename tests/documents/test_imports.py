"""The contracts of imports in pyproject.toml cover a module as soon as it is added: shown in copies of the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wire import TIMEOUT

ROOT = Path(__file__).parents[2]

LAYERS = "Layers: a module imports only from layers below its own"
LIBRARIES = "What an app embeds needs no extra, and a heavy library is imported in one place"
SERVICE = "The service knows ports, no adapters, and nothing of HTTP"
PORTS = "A port knows none of its adapters"
ADAPTERS = "Adapters do not know each other"


def broken(folder: Path, added: dict[str, str]) -> set[str]:
    """Add lines to modules, existing or new, of a copy of the package; return the contracts that this breaks."""
    package = folder / "tusserver"
    shutil.copytree(ROOT / "tusserver", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, lines in added.items():
        module = package / name
        for parent in module.relative_to(folder).parents[:-1]:
            (folder / parent).mkdir(exist_ok=True)
            (folder / parent / "__init__.py").touch()
        with module.open("a", encoding="utf-8") as file:
            file.write(f"\n{lines}\n")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "pyproject.toml")],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    found = set(re.findall(r"^(.+) BROKEN", done.stdout, re.MULTILINE))
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 0) is (not found)
    return found


def test_new_adapters_with_imports_as_they_should_be_break_nothing(tmp_path: Path) -> None:
    added = {
        "stores/s3/store.py": "import tusserver.stores.base, tusserver.stores.s3.client",
        "stores/s3/client.py": "import boto3, botocore",
        "locks/redis.py": "import redis, tusserver.locks.base",
        "indexes/redis.py": "import redis, tusserver.protocol.upload",
        "hooks/webhook.py": "import tusserver.events, tusserver.text",
        "auth/jwt.py": "import jwt, tusserver.protocol.dialect",
        "text.py": "",
        "metrics.py": "import prometheus_client, tusserver.events",
        "tracing.py": "import opentelemetry, tusserver.events",
        "service/uploads.py": "import tusserver.stores.base, tusserver.locks.base",
        "assembly.py": "import tusserver.stores.s3.store, tusserver.locks.redis, tusserver.hooks.webhook",
    }

    assert broken(tmp_path, added) == set()


@pytest.mark.parametrize(
    ("added", "contract"),
    [
        ({"service/uploads.py": "import tusserver.stores.s3.store", "stores/s3/store.py": ""}, SERVICE),
        ({"service/new.py": "import tusserver.locks.redis", "locks/redis.py": ""}, SERVICE),
        ({"service/deep/new.py": "import tusserver.indexes.redis", "indexes/redis.py": ""}, SERVICE),
        ({"service/uploads.py": "import tusserver.hooks.webhook", "hooks/webhook.py": ""}, SERVICE),
        ({"service/uploads.py": "import tusserver.auth.jwt", "auth/jwt.py": ""}, SERVICE),
        ({"stores/base.py": "import tusserver.stores.s3.store", "stores/s3/store.py": ""}, PORTS),
        ({"hooks/base.py": "import tusserver.hooks.webhook", "hooks/webhook.py": ""}, PORTS),
        ({"stores/s3/store.py": "import tusserver.stores.memory"}, ADAPTERS),
        ({"stores/s3/store.py": "import tusserver.stores.file"}, ADAPTERS),
        ({"stores/memory.py": "import tusserver.stores.s3.store", "stores/s3/store.py": ""}, ADAPTERS),
        ({"locks/redis.py": "import tusserver.locks.memory"}, ADAPTERS),
        ({"hooks/webhook.py": "import tusserver.hooks.executable", "hooks/executable.py": ""}, ADAPTERS),
        ({"stores/s3/store.py": "import boto3"}, LIBRARIES),
        ({"app.py": "import prometheus_client"}, LIBRARIES),
        ({"hooks/webhook.py": "import requests"}, LIBRARIES),
        ({"service/uploads.py": "import redis"}, LIBRARIES),
        ({"stores/s3/store.py": "import tusserver.locks.base"}, LAYERS),
        ({"protocol/ietf.py": "import tusserver.streams"}, LAYERS),
        ({"observers.py": ""}, LAYERS),  # a module of no layer
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_forbidden_import_is_found(added: dict[str, str], contract: str, tmp_path: Path) -> None:
    assert contract in broken(tmp_path, added)
