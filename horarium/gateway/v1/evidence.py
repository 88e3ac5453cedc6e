"""Evidence over HTTP: one signed file of a run, and the key to pin."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from horarium.evidence.sealing import FORMAT
from horarium.gateway.context import TheClient, Viewer
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer
from horarium.gateway.v1.runs import RunId

router = APIRouter(prefix="/v1", tags=["audit"])

_FILE: dict[str, Any] = {
    "type": "object",
    "required": ["format", "made", "key", "body", "signature"],
    "properties": {
        "format": {"type": "string", "const": FORMAT},
        "made": {"type": "object", "description": "When, by whom, and by which version of the engine."},
        "key": {"type": "object", "description": "`id` and `public` of the key that signed."},
        "body": {"type": "object", "description": "The run, and those of its sub-agents inside of it."},
        "signature": {"type": "string", "description": "Ed25519, base64url without padding."},
    },
}


class PublicKey(Answer):
    """The public key that signs this project's evidence."""

    id: str
    public: str = Field(description="Ed25519, base64url without padding; what `horarium evidence verify --key` takes.")


@router.get(
    "/runs/{run}/evidence",
    operation_id="runs_evidence",
    summary="Signed evidence of a run",
    response_class=Response,
    responses={
        200: {
            "description": "The file. It is verified byte for byte: keep it as it comes.",
            "content": {"application/json": {"schema": _FILE}},
        },
        **errors(404, 409),
    },
)
async def evidence(
    run: RunId,
    client: TheClient,
    caller: Viewer,
    whole: Annotated[bool, Query(description="With the whole of outputs that were cut for the model.")] = False,
) -> Response:
    """All that there is of a run, as one signed file; of one that has not ended, so far.

    `horarium evidence verify` checks it offline.
    """
    text = await client.evidence(run, whole=whole, by=caller.name, tenant=caller.tenant)
    # The id is of letters that a file's name may have, but for the colon.
    name = f"{run.replace(':', '_')}.evidence.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    return Response(text, media_type="application/json", headers=headers)


@router.get("/evidence/key", operation_id="evidence_key", summary="The key to pin", responses=errors())
async def evidence_key(client: TheClient, caller: Viewer) -> PublicKey:
    """The public key that signs evidence here. Whoever verifies gets it from you, and not with the file."""
    return PublicKey.model_validate(await client.evidence_key())
