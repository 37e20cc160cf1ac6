"""python -m tests.torture: torment a server under load for minutes, and see whether it keeps its promises.

python -m tests.torture --minutes 10                    one process
python -m tests.torture --minutes 10 --workers 4        four
python -m tests.torture --seed 7                        the same clients and torments as another run with that seed
python -m tests.torture --no-app --no-clock             leave some of it out, to see what a failure needs
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.torture.run import Plan, command_of, report, torture


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server (1)")
    parser.add_argument("--clients", type=int, default=8, help="clients at once (8)")
    parser.add_argument("--strangers", type=int, default=2, help="who look at uploads of others all the time (2)")
    parser.add_argument("--finished", action="store_true", help="give finished files readable names")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of a former run")
    for name, about in (
        ("joins", "make final uploads before their parts are complete"),
        ("app", "tell an app of each complete upload, which fails or refuses at times"),
        ("beside", "in every other round, run a server without that app on the same folder"),
        ("clock", "set the wall clock wrong for a moment"),
    ):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=about)
    given = parser.parse_args()
    plan = Plan(
        seed=given.seed,
        time=60 * given.minutes,
        clients=given.clients,
        strangers=given.strangers,
        workers=given.workers,
        finished=given.finished,
        joins=given.joins,
        app=given.app,
        beside=given.beside,
        clock=given.clock,
    )
    tell(f"seed {plan.seed}: {command_of(plan)} does the same")
    with tempfile.TemporaryDirectory(prefix="tusserver-torture-") as folder:
        ledger = torture(plan, Path(folder) / "data", tell)
    tell(report(ledger))
    return 1 if ledger.broken else 0


if __name__ == "__main__":
    sys.exit(main())
