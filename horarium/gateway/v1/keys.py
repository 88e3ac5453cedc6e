"""API keys over REST, for admins: made, listed, revoked. A key is shown once, in the answer that makes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from pydantic import Field, StringConstraints

from horarium.apikeys import ApiKey
from horarium.gateway.context import Admin, TheClient
from horarium.gateway.roles import NotAllowed, role_of
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Moment, Request, Time, page_end
from horarium.gateway.v1.paging import Cursor, Limit, Page, cursor_of, read_cursor
from horarium.gateway.v1.routine_answers import example
from horarium.ledger.api_keys import ApiKeys

router = APIRouter(prefix="/v1/keys", tags=["keys"])
KeyId = Annotated[str, Path(min_length=1, max_length=100, description="`hk_…`, without the secret.")]
Scope = Annotated[
    str,
    StringConstraints(
        pattern=r"^(role:(viewer|operator|approver|admin|\*)|(toolbox|tools):(\*|[A-Za-z0-9][A-Za-z0-9_-]{0,62}))$"
    ),
]


class Key(Answer):
    """One API key, without its secret."""

    id: str
    name: str = Field(description="What it does is done in this name.")
    scopes: list[str]
    status: Literal["active", "revoked", "expired"]
    created_at: Time
    created_by: str | None
    expires_at: Time | None
    last_used_at: Time | None = Field(description="To the minute.")
    revoked_at: Time | None


class NewKey(Key):
    """An API key that was made just now."""

    key: str = Field(description="The key itself. Nobody can look it up again.")


class Create(Request):
    """Whom the key is for, and what it may do."""

    model_config = example(name="release-bot", scopes=["role:operator"], expires_at="2027-12-01T00:00:00Z")

    name: str = Field(min_length=1, max_length=200)
    scopes: list[Scope] = Field(
        min_length=1, max_length=50, description="`role:operator`, `toolbox:payments`, `tools:builder`, `toolbox:*`."
    )
    expires_at: Moment | None = Field(default=None, description="null: when it is revoked.")


def _status(key: ApiKey) -> Literal["active", "revoked", "expired"]:
    match key.unusable(datetime.now(UTC)):
        case "revoked":
            return "revoked"
        case "expired":
            return "expired"
        case _:
            return "active"


def _out(key: ApiKey) -> Key:
    same = {name: getattr(key, name) for name in Key.model_fields if name not in ("status", "scopes")}
    return Key(**same, scopes=list(key.scopes), status=_status(key))


@router.get("", operation_id="keys_list", summary="List keys", responses=errors())
async def keys_list(client: TheClient, caller: Admin, limit: Limit = 50, cursor: Cursor = None) -> Page[Key]:
    """The tenant's keys, newest first; those that count no more too."""
    before = read_cursor(cursor, datetime, str)
    keys = sorted(
        await ApiKeys(client.require_ledger()).all(tenant=caller.tenant),
        key=lambda key: (key.created_at, key.id),
        reverse=True,
    )
    found = [key for key in keys if before is None or (key.created_at, key.id) < before]
    shown, end = page_end(found, limit, lambda key: cursor_of(key.created_at.isoformat(), key.id))
    return Page(data=[_out(key) for key in shown], next=end)


@router.post("", operation_id="keys_create", summary="Create a key", status_code=201, responses=errors())
async def keys_create(client: TheClient, caller: Admin, body: Create, response: Response) -> NewKey:
    """Make a key of the caller's tenant, with no greater role than the caller's. It is shown this once."""
    if role_of(body.scopes) > caller.role:
        raise NotAllowed("A key cannot be given more than its creator may do.")
    made, key = await ApiKeys(client.require_ledger()).create(
        body.name, tuple(body.scopes), tenant=caller.tenant, expires_at=body.expires_at, by=caller.name
    )
    response.headers["Cache-Control"] = "no-store"
    return NewKey(**dict(_out(made)), key=key)


@router.delete("/{key}", operation_id="keys_revoke", summary="Revoke a key", responses=errors(404))
async def keys_revoke(client: TheClient, caller: Admin, key: KeyId) -> Key:
    """Have a key open nothing from now on. Safe to repeat: the first time counts."""
    return _out(await ApiKeys(client.require_ledger()).revoke(key, by=caller.name, tenant=caller.tenant))
