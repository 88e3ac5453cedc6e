"""`horarium memory`: what is remembered, who taught it, who was told; correct it, take it back, remove it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy import select

from horarium.cli import rows, talk, words
from horarium.cli.reach import opened_ledger
from horarium.errors import ConfigError, MemoryNotFound
from horarium.ledger.database import Ledger
from horarium.ledger.memories import Memories
from horarium.ledger.memory_care import MemoryCare
from horarium.ledger.schema import memories
from horarium.memories import KINDS, PENDING, TAKEN_BACK, Memory, MemoryKind, MemoryStatus, MemoryVersion
from horarium.people import plain

app = typer.Typer(no_args_is_help=True, help="See, correct and take back what later runs are told.")

COLUMNS = ("id", "kind", "of", "status", "version", "about", "text")
STATUSES: tuple[MemoryStatus, ...] = ("active", *PENDING, *TAKEN_BACK)
_NAMED = 3  # candidates that an ambiguous prefix is answered with

JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")]
ByOption = Annotated[
    str, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who says so; kept as evidence.")
]
MemoryArgument = Annotated[str, typer.Argument(metavar="ID", help="The memory's id, or how it begins.")]


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="user, procedural or summary.")] = None,
    scope: Annotated[str | None, typer.Option(metavar="SCOPE", help="Of procedures and summaries.")] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Whose, of kind user.")] = None,
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help="active, candidate, quarantined, rejected, withdrawn or undone."),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="That taught it; the whole id.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: JsonLinesOption = False,
) -> None:
    """List memories, the newest first.

    \b
    Exit codes: 0 done, 2 you typed it wrong, 3 cannot reach the ledger.

    \b
    Examples:
      horarium memory list --user ana
      horarium memory list --kind procedural --status active --json
    """

    async def work() -> int:
        wanted_kind: MemoryKind | None = _one_of("kind", kind, KINDS)
        wanted: MemoryStatus | None = _one_of("status", status, STATUSES)
        async with opened_ledger() as ledger:
            found = await Memories(ledger).list(
                tenant=tenant,
                kind=wanted_kind,
                scope=scope,
                owner=plain(user) if user is not None else None,
                status=(wanted,) if wanted is not None else (),
                run=run,
                limit=limit,
            )
        if as_json:
            for memory in found:
                talk.emit(memory_json(memory))
        elif found:
            talk.out().print(talk.table(COLUMNS, [memory_row(memory) for memory in found], keep=("id",)))
        else:
            talk.say("Nothing is remembered." if not (kind or scope or user or status or run) else "There is none.")
        return talk.DONE

    talk.perform(work())


@app.command()
def show(memory: MemoryArgument, as_json: JsonOption = False) -> None:
    """Show a memory with its versions, the runs that taught it, and the runs that were told of it.

    \b
    Exit codes: 0 done, 2 there is none, 3 cannot reach the ledger.

    \b
    Example:
      horarium memory show mem_4T9K
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            found = await find_memory(ledger, memory)
            uses = await Memories(ledger).uses(found.id)
        if as_json:
            talk.emit(memory_json(found) | {"used_by": [{"run": run, "version": version} for run, version in uses]})
            return talk.DONE
        rows.pairs(
            [
                ("id", found.id),
                ("kind", found.kind),
                ("of", _whose(found)),
                ("tenant", found.tenant),
                ("about", about(found)),
            ]
        )
        for version in reversed(found.versions):
            rows.heading(f"Version {version.version}: {version.status}")
            rows.pairs(_version_pairs(found, version))
        rows.heading(f"Told to {words.plural(len(uses), 'run')}")
        for run, number in uses:
            rows.indented(f"{run}  version {number}")
        return talk.DONE

    talk.perform(work())


@app.command()
def edit(
    memory: MemoryArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What it says from now on.")],
    by: ByOption,
    as_json: JsonOption = False,
) -> None:
    """Have a memory say something else. It is a new version, and can be undone.

    \b
    Exit codes: 0 done, 2 there is none or the text cannot be, 3 cannot reach the ledger.

    \b
    Example:
      horarium memory edit mem_4T9K "Wants white paper." --by ana
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            found = await find_memory(ledger, memory)
            edited = await MemoryCare(ledger).edit(found.id, text, by)
        _done(edited, f"{edited.id} says so from now on, in version {edited.shown.version}.", as_json)
        return talk.DONE

    talk.perform(work())


@app.command()
def undo(memory: MemoryArgument, by: ByOption, as_json: JsonOption = False) -> None:
    """Take back what holds now: the version before it holds again, or none. Names the runs that had been told.

    \b
    Exit codes: 0 done, 1 no version holds, 2 there is none, 3 cannot reach the ledger.

    \b
    Example:
      horarium memory undo mem_4T9K --by ana
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            found = await find_memory(ledger, memory)
            undone = await MemoryCare(ledger).undo(found.id, by)
        if as_json:
            said = {"undone": undone.undone, "restored": undone.restored, "used_by": list(undone.used_by)}
            talk.emit(memory_json(undone.memory) | said)
            return talk.DONE
        now = f"version {undone.restored} holds again" if undone.restored else "it is told to no run any more"
        talk.out().print(Text(f"Version {undone.undone} of {found.id} is undone: {now}."), soft_wrap=True)
        for run in undone.used_by:
            talk.out().print(Text(f"{run} had been told of it."), soft_wrap=True)
        return talk.DONE

    talk.perform(work())


