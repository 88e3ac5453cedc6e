"""The audit trail over REST: a tenant sees its own entries; the chain that they are in is one, and is checked whole."""

from __future__ import annotations

import asyncio
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from horarium.audit import AuditReport, verify
from horarium.gateway.context import Admin, TheClient, Viewer
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Time, page_end
from horarium.gateway.v1.paging import Cursor, Limit, Page, cursor_of, read_cursor
from horarium.ledger.audit import AuditKind, AuditTrail

router = APIRouter(prefix="/v1/audit", tags=["audit"])
HASH = r"^sha256:[0-9a-f]{64}$"
IN_MEMORY = 1 << 22


class Entry(Answer):
    """One thing that happened. It holds digests of content, and no content."""

    seq: int = Field(description="Its place in the chain, which is of all tenants.")
    at: Time
    kind: str
    run: str | None
    subject: str | None = Field(description="Id of the approval, question, grant, key or link; or a name.")
    data: Any
    previous: str = Field(description="Hash of the entry before.")
    hash: str


@router.get("", operation_id="audit_list", summary="List entries", responses=errors())
async def audit_list(
    client: TheClient,
    caller: Viewer,
    kind: AuditKind | None = None,
    run: Annotated[str | None, Query(max_length=200)] = None,
    subject: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[Entry]:
    """The tenant's entries, newest first."""
    before = read_cursor(cursor, int)
    found = await AuditTrail(client.require_ledger()).latest(
        tenant=caller.tenant,
        before=before[0] if before else None,
        kind=kind,
        run=run,
        subject=subject,
        limit=limit + 1,
    )
    shown, end = page_end(found, limit, lambda item: cursor_of(item.seq))
    same = [name for name in Entry.model_fields if name != "run"]
    entries = [Entry(**{name: getattr(item, name) for name in same}, run=item.run_id) for item in shown]
    return Page(data=entries, next=end)


@router.get("/verify", operation_id="audit_verify", summary="Check the chain", responses=errors())
async def audit_verify(
    client: TheClient,
    caller: Admin,
    head: Annotated[str | None, Query(pattern=HASH, description="That it has to end with.")] = None,
    anchor: Annotated[str | None, Query(pattern=HASH, description="Kept from earlier: it has to be in it.")] = None,
) -> AuditReport:
    """Whether every entry is as it was written, and none is missing. It reads the whole trail."""
    with SpooledTemporaryFile(max_size=IN_MEMORY, mode="w+", encoding="utf-8") as lines:
        async for line in AuditTrail(client.require_ledger()).export():
            lines.write(f"{line}\n")
        lines.seek(0)
        return await asyncio.to_thread(verify, lines, head=head, anchor=anchor)
