"""The short form of `make torture`. What fails here is looked for with the long one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.torture.run import Plan, command_of, report, torture


@pytest.mark.parametrize(("workers", "app"), [(1, True), (2, False)])
def test_a_tormented_server_keeps_its_promises(workers: int, app: bool, tmp_path: Path) -> None:
    plan = Plan(
        seed=random.SystemRandom().randrange(1 << 32),
        time=2,
        round=2,
        clients=4,
        strangers=1,
        workers=workers,
        life=1.5,
        sweep=0.1,
        finished=workers == 2,
        app=app,
    )
    ledger = torture(plan, tmp_path / "data", lambda text: None)

    assert not ledger.broken, f"{command_of(plan)}:\n{report(ledger)}"
    assert ledger.counts["uploads"]
    assert ledger.counts["starts"]
