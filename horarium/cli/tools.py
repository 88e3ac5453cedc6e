"""`horarium tools`: what MCP servers say of their tools, what changed in it, and whether it is trusted."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from horarium.cli import talk, words
from horarium.cli.evidence import moment
from horarium.cli.reach import opened_ledger
from horarium.cli.rows import heading, indented, print_rows
from horarium.errors import ConfigError, ToolUnavailable
from horarium.ledger.trusted_tools import KnownTool, TrustedTools
from horarium.visible import visible

app = typer.Typer(no_args_is_help=True, help="See what MCP servers say of their tools, and say what you trust.")

STYLES = {"trusted": "green", "changed": "bold red", "new": "yellow"}
SHOWN = len("sha256:") + 12  # characters of a digest: enough to tell two apart

ServerArgument = Annotated[
    str | None, typer.Argument(metavar="[SERVER]", help="Only of this server: its label, or a part of its address.")
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]


@app.command("list")
def list_(server: ServerArgument = None, as_json: JsonLinesOption = False) -> None:
    """List the tools of MCP servers that runs have met, and whether they are trusted.

    Needs only the ledger: what a server says right now, the next run sees.

    \b
    Exit codes: 0 done, 2 no run has met such a server, 3 cannot reach the ledger.

    \b
    Examples:
      horarium tools list
      horarium tools list tickets --json | jq -r .tool
    """
    talk.perform(_list(server, as_json=as_json))


async def _list(server: str | None, *, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        found = _of_server(await TrustedTools(ledger).list(), server)
    if as_json:
        for tool in found:
            talk.emit(tool_json(tool))
    elif found:
        print_rows(
            ("server", "tool", "state", "by", "what it does"),
            [
                (
                    [
                        words.one_line(tool.label),
                        words.one_line(tool.tool),
                        Text(tool.state, style=STYLES[tool.state]),
                        words.one_line(tool.trusted_by or "-"),
                        words.one_line(_about(tool.seen)),
                    ],
                    [],
                )
                for tool in found
            ],
        )
    else:
        talk.say("No run has met an MCP server yet. Name one in an agent's `mcp`.")
    return talk.DONE


@app.command()
def changes(server: ServerArgument = None, as_json: JsonLinesOption = False) -> None:
    """Show what servers say that nobody trusts yet, line by line against what was trusted.

    \b
    Exit codes: 0 nothing is open, 1 something is, 2 no run has met such a server,
    3 cannot reach the ledger.

    \b
    Examples:
      horarium tools changes
      horarium tools changes tickets
    """
    talk.perform(_changes(server, as_json=as_json))


async def _changes(server: str | None, *, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        known = _of_server(await TrustedTools(ledger).list(), server)
    found = [tool for tool in known if tool.state != "trusted"]
    for tool in found:
        if as_json:
            talk.emit(tool_json(tool) | {"trusted": tool.trusted, "seen": tool.seen})
        else:
            _show(tool)
    if not found and not as_json:
        talk.say("Nothing has changed: everything that was seen is trusted.")
    return talk.RUN_FAILED if found else talk.DONE


def _show(tool: KnownTool) -> None:
    what = "has changed" if tool.state == "changed" else "is new"
    heading(f"{words.one_line(tool.tool)} of {words.one_line(tool.label)} {what}")
    indented(f"{words.one_line(tool.address)}, seen {words.when(tool.seen_at)}", style="dim")
    for line in _difference(tool):
        indented(line, style={"+": "green", "-": "red"}.get(line[:1], ""))
    names = shlex.join([tool.label, tool.tool])
    talk.say(f"Trust it: horarium tools trust {names} --by NAME --digest {tool.seen_digest[:SHOWN]}")


def _difference(tool: KnownTool) -> list[str]:
    seen = _lines(tool.seen)
    if tool.trusted is None:
        return seen
    _, _, *lines = difflib.unified_diff(_lines(tool.trusted), seen, lineterm="", n=2)
    return [line for line in lines if not line.startswith("@@")]


@app.command()
def trust(
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Its label, or a part of its address.")],
    by: Annotated[
        str, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who says so; kept as evidence.")
    ],
    tools: Annotated[list[str] | None, typer.Argument(metavar="[TOOL]...", help="As the server names them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is new or has changed there.")] = False,
    digest: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Only if it still says what `changes` showed.")
    ] = None,
) -> None:
    """Trust what a server says of its tools: from now on runs begin with it.

    Read it first: horarium tools changes. The model does what a description says.

    \b
    Exit codes: 0 done, 2 no such server or tool, or it says something else by now,
    3 cannot reach the ledger.

    \b
    Examples:
      horarium tools trust tickets close --by ana
      horarium tools trust tickets --all --by ana
    """
    talk.perform(_trust(server, tools or [], everything=everything, digest=digest, by=by))


async def _trust(server: str, tools: Sequence[str], *, everything: bool, digest: str | None, by: str) -> int:
    if bool(tools) == everything:
        raise ConfigError("Say which tools, or --all.", hint="See them: horarium tools changes")
    if digest is not None and len(tools) != 1:
        raise ConfigError("A digest is that of one tool.", hint="Name one tool, or leave --digest out.")
    async with opened_ledger() as ledger:
        repository = TrustedTools(ledger)
        known = _of_server(await repository.list(), server)
        if len({tool.server for tool in known}) > 1:
            addresses = ", ".join(sorted({tool.address for tool in known}))
            raise ConfigError(f"{server!r} may be any of {addresses}.", hint="Name more of the address.")
        chosen = [tool for tool in known if (everything and tool.state != "trusted") or tool.tool in tools]
        missing = sorted(set(tools) - {tool.tool for tool in chosen})
        if missing:
            raise ToolUnavailable(f"No run has seen {missing[0]!r} there.", hint="See: horarium tools list")
        for tool in chosen:
            if digest is not None and not tool.seen_digest.startswith(digest):
                raise ToolUnavailable(
                    f"The server says something else of {tool.tool!r} by now.",
                    hint="Look again: horarium tools changes",
                )
            await repository.trust(tool.server, tool.tool, tool.seen_digest, by)
            said = f"{words.one_line(tool.tool)} of {words.one_line(tool.label)} is trusted by {words.one_line(by)}."
            talk.out().print(Text(said), soft_wrap=True)
    if not chosen:
        talk.say("Nothing is open there: everything that was seen is trusted.")
    return talk.DONE


def tool_json(tool: KnownTool) -> dict[str, Any]:
    """A tool, with stable keys."""
    return {
        "server": tool.label,
        "address": tool.address,
        "tool": tool.tool,
        "state": tool.state,
        "trusted_by": tool.trusted_by,
        "trusted_at": moment(tool.trusted_at),
        "trusted_digest": tool.trusted_digest,
        "seen_at": moment(tool.seen_at),
        "seen_digest": tool.seen_digest,
    }


def _of_server(known: Sequence[KnownTool], server: str | None) -> list[KnownTool]:
    if server is None:
        return list(known)
    found = [tool for tool in known if tool.label == server] or [tool for tool in known if server in tool.address]
    if not found:
        raise ToolUnavailable(f"No run has met a server {server!r}.", hint="See which: horarium tools list")
    return found


def _about(said: dict[str, Any]) -> str:
    return str(said.get("description") or said.get("title") or "-")


def _lines(said: dict[str, Any]) -> list[str]:
    """What a server says, for a person to judge: every character that a reader would not see written out."""
    return visible(json.dumps(said, indent=2, ensure_ascii=False, sort_keys=True)).splitlines()
