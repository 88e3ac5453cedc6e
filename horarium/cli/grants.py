"""`horarium approvals grants`: what people released for longer than one call, and how to end that."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from horarium.cli import talk, words
from horarium.cli.reach import opened_ledger
from horarium.content import canonical
from horarium.ledger.grants import Grant, Grants

app = typer.Typer(no_args_is_help=True, help="See what was released for longer than one call, and revoke it.")

COLUMNS = ("id", "tool", "for", "by", "until", "state", "bounds")

JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also those that have ended or were revoked.")] = False,
    as_json: JsonLinesOption = False,
) -> None:
    """List the standing grants, the newest first.

    A person makes one with: horarium approvals approve ID --remember thread

    \b
    Exit codes: 0 done, 3 cannot reach the ledger.

    \b
    Example:
      horarium approvals grants list
    """

    async def work() -> int:
        now = datetime.now(UTC)
        async with opened_ledger() as ledger:
            found = await Grants(ledger).list(everything=everything, at=now)
        if as_json:
            for grant in found:
                talk.emit(grant_json(grant))
        elif found:
            talk.out().print(talk.table(COLUMNS, [_row(grant, now) for grant in found], keep=("id",)))
        else:
            talk.say("There are no standing grants." if everything else "No standing grant holds.")
        return talk.DONE

    talk.perform(work())


@app.command()
def revoke(
    grant: Annotated[str, typer.Argument(metavar="ID", help="The grant's id.")],
    by: Annotated[
        str, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who says so; kept as evidence.")
    ],
    as_json: JsonLinesOption = False,
) -> None:
    """Revoke a standing grant: from now on people are asked again.

    \b
    Exit codes: 0 done (also when it had been revoked before), 2 there is none, 3 cannot reach the ledger.

    \b
    Example:
      horarium approvals grants revoke gra_4T9K --by ana
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            revoked = await Grants(ledger).revoke(grant, by, datetime.now(UTC))
        if as_json:
            talk.emit(grant_json(revoked))
        else:
            said = f"{revoked.id} was revoked by {words.one_line(revoked.revoked_by or '')}; people are asked again."
            talk.out().print(Text(said), soft_wrap=True)
        return talk.DONE

    talk.perform(work())


def grant_json(grant: Grant) -> dict[str, Any]:
    """A grant, with stable keys."""
    return {
        "id": grant.id,
        "tenant": grant.tenant,
        "agent": grant.agent,
        "tool": grant.tool,
        "scope": grant.scope,
        "scope_id": grant.scope_id,
        "bounds": grant.bounds,
        "granted_by": grant.granted_by,
        "granted_in": grant.granted_in,
        "comment": grant.comment,
        "created_at": grant.created_at.isoformat(),
        "ends_at": grant.ends_at.isoformat(),
        "revoked_at": grant.revoked_at.isoformat() if grant.revoked_at else None,
        "revoked_by": grant.revoked_by,
    }


def _row(grant: Grant, now: datetime) -> tuple[str, ...]:
    state = "revoked" if grant.revoked_at else "ended" if grant.ends_at <= now else "holds"
    return (
        grant.id,
        words.one_line(grant.tool),
        f"{grant.scope} {grant.scope_id}",
        words.one_line(grant.granted_by),
        words.when(grant.ends_at),
        state,
        words.one_line(canonical(grant.bounds)),
    )
