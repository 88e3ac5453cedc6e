"""`python -m bench`: measure, print the table, write the JSON."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import cron, load, search, storm
from bench.parts import PARTS, Effort
from bench.report import Report, Row, table
from bench.rig import running_rig
from horarium.leaving import leave
from tests.support.stack import scratch

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when it ran, whatever the figures: a busy machine is no failure."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["cron"]:
        return cron.main(given[1:])
    if given[:1] == ["search"]:
        return search.main(given[1:])
    if given[:1] == ["load"]:
        return load.main(given[1:])
    if given[:1] == ["storm"]:
        return storm.main(given[1:])
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Horarium's promises, steps against a bare Temporal workflow that does the same.",
        epilog="parts:\n"
        + "\n".join(f"  {name:10}{_first_line(part)}" for name, part in PARTS.items())
        + "\n\nalso:\n  python -m bench cron    Cron lines against a real server: are there mismatches?"
        + "\n  python -m bench load    200 watchers and 100 starts a second over HTTP: how late, is anything lost?"
        + "\n  python -m bench search  Tool search: is the right tool among the five shown?"
        + "\n  python -m bench storm   A thousand routines at the same second: how late, how many at once?",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="PARTS", help="Some of the parts below, as in: decide,parked. Default: all.")
    parser.add_argument("--quick", action="store_true", help="Few repetitions: to see that it works, not how well.")
    parser.add_argument("--out", type=Path, help="JSON file. Default: bench/results/<time>.json")
    chosen = parser.parse_args(given)
    parts = chosen.only.split(",") if chosen.only else list(PARTS)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    console = Console()
    directory = scratch()
    try:
        rows = asyncio.run(measure(directory, parts, Effort.quick() if chosen.quick else Effort(), console))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report = Report.of(rows, quick=chosen.quick)
    file = chosen.out or RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    report.write(file)
    console.print(table(report))
    console.print(f"Written to {file}")
    return 0


async def measure(directory: Path, parts: list[str], effort: Effort, console: Console) -> list[Row]:
    """All rows of these parts."""
    rows: list[Row] = []
    with console.status("starting the server and the workers"):
        async with running_rig(directory) as rig:
            for part in parts:
                console.print(f"measuring {part} …")
                rows += await PARTS[part](rig, effort)
    return rows


def _first_line(part: Callable[..., object]) -> str:
    return (part.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    leave(main())
