"""Pages about toolboxes: their versions, what is in each, where they are served, and which version counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from horarium.errors import ConfigError
from horarium.gateway.auth import Caller
from horarium.gateway.console.agent_tools import ToolLine
from horarium.gateway.console.definition_words import as_written, difference, plan_in_words
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.page import page, said
from horarium.gateway.console.routing import pages
from horarium.gateway.context import Operator, TheClient, Viewer
from horarium.gateway.roles import Role
from horarium.gateway.v1 import toolboxes as v1
from horarium.gateway.v1.fields import Named, page_end
from horarium.gateway.v1.paging import LARGEST, Cursor, cursor_of, read_cursor
from horarium.ledger.agents import Agents, ServedTool, ToolCatalog
from horarium.ledger.toolboxes import EVERYBODY, ToolboxVersion
from horarium.ledger.toolworkers import group_of
from horarium.ledger.trusted_tools import TrustedTools
from horarium.toolboxes import named_version

ON_A_PAGE = 50
MOST_TOOLS = 300

router = pages()
Version = Annotated[int | None, Query(ge=1, le=LARGEST)]


def _address(request: Request, name: str) -> str:
    """Of its MCP endpoint, as this browser reaches it."""
    return f"{request.base_url}toolboxes/{name}/mcp"


@router.get("/agents/toolboxes")
async def list_page(request: Request, client: TheClient, caller: Viewer, cursor: Cursor = None) -> Response:
    """Every toolbox, by name, with the version that counts."""
    after = read_cursor(cursor, str)
    standing = sorted(await client.toolboxes(), key=lambda one: one.name)
    left = [one for one in standing if after is None or one.name > after[0]]
    shown, end = page_end(left, ON_A_PAGE, lambda one: cursor_of(one.name))
    return page(
        request,
        "toolboxes.html",
        title="Toolboxes",
        rows=[(one, await client.toolbox(one.name, one.version), _address(request, one.name)) for one in shown],
        next=f"/agents/toolboxes?cursor={end}" if end else None,
    )


@router.get("/agents/toolboxes/{name}/diff")
async def diff_page(
    request: Request, client: TheClient, caller: Viewer, name: Named, before: Version = None, after: Version = None
) -> Response:
    """What is different between two versions; between the one that counts and the one before, when none is named."""
    newer = await client.toolbox(name, after)
    older = await client.toolbox(name, before or max(newer.version - 1, 1))
    return page(
        request,
        "definition_diff.html",
        title=f"{name}: versions {older.version} and {newer.version}",
        home=("/agents/toolboxes", "Toolboxes"),
        name=name,
        place=f"/agents/toolboxes/{name}",
        older=older,
        newer=newer,
        lines=difference(_text(older), _text(newer)),
        command=f"horarium toolbox diff {name} {older.version} {newer.version}",
        path=f"/v1/toolboxes/{name}/versions/{newer.version}",
    )


@router.get("/agents/toolboxes/{name}")
async def toolbox_page(
    request: Request, client: TheClient, caller: Viewer, name: Named, version: Version = None
) -> Response:
    """One version of a toolbox; the one that counts, when none is named."""
    standing = await client.toolbox_default(name)
    found = await client.toolbox(name, version)
    ledger = client.require_ledger()
    agents = await Agents(ledger).newest()
    lines = list(_lines(found, await ToolCatalog(ledger).all()))
    lines += await _met(found, TrustedTools(ledger))
    served = request.app.state.served
    return page(
        request,
        "toolbox.html",
        title=name,
        standing=standing,
        found=found,
        versions=list(reversed(await client.toolbox_versions(name)))[:ON_A_PAGE],
        endpoint=_address(request, name),
        served=served is None or name in served,
        users=[one.agent.name for one in agents if name in {named_version(each)[0] for each in one.agent.toolboxes}],
        lines=lines[:MOST_TOOLS],
        left_out=max(len(lines) - MOST_TOOLS, 0),
        plan=plan_in_words(found.toolbox.approvals),
        text=_text(found),
        may_change=_may_change(caller),
    )


def _may_change(caller: Caller) -> bool:
    return caller.role >= Role.OPERATOR and caller.tenant == EVERYBODY


def _text(found: ToolboxVersion) -> str:
    """Its definition, and what its documents offered when the version was made: both make a version."""
    offered = {
        label: [f"{item.method.upper()} {item.path} as {item.name}, {item.effect}" for item in items]
        for label, items in found.operations.items()
    }
    return as_written(found.toolbox, {"operations": offered} if offered else None)


def _lines(found: ToolboxVersion, served: dict[str, ServedTool]) -> Iterator[ToolLine]:
    box = found.toolbox
    for name in box.tools:
        spec = served.get(name)
        if spec is None:
            yield _line(name, "–", "not known", "", "no worker has announced it")
        else:
            yield _line(name, group_of(spec.queue), str(spec.spec.effect), spec.spec.description)
    for label, operations in found.operations.items():
        for item in operations:
            source = f"{item.method.upper()} {item.path} of {label}"
            yield _line(f"{label}__{item.name}", source, str(item.effect), item.description)
    for name in box.agents:
        yield _line(name, "a sub-agent", "each of its calls its own", "")


async def _met(found: ToolboxVersion, trusted: TrustedTools) -> list[ToolLine]:
    """What its MCP servers offer, as far as a run has met it."""
    lines: list[ToolLine] = []
    for label, server in found.toolbox.mcp.items():
        source = f"MCP server {label}: {server.address}"
        met = [one for one in await trusted.list(server.key) if server.offers(one.tool)]
        lines += [
            _line(
                f"{label}__{one.tool}",
                source,
                str(server.effect_of(one.tool)),
                str(one.seen.get("description") or ""),
                "" if one.state == "trusted" else f"not trusted: {one.state}",
            )
            for one in met
        ] or [_line(f"{label}__*", source, "each its own", "No run has met its tools so far.")]
    return lines


def _line(name: str, source: str, effect: str, description: str, state: str = "") -> ToolLine:
    return ToolLine(name, source, effect, "", "", description, state)


@router.post("/agents/toolboxes/{name}/promote")
async def promote(request: Request, client: TheClient, caller: Operator, name: Named, form: TheForm) -> Response:
    """Let a version count from the next run on."""
    number = form["version"]
    if not number.isdecimal() or not 1 <= int(number[:12]) <= LARGEST:
        raise ConfigError(f"{number[:40]!r} is no version.", hint="Load the page again.")
    now = await v1.toolboxes_promote(client, caller, name, v1.Promotion(version=int(number)))
    return said(request, f"Version {now.version} of {name} counts from the next run on.", back=_home(form, name))


@router.post("/agents/toolboxes/{name}/rollback")
async def rollback(request: Request, client: TheClient, caller: Operator, name: Named, form: TheForm) -> Response:
    """Go back to the version that counted before the last promotion."""
    now = await v1.toolboxes_rollback(client, caller, name)
    return said(request, f"Version {now.version} of {name} counts again.", back=_home(form, name))


def _home(form: TheForm, name: str) -> str:
    return form.get("back") or f"/agents/toolboxes/{name}"
