"""Toolboxes over REST: to look at, and to say which version counts.

They are the project's, so whoever changes one is of the project's own tenant; another tenant only looks.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from horarium.gateway.auth import Caller
from horarium.gateway.context import Operator, TheClient, Viewer
from horarium.gateway.roles import NotAllowed
from horarium.gateway.v1.agents import definition_of
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Named, Numbered, Request, SchemaOf, Time, Whole, page_end
from horarium.gateway.v1.paging import LARGEST, Cursor, Limit, Page, cursor_of, read_cursor
from horarium.ledger.toolboxes import EVERYBODY, DefaultVersion, ToolboxVersion
from horarium.toolboxes import Toolbox

router = APIRouter(prefix="/v1/toolboxes", tags=["toolboxes"])


class ToolboxSummary(Answer):
    """Which version of a toolbox counts when nobody names another."""

    name: str
    version: int
    previous: int | None = Field(description="Where a rollback goes; null: nowhere.")
    changed_at: Time
    changed_by: str | None


class ToolboxVersionSummary(Answer):
    """One version of a toolbox, in a list."""

    name: str
    version: int = Field(description="From 1; a version never changes.")
    description: str
    created_at: Time


class ToolboxDetail(ToolboxVersionSummary):
    """One version of a toolbox, whole."""

    definition: Annotated[dict[str, Any], SchemaOf(Toolbox)] = Field(
        description="As in the toolbox's file. It holds no secrets, only the names of environment variables."
    )
    operations: dict[str, list[str]] = Field(description="Of its HTTP APIs, by label: their names.")


class Promotion(Request):
    """Which version is to count."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 2}]})

    version: Whole = Field(ge=1, le=LARGEST)


def _summary(found: ToolboxVersion) -> ToolboxVersionSummary:
    box = found.toolbox
    return ToolboxVersionSummary(
        name=box.name, version=found.version, description=box.description, created_at=found.created_at
    )


def _detail(found: ToolboxVersion) -> ToolboxDetail:
    operations = {label: [item.name for item in items] for label, items in found.operations.items()}
    return ToolboxDetail(**dict(_summary(found)), definition=definition_of(found.toolbox), operations=operations)


def _check_owner(caller: Caller) -> None:
    if caller.tenant != EVERYBODY:
        raise NotAllowed(
            "Toolboxes are the project's; another tenant cannot change them.",
            hint=f"Use an API key of the tenant {EVERYBODY!r}.",
        )


def _name(found: DefaultVersion) -> str:
    return found.name


def _standing(found: DefaultVersion) -> ToolboxSummary:
    return ToolboxSummary.model_validate(found)


@router.get("", operation_id="toolboxes_list", summary="List toolboxes", responses=errors())
async def toolboxes_list(
    client: TheClient, caller: Viewer, limit: Limit = 50, cursor: Cursor = None
) -> Page[ToolboxSummary]:
    """Every toolbox, by name, with the version that counts."""
    after = read_cursor(cursor, str)
    found = [item for item in sorted(await client.toolboxes(), key=_name) if after is None or item.name > after[0]]
    shown, end = page_end(found, limit, lambda item: cursor_of(item.name))
    return Page(data=[_standing(item) for item in shown], next=end)


@router.get("/{name}", operation_id="toolboxes_get", summary="Show a toolbox", responses=errors(404))
async def toolboxes_get(client: TheClient, caller: Viewer, name: Named) -> ToolboxSummary:
    """Which version of a toolbox counts."""
    return _standing(await client.toolbox_default(name))


@router.get("/{name}/versions", operation_id="toolboxes_versions", summary="List its versions", responses=errors(404))
async def toolboxes_versions(
    client: TheClient, caller: Viewer, name: Named, limit: Limit = 50, cursor: Cursor = None
) -> Page[ToolboxVersionSummary]:
    """The versions of a toolbox, newest first."""
    before = read_cursor(cursor, int)
    versions = reversed(await client.toolbox_versions(name))
    found = [item for item in versions if before is None or item.version < before[0]]
    shown, end = page_end(found, limit, lambda item: cursor_of(item.version))
    return Page(data=[_summary(item) for item in shown], next=end)


@router.get(
    "/{name}/versions/{version}", operation_id="toolboxes_version", summary="Show a version", responses=errors(404)
)
async def toolboxes_version(client: TheClient, caller: Viewer, name: Named, version: Numbered) -> ToolboxDetail:
    """One version of a toolbox, with its definition."""
    return _detail(await client.toolbox(name, version))


@router.post("/{name}/promote", operation_id="toolboxes_promote", summary="Promote a version", responses=errors(404))
async def toolboxes_promote(client: TheClient, caller: Operator, name: Named, body: Promotion) -> ToolboxSummary:
    """Let a version count from the next run on. Safe to repeat."""
    _check_owner(caller)
    return _standing(await client.promote_toolbox(name, body.version, by=caller.name))


@router.post("/{name}/rollback", operation_id="toolboxes_rollback", summary="Roll back", responses=errors(404, 409))
async def toolboxes_rollback(client: TheClient, caller: Operator, name: Named) -> ToolboxSummary:
    """Go back to the version that counted before the last promotion, once."""
    _check_owner(caller)
    return _standing(await client.rollback_toolbox(name, by=caller.name))
