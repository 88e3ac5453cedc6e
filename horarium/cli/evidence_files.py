"""`horarium evidence`: one signed file of a run, for whoever does not see the ledger.

`verify` is for whoever was given the file: it opens no ledger, needs no project, and believes nobody.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.text import Text

from horarium.cli import talk, words
from horarium.cli.files import whole as whole_file
from horarium.cli.reach import find_run, opened_ledger
from horarium.cli.start import JsonOption
from horarium.errors import ConfigError
from horarium.evidence.exporting import exported
from horarium.evidence.keys import EvidenceKey
from horarium.evidence.sealing import a_public_key
from horarium.evidence.verifying import EvidenceReport
from horarium.evidence.verifying import verify as verified
from horarium.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Export the signed evidence of a run, and verify such a file.")


def _keys(said: list[str] | None) -> list[str]:
    try:
        return [a_public_key(key) for key in said or []]
    except ValueError:
        raise typer.BadParameter("a key is 43 characters, as `horarium evidence key` prints it") from None


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or as much of it as is unique.")],
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Replaced as a whole, or not at all; else stdout."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="With the whole of outputs that were cut for the model.")
    ] = False,
    by: Annotated[
        str | None, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who wants it; it is in the file.")
    ] = None,
) -> None:
    """Export all that the ledger has of a run, and of the runs of its sub-agents, as one signed file.

    Input, steps, arguments, outputs, approvals with every vote and its proof,
    the agent's definition, and the entries of the audit trail. It is content:
    give it to nobody who may not read the run. Needs only the ledger.

    \b
    Exit codes: 0 done, 1 it does not fit into one file, 2 there is no such run or the
    file cannot be written, 3 cannot reach the ledger.

    \b
    Examples:
      horarium evidence export run_01JD8 -o run.evidence.json
      horarium evidence export run_01JD8 | jq .body.run.approvals
    """
    talk.perform(_export(run, file, whole, by))


async def _export(said: str, file: Path | None, whole: bool, by: str | None) -> int:
    settings = Settings.load()
    async with opened_ledger(settings) as ledger:
        run = await find_run(ledger, said)
        text = await exported(ledger, settings, run.id, whole=whole, by=by)
    await asyncio.to_thread(_write, file, text)
    key = await asyncio.to_thread(EvidenceKey.of, settings)
    if run.closed_at is None:
        talk.say(f"{run.id} has not ended: this is its evidence so far.")
    talk.say(f"Signed by {key.id}. Check it: horarium evidence verify {file or 'FILE'} --key {key.public}")
    return talk.DONE


def _write(file: Path | None, text: str) -> None:
    with whole_file(file) as out:
        out.write(text)
        out.flush()


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote; - is stdin.")],
    keys: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY", help="The public key that has to have signed; again for more."),
    ] = None,
    trail: Annotated[
        Path | None,
        typer.Option("--trail", metavar="FILE", help="The whole audit trail, as `horarium audit export` wrote it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the evidence of a run: the signature, and whatever can be worked out anew.

    Needs the file alone, no project, no ledger and no server. Without --key it
    shows that nothing was changed since somebody signed it, and not who that
    was: get the key another way than the file. With --trail it is seen too
    whether entries about the run are missing.

    \b
    Exit codes: 0 it holds, 1 it does not, 2 there is no such file, or it is no key.

    \b
    Examples:
      horarium evidence verify run.evidence.json --key Jq0s…
      horarium evidence verify run.evidence.json --trail audit.jsonl
    """
    talk.perform(_verify(file, _keys(keys), trail, as_json=as_json))


async def _verify(file: Path, keys: list[str], trail: Path | None, *, as_json: bool) -> int:
    with _opened(file, "horarium evidence export RUN -o FILE") as source:
        text = source.read()
    if trail is None:
        report = verified(text, pinned=keys)
    else:
        with _opened(trail, "horarium audit export FILE") as lines:
            report = verified(text, pinned=keys, trail=lines)
    _say(report, as_json=as_json)
    return talk.DONE if report.holds else talk.RUN_FAILED


@contextmanager
def _opened(file: Path, how: str) -> Iterator[IO[str]]:
    """A file, or stdin, to read text from.

    Raises:
        ConfigError: It cannot be read; `how` makes one.
    """
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            # A byte that is no UTF-8 is one more way to be changed, and no reason to fail before saying so.
            yield TextIOWrapper(source, encoding="utf-8", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error.strerror}.", hint=f"Export one: {how}") from error


def _say(report: EvidenceReport, *, as_json: bool) -> None:
    if as_json:
        talk.emit(report.model_dump(mode="json"))
        return
    out = talk.out()
    for wrong in report.wrong:
        out.print(Text(f"Wrong: {words.one_line(wrong)}"), soft_wrap=True)
    for good in report.verified:
        out.print(Text(f"Verified: {words.one_line(good)}"), soft_wrap=True)
    for unchecked in report.unchecked:
        out.print(Text(f"Not checked: {words.one_line(unchecked)}"), soft_wrap=True)
    if not report.holds:
        out.print(Text("It does not hold.", style="bold red"))
        return
    out.print(Text(f"It holds: the evidence of {words.one_line(str(report.run))}.", style="bold green"))
    if not report.pinned:
        talk.say(
            f"Trusted is the file's own key alone, {report.key}: anybody can make one. Pin the project's: --key KEY"
        )


@app.command()
def key(as_json: JsonOption = False) -> None:
    """Print the public key that signs this project's evidence: whoever verifies pins it.

    It is made at first use, in .horarium/secrets, or given by HORARIUM_EVIDENCE_KEY.

    \b
    Exit codes: 0 done, 2 the key cannot be read or made.

    \b
    Example:
      horarium evidence verify run.evidence.json --key "$(horarium evidence key)"
    """

    async def work() -> int:
        found = EvidenceKey.of(Settings.load())
        if as_json:
            talk.emit({"id": found.id, "public": found.public})
        else:
            print(found.public)
        return talk.DONE

    talk.perform(work())
