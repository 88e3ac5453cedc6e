"""Webhooks in: what another service tells us of, signed with a secret that it shares with a hook of the settings."""

from __future__ import annotations

import asyncio
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Request
from pydantic import Field

from horarium.errors import ConfigError, NotFound, Unreachable
from horarium.gateway.context import TheClient, TheSettings
from horarium.gateway.deliveries import checked
from horarium.gateway.v1.answers import WORDS, errors
from horarium.gateway.v1.fields import Answer

log = structlog.get_logger()

router = APIRouter(prefix="/v1/hooks", tags=["hooks"])
_BODY = {"type": "object", "examples": [{"action": "opened", "issue": {"number": 7, "title": "It does not start"}}]}
PATIENCE = 8.0  # seconds; GitHub waits for ten
HookName = Annotated[str, Path(min_length=1, max_length=63, description="Of a hook in the settings.")]


class Taken(Answer):
    """What a delivery set off."""

    event: str
    ticks: list[str] = Field(description="Those that it started, now or when it first came.")
    message: str


@router.post(
    "/{name}",
    operation_id="hooks_deliver",
    summary="Deliver",
    status_code=202,
    responses={
        **errors(404),
        401: {**errors()[401], "description": "The signature is wrong, missing or too old."},
        422: {**errors()[422], "description": f"{WORDS[422]} Or the delivery has no id, or is no JSON object."},
    },
    openapi_extra={
        "security": [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}},
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}
            for name, description in (
                ("X-Hub-Signature-256", "kind github: `sha256=…` of the body."),
                ("X-GitHub-Delivery", "kind github: the delivery's id; the same is taken once."),
                ("X-GitHub-Event", "kind github: what happened."),
                ("webhook-id", "kind standard: the delivery's id; the same is taken once."),
                ("webhook-timestamp", "kind standard: when it was signed; good for five minutes."),
                ("webhook-signature", "kind standard: `v1,…`."),
            )
        ],
    },
)
async def hooks_deliver(client: TheClient, settings: TheSettings, request: Request, name: HookName) -> Taken:
    """An event of another service: every routine of the hook's tenant that waits for it begins a tick.

    No API key is asked for: the signature says who sends. The same delivery again sets nothing off again.
    """
    hook = next((item for item in settings.gateway.hooks if item.name == name), None)
    if hook is None:
        raise NotFound(f"There is no hook {name!r}.")
    try:
        delivery = checked(hook, request.headers, await request.body())
    except ConfigError as error:
        log.error("hook.secret_missing", hook=name, reason=str(error))
        raise Unreachable(f"The hook {name!r} cannot be checked now: its secret is not there.") from error
    try:
        async with asyncio.timeout(PATIENCE):
            done = await client.fire_event(
                delivery.event, delivery.payload, key=delivery.key, tenant=hook.tenant, by=f"hook:{name}"
            )
    except TimeoutError as error:
        raise Unreachable("The engine does not answer yet. Send it again: it is taken once.") from error
    log.info("hook.taken", hook=name, hook_event=delivery.event, ticks=len(done.ticks))
    return Taken(event=delivery.event, ticks=list(done.ticks), message=done.message)
