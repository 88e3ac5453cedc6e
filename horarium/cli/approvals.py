"""`horarium approvals`: what runs ask of people, and the answers.

A decision is made on what this command has just read from the ledger: it carries that digest, so it does
not count for a call with any other arguments.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args

import typer
from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from horarium.cli import evidence, grants, talk, words
from horarium.cli.reach import find_approval, opened_client, opened_ledger
from horarium.contract import Approval, ApprovalState, GrantScope, Remember, ResolutionVerdict, Verdict
from horarium.definition import Duration
from horarium.errors import (
    ApprovalAlreadyDecided,
    ApprovalExpired,
    ApprovalWithdrawn,
    Conflict,
    HorariumError,
    Unreachable,
)
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord, Approvals, VoteRecord
from horarium.problems import near_miss

if TYPE_CHECKING:
    from horarium.client import Client

app = typer.Typer(no_args_is_help=True, help="See what runs ask of people, and answer.")
app.add_typer(grants.app, name="grants")

ANSWER_SECONDS = 20.0  # a worker takes a decision in milliseconds; nobody there is said, not waited for
VERDICTS: dict[Verdict, str] = {"approve": "approved", "reject": "rejected", "answer": "answered"}
SHOWN = 500  # approvals in a list

T = TypeVar("T")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Its id, or as much of it as is unique.")]
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
    """List the inbox: what waits for a person, the newest first, each with its exact arguments.

    Approvals, and steps that failed or of which nobody knows whether they were
    done. Needs only the ledger. Characters that you would not see are written
    out, like <U+202E>.

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
    pending = [approval for approval in found if approval.status == "pending"]
    if not found:
        talk.say("Nothing waits for a decision." if not everything else "Nothing was ever asked.")
    if any(approval.kind == "approval" for approval in pending):
        talk.say("Answer: horarium approvals approve ID --by NAME (or: reject, answer)")
    if any(approval.kind != "approval" for approval in pending):
        talk.say("Settle: horarium approvals resolve ID retry|supply|skip|fail --by NAME")
    return talk.DONE


@app.command()
def show(
    approval: IdArgument,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")] = False,
) -> None:
    """Show one question: the exact arguments, who asks, who may decide, and who decided what.

    \b
    Exit codes: 0 done, 2 there is none, 3 cannot reach the ledger.

    \b
    Example:
      horarium approvals show apr_7XK2
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            found = await find_approval(ledger, approval)
            votes = await Approvals(ledger).votes(found.id)
        if as_json:
            talk.emit(evidence.approval_json(found, votes))
            return talk.DONE
        _print(found, votes)
        if found.status == "pending" and found.kind == "approval":
            talk.say(f"Answer: horarium approvals approve {found.id} --by NAME (or: reject, answer)")
        elif found.status == "pending":
            talk.say(f"Settle: horarium approvals resolve {found.id} retry|supply|skip|fail --by NAME")
        return talk.DONE

    talk.perform(work())


@app.command()
def approve(
    ids: IdsArgument,
    by: ByOption,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept as evidence.")] = None,
    arguments: Annotated[
        str | None, typer.Option(metavar="JSON", help="These instead of the ones that are asked; - reads stdin.")
    ] = None,
    remember: Annotated[
        GrantScope | None, typer.Option(help="Release the same call from now on: in this run, thread or agent.")
    ] = None,
    lasts: Annotated[str, typer.Option(metavar="DURATION", help="With --remember: for how long.")] = "1h",
    as_json: JsonLinesOption = False,
) -> None:
    """Approve exactly what is shown; the run makes the call at once.

    The arguments are printed, and the decision counts for these alone. With
    --arguments the call is made with yours: they are checked like a model's,
    kept as yours, and the model is told.

    \b
    Exit codes: 0 approved (also when you had approved it before, or when others
    have to approve as well), 1 it does not count: somebody decided otherwise, it
    expired, or the plan lets others decide, 2 there is none, 3 no worker
    answers, or cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium approvals approve apr_7XK2 --by ana --comment "checked the amount"
      horarium approvals approve apr_7XK2 --by ana --arguments '{"amount": 10}'
      horarium approvals approve apr_7XK2 --by ana --remember thread --lasts 2h
    """
    said: dict[str, Any] = {"comment": comment}
    if arguments is not None:
        said["arguments"] = _object(sys.stdin.read() if arguments == "-" else arguments)
    if remember is not None:
        said["remember"] = Remember(scope=remember, lasts=_lasting(lasts))
    talk.perform(_decide_all(ids, "approve", by, said, as_json=as_json))


@app.command()
def reject(
    ids: IdsArgument,
    by: ByOption,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the model is told.")] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Reject; the call is not made, and the model is told your comment.

    \b
    Exit codes: 0 rejected (also when you had rejected it before), 1 it does not
    count, 2 there is none, 3 no worker answers, or cannot reach Temporal or the
    ledger.

    \b
    Example:
      horarium approvals reject apr_7XK2 --by ana --comment "wrong account"
    """
    talk.perform(_decide_all(ids, "reject", by, {"comment": comment}, as_json=as_json))


