"""`horarium audit`: who decided what, kept so that a change afterwards is found.

`verify` is for whoever was given the file: it opens no ledger, needs no project, and believes nobody.
"""

from __future__ import annotations

import json
import re
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from horarium.audit import BEGINNING, AuditReport
from horarium.audit import verify as verified
from horarium.cli import talk, words
from horarium.cli.files import whole
from horarium.cli.reach import opened_ledger, run_id
from horarium.errors import ConfigError
from horarium.ledger.audit import AuditRecord, AuditTrail

app = typer.Typer(no_args_is_help=True, help="See who decided what, export it, and check an export.")

COLUMNS = ("#", "at", "what", "about", "by", "said")
SAID = ("tool", "verdict", "released_by", "reason", "via", "identity", "to", "comment")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


def _a_hash(said: str | None) -> str | None:
    if said is not None and not _HASH.fullmatch(said):
        raise typer.BadParameter("a hash is sha256: and 64 hexadecimal digits, as `horarium audit export` prints it")
    return said


@app.command("list")
def list_(
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Only of this run; as much of its id as is unique.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most: the newest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")] = False,
) -> None:
    """List the newest entries of the audit trail, the oldest of them first.

    Needs only the ledger. Arguments and answers are not in the trail, only their digests.

    \b
    Exit codes: 0 done, 2 the letters begin several runs, 3 cannot reach the ledger.

    \b
    Examples:
      horarium audit list
      horarium audit list --run run_01JD8 --json | jq -r .kind
    """
    talk.perform(_list(run, limit, as_json=as_json))


async def _list(said: str | None, limit: int, *, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        run = await run_id(ledger, said) if said is not None else None
        found = await AuditTrail(ledger).entries(run=run, limit=limit, newest=True)
    if as_json:
        for record in found:
            talk.emit(record.json())
    elif found:
        talk.out().print(talk.table(COLUMNS, [_row(record) for record in found], keep=("#", "at", "what")))
    else:
        talk.say(f"The audit trail has nothing about {run}." if run else "The audit trail is empty.")
    return talk.DONE


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _row(record: AuditRecord) -> tuple[str, ...]:
    data: dict[str, Any] = record.data if isinstance(record.data, dict) else {}
    said = (f"{name}: {_said(data[name])}" for name in SAID if data.get(name))
    return (
        str(record.seq),
        f"{record.at.astimezone():%Y-%m-%d %H:%M:%S}",
        record.kind,
        words.one_line(record.subject or "-"),
        words.one_line(str(data.get("by") or "-")),
        words.one_line(", ".join(said)),
    )


@app.command()
def export(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Replaced as a whole, or not at all; else stdout.")
    ] = None,
) -> None:
    """Export the whole audit trail as JSON Lines, each entry with the hash of the one before.

    The hash of the last entry, the head, is printed on stderr. Keep it somewhere else:
    with it, a trail whose end was cut off or that was written anew is found out.

    \b
    Exit codes: 0 done, 2 the file cannot be written, 3 cannot reach the ledger.

    \b
    Examples:
      horarium audit export trail.jsonl
      horarium audit export | gzip > trail.jsonl.gz
    """
    talk.perform(_export(file))


async def _export(file: Path | None) -> int:
    number, line = 0, None
    async with opened_ledger() as ledger:
        with whole(file) as out:
            async for line in AuditTrail(ledger).export():
                out.write(f"{line}\n")
                number += 1
            out.flush()
    head = json.loads(line)["hash"] if line else BEGINNING
    talk.say(f"Exported {_entries(number)}.")
    talk.say(f"Head: {head}")
    talk.say(f"Keep the head elsewhere, then check: horarium audit verify {file or 'FILE'} --head {head}")
    return talk.DONE


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote; - is stdin.")],
    head: Annotated[
        str | None,
        typer.Option(metavar="HASH", callback=_a_hash, help="The hash of its last entry, as `export` printed it."),
    ] = None,
    anchor: Annotated[
        str | None,
        typer.Option(
            metavar="HASH", callback=_a_hash, help="The head of an earlier export: it has to be in the trail."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")] = False,
) -> None:
    """Check an exported audit trail: nothing changed, missing, added or in another order.

    Needs the file alone, no project and no ledger. Says the first line that is wrong,
    and in which way. Without --head or --anchor nobody can see that the end was cut
    off, or that the whole was written anew.

    \b
    Exit codes: 0 intact, 1 broken or empty, 2 there is no such file.

    \b
    Examples:
      horarium audit verify trail.jsonl --head sha256:5f0c…
      gunzip -c trail.jsonl.gz | horarium audit verify -
    """
    talk.perform(_verify(file, head, anchor, as_json=as_json))


async def _verify(file: Path, head: str | None, anchor: str | None, *, as_json: bool) -> int:
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            # A byte that is no UTF-8 is one more way to be changed: found in its line, and no reason to stop reading.
            lines = TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
            report = verified(lines, head=head, anchor=anchor)
    except OSError as error:
        raise ConfigError(
            f"Cannot read {file}: {error.strerror}.", hint="Export one: horarium audit export FILE"
        ) from error
    # A file that came out empty by mistake is no evidence; that the trail itself was empty, only its head can say.
    empty = report.intact and report.entries == 0 and head != BEGINNING
    _say(report, empty=empty, kept=bool(head or anchor), as_json=as_json)
    return talk.DONE if report.intact and not empty else talk.RUN_FAILED


def _say(report: AuditReport, *, empty: bool, kept: bool, as_json: bool) -> None:
    if as_json:
        talk.emit(report.model_dump(mode="json") | {"intact": report.intact and not empty})
        return
    if empty:
        talk.out().print("Empty: there is no entry in it, so there is nothing to check.")
        talk.say("Was it written to the end? Export the trail again: horarium audit export FILE")
        return
    good = _entries(report.entries)
    if report.problem is not None:
        talk.out().print(Text(f"Broken: {report.problem.message}"), soft_wrap=True)
        talk.say(f"Good up to there: {good}, head {report.head}")
        return
    talk.out().print(Text(f"Intact: {good}, head {report.head}"), soft_wrap=True)
    if not kept:
        talk.say("Whether its end was cut off shows only with a hash kept elsewhere: --head or --anchor.")


def _entries(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"
