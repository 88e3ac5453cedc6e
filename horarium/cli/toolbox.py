"""`horarium toolbox`: the toolboxes of this project, their versions, and which of them counts.

A file becomes a version when a worker starts, when a run of an agent that names it does, or by `publish`. The first
counts at once; each later one when somebody promotes it.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from horarium.cli import evidence, talk, toolbox_files, toolbox_serve, toolbox_words, words
from horarium.cli.reach import opened_ledger
from horarium.cli.rows import Row, heading, pairs, print_rows
from horarium.cli.start import JsonOption
from horarium.errors import ToolboxNotFound
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.toolboxes import Toolboxes
from horarium.settings import Settings
from horarium.toolboxes import named_version
from horarium.toolboxfiles import ToolboxFile, load_toolboxes

app = typer.Typer(no_args_is_help=True, help="See toolboxes and their versions, and choose which one counts.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The toolbox's name.")]
ByOption = Annotated[
    str | None,
    typer.Option(
        "--by", envvar="HORARIUM_BY", metavar="NAME", help="Who says so, as evidence. Default: your login name."
    ),
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]


@app.command("list")
def list_(as_json: JsonLinesOption = False) -> None:
    """List the toolboxes of the project's files and of the ledger, and which version of each counts.

    \b
    Exit codes: 0 done, 2 a file is wrong, 3 cannot reach the ledger.

    \b
    Example:
      horarium toolbox list
    """
    talk.perform(_list(as_json=as_json))


async def _list(*, as_json: bool) -> int:
    settings = Settings.load()
    files = load_toolboxes(settings)
    async with opened_ledger(settings) as ledger:
        toolboxes = Toolboxes(ledger)
        found = [await _line(toolboxes, name, files) for name in sorted({*files, *await toolboxes.names()})]
    if as_json:
        for line in found:
            talk.emit(line)
    elif found:
        rows: list[Row] = [
            (
                [
                    line["toolbox"],
                    str(line["default"] or "-"),
                    str(line["newest"] or "-"),
                    line["tools"],
                    line["state"],
                ],
                [],
            )
            for line in found
        ]
        print_rows(("toolbox", "default", "newest", "tools", "state"), rows)
    else:
        talk.say("No toolboxes. Write one: toolboxes/NAME.yaml")
    return talk.DONE


async def _line(toolboxes: Toolboxes, name: str, files: Mapping[str, ToolboxFile]) -> dict[str, Any]:
    file = files.get(name)
    versions = await toolboxes.versions(name) if name in await toolboxes.names() else []
    default = await toolboxes.default(name) if versions else None
    counts = next((version for version in versions if default and version.version == default.version), None)
    about = counts or (toolbox_words.unpublished(file) if file else None)
    return {
        "toolbox": name,
        "default": default.version if default else None,
        "newest": versions[-1].version if versions else None,
        "tools": toolbox_words.parts(about) if about else "",
        "description": about.toolbox.description if about else "",
        "state": toolbox_words.state(file, versions, default),
    }


@app.command()
def show(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A toolbox, or one version of it.")],
    as_json: JsonOption = False,
) -> None:
    """Show one version of a toolbox, else the default: its tools, and what each may do to the world.

    What an MCP server offers is asked for when a run begins, so of those only the server is shown.

    \b
    Exit codes: 0 done, 2 there is none, 3 cannot reach the ledger.

    \b
    Examples:
      horarium toolbox show crm
      horarium toolbox show crm@2 --json
    """
    talk.perform(_show(reference, as_json=as_json))


async def _show(reference: str, *, as_json: bool) -> int:
    name, number = _named(reference)
    async with opened_ledger() as ledger:
        version = await Toolboxes(ledger).get(name, number)
        default = await Toolboxes(ledger).default(name)
        served = {tool: served.spec for tool, served in (await ToolCatalog(ledger).all()).items()}
    tools = list(toolbox_words.tools(version, served))
    if as_json:
        said = {"toolbox": name, "version": version.version, "default": default.version}
        definition = version.toolbox.model_dump(mode="json")
        made = {"created_at": evidence.moment(version.created_at)}
        talk.emit(said | made | {"tools": [tool.json() for tool in tools], "definition": definition})
        return talk.DONE
    talk.out().print(Text(f"Toolbox {version.reference}", style="bold"))
    about = [("since", words.when(version.created_at)), ("default", toolbox_words.default(default, version.version))]
    if version.toolbox.description:
        about.insert(0, ("about", words.one_line(version.toolbox.description)))
    pairs(about)
    heading("Tools")
    print_rows(
        ("  tool", "kind", "effect", "what it does"),
        [((f"  {tool.name}", tool.kind, tool.effect, words.one_line(tool.about)), []) for tool in tools],
    )
    return talk.DONE


@app.command()
def versions(name: NameArgument, as_json: JsonLinesOption = False) -> None:
    """List the versions of a toolbox, the newest first.

    \b
    Exit codes: 0 done, 2 there is no such toolbox, 3 cannot reach the ledger.

    \b
    Example:
      horarium toolbox versions crm
    """
    talk.perform(_versions(name, as_json=as_json))


async def _versions(name: str, *, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        found = await Toolboxes(ledger).versions(name)
        default = await Toolboxes(ledger).default(name)
    rows: list[Row] = []
    for version in reversed(found):
        is_default = version.version == default.version
        word = "default" if is_default else "before" if version.version == default.previous else ""
        if as_json:
            created = evidence.moment(version.created_at)
            talk.emit({"version": version.version, "created_at": created, "default": is_default})
        rows.append(([str(version.version), words.when(version.created_at), toolbox_words.parts(version), word], []))
    if not as_json:
        print_rows(("version", "made", "tools", ""), rows)
        talk.say(f"What changed: horarium toolbox diff {name} A B")
    return talk.DONE


@app.command()
def diff(
    name: NameArgument,
    before: Annotated[int, typer.Argument(metavar="A", min=1, help="One version.")],
    after: Annotated[int, typer.Argument(metavar="B", min=1, help="The other.")],
    as_json: JsonOption = False,
) -> None:
    """Show what differs between two versions: tools that came, went or changed, and the definition's lines.

    \b
    Exit codes: 0 done, 2 there is no such version, 3 cannot reach the ledger.

    \b
    Example:
      horarium toolbox diff crm 1 2
    """
    talk.perform(_diff(name, before, after, as_json=as_json))


async def _diff(name: str, before: int, after: int, *, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        old, new = await Toolboxes(ledger).get(name, before), await Toolboxes(ledger).get(name, after)
    changes, lines = toolbox_words.changes(old, new), toolbox_words.lines(old, new)
    if as_json:
        talk.emit({"toolbox": name, "from": before, "to": after, "tools": changes, "definition": lines})
        return talk.DONE
    for change in changes:
        talk.out().print(Text(words.one_line(change)), soft_wrap=True)
    if lines:
        heading("Definition")
        for line in lines:
            talk.out().print(Text(words.harmless(line)), soft_wrap=True)
    if not changes and not lines:
        talk.say("Nothing differs.")
    return talk.DONE


@app.command()
def promote(
    name: NameArgument,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The version that is to count.")],
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a version count: agents that name the toolbox without a version have it from their next run on.

    Runs that have begun keep the tools they began with. Safe to repeat.

    \b
    Exit codes: 0 done, 2 there is no such version, 3 cannot reach the ledger.

    \b
    Example:
      horarium toolbox promote crm 2 --by ana
    """
    talk.perform(_promote(name, version, by or getpass.getuser(), as_json=as_json))