@app.command()
def answer(
    approval: IdArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the model is told; - reads stdin.")],
    by: ByOption,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept as evidence.")] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Answer instead of the tool: the call is not made, and the model takes your text as its result.

    \b
    Exit codes: 0 answered, 1 it does not count, 2 there is none, 3 no worker
    answers, or cannot reach Temporal or the ledger.

    \b
    Example:
      horarium approvals answer apr_7XK2 "The customer was refunded on Monday." --by ana
    """
    said = {"comment": comment, "answer": sys.stdin.read() if text == "-" else text}
    talk.perform(_decide_all([approval], "answer", by, said, as_json=as_json))


@app.command()
def reassign(
    ids: IdsArgument,
    to: Annotated[
        list[str], typer.Option("--to", metavar="NAME", help="A person, or role:NAME; give it again for more.")
    ],
    by: ByOption,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="For those who are asked now.")] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Let others decide instead. Whoever may decide may do so.

    How many have to approve, four eyes and the deadline stay as the plan has
    them. Votes that were given stand, and whoever gave one is asked still.

    \b
    Exit codes: 0 those are asked now, 1 it does not count: the plan does not let
    you, it was decided, or too few could approve, 2 there is none, 3 no worker
    answers, or cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium approvals reassign apr_7XK2 --to bruno --by ana --comment "on leave"
      horarium approvals reassign apr_7XK2 apr_9QH4 --to role:finance --by ana
    """
    talk.perform(_each(ids, partial(_reassigned, to=to, by=by, comment=comment, quiet=as_json), as_json=as_json))


@app.command()
def resolve(
    question: IdArgument,
    verdict: Annotated[str, typer.Argument(metavar="VERDICT", help="One of: retry, supply, skip, fail.")],
    by: ByOption,
    output: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With supply: the step's result; - reads stdin.")
    ] = None,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; with skip, the model is told.")] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Settle a step that failed, or of which nobody knows whether it was done.

    \b
      retry   it did not happen: do it (again), with the same key
      supply  it happened, or is not needed: --output is its result
      skip    leave it undone and tell the model
      fail    end the run

    \b
    Exit codes: 0 the run goes on so, 1 it did not accept that, 2 you typed it
    wrong, 3 no worker answers, or cannot reach Temporal or the ledger.

    \b
    Example:
      horarium approvals resolve apr_9QH4 supply --output "Ticket 4711" --by ana
    """
    checked = check_verdict(verdict, output)
    result = sys.stdin.read() if output == "-" else output

    async def work() -> int:
        async with opened_client() as (client, ledger):
            found = await find_approval(ledger, question)
            if found.kind == "approval":
                raise Conflict("It is an approval.", hint=f"Answer: horarium approvals approve {found.id} --by NAME")
            step = step_id(found.run_id, found.guards)
            settling = client.run(found.run_id).resolve(
                step, checked, by=by, output=result, comment=comment, question=found.id
            )
            state = await answered(settling, found.id)
        if as_json:
            talk.emit(state.model_dump(mode="json"))
        else:
            before = "had been settled before" if state.repeated else "settled"
            talk.out().print(
                Text(f"{found.id} {before}: {state.verdict} by {words.one_line(state.by)}"), soft_wrap=True
            )
            talk.say(f"See what comes of it: horarium runs watch {found.run_id}")
        return talk.DONE

    talk.perform(work())


def check_verdict(verdict: str, output: str | None) -> ResolutionVerdict:
    """The verdict on a step, if it can be one and goes with what else was said."""
    known = get_args(ResolutionVerdict)
    if verdict not in known:
        raise typer.BadParameter(f"must be one of {', '.join(known)}{near_miss(verdict, known)}", param_hint="VERDICT")
    if (output is not None) != (verdict == "supply"):
        raise typer.BadParameter("goes with the verdict supply, and supply needs it", param_hint="--output")
    return cast(ResolutionVerdict, verdict)


async def answered(asking: Awaitable[T], question: str) -> T:
    """What a worker says, within a bounded time.

    Raises:
        Unreachable: No worker said anything.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asking
    except TimeoutError:
        raise Unreachable(
            f"No worker took the decision within {ANSWER_SECONDS:.0f} seconds; it may count when one starts.",
            hint=f"Start one: horarium up. Then look: horarium approvals show {question}",
        ) from None


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="--arguments") from error
    if not isinstance(value, dict):
        raise typer.BadParameter("must be one JSON object, as the tool takes it", param_hint="--arguments")
    return value


