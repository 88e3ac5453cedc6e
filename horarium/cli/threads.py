"""`horarium threads`: look at conversations, add to them, fork and delete them. Needs only the ledger."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from horarium.cli import talk, words
from horarium.cli.reach import find_thread, opened_ledger
from horarium.cli.rows import indented
from horarium.errors import ConfigError
from horarium.ids import step_id
from horarium.ledger.threads import MOST_LISTED, ThreadMessage, ThreadRecord, Threads

app = typer.Typer(no_args_is_help=True, help="See what was said in threads, add to them, fork and delete them.")

COLUMNS = ("thread", "messages", "last", "open run", "forked from")
FROM_MODEL = "model"

ThreadArgument = Annotated[str, typer.Argument(metavar="THREAD", help="A thread's id, or as much of it as is unique.")]
TenantOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only of this tenant; without it, of anybody.", show_default=False)
]
ByOption = Annotated[
    str | None, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who does it; it is kept.")
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")]


@app.command("list")
def list_(
    tenant: TenantOption = None,
    before: Annotated[
        str | None, typer.Option(metavar="THREAD", help="Go on after this one, the last of the page before.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_LISTED, help="How many.")] = 20,
    as_json: JsonLinesOption = False,
) -> None:
    """List the threads, the newest first.

    \b
    Exit codes: 0 done, 2 there is no such thread, 3 cannot reach the ledger.

    \b
    Examples:
      horarium threads list
      horarium threads list --json | jq -r 'select(.messages > 100).thread'
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            found = await Threads(ledger).list(tenant=tenant, before=before, limit=limit)
        if as_json:
            for record in found:
                talk.emit(thread_json(record))
        elif found:
            talk.out().print(talk.table(COLUMNS, [_row(record) for record in found], keep=("thread",)))
            if len(found) == limit:
                talk.say(f"There may be more: horarium threads list --before {found[-1].id}")
        else:
            talk.say('No threads. A run begins one: horarium run AGENT "input"')
        return talk.DONE

    talk.perform(work())


