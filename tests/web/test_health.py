"""`/livez` and `/readyz`: what an orchestrator asks, and what it is told when something is wrong."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import httpx
import pytest

from tusserver import FileStore, MemoryStore, Tus
from tusserver.locks.file import FileLocker
from tusserver.protocol.errors import OutOfSpace, StoreUnavailable
from tusserver.web import health
from tusserver.web.health import Check, Health


class Fault:
    """A check that fails when told to; counts how often it was asked."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = 0
        self.hangs = False

    async def __call__(self) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


async def fine() -> None:
    """A check that passes."""


def uncached(**checks: Check) -> Health:
    """Checks that are run for each probe."""
    return Health(checks, fresh=0.0, timeout=0.05)


async def ask(app: Health, path: str = health.READY, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tus.test") as client:
        return await client.request(method, path)


async def ready(**checks: Check) -> tuple[int, dict[str, str]]:
    answer = await ask(uncached(**checks))
    return answer.status_code, answer.json()["checks"]


async def test_a_server_that_works_is_ready() -> None:
    answer = await ask(uncached(store=fine, locks=fine))
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "checks": {"store": "ok", "locks": "ok"}})
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("error", [StoreUnavailable("No such device"), OutOfSpace()])
async def test_what_is_wrong_is_named_and_the_rest_still_looked_at(error: Exception) -> None:
    fault = Fault()
    fault.error = error
    assert await ready(store=fault, locks=fine) == (503, {"store": str(error), "locks": "ok"})


async def test_an_error_of_another_kind_tells_a_prober_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fault = Fault()
    fault.error = ZeroDivisionError("secret")
    assert await ready(store=fault) == (503, {"store": "the check itself failed"})
    assert "secret" in caplog.text


async def test_a_disk_that_hangs_is_not_ready_and_is_asked_once() -> None:
    fault = Fault()
    fault.hangs = True
    app = uncached(store=fault)
    for _ in range(3):
        answer = await ask(app)
        assert (answer.status_code, answer.json()["checks"]) == (503, {"store": "no answer within 0.05 seconds"})
    assert fault.asked == 1


async def test_many_probes_cost_one_check() -> None:
    fault = Fault()
    app = Health({"store": fault}, fresh=1000.0)
    assert {(await ask(app)).status_code for _ in range(5)} == {200}
    assert {answer.status_code for answer in await asyncio.gather(*(ask(app) for _ in range(5)))} == {200}
    assert fault.asked == 1


async def test_a_server_that_recovers_is_ready_again_and_the_log_has_a_line_for_each_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault = Fault()
    app = uncached(store=fault)
    with caplog.at_level(logging.INFO, "tusserver.health"):
        for error in (None, OutOfSpace(), OutOfSpace(), None, None):
            fault.error = error
            assert (await ask(app)).status_code == (200 if error is None else 503)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["not ready: store: not enough space in the storage", "ready again: store"]


async def test_a_server_that_stops_is_not_ready_but_alive() -> None:
    app = uncached(store=fine)
    app.close()
    assert (await ask(app)).status_code == 503
    assert (await ask(app, health.LIVE)).json() == {"status": "ok"}
    app.open()
    assert (await ask(app)).status_code == 200


@pytest.mark.parametrize("path", [health.LIVE, health.READY])
async def test_only_reading_is_allowed(path: str) -> None:
    app = uncached(store=fine)
    refused = await ask(app, path, "POST")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert ((await ask(app, path, "HEAD")).status_code, (await ask(app, path, "HEAD")).content) == (200, b"")


# of a whole app ------------------------------------------------------------------------------------------------------


async def test_an_app_is_ready_from_its_start_to_its_stop(tmp_path: Path) -> None:
    tus = Tus(FileStore(tmp_path / "data"), locker=FileLocker(tmp_path / "locks"))
    async with tus.lifespan():
        answer = await ask(tus.health)
        assert (answer.status_code, answer.json()["checks"]) == (200, {"store": "ok", "locks": "ok"})
        assert json.loads(answer.content)["status"] == "ok"
    assert (await ask(tus.health)).status_code == 503


async def test_an_app_in_memory_is_ready() -> None:
    assert (await ask(Tus(MemoryStore()).health)).status_code == 200


async def test_a_data_folder_that_went_away_is_told(tmp_path: Path) -> None:
    app = uncached(store=FileStore(tmp_path / "data").check, locks=FileLocker(tmp_path / "locks").check)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "locks" / "held").unlink()
    answer = await ask(app)
    assert answer.status_code == 503
    assert answer.json()["checks"] == {
        "store": "the storage is not available: No such file or directory",
        "locks": "the storage is not available: the folder of the locks was removed",
    }
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    assert (await ask(app)).json()["checks"]["store"] == "ok"
