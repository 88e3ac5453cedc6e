"""`python -m tests.chaos --kills 300 --seed 7`: kill for a while, then say what came of it."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
from typing import get_args

from rich.console import Console
from rich.table import Table

from horarium.leaving import leave
from tests.chaos.harness import IN_FLIGHT, Outcome, Target, chaos
from tests.support.stack import scratch

_VERDICTS = {"retry": "retried", "supply": "supplied"}


def main() -> int:
    """Exit code 0 when every promise was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None, help="Of what is killed when. Default: a new one.")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="Runs at any time. Default: %(default)s.")
    parser.add_argument(
        "--kill", nargs="+", choices=get_args(Target), default=["engine"], help="What is killed. Default: engine."
    )
    parser.add_argument("--keep", action="store_true", help="Keep the project: ledger, server file, logs, book.")
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(1_000_000)
    directory = scratch()
    console = Console()
    console.print(f"{chosen.kills} kills of {', '.join(chosen.kill)}, seed {seed}, in {directory}")
    work = chaos(directory, kills=chosen.kills, seed=seed, targets=tuple(chosen.kill), in_flight=chosen.in_flight)
    outcome = asyncio.run(work)
    console.print(table(outcome))
    for problem in outcome.problems:
        console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
    if not chosen.keep and not outcome.problems:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        console.print(f"Kept: {directory}")
    return 1 if outcome.problems else 0


def table(outcome: Outcome) -> Table:
    """The counts."""
    found = outcome.findings
    rows = Table("what", "count", title=f"Chaos, seed {outcome.seed}, {outcome.seconds:.0f} s")
    for what, count in (
        *((f"kills of {target}", count) for target, count in sorted(outcome.kills.items())),
        *((f"runs {status}", count) for status, count in sorted(outcome.runs.items())),
        *((f"people: {way}", count) for way, count in sorted(outcome.ways.items())),
        *((f"approvals {status}", count) for status, count in sorted(found.approvals.items())),
        ("approvals with changed arguments", found.edited),
        *((f"effects, {kind}", count) for kind, count in sorted(found.effects.items())),
        ("effects done twice", len(found.twice)),
        ("effects lost", len(found.lost)),
        ("effects without or before their approval", len(found.unapproved)),
        ("idempotent effects sent again with the same key, applied once", found.sent_again),
        ("unknown outcomes in the inbox", found.unknown.total()),
        *((f"unknown outcomes → {_VERDICTS.get(verdict, verdict)}", n) for verdict, n in sorted(found.unknown.items())),
        *((f"probe: {answer}", count) for answer, count in sorted(found.probed.items())),
        ("calls settled by the probe's word", found.verified),
        ("outcomes guessed", len(found.guessed)),
        ("unknown outcomes not in the inbox, or there without need", len(found.unseen)),
        ("questions and calls left over", len(found.left)),
        ("approvals with two winners", len(found.divided)),
        ("audit entries in an intact chain", found.audit_entries),
        ("runs that neither ended nor say what they wait for", len(outcome.unfinished)),
    ):
        rows.add_row(what, f"{count:,}")
    return rows


if __name__ == "__main__":
    leave(main())
