"""Fires of a dozen routines while the worker and the server are killed at their very moments.

What should have come is known beforehand: each routine begins and ends at an instant, and the schedules' own oracle
says what lies between. What came is counted in the ledger, in Temporal, and in a book that the tool itself writes.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from horarium.routines import Routine
from schedules.expected import Fire, expected
from tests.chaos.fire_counting import ALL, Evidence, Findings, count, running
from tests.support.stack import Stack, running_stack

LEAD = timedelta(seconds=10)  # from the order to the first fire: by then all schedules have to be there
BETWEEN_KILLS = (1.0, 6.0)  # seconds from the last start to the fire that the next kill is aimed at
AROUND = (-0.3, 0.7)  # seconds from that fire to the kill
DOWN = (0.0, 1.5)  # seconds until what was killed is started again
SETTLES = 180.0  # seconds for what is due and not done after the last fire
CATCH_UP = timedelta(minutes=10)
TARGETS = ("engine", "server", "engine and server")

TRIGGERS: dict[str, dict[str, dict[str, str]]] = {
    "every-two": {"t": {"every": "2s"}},
    "every-three": {"t": {"every": "3s", "offset": "1s"}},
    "every-four": {"t": {"every": "4s", "offset": "3s"}},
    "every-five": {"t": {"every": "5s"}},
    "spread": {"t": {"every": "5s", "offset": "2s"}},
    "cron-two": {"t": {"cron": "* * * * * */2"}},
    "cron-three": {"t": {"cron": "* * * * * */3", "time_zone": "Europe/Berlin"}},
    "cron-four": {"t": {"cron": "* * * * * 1-59/4", "time_zone": "Asia/Kathmandu"}},
    "cron-five": {"t": {"cron": "* * * * * 4-59/5", "time_zone": "America/New_York"}},
    "cron-list": {"t": {"cron": "* * * * * 7,8,20,31,44,59"}},
    "cron-minute": {"t": {"cron": "* * * * *"}},
    "two-triggers": {"a": {"every": "3s"}, "b": {"cron": "* * * * * */5"}},  # often at the same second: one tick
}
JITTER = {"spread": "2s"}

AGENT = "name: clerk\nmodel: scripted:scripts/clerk.yaml\ntools: [count]\n"
SCRIPT = json.dumps([{"calls": [{"name": "count", "arguments": {}}]}, {"text": "Counted."}])
# The probe always answers, so no kill may leave a tick waiting for people, or have it count twice.
TOOLS = '''
import asyncio
import json
import os
import random
from pathlib import Path

from horarium import NotPerformed, Performed, ToolContext, tool

BOOK = Path(__file__).resolve().parent.parent / "book.jsonl"


def look_it_up(context: ToolContext, arguments: dict[str, object]) -> Performed | NotPerformed:
    """Whether this call is in the book."""
    lines = BOOK.read_text("utf-8").splitlines() if BOOK.exists() else []
    done = any(json.loads(line)["key"] == context.idempotency_key for line in lines)
    return Performed("counted") if done else NotPerformed()


@tool(effect="external", verify=look_it_up)
async def count(context: ToolContext) -> str:
    """Count this tick."""
    await asyncio.sleep(random.uniform(0, 0.2))
    book = os.open(BOOK, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(book, (json.dumps({"step": context.step_id, "key": context.idempotency_key}) + "\\n").encode())
    finally:
        os.close(book)
    await asyncio.sleep(random.uniform(0, 0.2))
    return "counted"
'''


@dataclass(slots=True)
class Outcome:
    """What came of it all."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that breaks a promise, in words; empty when all is well."""
        return self.findings.problems


async def fires(directory: Path, *, due: int, seed: int) -> Outcome:
    """Have at least `due` fires come due while worker and server are killed; let all end, and count."""
    async with running_stack(
        directory,
        agents={"clerk": AGENT},
        tools_source=TOOLS,
        scripts={"clerk.yaml": SCRIPT},
        settings='[routines]\nmin_interval = "1s"\n',
    ) as stack:
        return await _Fires(stack, seed).go(due)