@app.command()
def delete(memory: MemoryArgument, by: ByOption, as_json: JsonOption = False) -> None:
    """Remove a memory with all its versions, for good. What runs were told of it stays in their evidence.

    \b
    Exit codes: 0 done, 2 there is none, 3 cannot reach the ledger.

    \b
    Example:
      horarium memory delete mem_4T9K --by ana
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            found = await find_memory(ledger, memory)
            told = await MemoryCare(ledger).delete(found.id, by)
        if as_json:
            talk.emit({"id": found.id, "deleted": True, "used_by": list(told)})
            return talk.DONE
        talk.out().print(Text(f"{found.id} is gone."), soft_wrap=True)
        if told:
            some = ", ".join(told[:_NAMED]) + (", …" if len(told) > _NAMED else "")
            talk.say(f"{words.plural(len(told), 'run')} had been told of it: {some}")
        return talk.DONE

    talk.perform(work())


async def find_memory(ledger: Ledger, said: str) -> Memory:
    """The memory of this id, or the only one whose id begins so.

    Raises:
        MemoryNotFound: There is none, or there are several.
    """
    query = select(memories.c.id).where(memories.c.id.istartswith(said, autoescape=True)).limit(_NAMED + 1)
    async with ledger.read() as connection:
        found = list(await connection.scalars(query)) if said else []
    if len(found) > 1 and said not in found:
        raise MemoryNotFound(f"{said!r} begins the ids of several memories: {', '.join(found[:_NAMED])}.")
    return await Memories(ledger).get(said if said in found or not found else found[0])


def memory_json(memory: Memory) -> dict[str, Any]:
    """A memory, with stable keys."""
    return {
        "id": memory.id,
        "tenant": memory.tenant,
        "kind": memory.kind,
        "scope": memory.scope or None,
        "user": memory.owner or None,
        "subject": memory.subject,
        "current": memory.current.version if memory.current else None,
        "created_at": memory.created_at.isoformat(),
        "versions": [
            {
                "version": version.version,
                "status": version.status,
                "text": version.text,
                "run": version.run_id,
                "taught_by": list(memory.sources.get(version.version, ())),
                "agent": version.agent,
                "model": version.model,
                "score": version.score,
                "judged_by": version.judged_by,
                "reason": version.reason,
                "changed_by": version.changed_by,
                "created_at": version.created_at.isoformat(),
                "renewed_at": version.renewed_at.isoformat(),
                "expires_at": version.expires_at.isoformat() if version.expires_at else None,
            }
            for version in memory.versions
        ],
    }


def memory_row(memory: Memory) -> tuple[str, ...]:
    """A memory on one line: the version that stands for it."""
    shown = memory.shown
    return (
        memory.id,
        memory.kind,
        _whose(memory),
        shown.status,
        str(shown.version),
        about(memory),
        words.one_line(shown.text),
    )


def about(memory: Memory) -> str:
    """What it is about, on one line. That of a summary is its run, whose id the ledger has in small letters."""
    run = memory.versions[0].run_id
    return run if memory.kind == "summary" and run and run.lower() == memory.subject else words.one_line(memory.subject)


def _whose(memory: Memory) -> str:
    return words.one_line(memory.owner or memory.scope)


def _version_pairs(memory: Memory, version: MemoryVersion) -> list[tuple[str, str]]:
    found = [
        ("text", words.one_line(version.text)),
        ("why", words.one_line(version.reason or "")),
        ("taught by", ", ".join(memory.sources.get(version.version, ()))),
        ("agent", words.one_line(version.agent or "")),
        ("in words of", words.one_line(version.model or "")),
        ("judged by", words.one_line(version.judged_by or "")),
        ("score", f"{version.score:g}" if version.score is not None else ""),
        ("changed by", words.one_line(version.changed_by or "")),
        ("learned", words.when(version.renewed_at)),
        ("expires", words.when(version.expires_at) if version.expires_at else ""),
    ]
    return [(name, value) for name, value in found if value]


def _done(memory: Memory, said: str, as_json: bool) -> None:
    if as_json:
        talk.emit(memory_json(memory))
    else:
        talk.out().print(Text(said), soft_wrap=True)


def _one_of(name: str, said: str | None, known: tuple[Any, ...]) -> Any:
    if said is not None and said not in known:
        raise ConfigError(f"--{name} is one of {', '.join(known)}, not {said!r}.")
    return said
