"""`python -m tests.chaos --kills 300 --fires 500 --seed 7`: kill for a while, then say what came of it.

Two parts: runs in flight, and routines that fire. Naming one does that one alone.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from rich.console import Console
from rich.table import Table

from horarium.definition import Execution
from horarium.leaving import leave
from tests.chaos.fires import Outcome as FiresOutcome
from tests.chaos.fires import fires
from tests.chaos.fires import table as fires_table
from tests.chaos.harness import IN_FLIGHT, Outcome, Target, chaos
from tests.support.stack import scratch

KILLS, FIRES = 300, 500
Done = TypeVar("Done", Outcome, FiresOutcome)
_VERDICTS = {"retry": "retried", "supply": "supplied"}


def main() -> int:
    """Exit code 0 when every promise was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[2])
    parser.add_argument("--kills", type=int, help=f"While runs are in flight. Default: {KILLS}.")
    parser.add_argument("--fires", type=int, help=f"Of routines, with kills around them. Default: {FIRES}.")
    parser.add_argument("--seed", type=int, default=None, help="Of what is killed when. Default: a new one.")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="Runs at any time. Default: %(default)s.")
    parser.add_argument(
        "--kill", nargs="+", choices=get_args(Target), default=["engine"], help="With --kills. Default: engine."
    )
    parser.add_argument("--execution", choices=get_args(Execution), default="steps", help="Default: %(default)s.")
    parser.add_argument("--mcp", action="store_true", help="With --kills: the tools are behind an MCP server.")
    parser.add_argument("--keep", action="store_true", help="Keep the projects: ledger, server file, logs, book.")
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(1_000_000)
    both = chosen.kills is None and chosen.fires is None
    kills, due = (KILLS, FIRES) if both else (chosen.kills or 0, chosen.fires or 0)
    console = Console()
    well = True
    if kills:
        targets = tuple(chosen.kill)
        said = f"{kills} kills of {', '.join(targets)}{', tools behind MCP' if chosen.mcp else ''}, {chosen.execution}"
        work = partial(
            chaos,
            kills=kills,
            seed=seed,
            targets=targets,
            in_flight=chosen.in_flight,
            mcp=chosen.mcp,
            execution=chosen.execution,
        )
        well &= _part(console, f"{said}, seed {seed}", work, table, chosen.keep)
    if due:
        well &= _part(
            console, f"{due} fires, seed {seed}", partial(fires, due=due, seed=seed), fires_table, chosen.keep
        )
    return 0 if well else 1


def _part(
    console: Console,
    what: str,
    work: Callable[[Path], Coroutine[Any, Any, Done]],
    shown: Callable[[Done], Table],
    keep: bool,
) -> bool:
    """Do one part in a project of its own, and print the counts; whether every promise was kept."""
    directory = scratch()
    console.print(f"{what}, in {directory}")
    outcome = asyncio.run(work(directory))
    console.print(shown(outcome))
    for problem in outcome.problems:
        console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
    if keep or outcome.problems:
        console.print(f"Kept: {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return not outcome.problems


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
