"""`horarium run`: start a run, and follow one until it ends.

The command is only a spectator: whatever becomes of it, the run goes on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from horarium.cli import evidence, talk, words
from horarium.cli.follow import JsonLines, Screen, WaitingOnly, follow
from horarium.cli.reach import opened_client, run_id
from horarium.contract import RunResult, Status
from horarium.errors import AgentNotFound
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.ledger.runs import Runs
from horarium.problems import near_miss
from horarium.settings import Settings

if TYPE_CHECKING:
    from horarium.client import Run

JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")]


def run(
    agent: Annotated[
        str, typer.Argument(metavar="AGENT", help="Its name, or NAME@VERSION for one that is not the newest.")
    ],
    input: Annotated[str | None, typer.Argument(metavar="INPUT", help="What you ask; - reads it from stdin.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print the final answer.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="As --wait, and print every step as it happens.")] = False,
    key: Annotated[str | None, typer.Option(help="The same key is the same run, however often it is started.")] = None,
    thread: Annotated[str | None, typer.Option(help="The conversation to go on with; else a new one.")] = None,
    resume_from: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Continue a run that ended early, after its last settled step."),
    ] = None,
    by: Annotated[str | None, typer.Option(envvar="HORARIUM_BY", metavar="NAME", help="Who starts it.")] = None,
    meta: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Stored with the run; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run of an agent; print its id, or wait for its answer.

    The run goes on whatever happens to this command: Ctrl-C only stops looking.

    \b
    Exit codes: 0 done, 1 the run did not complete, 2 you typed it wrong,
    3 cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium run hello "Good morning"
      horarium run hello "Good morning" --watch
      cat build.log | horarium run log-triage - --wait > answer.txt
    """
    asked = _asked(input, resume_from)
    name, version = _agent(agent)
    options: dict[str, Any] = {
        "key": key, "thread": thread, "version": version, "requested_by": by, "metadata": _metadata(meta or [])
    }  # fmt: skip
    talk.perform(_run(name, asked, resume_from, options, wait=wait or watch, watch=watch, as_json=as_json))


async def _run(
    agent: str,
    asked: str | None,
    resume_from: str | None,
    options: dict[str, Any],
    *,
    wait: bool,
    watch: bool,
    as_json: bool,
) -> int:
    settings = Settings.load()
    async with opened_client(settings) as (client, ledger):
        await _known(ledger, settings, agent)
        resumed = await run_id(ledger, resume_from) if resume_from else None
        run = await client.start(agent, asked, resume_from=resumed, **options)
        if wait:
            return await to_the_end(ledger, run, watch=watch, as_json=as_json, talking=True)
        record = await Runs(ledger).get(run.id)
        if as_json:
            talk.emit(evidence.run_json(record))
        else:
            talk.out().print(Text(run.id))
            talk.say(f"Started {agent}. See it go: horarium runs watch {run.id}")
        return talk.DONE


async def to_the_end(ledger: Ledger, run: Run, *, watch: bool, as_json: bool, talking: bool) -> int:
    """Follow a run and say how it ended. `talking`: the steps are talk and only the answer is the result."""
    try:
        result = await _followed(ledger, run, watch=watch, as_json=as_json, talking=talking)
    except asyncio.CancelledError:
        talk.say(f"The run goes on. See it again: horarium runs watch {run.id}")
        raise
    record = await Runs(ledger).get(run.id)
    output = await evidence.final_answer(ledger, record) or result.output
    if as_json:
        said = result.model_dump(mode="json") | {"output": output, "output_truncated": False}
        talk.emit({"type": "result", **said} if watch else said)
    elif output:
        # In a pipe the answer is passed on as it is; on a terminal it may not steer it.
        print(words.harmless(output) if sys.stdout.isatty() else output, flush=True)
    if result.status == "completed":
        return talk.DONE
    talk.problem(*_not_completed(result))
    return talk.RUN_FAILED


async def _followed(ledger: Ledger, run: Run, *, watch: bool, as_json: bool, talking: bool) -> RunResult:
    console = talk.err() if talking else talk.out()
    if watch and as_json:
        return await follow(run, JsonLines(run.id))
    if not watch:
        return await follow(run, WaitingOnly(ledger, console))
    if talking:
        talk.say(f"Run {run.id}")
    with Screen(ledger, console) as screen:
        return await follow(run, screen)


def _not_completed(result: RunResult) -> tuple[str, str]:
    reason = f" ({result.reason})" if result.reason and result.reason != result.status else ""
    because = f": {words.one_line(result.message)}" if result.message and result.status != "cancelled" else "."
    hint = f"See what it did: horarium runs show {result.run}"
    return f"The run {_ended(result.status)}{reason}{because}", hint


def _ended(status: Status) -> str:
    return {"incomplete": "stopped at a limit", "cancelled": "was cancelled"}.get(status, status)


def _asked(input: str | None, resume_from: str | None) -> str | None:
    if input == "-":
        input = sys.stdin.read()
    if input is not None and not input.strip():
        raise typer.BadParameter("the input is empty", param_hint="INPUT")
    if input is None and resume_from is None:
        raise typer.BadParameter('say what you ask, e.g. horarium run hello "Good morning"', param_hint="INPUT")
    return input


def _agent(said: str) -> tuple[str, int | None]:
    name, at, version = said.partition("@")
    if at and not (version.isdecimal() and int(version)):
        raise typer.BadParameter(f"{version!r} is no version; write e.g. {name}@2", param_hint="AGENT")
    return name, int(version) if at else None


def _metadata(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--meta")
        found[name] = value
    return found


async def _known(ledger: Ledger, settings: Settings, agent: str) -> None:
    """Refuse a name that neither the ledger nor the project's files know, before a run is started for nothing."""
    from horarium.project import AgentFiles

    names = await Agents(ledger).names()
    if agent not in names:
        names = sorted({*names, *AgentFiles(settings).current()})
    if agent not in names:
        raise AgentNotFound(
            f"There is no agent {agent!r}{near_miss(agent, names) or '.'}",
            hint="See which there are: horarium agents list",
        )
