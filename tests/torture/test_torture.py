"""The short form of `make torture`. What fails here is looked for with the long one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.torture.run import Plan, report, torture


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tormented_server_keeps_its_promises(workers: int, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    plan = Plan(seed=seed, time=5, round=5, clients=4, workers=workers, life=2, sweep=0.2, finished=workers == 2)
    ledger = torture(plan, tmp_path / "data", lambda text: None)

    assert not ledger.broken, (
        f"make torture ARGS='--seed {seed} --workers {workers}{' --finished' * plan.finished}':\n{report(ledger)}"
    )
    assert ledger.counts["uploads"]
    assert ledger.counts["starts"]
