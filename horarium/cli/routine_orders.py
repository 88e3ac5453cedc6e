"""What `horarium routine` has the engine change: pause, resume, delete; of one routine or of many.

Each is an order that a worker obeys, as the same words from any other service would be.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from horarium.cli import talk, times
from horarium.cli.reach import opened_client, opened_ledger
from horarium.cli.times import ZoneOption
from horarium.client import Client
from horarium.contract import RoutineOrdered
from horarium.engine import use_engine
from horarium.errors import ConfigError, HorariumError, Unreachable
from horarium.ledger.routines import RoutineRecord, Routines

NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="The routines' names.")]
ByOption = Annotated[str | None, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who says so.")]
AllOption = Annotated[bool, typer.Option("--all", help="All routines.")]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="All routines with this label; may be repeated."),
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]


def pause(
    names: NamesArgument = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; whoever looks is shown it.")] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="It resumes by itself then; ISO 8601, else local to --zone.")
    ] = None,
    zone: ZoneOption = None,
    everything: AllOption = False,
    label: LabelOption = None,
    by: ByOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Let no trigger fire from now on. Ticks that run go on, and `horarium routine run` still works.

    \b
    Exit codes: 0 done, 1 some could not be paused, 2 you typed it wrong,
    3 no worker answers, or cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium routine pause nightly-triage --note "the archive moves"
      horarium routine pause --label team=support --until 2026-12-27T09:00 --zone Europe/London
    """
    use_engine()
    _named(names, everything, label)

    async def work() -> int:
        end = times.read_time(until, times.zone_of(zone), "--until") if until is not None else None
        if end is not None and end <= datetime.now(UTC):
            raise ConfigError(f"--until: {until!r} has passed.", hint="Name a time that is to come, or none.")

        async def one(client: Client, record: RoutineRecord) -> RoutineOrdered:
            return await client.pause_routine(record.name, note=note, until=end, tenant=record.tenant, by=by)

        return await _each(await _chosen(names or (), everything, label or ()), one, as_json=as_json)

    talk.perform(work())


def resume(
    names: NamesArgument = None,
    everything: AllOption = False,
    label: LabelOption = None,
    by: ByOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Let the triggers fire again, and count failures anew.

    \b
    Exit codes: 0 done, 1 some could not be resumed, 2 you typed it wrong,
    3 no worker answers, or cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium routine resume nightly-triage
      horarium routine resume --all
    """
    use_engine()
    _named(names, everything, label)

    async def work() -> int:
        async def one(client: Client, record: RoutineRecord) -> RoutineOrdered:
            return await client.resume_routine(record.name, tenant=record.tenant, by=by)

        chosen = await _chosen(names or (), everything, label or ())
        # Of many only those that it changes; who is named is answered.
        return await _each([item for item in chosen if names or item.paused], one, as_json=as_json)

    talk.perform(work())


def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The routines' names.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    by: ByOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Take a routine out of use. Its ticks stay as evidence; one that runs goes on to its end.

    \b
    Exit codes: 0 done, 1 some could not be deleted or you said no, 2 you typed it wrong,
    3 no worker answers, or cannot reach Temporal or the ledger.

    \b
    Example:
      horarium routine delete nightly-triage
    """

    async def work() -> int:
        chosen = await _chosen(names, False, ())
        if not yes and not _agreed([record.name for record in chosen]):
            talk.say("Nothing was changed.")
            return talk.RUN_FAILED

        async def one(client: Client, record: RoutineRecord) -> RoutineOrdered:
            return await client.delete_routine(record.name, tenant=record.tenant, by=by)

        worst = await _each(chosen, one, as_json=as_json)
        files = [record.name for record in chosen if record.managed_by == "files"]
        if files and worst == talk.DONE:
            talk.say(f"Came from files: {', '.join(files)}. While these are there, horarium apply makes them anew.")
        return worst

    talk.perform(work())


def _agreed(names: Sequence[str]) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(
            f"This deletes {', '.join(names)}, and there is no terminal to ask on.", hint="Add --yes to agree."
        )
    return typer.confirm(f"Delete {', '.join(names)}?", err=True)


def _named(names: Sequence[str] | None, everything: bool, labels: Sequence[str] | None) -> None:
    if sum(map(bool, (names, everything, labels))) != 1:
        raise typer.BadParameter("say which: NAME..., --label KEY=VALUE, or --all", param_hint="NAME")
    wrong = [pair for pair in labels or () if "=" not in pair.strip("=")]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r} is not KEY=VALUE", param_hint="--label")


async def _chosen(names: Sequence[str], everything: bool, labels: Sequence[str]) -> list[RoutineRecord]:
    """The routines that were meant; all names are looked up before anything is done.

    Raises:
        RoutineNotFound: There is none of one of these names.
    """
    async with opened_ledger() as ledger:
        if names:
            return [await Routines(ledger).get(name) for name in dict.fromkeys(names)]
        wanted = dict(pair.split("=", 1) for pair in labels)
        return [
            record
            for record in await Routines(ledger).list()
            if everything or wanted.items() <= record.routine.labels.items()
        ]


async def _each(
    records: Sequence[RoutineRecord],
    order: Callable[[Client, RoutineRecord], Awaitable[RoutineOrdered]],
    *,
    as_json: bool,
) -> int:
    """Give the same order about each; one that fails stops no other."""
    if not records:
        talk.say("There are none.")
        return talk.DONE
    worst = talk.DONE
    async with opened_client() as (client, _):
        for record in records:
            try:
                ordered = await order(client, record)
            except HorariumError as error:
                talk.problem(f"{record.name}: {error.message}", error.hint)
                worst = max(worst, talk.exit_code(error))
                if isinstance(error, Unreachable):
                    break  # the others would be waited for as long
                continue
            if as_json:
                talk.emit(ordered.model_dump(mode="json"))
            else:
                talk.out().print(Text(ordered.message), soft_wrap=True)
    return worst
