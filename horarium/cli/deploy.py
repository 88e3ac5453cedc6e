"""`horarium plan` and `horarium apply`: routines are files, and this brings them into the ledger and into Temporal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from horarium.cli import plan_words, talk, words
from horarium.cli.reach import opened_client
from horarium.cli.start import JsonOption
from horarium.client import Client
from horarium.engine import use_engine
from horarium.errors import ConfigError, HorariumError
from horarium.ledger.database import Ledger
from horarium.project import load_agents, load_routine_files
from horarium.routinechecks import routine_warnings
from horarium.settings import Settings

if TYPE_CHECKING:
    from schedules.differences import Plan

NAMED = 3  # routines in a question
CHANGES = 2  # exit code of `plan --detailed-exitcode`
PREAPPROVED_BY_NOBODY = "`preapproved` counts only where anybody may approve, as nobody says who applies: --by NAME"

PathsArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="PATHS", help="Files, or one directory. Default: all of the project's routines."),
]
PruneOption = Annotated[
    bool, typer.Option("--prune", help="Delete what was deployed from files that are gone; else they stay.")
]


def plan(
    paths: PathsArgument = None,
    prune: PruneOption = False,
    detailed: Annotated[
        bool, typer.Option("--detailed-exitcode", help="For CI: 0 nothing to do, 2 something to do, 1 an error.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what `horarium apply` would change: routines to create, update and delete, and what somebody changed in
    Temporal by hand. Changes nothing.

    \b
    Exit codes: 0 done, 2 a file is wrong, 3 cannot reach Temporal or the ledger; see --detailed-exitcode.

    \b
    Examples:
      horarium plan
      horarium plan routines/nightly-triage.yaml
      horarium plan --detailed-exitcode --json
    """
    use_engine()
    talk.perform(_plan(paths or [], prune=prune, detailed=detailed, as_json=as_json))


async def _plan(paths: Sequence[Path], *, prune: bool, detailed: bool, as_json: bool) -> int:
    settings = Settings.load()
    try:
        async with opened_client(settings) as (client, ledger):
            made = await _planned(settings, client, ledger, paths, prune=prune)
    except HorariumError as error:
        if not detailed:
            raise
        talk.problem(error.message, error.hint)
        return talk.RUN_FAILED
    if as_json:
        talk.emit(plan_words.plan_json(made))
    else:
        _show(made)
        if not made.empty:
            talk.say("Carry it out with: horarium apply" + (" --prune" if prune else ""))
    return CHANGES if detailed and not made.empty else talk.DONE


def apply(
    paths: PathsArgument = None,
    prune: PruneOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    by: Annotated[
        str | None, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who says so; kept as evidence.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make it so: bring routines into the ledger and their schedules into Temporal, and set right what differs there.

    Everything is checked first: one wrong file, and nothing is changed. Safe to repeat, and to interrupt.

    \b
    Exit codes: 0 done, 1 some of it failed (do it again) or you said no, 2 a file is wrong,
    3 cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium apply
      horarium apply routines/nightly-triage.yaml
      horarium apply --prune --yes --by ci
    """
    use_engine()
    talk.perform(_apply(paths or [], prune=prune, yes=yes, by=by, as_json=as_json))


async def _apply(paths: Sequence[Path], *, prune: bool, yes: bool, by: str | None, as_json: bool) -> int:
    from schedules.deploy import Deployment

    settings = Settings.load()
    async with opened_client(settings) as (client, ledger):
        made = await _planned(settings, client, ledger, paths, prune=prune)
        if not as_json:
            _show(made)
        if by is None and any(change.definition and change.definition.preapproved for change in made.changes):
            talk.say(f"Note: {PREAPPROVED_BY_NOBODY}")
        if not _agreed(made, yes=yes):
            talk.say("Nothing was changed.")
            return talk.RUN_FAILED
        outcomes = await Deployment(ledger, client.temporal).apply(made, by=by)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if as_json:
        talk.emit({"plan": plan_words.plan_json(made), "applied": plan_words.outcomes_json(outcomes)})
    else:
        for line in plan_words.outcome_lines(outcomes):
            talk.out().print(line, soft_wrap=True)
    for outcome in failed:
        talk.say(f"Error: {outcome.change.routine}: {outcome.error}")
    if failed:
        done = len(outcomes) - len(failed)
        talk.say(f"{len(failed)} of {len(outcomes)} failed, {done} done. Do it again to finish it: horarium apply")
    return talk.RUN_FAILED if failed else talk.DONE


async def _planned(settings: Settings, client: Client, ledger: Ledger, paths: Sequence[Path], *, prune: bool) -> Plan:
    from schedules.checks import Known, routine_problems
    from schedules.differences import differences

    whole = not paths or (len(paths) == 1 and paths[0].is_dir())
    if prune and not whole:
        raise ConfigError(
            "--prune compares with all files there are, and only some were named.",
            hint="Name none of them, or their directory.",
        )
    files = load_routine_files(settings, paths or None)
    known = await Known.read(ledger, load_agents(settings))
    problems = [line for file in files.values() for line in file.lines(routine_problems(file.routine, known, settings))]
    if problems:
        raise ConfigError("\n".join(problems), hint="Correct them; nothing was changed.")
    for file in files.values():
        for line in file.lines(routine_warnings(file.routine)):
            talk.say(f"Warning: {words.one_line(line)}")
    routines = {name: file.routine for name, file in files.items()}
    now = datetime.now(UTC)
    return await differences(ledger, client.temporal, routines, whole=whole, prune=prune, now=now)


def _show(made: Plan) -> None:
    for line in plan_words.lines(made):
        talk.out().print(line, soft_wrap=True)
    for note in plan_words.notes(made):
        talk.say(f"Note: {note}")


def _agreed(made: Plan, *, yes: bool) -> bool:
    """Whether what would be deleted may be.

    Raises:
        ConfigError: There is nobody to ask.
    """
    deletes = [*(change.routine for change in made.changes if change.action == "delete"), *made.doomed]
    if not deletes or yes:
        return True
    named = ", ".join(deletes[:NAMED]) + (f" and {len(deletes) - NAMED:,} more" if len(deletes) > NAMED else "")
    if not sys.stdin.isatty():
        raise ConfigError(f"This deletes {named}, and there is no terminal to ask on.", hint="Add --yes to agree.")
    return typer.confirm(f"Delete {named}?", err=True)
