"""`horarium runs`: look at runs, talk to them, end them. `run`, the command that starts one, is in `start`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import typer
from rich.text import Text

from horarium.cli import evidence, sub_runs, talk, tick_diff, words
from horarium.cli.approvals import answered, check_verdict
from horarium.cli.follow import asking
from horarium.cli.reach import find_run, glance, opened_client, opened_ledger, run_id
from horarium.cli.start import JsonOption, run, to_the_end
from horarium.contract import Status, Waiting
from horarium.errors import Conflict, NotFound
from horarium.ids import split_step_id
from horarium.ledger.database import Ledger
from horarium.ledger.runs import Runs
from horarium.problems import near_miss
from horarium.settings import Settings

__all__ = ["app", "run"]

app = typer.Typer(no_args_is_help=True, help="See what runs did and do, talk to them, and end them.")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or as much of it as is unique.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]
ByOption = Annotated[str | None, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who says it.")]
VERDICTS = ("retry", "supply", "skip", "fail")


@app.command("list")
def list_(
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help=f"Only these: {', '.join(get_args(Status))}. May be repeated."),
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="Also the runs of sub-agents.")] = False,
    latest: Annotated[bool, typer.Option("--latest", help="Only the newest one.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the ids.")] = False,
    as_json: JsonLinesOption = False,
) -> None:
    """List runs, the newest first. Needs only the ledger.

    A sub-agent's run is shown with the run that handed it its task
    (horarium runs show); here only with --all.

    \b
    Exit codes: 0 done, 2 you typed it wrong, 3 cannot reach the ledger.

    \b
    Examples:
      horarium runs list --status requires_action
      horarium runs watch $(horarium runs list --latest -q)
    """
    wrong = [item for item in status or [] if item not in get_args(Status)]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r} is none{near_miss(wrong[0], get_args(Status))}", param_hint="--status")
    talk.perform(_list(status or [], agent, 1 if latest else limit, below=everything, quiet=quiet, as_json=as_json))


async def _list(status: list[Any], agent: str | None, limit: int, *, below: bool, quiet: bool, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        found = await Runs(ledger).list(status=status, agent=agent, below=below, limit=limit)
    if as_json:
        for record in found:
            talk.emit(evidence.run_json(record))
    elif quiet:
        for record in found:
            talk.out().print(Text(record.id))
    elif found:
        rows: list[tuple[str | Text, ...]] = [
            (
                record.id,
                Text(record.status, style=evidence.STYLES.get(record.status, "")),
                " > ".join(record.path or [record.agent]) + (f"@{record.version}" if record.version else ""),
                words.age(record.created_at),
                words.span(record.created_at, record.closed_at),
            )
            for record in found
        ]
        talk.out().print(talk.table(("run", "status", "agent", "started", "took"), rows, keep=("run", "status")))
    else:
        talk.say('No runs. Start one: horarium run AGENT "input"')
    return talk.DONE


@app.command()
def show(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show what a run did, step by step, and what it is waiting for. Needs only the ledger.

    \b
    Exit codes: 0 done, 2 there is no such run, 3 cannot reach the ledger.

    \b
    Examples:
      horarium runs show run_01JD8
      horarium runs show run_01JD8 --json | jq '.steps[].name'
    """
    talk.perform(_show(run, as_json=as_json))


async def _show(said: str, *, as_json: bool) -> int:
    settings = Settings.load()
    async with opened_ledger(settings) as ledger:
        record = await find_run(ledger, said)
        now = await glance(settings, record.id) if record.closed_at is None else None
        tree = await sub_runs.read(ledger, record.id)
        seen = await evidence.Evidence.read(ledger, record, now, [item for one in tree for item in one.all_waiting()])
        questions = [await asking(ledger, record.id, waiting) for waiting in seen.waiting]
    if as_json:
        talk.emit(seen.json() | {"sub_runs": [one.json() for one in tree]})
        return talk.DONE
    if record.closed_at is None and now is None:
        talk.say("The run itself does not answer; this is what the ledger has. Is a worker up? Try: horarium doctor")
    out = talk.out()
    out.print(Text(f"Run {record.id}", style="bold"))
    for name, value in seen.header():
        out.print(Text(f"  {name:<10}{value}"))
    _print_steps(seen)
    if tree:
        out.print(Text("\nSub-agents", style="bold"))
        for line in sub_runs.lines(tree):
            out.print(line, soft_wrap=True)
    for question in questions:
        for line in question:
            out.print(line, soft_wrap=True)
    if seen.output:
        out.print(Text("\nFinal answer", style="bold"))
        out.print(Text(words.harmless(seen.output)), soft_wrap=True)
    return talk.DONE


def _print_steps(seen: evidence.Evidence) -> None:
    out = talk.out()
    out.print()
    if not seen.steps:
        out.print(Text("No steps yet."))
        return
    columns, rows = evidence.STEP_COLUMNS, [evidence.step_row(step) for step in seen.steps]
    if not out.is_terminal:
        out.print(talk.table(columns, rows))
        return
    # A note is a sentence; beside seven other columns it would be a column of syllables.
    styled: list[tuple[str | Text, ...]] = [
        (*row[:3], Text(row[3], style=evidence.STYLES.get(step.status, "")), *row[4:-1])
        for row, step in zip(rows, seen.steps, strict=True)
    ]
    out.print(talk.table(columns[:-1], styled, keep=[column for column in columns if column != "name"]))
    for row in rows:
        if row[-1]:
            out.print(Text(f"  #{row[0]}: {row[-1]}", style="dim"))


