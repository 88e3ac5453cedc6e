"""`horarium approvals`: what runs ask of people, and the answers.

A decision is made on what this command has just read from the ledger: it carries that digest, so it does
not count for a call with any other arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated

import typer
from rich.text import Text

from horarium.cli import evidence, talk, words
from horarium.cli.reach import find_approval, opened_client, opened_ledger
from horarium.client import Client
from horarium.contract import Approval, ApprovalState, Verdict
from horarium.errors import ApprovalAlreadyDecided, Conflict, HorariumError, Unreachable
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord, Approvals

app = typer.Typer(no_args_is_help=True, help="See what runs ask of people, and answer.")

ANSWER_SECONDS = 20.0  # a worker takes a decision in milliseconds; nobody there is said, not waited for
VERDICTS: dict[Verdict, str] = {"approve": "approved", "reject": "rejected"}
SHOWN = 500  # approvals in a list

IdsArgument = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Approval ids, or as much of each as is unique.")
]
ByOption = Annotated[
    str, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who decides; kept as evidence.")
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also those that were decided or withdrawn.")] = False,
    as_json: JsonLinesOption = False,
) -> None:
    """List what waits for a decision, the newest first, each with its exact arguments.

    Needs only the ledger. Characters that you would not see are written out,
    like <U+202E>.

    \b
    Exit codes: 0 done, 3 cannot reach the ledger.

    \b
    Examples:
      horarium approvals list
      horarium approvals list --json | jq -r .id
    """
    talk.perform(_list(everything, as_json=as_json))


async def _list(everything: bool, *, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        found = await Approvals(ledger).list(status=None if everything else "pending", limit=SHOWN)
    if as_json:
        for approval in found:
            talk.emit(evidence.approval_json(approval))
        return talk.DONE
    for approval in found:
        _print(approval)
    if not found:
        talk.say("Nothing waits for a decision." if not everything else "Nothing was ever asked.")
    elif any(approval.status == "pending" for approval in found):
        talk.say("Answer: horarium approvals approve ID --by NAME (or: reject)")
    return talk.DONE


@app.command()
def show(
    approval: Annotated[str, typer.Argument(metavar="ID", help="Its id, or as much of it as is unique.")],
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")] = False,
) -> None:
    """Show one approval: the exact arguments, who asks, and who decided what.

    \b
    Exit codes: 0 done, 2 there is none, 3 cannot reach the ledger.

    \b
    Example:
      horarium approvals show apr_7XK2
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            found = await find_approval(ledger, approval)
        if as_json:
            talk.emit(evidence.approval_json(found))
        else:
            _print(found)
            if found.status == "pending":
                talk.say(f"Answer: horarium approvals approve {found.id} --by NAME (or: reject)")
        return talk.DONE

    talk.perform(work())


@app.command()
def approve(
    ids: IdsArgument,
    by: ByOption,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept as evidence.")] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Approve exactly what is shown; the run makes the call at once.

    The arguments are printed, and the decision counts for these alone.

    \b
    Exit codes: 0 approved (also when you had approved it before), 1 it no longer
    waits, or somebody rejected it, 2 there is none, 3 no worker answers, or
    cannot reach Temporal or the ledger.

    \b
    Example:
      horarium approvals approve apr_7XK2 --by ana --comment "checked the amount"
    """
    talk.perform(_decide_all(ids, "approve", by, comment, as_json=as_json))


@app.command()
def reject(
    ids: IdsArgument,
    by: ByOption,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the model is told.")] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Reject; the call is not made, and the model is told your comment.

    \b
    Exit codes: 0 rejected (also when you had rejected it before), 1 it no longer
    waits, or somebody approved it, 2 there is none, 3 no worker answers, or
    cannot reach Temporal or the ledger.

    \b
    Example:
      horarium approvals reject apr_7XK2 --by ana --comment "wrong account"
    """
    talk.perform(_decide_all(ids, "reject", by, comment, as_json=as_json))


async def _decide_all(ids: Sequence[str], verdict: Verdict, by: str, comment: str | None, *, as_json: bool) -> int:
    """Decide on each; all ids are looked up before any is decided, so that a typing error decides nothing."""
    worst = talk.DONE
    async with opened_ledger() as ledger:
        records = list(dict.fromkeys([await find_approval(ledger, said) for said in ids]))
    async with AsyncExitStack() as stack:
        client: Client | None = None
        if any(record.status == "pending" for record in records):
            client, _ = await stack.enter_async_context(opened_client())
        for record in records:
            try:
                state = await _decided(client, record, verdict, by, comment, quiet=as_json)
            except HorariumError as error:
                talk.problem(
                    f"{record.id}: {error.message}",
                    error.hint or f"Look: horarium approvals show {record.id}",
                )
                worst = max(worst, talk.exit_code(error))
            else:
                _say(state, as_json=as_json)
    return worst


async def _decided(
    client: Client | None, record: ApprovalRecord, verdict: Verdict, by: str, comment: str | None, *, quiet: bool
) -> ApprovalState:
    if not quiet:
        for line in evidence.approval_lines(record):
            talk.err().print(line, soft_wrap=True)
    if client is None or record.status != "pending":
        return _as_it_stands(record, verdict)
    run, approval = client.run(record.run_id), _as_shown(record)
    deciding = run.approve if verdict == "approve" else run.reject
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await deciding(approval, by=by, comment=comment)
    except TimeoutError:
        raise Unreachable(
            f"No worker took the decision within {ANSWER_SECONDS:.0f} seconds; it may count when one starts.",
            hint=f"Start one: horarium up. Then look: horarium approvals show {record.id}",
        ) from None


def _as_it_stands(record: ApprovalRecord, verdict: Verdict) -> ApprovalState:
    """What became of an approval that waits no more; its run may have ended long ago.

    Raises:
        ApprovalAlreadyDecided: Somebody decided otherwise; names who.
        Conflict: It was withdrawn.
    """
    if record.status == VERDICTS[verdict]:
        return ApprovalState(approval=_as_shown(record), repeated=True)
    if record.status == "withdrawn":
        raise Conflict("It was withdrawn: the run no longer waits for it.")
    raise ApprovalAlreadyDecided(f"It was already {record.status} by {record.decided_by}.")


def _as_shown(record: ApprovalRecord) -> Approval:
    """The approval in the contract's form, with the digest of what was shown here."""
    return Approval.model_validate(
        {
            "id": record.id,
            "run": record.run_id,
            "step": step_id(record.run_id, record.guards),
            "tool": record.tool,
            "effect": record.effect,
            "digest": record.digest,
            "preview": "",
            "status": record.status,
            "requested_at": record.requested_at,
            "decided_at": record.decided_at,
            "decided_by": record.decided_by,
            "comment": record.comment,
        }
    )


def _say(state: ApprovalState, *, as_json: bool) -> None:
    approval = state.approval
    if as_json:
        talk.emit(state.model_dump(mode="json"))
        return
    before = "had been " if state.repeated else ""
    by = f" by {words.one_line(approval.decided_by)}" if approval.decided_by else ""
    talk.out().print(Text(f"{approval.id} {before}{approval.status}{by}"), soft_wrap=True)
    talk.say(f"See what comes of it: horarium runs watch {approval.run}")


def _print(approval: ApprovalRecord) -> None:
    for line in evidence.approval_lines(approval):
        talk.out().print(line, soft_wrap=True)
