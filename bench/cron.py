"""`python -m bench cron`: random cron lines, translated, against what a real server says that they fire.

The expected fires come from croniter and our rule at clock changes; nothing of the translation takes part in them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from statistics import median, quantiles

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from schedules.cron import CronLine, CronRefused
from schedules.translation import translate
from tests.engine.conftest import beside_python
from tests.schedules.differential import HASH_ID, Case, Tally, cases, compare
from tests.schedules.expressions import ZONES
from tests.support.engine import TUNING

EXPRESSIONS = 2_000
CASES_AT_ONCE = 200  # for one process; between these the counts go on
TIMED = 500  # translations
SHOWN = 5  # refusals of each kind, and mismatches


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 when a single fire differs."""
    parser = argparse.ArgumentParser(prog="python -m bench cron", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--expressions", type=int, default=EXPRESSIONS, metavar="N", help="Default: 2,000.")
    parser.add_argument("--seed", type=int, default=1, help="Other lines and other starts. Default: 1.")
    parser.add_argument("--zones", default=",".join(ZONES), help="Default: the eight that CI has.")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args(arguments)
    console, began = Console(), time.monotonic()
    zones = chosen.zones.split(",")
    timed = timings(chosen.seed)
    tally = asyncio.run(_measure(chosen.seed, chosen.expressions, zones, chosen.processes, console))
    console.print(_table(chosen.expressions, zones, chosen.seed, tally, timed, time.monotonic() - began))
    for line in _refusals(tally):
        console.print(line, markup=False, highlight=False)
    for mismatch in tally.mismatches[:SHOWN]:
        console.print(f"MISMATCH {mismatch}", markup=False, highlight=False)
    return 1 if tally.mismatches else 0


def timings(seed: int) -> list[float]:
    """Seconds that translations took, ascending; zones are looked up before."""
    taken: list[float] = []
    for case in cases(seed, TIMED // len(ZONES) + 1, ZONES):
        try:
            line = CronLine.parse(case.text, case.zone, repeat=case.repeat, gap=case.gap, hash_id=HASH_ID)
            line.fires(case.start, 1)
            began = time.perf_counter()
            translate(line, case.start)
        except CronRefused:
            continue
        taken.append(time.perf_counter() - began)
    return sorted(taken)


async def _measure(seed: int, expressions: int, zones: Sequence[str], processes: int, console: Console) -> Tally:
    total = Tally()
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=beside_python("temporal"),
        dev_server_extra_args=list(TUNING),
        dev_server_log_level="never",
    ) as environment:
        address = environment.client.service_client.config.target_host
        with (
            ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool,
            Progress(console=console, transient=True) as progress,
        ):
            shown = progress.add_task("comparing", total=expressions * len(zones))
            parts = list(_parts(list(cases(seed, expressions, zones))))
            loop = asyncio.get_running_loop()
            for done in asyncio.as_completed([loop.run_in_executor(pool, _part, address, part) for part in parts]):
                total += await done
                progress.update(shown, completed=total.cases)
    return total


def _part(address: str, part: list[Case]) -> Tally:
    async def work() -> Tally:
        return await compare(await Client.connect(address), part)

    return asyncio.run(work())


def _parts(these: list[Case]) -> Iterator[list[Case]]:
    for first in range(0, len(these), CASES_AT_ONCE):
        yield these[first : first + CASES_AT_ONCE]


def _table(
    expressions: int, zones: Sequence[str], seed: int, tally: Tally, timed: Sequence[float], seconds: float
) -> Table:
    shown = Table(title=f"cron lines, seed {seed}, {datetime.now(UTC):%Y-%m-%d}", show_header=False, box=None)
    shown.add_column("what")
    shown.add_column("figure", justify="right")
    shots, calendars = tally.one_shots or [0], tally.calendars or [0]
    rows = {
        "expressions × zones": f"{expressions:,} × {len(zones)}",
        "cases": f"{tally.cases:,}",
        "refused": f"{sum(tally.refusals.values()):,}",
        "fires compared": f"{tally.fires:,}",
        "clock changes crossed": f"{tally.changes:,}",
        "mismatches": f"{len(tally.mismatches):,}",
        "calendars, median / most": f"{median(calendars):g} / {max(calendars):,}",
        "one-shots, median / most": f"{median(shots):g} / {max(shots):,}",
        "translation, median / p95": f"{median(timed) * 1e3:.2f} / {quantiles(timed, n=20)[-1] * 1e3:.2f} ms",
        "took": f"{seconds:,.0f} s",
    }
    for what, figure in rows.items():
        shown.add_row(what, figure)
    return shown


def _refusals(tally: Tally) -> Iterator[str]:
    for kind, number in tally.refusals.most_common():
        yield f"refused, {kind}: {number:,}"
        lines = {text: (zone, reason) for which, text, zone, reason in tally.refused if which == kind}
        for text, (zone, reason) in sorted(lines.items())[:SHOWN]:
            yield f"  {text} in {zone}: {reason}"