def routines(start: datetime, end: datetime | None = None) -> list[Routine]:
    """The dozen, from one instant to another."""
    common: dict[str, Any] = {
        "agent": "clerk",
        "input": "Count {{ tick.id }}.",
        "overlap": "allow_all",
        "catch_up": CATCH_UP,
        "preapproved": [{"tool": "count"}],
        "start": start,
        "end": end,
    }
    return [
        Routine.model_validate({"name": name, "triggers": triggers, "jitter": JITTER.get(name, "0s"), **common})
        for name, triggers in TRIGGERS.items()
    ]


def planned(due: int, start: datetime) -> tuple[list[Routine], dict[str, Fire]]:
    """Routines that end when so many fires have come due, and all these fires by the id of their tick."""
    end = start
    while True:
        end += timedelta(seconds=5)
        dozen = routines(start, end)
        found = {fire.id: fire for routine in dozen for fire in expected(routine, start - CATCH_UP, end, ALL)}
        if len(found) >= due:
            return dozen, found


class _Fires:
    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._random = random.Random(seed)
        self._outcome = Outcome(seed)

    async def go(self, due: int) -> Outcome:
        began = time.monotonic()
        start = datetime.now(UTC).replace(microsecond=0) + LEAD
        dozen, wanted = planned(due, start)
        await asyncio.gather(*(self._stack.client.put_routine(routine, by="chaos") for routine in dozen))
        if datetime.now(UTC) >= start:
            raise RuntimeError(
                f"Deploying {len(dozen)} routines took longer than {LEAD}: nothing can be said of fires."
            )
        moments = sorted({fire.at for fire in wanted.values()})
        await self._kill_until_the_last(moments)
        await self._settled(wanted)
        evidence = await Evidence.of(self._stack.client, self._stack.directory / "book.jsonl")
        self._outcome.findings = count(wanted, evidence)
        self._outcome.seconds = time.monotonic() - began
        return self._outcome

    async def _kill_until_the_last(self, moments: Sequence[datetime]) -> None:
        while True:
            soon = datetime.now(UTC) + timedelta(seconds=self._random.uniform(*BETWEEN_KILLS))
            aimed = next((moment for moment in moments if moment >= soon), None)
            if aimed is None:
                await _sleep_until(moments[-1])
                return
            await _sleep_until(aimed + timedelta(seconds=self._random.uniform(*AROUND)))
            target = self._random.choice(TARGETS)
            if "engine" in target:
                self._stack.kill_worker()
            if "server" in target:
                self._stack.kill_server()
            await asyncio.sleep(self._random.uniform(*DOWN))
            if "server" in target:
                await self._stack.start_server()
            if "engine" in target:
                self._stack.start_worker()
                await self._stack.worker_ready()
            self._outcome.kills[target] += 1

    async def _settled(self, wanted: Mapping[str, Fire]) -> None:
        """Wait until every tick is there and none is open; whoever still is then is counted as left over."""
        deadline = time.monotonic() + SETTLES
        while time.monotonic() < deadline:
            ended = {tick.id for tick in await self._stack.client.ticks(limit=ALL) if not tick.is_open}
            if wanted.keys() <= ended and not await running(self._stack.client.temporal):
                return
            await asyncio.sleep(0.5)


def table(outcome: Outcome) -> Table:
    """The counts."""
    found = outcome.findings
    late = found.lateness or [0.0]
    rows = Table("what", "count", title=f"Fires, seed {outcome.seed}, {outcome.seconds:.0f} s")
    for what, number in (
        *((f"kills of {target}", kills) for target, kills in sorted(outcome.kills.items())),
        ("fires due", found.due),
        *((f"ticks {status}", ticks) for status, ticks in sorted(found.ticks.items())),
        ("workflows of ticks started", found.starts),
        ("of these, later ones, which found their tick done", found.found_done),
        ("effects", found.effects),
        ("fires lost", len(found.lost)),
        ("fires or effects done twice", len(found.twice)),
        ("ticks without a fire", len(found.outside)),
        ("ticks that ended badly", len(found.badly)),
        ("ticks of which a crash used up an attempt", len(found.used_up)),
        ("ticks left over", len(found.left)),
    ):
        rows.add_row(what, f"{number:,}")
    rows.add_row("scheduled → started, median / most", f"{median(late):.2f} / {late[-1]:.1f} s")
    return rows


async def _sleep_until(moment: datetime) -> None:
    await asyncio.sleep(max((moment - datetime.now(UTC)).total_seconds(), 0))
