"""The parts of the bench; each measures one promise and gives rows.

What is compared is interleaved, run by run, so that a busy moment of the machine meets both.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from statistics import median
from typing import TypeVar

from bench.report import FRUGAL, Row
from bench.rig import ACTS, IN_SEGMENTS, LONGEST, TURNS, Rig
from horarium.client import Run
from horarium.contract import Decision
from horarium.errors import Unreachable

CROWD = 50
MOST_BARE = 100  # turns; the server ends a bare workflow of a few hundred, for the size of its history
SOON = timedelta(seconds=60)  # for a run that has nothing left to do
AT_ONCE = 20  # runs that are started, looked at or decided side by side
HELD = 50  # parked runs that the evicting worker may keep
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each thing is repeated."""

    short: int = 9
    long: int = 5
    crowds: int = 3
    kills: int = 5
    decisions: int = 500
    parked: int = 1_000
    rounds: int = 8
    longest: int = 10_000  # turns
    settle: bool = True

    @classmethod
    def quick(cls) -> Effort:
        """Enough to see that all of it works."""
        return cls(short=2, long=1, crowds=1, kills=1, decisions=10, parked=30, rounds=2, longest=1_000, settle=False)


async def steps(rig: Rig, effort: Effort) -> list[Row]:
    """What a step costs at 10 and at 100 turns, and how much history it leaves.

    Against a bare workflow that sends the conversation to each activity, and, for those who would have been
    more frugal, against one that sends it to the model alone.
    """
    rows: list[Row] = []
    for turns, repeats, bar in ((10, effort.short, 1.2), (100, effort.long, 0.85)):
        ways: dict[str, Callable[[], Awaitable[str]]] = {
            "ours": partial(rig.run, turns),
            "each": partial(rig.bare, turns),
            "model": partial(rig.bare, turns, "model"),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(repeats + 1):  # the first one warms up
            for way, once in ways.items():
                seconds = await _timed(once(), turns)
                if repeat:
                    taken[way].append(seconds)
        rows.append(_compared("steps", f"a step, {turns} turns", "ms", taken["ours"], taken["each"], bar))
        rows.append(_frugal(_compared("steps", f"a step, {turns} turns", "ms", taken["ours"], taken["model"], None)))
        rows.append(_alone("steps", f"a step, {turns} turns, absolute", "ms", taken["ours"], 12))
    sizes = await rig.history_bytes(await rig.run(100)), await rig.history_bytes(await rig.bare(100, "model"))
    rows.append(_frugal(_compared("steps", "history of 100 turns", "bytes", [sizes[0]], [sizes[1]], 0.1)))
    return rows


def _frugal(row: Row) -> Row:
    return row.model_copy(update={"against": FRUGAL})


async def crowd(rig: Rig, effort: Effort) -> list[Row]:
    """Many runs at once."""

    async def rate(one: Callable[[int], Awaitable[str]]) -> float:
        began = time.monotonic()
        await asyncio.gather(*(one(10) for _ in range(CROWD)))
        return CROWD * _steps(10) / (time.monotonic() - began)

    ours, theirs = [], []
    for _ in range(effort.crowds):
        ours.append(await rate(rig.run))
        theirs.append(await rate(rig.bare))
    return [_compared("crowd", f"throughput, {CROWD} runs at once", "steps/s", ours, theirs, None)]


async def segments(rig: Rig, effort: Effort) -> list[Row]:
    """What a step costs when one activity makes many, beside one activity for each; and what is left behind."""
    rows: list[Row] = []
    for turns, repeats, bar in ((10, effort.short, None), (100, effort.long, 0.5), (1_000, effort.crowds, None)):
        taken: dict[str, list[float]] = {"segments": [], "steps": [], "bare": []}
        for _ in range(repeats):
            taken["segments"].append(await _timed(rig.run(turns, agent=f"{TURNS[turns]}{IN_SEGMENTS}"), turns))
            taken["steps"].append(await _timed(rig.run(turns), turns))
            if turns <= MOST_BARE:
                taken["bare"].append(await _timed(rig.bare(turns), turns))
        rows.append(_beside("a step", turns, taken))
        if taken["bare"]:
            rows.append(_compared("segments", f"a step, {turns} turns", "ms", taken["segments"], taken["bare"], None))
        if bar is not None:
            rows.append(_alone("segments", f"a step, {turns} turns, absolute", "ms", taken["segments"], bar))
    nothings: list[float] = []
    for turns in (5, 50):
        rates: dict[str, list[float]] = {"segments": [], "steps": []}
        for _ in range(effort.crowds):
            for way, agent in (("segments", f"{TURNS[turns]}{IN_SEGMENTS}"), ("steps", TURNS[turns])):
                rates[way].append(await _crowded(rig, turns, agent))
            if turns == 5:
                nothings.append(await _rate(rig.nothing))
        unit = "steps/s" if turns > 5 else "runs/s"
        rows.append(_beside(f"{CROWD} runs at once", turns, rates, unit))
        async with rig.another_worker():
            together = [await _crowded(rig, turns, f"{TURNS[turns]}{IN_SEGMENTS}") for _ in range(effort.crowds)]
        bar = 100.0 if turns == 5 else 3_000.0
        crowd_of_two = _alone("segments", f"{CROWD} runs at once, {turns} turns, two workers", unit, together, bar)
        rows.append(crowd_of_two.model_copy(update={"rate": True}))
    rows.append(_alone("segments", f"{CROWD} workflows at once that do nothing", "runs/s", nothings, None))
    began = time.monotonic()
    run = await rig.run(effort.longest, agent=f"{TURNS[effort.longest]}{IN_SEGMENTS}")
    rows.append(_alone("segments", f"a run of {effort.longest:,} turns", "s", [time.monotonic() - began], 20))
    rows.append(_shown("segments", "its history, the whole chain", "bytes", await rig.history_bytes(run)))
    rows.append(_alone("segments", "decision sent → effect", "ms", await _decided(rig, effort, IN_SEGMENTS), 50))
    kills = [await _killed_in_mid_step(rig, IN_SEGMENTS) for _ in range(effort.kills)]
    rows.append(_alone("segments", "kill -9 in mid-step → next step", "s", kills, 2.5))
    kills = [await _killed_at_random(rig, IN_SEGMENTS) for _ in range(effort.kills)]
    rows.append(_alone("segments", "kill -9 at a random moment → next step", "s", kills, 2.5))
    return rows


async def _crowded(rig: Rig, turns: int, agent: str) -> float:
    return await _rate(partial(rig.run, turns, agent=agent)) * (_steps(turns) if turns > 5 else 1)


async def _rate(once: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    await asyncio.gather(*(once() for _ in range(CROWD)))
    return CROWD / (time.monotonic() - began)


def _beside(measure: str, turns: int, taken: dict[str, list[float]], unit: str = "ms") -> Row:
    return Row(
        part="segments",
        measure=f"{measure}, {turns:,} turns",
        unit=unit,
        horarium=median(taken["segments"]),
        against="steps",
        other=median(taken["steps"]),
        samples=tuple(taken["segments"]),
        other_samples=tuple(taken["steps"]),
    )


async def tools(rig: Rig, effort: Effort) -> list[Row]:
    """What a step costs when the tools have a worker of their own."""
    apart = [await _timed(rig.run(100, agent="apart"), 100) for _ in range(effort.long)]
    return [_alone("tools", "a step, tools in a tool worker", "ms", apart, 18)]


async def kill(rig: Rig, effort: Effort) -> list[Row]:
    """From kill -9 of the only worker, a new one started at once, to the next step."""
    ways = {
        "in mid-step": _killed_in_mid_step,
        "between steps": _killed_between_steps,
        "at a random moment": _killed_at_random,
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(effort.kills):
        for way, measure in ways.items():
            taken[way].append(await measure(rig))
    return [_alone("kill", f"kill -9 {way} → next step", "s", seconds, 3) for way, seconds in taken.items()]


async def decide(rig: Rig, effort: Effort) -> list[Row]:
    """From the moment that a person's decision is sent to the start of its effect: median and p99.

    Sent, not answered: the way to the run counts too. A new run after every so many, so that none grows long.
    """
    taken = await _decided(rig, effort)
    slowest = sorted(taken)[math.ceil(len(taken) * 0.99) - 1]
    return [
        _alone("decide", "decision sent → effect", "ms", taken, 50),
        _shown("decide", "decision sent → effect, p99", "ms", slowest),
    ]


async def _decided(rig: Rig, effort: Effort, suffix: str = "") -> list[float]:
    taken: list[float] = []
    while len(taken) < effort.decisions:
        run = await rig.start(f"acts{suffix}")
        for _ in range(min(ACTS - 1, effort.decisions - len(taken))):
            approval = await rig.pending(run)
            sent = time.monotonic()
            await run.approve(approval, by="bench")
            taken.append((await rig.next_start(sent) - sent) * 1_000)
        await run.cancel()
        await run.result(SOON)
    return taken


async def parked(rig: Rig, effort: Effort) -> list[Row]:
    """Worker memory of a run that waits for a person, cached and evicted; then kill -9, and all of them go on.

    The first worker holds all of them. The second holds few: it is shown the same few runs until its memory grows no
    more, then all the others, so what is left is what a run costs that the worker has seen and forgotten.

    Raises:
        RuntimeError: A run did not complete, or its effect did not happen exactly once.
    """
    familiar = effort.parked // 10
    others = effort.parked - familiar
    await rig.restart_worker(max_cached_runs=2 * effort.parked)
    runs = await _park(rig, familiar)
    before = await rig.worker_bytes()
    runs += await _park(rig, others)
    cached = (await rig.worker_bytes() - before) / others

    await rig.restart_worker(max_cached_runs=min(HELD, max(familiar // 2, 1)))
    few = [await _shown_again(rig, runs[:familiar]) for _ in range(effort.rounds)]
    many = [await _shown_again(rig, runs[familiar:]) for _ in range(3)]
    evicted = (median(many) - median(few[-3:])) / others

    decisions = await _decisions(rig, runs)
    rig.stack.kill_worker()
    rig.set_worker()
    began = time.monotonic()
    rig.stack.start_worker()
    await asyncio.wait_for(_each(decisions, partial(_go_on, rig)), LONGEST.total_seconds())
    taken = time.monotonic() - began
    _all_once(rig, runs)
    return [
        _shown("parked", "memory of a parked run, cached", "bytes", cached),
        _shown("parked", "memory of a parked run, evicted", "bytes", evicted),
        _shown("parked", f"kill -9, {len(runs):,} approved → all done", "s", taken),
    ]


async def long(rig: Rig, effort: Effort) -> list[Row]:
    """A thousand turns cost and store no more each than a hundred."""
    rows: list[Row] = []
    runs = 10 if effort.settle else 2
    before = await _weighed(rig, effort)
    hundreds = [await _timed(rig.run(100), 100) for _ in range(runs)]
    between = await _weighed(rig, effort)
    thousand = await _timed(rig.run(1_000), 1_000)
    after = await _weighed(rig, effort)
    for _ in range(2):
        await rig.bare(100)
    with_bare = await _weighed(rig, effort)
    hundreds += [await _timed(rig.run(100), 100) for _ in range(runs)]  # before and after: machines have moods
    each, whole = (between - before) / (100 * runs), (after - between) / 1_000
    rows.append(
        Row(
            part="long",
            measure="a step, 1,000 turns",
            unit="ms",
            horarium=thousand,
            against="at 100 turns",
            other=median(hundreds),
            bar=1.1,
            other_samples=tuple(hundreds),
        )
    )
    rows.append(
        Row(
            part="long",
            measure="stored per turn, 1,000 turns",
            unit="bytes",
            horarium=whole,
            against="at 100 turns",
            other=each,
            bar=1.1,
        )
    )
    bare = (with_bare - after) / 2
    rows.append(_compared("long", "stored by a run of 100 turns", "bytes", [each * 100], [bare], None))
    return rows


PARTS: dict[str, Callable[[Rig, Effort], Awaitable[list[Row]]]] = {
    "steps": steps,
    "crowd": crowd,
    "tools": tools,
    "decide": decide,
    "parked": parked,
    "kill": kill,
    "long": long,
    "segments": segments,
}


# ---- parked runs


async def _each(things: Iterable[Given], do: Callable[[Given], Awaitable[Made]]) -> list[Made]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(thing: Given) -> Made:
        async with gate:
            return await do(thing)

    return list(await asyncio.gather(*(one(thing) for thing in things)))


async def _park(rig: Rig, count: int) -> list[Run]:
    """Start runs, and wait until each waits for its approval."""

    async def one(_: int) -> Run:
        run = await rig.start("act")
        await rig.pending(run)
        return run

    return await _each(range(count), one)


async def _shown_again(rig: Rig, runs: list[Run]) -> int:
    """Have the worker load each run, and look at its memory."""
    await _each(runs, rig.pending)
    return await rig.worker_bytes()


async def _decisions(rig: Rig, runs: list[Run]) -> list[tuple[Run, Decision]]:
    """An approval for each of these runs, as the inbox shows it."""
    inbox = {item.run_id: item for item in await rig.stack.client.approvals(limit=10 * len(runs))}
    return [
        (run, Decision(approval=item.id, digest=item.digest, by="bench", verdict="approve"))
        for run in runs
        for item in (inbox[run.id],)
    ]


async def _go_on(rig: Rig, decided: tuple[Run, Decision]) -> None:
    run, decision = decided
    while True:
        try:
            await rig.stack.client.decide(run.id, decision)
            break
        except Unreachable:  # the new worker is still starting
            await asyncio.sleep(0.1)
    result = await run.result(LONGEST)
    if result.status != "completed":
        raise RuntimeError(f"{run.id}: {result.status} after it was parked: {result.message}")


def _all_once(rig: Rig, runs: list[Run]) -> None:
    effects = rig.effects()
    wrong = {run.id: effects[run.id] for run in runs if effects[run.id] != 1}
    if wrong:
        raise RuntimeError(f"Of {len(runs)} parked runs, {len(wrong)} had not exactly one effect: {wrong}")


# ---- one measurement


def _steps(turns: int) -> int:
    return 2 * turns + 1  # a model call and a tool call each turn, and the model's last word


async def _timed(run: Awaitable[str], turns: int) -> float:
    began = time.monotonic()
    await run
    return (time.monotonic() - began) * 1_000 / _steps(turns)


async def _weighed(rig: Rig, effort: Effort) -> int:
    if effort.settle:
        await rig.tidied()
    return rig.stored_bytes()


async def _killed_in_mid_step(rig: Rig, suffix: str = "") -> float:
    began = time.monotonic()
    run = await rig.start(f"dawdle{suffix}")
    await rig.next_start(began)
    await asyncio.sleep(random.uniform(0.1, 1.5))
    killed = _kill(rig)
    taken = await rig.next_start(killed) - killed
    await run.result(SOON)
    return taken


async def _killed_between_steps(rig: Rig, suffix: str = "") -> float:
    run = await rig.start(f"act{suffix}")
    approval = await rig.pending(run)
    killed = _kill(rig)
    await run.approve(approval, by="bench")
    taken = await rig.next_start(killed) - killed
    await run.result(SOON)
    return taken


async def _killed_at_random(rig: Rig, suffix: str = "") -> float:
    began = time.monotonic()
    run = await rig.start(f"tick{suffix}")
    await rig.next_start(began)
    await asyncio.sleep(random.uniform(0.1, 1.5))
    killed = _kill(rig)
    taken = await rig.next_start(killed) - killed
    await run.cancel()
    await run.result(SOON)
    return taken


def _kill(rig: Rig) -> float:
    rig.stack.kill_worker()
    killed = time.monotonic()
    rig.stack.start_worker()
    return killed


def _shown(part: str, measure: str, unit: str, value: float) -> Row:
    return Row(part=part, measure=measure, unit=unit, horarium=value, judged="value")


def _alone(part: str, measure: str, unit: str, samples: list[float], bar: float | None) -> Row:
    return Row(
        part=part,
        measure=measure,
        unit=unit,
        horarium=median(samples),
        judged="value",
        bar=bar,
        samples=tuple(samples),
    )


def _compared(part: str, measure: str, unit: str, ours: list[float], theirs: list[float], bar: float | None) -> Row:
    return Row(
        part=part,
        measure=measure,
        unit=unit,
        horarium=median(ours),
        against="bare",
        other=median(theirs),
        bar=bar,
        samples=tuple(ours),
        other_samples=tuple(theirs),
    )