@app.command()
def watch(run: RunArgument, as_json: JsonLinesOption = False) -> None:
    """Watch a run from its first step to its end, and see how to answer when it waits for you.

    \b
    Exit codes: 0 it completed, 1 it did not, 2 there is no such run,
    3 cannot reach Temporal or the ledger. Ctrl-C only stops looking.

    \b
    Examples:
      horarium runs watch run_01JD8
      horarium runs watch run_01JD8 --json | jq -c 'select(.type == "step")'
    """

    async def work() -> int:
        async with opened_client() as (client, ledger):
            record = await find_run(ledger, run)
            return await to_the_end(ledger, client.run(record.id), watch=True, as_json=as_json, talking=False)

    talk.perform(work())


@app.command()
def cancel(run: RunArgument, as_json: JsonOption = False) -> None:
    """Ask a run to end now; what is in flight says first what became of it.

    \b
    Exit codes: 0 asked, 1 it has ended already, 2 there is no such run,
    3 cannot reach Temporal or the ledger.

    \b
    Example:
      horarium runs cancel run_01JD8
    """

    async def work() -> int:
        async with opened_client() as (client, ledger):
            found = await run_id(ledger, run)
            await _still_open(ledger, found)
            await client.run(found).cancel()
        return _told(
            {"run": found, "requested": "cancel"},
            f"Asked {found} to end.",
            f"horarium runs watch {found}",
            as_json,
        )

    talk.perform(work())


@app.command()
def message(
    run: RunArgument,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What the run reads before its next turn; - reads stdin.")
    ],
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a run in progress more input; it reads it before its next turn.

    \b
    Exit codes: 0 sent, 1 it has ended already, 2 there is no such run,
    3 cannot reach Temporal or the ledger.

    \b
    Example:
      horarium runs message run_01JD8 "Only the errors of today, please." --by ana
    """
    sent = sys.stdin.read() if text == "-" else text

    async def work() -> int:
        async with opened_client() as (client, ledger):
            found = await run_id(ledger, run)
            await client.run(found).message(sent, by=by)
        return _told(
            {"run": found, "requested": "message"},
            f"Sent to {found}.",
            f"horarium runs watch {found}",
            as_json,
        )

    talk.perform(work())


@app.command()
def resolve(
    run: RunArgument,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step's number, or its id.")],
    verdict: Annotated[str, typer.Argument(metavar="VERDICT", help="One of: retry, supply, skip, fail.")],
    by: Annotated[str, typer.Option(envvar="HORARIUM_BY", metavar="NAME", help="Who says so; it is kept as evidence.")],
    output: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With supply: the step's result; - reads stdin.")
    ] = None,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; with skip, the model is told.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how to go on with a step that failed or of which nobody knows whether it was done.

    \b
      retry   do it (again), with the same key: say it when it did not happen
      supply  it happened, or is not needed: --output is its result
      skip    leave it undone and tell the model
      fail    end the run

    \b
    Exit codes: 0 the run goes on so, 1 it did not accept that, 2 you typed it
    wrong, 3 cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium runs resolve run_01JD8 7 retry --by ana
      horarium runs resolve run_01JD8 7 supply --output "Ticket 4711" --by ana
    """
    check_verdict(verdict, output)
    result = sys.stdin.read() if output == "-" else output
    talk.perform(_resolve(run, step, verdict, by, result, comment, as_json=as_json))


async def _resolve(
    said: str, step: str, verdict: Any, by: str, output: str | None, comment: str | None, *, as_json: bool
) -> int:
    async with opened_client() as (client, ledger):
        run = client.run(await run_id(ledger, said))
        before = await run.status()
        waiting = _step_that_waits(run.id, step, before.waiting_for)
        settling = run.resolve(waiting.id, verdict, by=by, output=output, comment=comment, question=waiting.question)
        await answered(settling, waiting.question or waiting.id)
    done = {"run": run.id, "step": waiting.id, "verdict": verdict, "by": by}
    return _told(done, f"Step {waiting.id}: {verdict}, by {by}.", f"horarium runs watch {run.id}", as_json)


async def _still_open(ledger: Ledger, run: str) -> None:
    """Refuse to cancel a run that has ended: Temporal takes the request in silence.

    Raises:
        Conflict: It has ended.
    """
    with contextlib.suppress(NotFound):  # known to Temporal only
        record = await Runs(ledger).get(run)
        if record.closed_at is not None:
            raise Conflict(f"Run {run} has ended: {words.status(record)}.", hint=f"See how: horarium runs show {run}")


def _step_that_waits(run: str, said: str, waiting: Sequence[Waiting]) -> Waiting:
    """The waiting step that was meant by its number or its id.

    Raises:
        NotFound: No such step waits for a person; names those that do.
    """
    steps = {split_step_id(item.id)[1]: item for item in waiting if item.kind in ("unknown_outcome", "held_step")}
    number = said.rpartition("/")[2]
    if number.isdecimal() and int(number) in steps:
        return steps[int(number)]
    some = ", ".join(f"{at} ({item.tool or 'model call'})" for at, item in steps.items()) or "none"
    raise NotFound(f"Step {said!r} waits for nobody. Steps that do: {some}.", hint=f"Look: horarium runs show {run}")


def _told(done: dict[str, Any], words_for_it: str, next_command: str, as_json: bool) -> int:
    if as_json:
        talk.emit(done)
    else:
        talk.out().print(Text(words_for_it), soft_wrap=True)
        talk.say(f"See what comes of it: {next_command}")
    return talk.DONE


app.command("diff")(tick_diff.runs_diff)
