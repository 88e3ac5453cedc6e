"""`horarium memory review`, `feedback` and `deliveries`: what waits for a person's word, and what that sets going."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from horarium.cli import talk, words
from horarium.cli.memory import COLUMNS, ByOption, JsonLinesOption, about, app, find_memory, memory_json, memory_row
from horarium.cli.reach import find_run, opened_client, opened_ledger
from horarium.errors import ConfigError
from horarium.ledger.memories import Memories
from horarium.ledger.memory_care import MemoryCare
from horarium.ledger.memory_lessons import Lessons
from horarium.ledger.memory_outbox import HELD_BACK, Delivery, Outbox
from horarium.memories import PENDING, FeedbackVerdict

__all__ = ["app"]

DELIVERY_COLUMNS = ("run", "store", "scope", "status", "since", "message")


@app.command()
def review(
    verdict: Annotated[str | None, typer.Argument(metavar="accept|reject", help="Left out: show what waits.")] = None,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID",
            help="Memories, with @VERSION only as you saw them; or the run, of what it left for a store elsewhere.",
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who says so; kept as evidence.")
    ] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why.")] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Show what waits for a person; or let it be told to later runs, or never.

    What waits: what was learned in runs that touched untrusted content (quarantined), and how work is done as long as
    no rubric and no feedback says that the run did well (candidate).

    \b
    Exit codes: 0 done, 1 it does not wait, 2 you typed it wrong or there is none, 3 cannot reach a server.

    \b
    Examples:
      horarium memory review
      horarium memory review accept mem_4T9K@2 --by ana
      horarium memory review reject mem_4T9K mem_7B2C --by ana --note "comes from an advertisement"
    """

    async def work() -> int:
        if verdict is None:
            return await _show(as_json)
        if verdict not in ("accept", "reject") or not ids or not by:
            raise ConfigError(
                "Say what, of which, and who you are.", hint="horarium memory review accept mem_4T9K --by ana"
            )
        for said in ids:
            await _review("accept" if verdict == "accept" else "reject", said, by, note, as_json)
        return talk.DONE

    talk.perform(work())


@app.command()
def feedback(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or how it begins.")],
    verdict: Annotated[str, typer.Argument(metavar="positive|negative")],
    by: ByOption,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why.")] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Say that a run did well, or not; the last word counts.

    positive: how it did the work is told to later runs. negative: what it alone taught is withdrawn.

    \b
    Exit codes: 0 done, 1 the run is open, 2 you typed it wrong or there is none, 3 cannot reach the ledger or Temporal.

    \b
    Example:
      horarium memory feedback run_01JD8 negative --by ana --note "paid the wrong account"
    """

    async def work() -> int:
        if verdict not in ("positive", "negative"):
            raise ConfigError(
                f"Feedback is positive or negative, not {verdict!r}.",
                hint="horarium memory feedback run_01JD8 positive --by ana",
            )
        async with opened_ledger() as ledger:
            found = await find_run(ledger, run)
            word: FeedbackVerdict = "positive" if verdict == "positive" else "negative"
            fed = await Lessons(ledger).feedback(found.id, word, by, note)
        if fed.deliver:
            await _deliver()
        for memory, version, status in fed.changed:
            if as_json:
                talk.emit({"id": memory, "version": version, "status": status})
            else:
                talk.out().print(Text(f"Version {version} of {memory} is {status}."), soft_wrap=True)
        if not fed.changed:
            talk.say("Noted. It changes nothing that is remembered.")
        return talk.DONE

    talk.perform(work())


@app.command()
def deliveries(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are done, rejected or withdrawn.")] = False,
    deliver: Annotated[bool, typer.Option("--deliver", help="See to it that all that may go out does.")] = False,
    as_json: JsonLinesOption = False,
) -> None:
    """List what runs left for a memory store elsewhere, and how far it is.

    \b
    Exit codes: 0 done, 3 cannot reach the ledger, or Temporal with --deliver.

    \b
    Examples:
      horarium memory deliveries
      horarium memory deliveries --deliver
    """

    async def work() -> int:
        if deliver:
            talk.say(f"Under way: {await _deliver()}.")
        status = () if everything else ("pending", "sent", "failed", *HELD_BACK)
        async with opened_ledger() as ledger:
            found = await Outbox(ledger).list(status=status)
        if as_json:
            for delivery in found:
                talk.emit(_delivery_json(delivery))
        elif found:
            talk.out().print(talk.table(DELIVERY_COLUMNS, [_delivery_row(each) for each in found], keep=("run",)))
        else:
            talk.say("Nothing waits to be delivered.")
        return talk.DONE

    talk.perform(work())


async def _show(as_json: bool) -> int:
    async with opened_ledger() as ledger:
        waiting = await Memories(ledger).list(status=PENDING, limit=1_000)
        held = await Outbox(ledger).list(status=HELD_BACK, limit=1_000)
    if as_json:
        for memory in waiting:
            talk.emit(memory_json(memory))
        for delivery in held:
            talk.emit(_delivery_json(delivery))
        return talk.DONE
    if waiting:
        lines = []
        for memory in waiting:
            pending = memory.pending
            if pending is not None:
                told = (pending.status, str(pending.version), about(memory))
                lines.append((*memory_row(memory)[:3], *told, words.one_line(pending.text)))
        talk.out().print(talk.table(COLUMNS, lines, keep=("id",)))
    if held:
        talk.out().print(talk.table(DELIVERY_COLUMNS, [_delivery_row(each) for each in held], keep=("run",)))
    if not waiting and not held:
        talk.say("Nothing waits for a review.")
    return talk.DONE


async def _review(verdict: Any, said: str, by: str, note: str | None, as_json: bool) -> None:
    goes = False
    async with opened_ledger() as ledger:
        if said.startswith("mem_"):
            begins, at, version = said.partition("@")
            if at and not version.isdecimal():
                raise ConfigError(f"{said!r} names no version.", hint="Like mem_4T9K@2; see: horarium memory review")
            found = await find_memory(ledger, begins)
            number = int(version) if at else None
            reviewed = await MemoryCare(ledger).review(found.id, verdict, by, version=number, note=note)
            told, line = memory_json(reviewed), f"{reviewed.id} is {verdict}ed."
        else:
            run = (await find_run(ledger, said)).id
            goes = await MemoryCare(ledger).review_delivery(run, verdict, by)
            told, line = {"run": run, "delivered": goes}, f"What {run} left is {verdict}ed."
    if goes:
        await _deliver()
    if as_json:
        talk.emit(told)
    else:
        talk.out().print(Text(line), soft_wrap=True)


async def _deliver() -> int:
    async with opened_client() as (client, _):
        return await client.deliver_memories()


def _delivery_json(delivery: Delivery) -> dict[str, Any]:
    return {
        "run": delivery.run_id,
        "tenant": delivery.tenant,
        "store": delivery.store,
        "scope": delivery.scope,
        "status": delivery.status,
        "update_id": delivery.update_id,
        "message": delivery.message,
        "items": delivery.items,
        "created_at": delivery.created_at.isoformat() if delivery.created_at else None,
    }


def _delivery_row(delivery: Delivery) -> tuple[str, ...]:
    return (
        delivery.run_id,
        words.one_line(delivery.store),
        words.one_line(delivery.scope),
        delivery.status,
        words.when(delivery.created_at),
        words.one_line(delivery.message or ""),
    )