@app.command()
def show(
    thread: ThreadArgument,
    after: Annotated[int, typer.Option(metavar="PLACE", help="Begin after the message of this place.")] = -1,
    limit: Annotated[int | None, typer.Option(min=1, help="How many messages; without it, all.")] = None,
    tenant: TenantOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Show what was said in a thread, whole, also where a model is given a summary of it.

    \b
    Exit codes: 0 done, 2 there is no such thread, 3 cannot reach the ledger.

    \b
    Examples:
      horarium threads show thr_01JD8
      horarium threads show thr_01JD8 --json | jq -r 'select(.role == "user").text'
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            record = await find_thread(ledger, thread, tenant)
            found = await Threads(ledger).read(record.id, after=after, limit=limit)
        if as_json:
            for message in found:
                talk.emit(message_json(message))
            return talk.DONE
        talk.out().print(Text(f"Thread {record.id}", style="bold"))
        for line in _about(record):
            talk.out().print(Text(f"  {line}"), soft_wrap=True)
        for message in found:
            _print(message)
        return talk.DONE

    talk.perform(work())


@app.command()
def append(
    thread: ThreadArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the next run reads; - reads stdin.")],
    role: Annotated[str, typer.Option(metavar="ROLE", help="user or system.")] = "user",
    by: ByOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a message at the end of a thread that no run has open; the next run reads it.

    To a run in progress: horarium runs message RUN "…"

    \b
    Exit codes: 0 done, 1 a run has it open, or calls of its last turn are
    unanswered, 2 there is no such thread, 3 cannot reach the ledger.

    \b
    Example:
      horarium threads append thr_01JD8 "The invoice was paid on Monday." --by ana
    """
    said = sys.stdin.read() if text == "-" else text

    async def work() -> int:
        kind = _role(role)
        if not said.strip():
            raise ConfigError("There is nothing to append.", hint="Give the message a text.")
        async with opened_ledger() as ledger:
            record = await find_thread(ledger, thread, tenant)
            place = await Threads(ledger).append(record.id, said, role=kind, author=by, tenant=tenant)
        return _told(
            {"thread": record.id, "place": place},
            f"Placed as message {place} of {record.id}.",
            f'Have it read: horarium run AGENT "…" --thread {record.id}',
            as_json,
        )

    talk.perform(work())


@app.command()
def fork(
    thread: ThreadArgument,
    at: Annotated[
        int | None, typer.Option(metavar="PLACE", help="The last message to take along; without it, all of them.")
    ] = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new thread of the messages up to a place; from there both go their own ways.

    A turn of a model stays with the answers to its calls: a place between them is moved to the last answer.

    \b
    Exit codes: 0 done, 1 the turn there has calls without an answer,
    2 there is no such thread or message, 3 cannot reach the ledger.

    \b
    Example:
      horarium threads fork thr_01JD8 --at 12
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            record = await find_thread(ledger, thread, tenant)
            made = await Threads(ledger).fork(record.id, at=at, tenant=tenant)
        return _told(
            thread_json(made),
            f"{made.id} has the messages of {record.id} up to {made.forked_at}.",
            f'Go on there: horarium run AGENT "…" --thread {made.id}',
            as_json,
        )

    talk.perform(work())


@app.command()
def delete(
    thread: ThreadArgument,
    by: ByOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete all that was said in a thread; that runs and steps were done stays as evidence, without content.

    \b
    Exit codes: 0 done, 1 a run has it open, 2 there is no such thread,
    3 cannot reach the ledger.

    \b
    Example:
      horarium threads delete thr_01JD8 --by ana
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            record = await find_thread(ledger, thread, tenant)
            if not yes:
                count = words.plural(record.messages, "message")
                typer.confirm(f"Delete {record.id} with {count}? It cannot be undone", abort=True, err=True)
            await Threads(ledger).delete(record.id, by=by, tenant=tenant)
        return _told(
            {"thread": record.id, "deleted": True},
            f"{record.id} was deleted.",
            "What is left of it: horarium audit list",
            as_json,
        )

    talk.perform(work())


def thread_json(record: ThreadRecord) -> dict[str, Any]:
    """A thread, with stable keys."""
    return {
        "thread": record.id,
        "tenant": record.tenant,
        "messages": record.messages,
        "open_run": record.open_run,
        "created_at": record.created_at.isoformat(),
        "last_message_at": record.last_message_at.isoformat() if record.last_message_at else None,
        "forked_from": record.forked_from,
        "forked_at": record.forked_at,
    }


def message_json(message: ThreadMessage) -> dict[str, Any]:
    """A message, with stable keys."""
    has_step = message.run_id is not None and message.step is not None
    return {
        "place": message.seq,
        "role": message.role,
        "text": message.said,
        "calls": [
            {"id": call.id, "tool": call.name, "arguments": call.arguments, "problem": call.problem}
            for call in message.calls
        ],
        "answers": message.call_id,
        "note": message.note,
        "author": message.author,
        "run": message.run_id,
        "step": step_id(message.run_id or "", message.step or 0) if has_step else None,
        "at": message.created_at.isoformat(),
    }


def _role(said: str) -> Literal["user", "system"]:
    match said:
        case "user" | "system":
            return said
        case _:
            raise ConfigError(f"{said!r} is no role here.", hint="Use user or system.")


def _row(record: ThreadRecord) -> tuple[str, ...]:
    forked = "" if record.forked_from is None else f"{record.forked_from} at {record.forked_at}"
    last = words.age(record.last_message_at) if record.last_message_at else "-"
    return (record.id, f"{record.messages:,}", last, record.open_run or "-", forked)


def _about(record: ThreadRecord) -> Iterator[str]:
    yield f"{words.plural(record.messages, 'message')}, begun {words.when(record.created_at)}"
    if record.forked_from is not None:
        yield f"forked from {record.forked_from} at message {record.forked_at}"
    if record.open_run is not None:
        yield f"open in {record.open_run}; see it with: horarium runs watch {record.open_run}"


def _print(message: ThreadMessage) -> None:
    who = FROM_MODEL if message.role == "assistant" else message.role
    by = f" {words.one_line(message.author)}" if message.author else ""
    step = f"  {step_id(message.run_id, message.step)}" if message.run_id and message.step is not None else ""
    talk.out().print()
    talk.out().print(Text.assemble((f"#{message.seq} {who}{by}", "bold"), (step, "dim")))
    for text in (message.note, message.said):
        for line in words.harmless(text or "").splitlines():
            indented(line)
    for call in message.calls:
        indented(f"calls {words.one_line(call.name)} {words.one_line(call.arguments)}", style="cyan")


def _told(done: dict[str, Any], what: str, then: str, as_json: bool) -> int:
    if as_json:
        talk.emit(done)
    else:
        talk.out().print(Text(what), soft_wrap=True)
        talk.say(then)
    return talk.DONE
