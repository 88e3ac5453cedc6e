"""Pages about API keys, for admins: made, listed, revoked. A key is shown on the page that makes it, this once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastapi import Request
from starlette.responses import Response

from horarium.errors import ConfigError
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.page import page, said
from horarium.gateway.console.routing import pages
from horarium.gateway.console.start import sent
from horarium.gateway.context import Admin, TheClient
from horarium.gateway.roles import Role
from horarium.gateway.v1 import keys as v1
from horarium.gateway.v1.keys import KeyId
from horarium.gateway.v1.paging import Cursor

ON_A_PAGE = 50
LASTS = {"": "until it is revoked", "7": "7 days", "30": "30 days", "90": "90 days", "365": "a year"}

router = pages()


async def _shown(
    request: Request, client: TheClient, caller: Admin, cursor: Cursor, made: v1.NewKey | None = None
) -> Response:
    listed = await v1.keys_list(client, caller, ON_A_PAGE, cursor)
    return page(
        request,
        "keys.html",
        title="API keys",
        here="/system/keys",
        keys=listed.data,
        made=made,
        roles=[role.name.lower() for role in Role if Role.NOBODY < role <= caller.role],
        lasts=LASTS,
        next=f"/system/keys?cursor={listed.next}" if listed.next else None,
    )


@router.get("/system/keys")
async def list_page(request: Request, client: TheClient, caller: Admin, cursor: Cursor = None) -> Response:
    """The tenant's keys, newest first."""
    return await _shown(request, client, caller, cursor)


@router.post("/system/keys")
async def create(request: Request, client: TheClient, caller: Admin, form: TheForm) -> Response:
    """Make one, and show it this once: it goes into no redirect and no cookie."""
    scopes = [f"role:{form['role']}"] if form.get("role") else []
    scopes += [f"toolbox:{name}" for name in (form.get("toolboxes") or "").replace(",", " ").split()]
    lasts = form.get("lasts") or ""
    if lasts not in LASTS:
        raise ConfigError("The form does not say how long the key lasts.", hint="Load the page again.")
    ends = datetime.now(UTC) + timedelta(days=int(lasts)) if lasts else None
    body = sent(v1.Create, name=form["name"].strip(), scopes=scopes, expires_at=ends.isoformat() if ends else None)
    made = await v1.keys_create(client, caller, body, Response())
    return await _shown(request, client, caller, None, made)


@router.post("/system/keys/{key}/revoke")
async def revoke(request: Request, client: TheClient, caller: Admin, key: KeyId, form: TheForm) -> Response:
    """Have a key open nothing from now on."""
    revoked = await v1.keys_revoke(client, caller, key)
    return said(request, f"The key {revoked.id} of {revoked.name} opens nothing any more.", back="/system/keys")