async def _promote(name: str, version: int, by: str, *, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        await Toolboxes(ledger).promote(name, version, by)
        return await _told(ledger, name, as_json=as_json)


@app.command()
def rollback(name: NameArgument, by: ByOption = None, as_json: JsonOption = False) -> None:
    """Go back to the version that counted before the last promotion.

    \b
    Exit codes: 0 done, 1 nothing was promoted since, 2 there is no such toolbox, 3 cannot reach the ledger.

    \b
    Example:
      horarium toolbox rollback crm --by ana
    """
    talk.perform(_rollback(name, by or getpass.getuser(), as_json=as_json))


async def _rollback(name: str, by: str, *, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        await Toolboxes(ledger).rollback(name, by)
        return await _told(ledger, name, as_json=as_json)


async def _told(ledger: Ledger, name: str, *, as_json: bool) -> int:
    default = await Toolboxes(ledger).default(name)
    if as_json:
        talk.emit({"toolbox": name, "default": default.version, "previous": default.previous})
    else:
        talk.out().print(Text(f"{name}@{default.version} counts from the next run on."))
        if default.previous is not None:
            talk.say(f"Back to {name}@{default.previous}: horarium toolbox rollback {name}")
    return talk.DONE


def _named(reference: str) -> tuple[str, int | None]:
    try:
        return named_version(reference)
    except ValueError as error:
        raise ToolboxNotFound(f"{error}.", hint="See which there are: horarium toolbox list") from error


app.command("check")(toolbox_files.check)
app.command("publish")(toolbox_files.publish)
app.command()(toolbox_serve.serve)
