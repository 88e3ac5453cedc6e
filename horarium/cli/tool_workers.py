"""What `horarium doctor` looks at where tool workers are concerned: who serves what, and what nobody serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from horarium.contract import ENGINE_QUEUE, TOOL_QUEUE_PREFIX
from horarium.definitions import Agent
from horarium.durations import words
from horarium.errors import HorariumError
from horarium.ledger.agents import Agents, ServedTool, ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.toolworkers import ToolWorker, ToolWorkers, differing, group_of, other_release, own_version
from horarium.settings import Settings
from horarium.visible import one_line

Found = tuple[str, Literal["ok", "warn", "fail"], str, str]  # what was looked at, how it is, in words, what to do

CHECK = "tool workers"
_NAMED = 8  # tools, or processes, in one line


async def look_at_tool_workers(settings: Settings) -> list[Found]:
    """Look at who announced tools; nothing where the ledger is away, which is said of the ledger itself."""
    try:
        ledger = await Ledger.open(settings)
        try:
            workers, served = await ToolWorkers(ledger).all(), await ToolCatalog(ledger).all()
            agents = [version.agent for version in await Agents(ledger).newest()]
        finally:
            await ledger.close()
    except HorariumError:
        return []
    return list(of_rows(workers, served, agents, datetime.now(UTC)))


def of_rows(
    workers: Sequence[ToolWorker], served: Mapping[str, ServedTool], agents: Sequence[Agent], now: datetime
) -> Iterator[Found]:
    """Every group of tool workers, and whatever is wrong with it."""
    living = [worker for worker in workers if worker.lives(now)]
    queues = {tool.queue for tool in served.values()} | {worker.queue for worker in living}
    for queue in sorted(queues - {ENGINE_QUEUE}):
        owned = [name for name, tool in served.items() if tool.queue == queue]
        yield from _of_group(queue, owned, [worker for worker in workers if worker.queue == queue], agents, now)
    yield from _of_engine(served, living, agents)
    yield from _unlike(living)
    yield from _releases(living)


def _of_group(
    queue: str, owned: Sequence[str], workers: Sequence[ToolWorker], agents: Sequence[Agent], now: datetime
) -> Iterator[Found]:
    living = [worker for worker in workers if worker.lives(now)]
    name, group = one_line(queue.removeprefix(TOOL_QUEUE_PREFIX)), one_line(group_of(queue))
    if living:
        places = _listed(_place(worker, now) for worker in living)
        yield CHECK, "ok", f"{name}: {len(living)} {_plural(living)} ({places}); tools: {_listed(owned)}", ""
    missing = [tool for tool in owned if not any(tool in worker.tools for worker in living)]
    used = [tool for tool in missing if _users(tool, agents)]
    if used:
        whose = _listed(dict.fromkeys(user for tool in used for user in _users(tool, agents)))
        yield (
            CHECK,
            "fail",
            f"nobody serves {_listed(used)} of {group}, which {whose} may call; {_last(workers, now)}",
            f"Start it: horarium worker --tools --name {name}, or the program that calls serve_tools.",
        )
    elif missing and not living:
        what = f"{group} does not run, and no agent needs its tools: {_listed(missing)}; {_last(workers, now)}"
        yield CHECK, "warn", what, ""


def _of_engine(
    served: Mapping[str, ServedTool], living: Sequence[ToolWorker], agents: Sequence[Agent]
) -> Iterator[Found]:
    engines = [worker for worker in living if worker.queue == ENGINE_QUEUE]
    if not engines:
        return  # said of the server: no worker
    owned = (name for name, tool in served.items() if tool.queue == ENGINE_QUEUE)
    gone = [name for name in owned if _users(name, agents) and not any(name in engine.tools for engine in engines)]
    if gone:
        whose = _listed(dict.fromkeys(user for tool in gone for user in _users(tool, agents)))
        what = f"no engine worker has {_listed(gone)} any more, which {whose} may call"
        yield CHECK, "fail", what, "Put it back into tools/, or leave it out of the agent; then start the worker again."


def _unlike(living: Sequence[ToolWorker]) -> Iterator[Found]:
    said: set[tuple[str, str]] = set()
    for worker in living:
        for tool, others in differing(worker, living).items():
            if (worker.queue, tool) in said:
                continue
            said.add((worker.queue, tool))
            places = _listed(one_line(each.place) for each in (worker, *others))
            yield (
                CHECK,
                "fail",
                f"processes of {one_line(group_of(worker.queue))} serve {one_line(tool)!r} differently: {places}",
                "Whoever takes a call performs it: bring them to the same state, or name the groups apart.",
            )


def _releases(living: Sequence[ToolWorker]) -> Iterator[Found]:
    engine = next((worker.version for worker in living if worker.queue == ENGINE_QUEUE), own_version())
    unlike = [worker for worker in living if other_release(worker.version, engine)]
    if unlike:
        them = _listed(f"{one_line(worker.place)}: {one_line(worker.version)}" for worker in unlike)
        what = f"of another release of horarium than the engine's {one_line(engine)}: {them}"
        yield CHECK, "warn", what, "Install the same release in both environments."


def _users(tool: str, agents: Iterable[Agent]) -> list[str]:
    return [agent.name for agent in agents if tool in agent.tools]


def _place(worker: ToolWorker, now: datetime) -> str:
    python = ".".join(worker.python.split(".")[:2])
    return (
        f"process {worker.pid} on {one_line(worker.host)}, horarium {one_line(worker.version)}, "
        f"Python {one_line(python)}, seen {_ago(worker.seen_at, now)}"
    )


def _last(workers: Sequence[ToolWorker], now: datetime) -> str:
    last = max(workers, key=lambda worker: worker.seen_at, default=None)
    if last is None:
        return "nothing was heard of it in the last days"
    how = "it ended" if last.stopped_at is not None else "it was heard of last"
    return f"{how} {_ago(last.seen_at, now)}, as process {last.pid} on {one_line(last.host)}"


def _ago(moment: datetime, now: datetime) -> str:
    seconds = max(0, round((now - moment).total_seconds()))
    return f"{seconds} s ago" if seconds < 60 else f"{words(timedelta(seconds=seconds))} ago"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    shown = ", ".join(one_line(name) for name in every[:_NAMED]) or "none"
    return shown if len(every) <= _NAMED else f"{shown} and {len(every) - _NAMED} more"


def _plural(workers: Sequence[ToolWorker]) -> str:
    return "process" if len(workers) == 1 else "processes"