def _lasting(text: str) -> timedelta:
    try:
        return TypeAdapter(Duration).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--lasts") from error


async def _decide_all(ids: Sequence[str], verdict: Verdict, by: str, said: dict[str, Any], *, as_json: bool) -> int:
    return await _each(ids, partial(_decided, verdict=verdict, by=by, said=said, quiet=as_json), as_json=as_json)


async def _each(
    ids: Sequence[str], say: Callable[[Client | None, ApprovalRecord], Awaitable[ApprovalState]], *, as_json: bool
) -> int:
    """Say it of each; all ids are looked up before anything is said, so that a typing error says nothing."""
    worst = talk.DONE
    async with opened_ledger() as ledger:
        records = list(dict.fromkeys([(await find_approval(ledger, one)).id for one in ids]))
        found = [await Approvals(ledger).get(one) for one in records]
    async with AsyncExitStack() as stack:
        client: Client | None = None
        if any(record.status == "pending" for record in found):
            client, _ = await stack.enter_async_context(opened_client())
        for record in found:
            try:
                state = await say(client, record)
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
    client: Client | None, record: ApprovalRecord, *, verdict: Verdict, by: str, said: dict[str, Any], quiet: bool
) -> ApprovalState:
    _show(record, by, quiet=quiet)
    if client is None or record.status != "pending":
        return _as_it_stands(record, verdict)
    run, approval = client.run(record.run_id), await _as_shown_now(client, record)
    match verdict:
        case "approve":
            return await answered(run.approve(approval, by=by, **said), record.id)
        case "reject":
            return await answered(run.reject(approval, by=by, **said), record.id)
        case "answer":
            return await answered(run.answer(approval, said.pop("answer"), by=by, **said), record.id)


async def _reassigned(
    client: Client | None, record: ApprovalRecord, *, to: Sequence[str], by: str, comment: str | None, quiet: bool
) -> ApprovalState:
    _show(record, by, quiet=quiet)
    if client is None or record.status != "pending":
        raise Conflict(f"It is {record.status}: nobody is asked any more.")
    approval = await _as_shown_now(client, record)
    return await answered(client.run(record.run_id).reassign(approval, *to, by=by, comment=comment), record.id)


def _show(record: ApprovalRecord, by: str, *, quiet: bool) -> None:
    """Print what something is about to be said of.

    Raises:
        Conflict: It is no approval.
    """
    if not quiet:
        for line in evidence.approval_lines(record):
            talk.err().print(line, soft_wrap=True)
    if record.kind != "approval":
        raise Conflict(
            "It is no approval: a step waits to be settled.",
            hint=f"Settle it: horarium approvals resolve {record.id} retry|supply|skip|fail --by {by}",
        )


async def _as_shown_now(client: Client, record: ApprovalRecord) -> Approval:
    """With the digest of a person's edit, when one waits for a second person: the edit is printed as well."""
    edit = await Approvals(client.require_ledger()).latest_edit(record.id)
    approval = _as_shown(record)
    if edit is None:
        return approval
    talk.err().print(Text(f"  {words.one_line(edit.by)} changed the arguments to"))
    for line in words.exact_json(edit.arguments).splitlines():
        talk.err().print(Text(f"    {line}"), soft_wrap=True)
    return approval.model_copy(update={"digest": edit.digest})


def _as_it_stands(record: ApprovalRecord, verdict: Verdict) -> ApprovalState:
    """What became of an approval that waits no more; its run may have ended long ago.

    Raises:
        ApprovalAlreadyDecided: Somebody decided otherwise; names who.
        ApprovalWithdrawn, ApprovalExpired: Nobody is asked any more.
    """
    if record.status == VERDICTS[verdict]:
        return ApprovalState(approval=_as_shown(record), repeated=True)
    if record.status == "withdrawn":
        raise ApprovalWithdrawn("It was withdrawn: the run no longer waits for it.")
    if record.status == "expired":
        raise ApprovalExpired("It expired: nobody had decided in time.")
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
    if approval.status == "pending":
        given = sum(vote.verdict == "approve" and vote.digest == approval.digest for vote in approval.votes)
        before, by = "", f": {given} of {approval.required} approvals"
        if approval.reassigned:
            more = f" and {approval.more_approvers} more" if approval.more_approvers else ""
            by += f", of {', '.join(map(words.one_line, approval.approvers))}{more}"
    talk.out().print(Text(f"{approval.id} {before}{approval.status}{by}"), soft_wrap=True)
    talk.say(f"See what comes of it: horarium runs watch {approval.run}")


def _print(approval: ApprovalRecord, votes: Sequence[VoteRecord] = ()) -> None:
    for line in evidence.approval_lines(approval, votes):
        talk.out().print(line, soft_wrap=True)
