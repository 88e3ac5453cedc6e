"""Memories over REST: who looks at what runs were taught, and who has the last word on it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from horarium.gateway.context import Admin, Approver, TheClient, Viewer
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Request, Time, page_end
from horarium.gateway.v1.paging import Cursor, Limit, Page, cursor_of, read_cursor
from horarium.gateway.v1.routine_answers import example
from horarium.memories import TEXT_CHARS, Memory, MemoryKind, MemoryStatus

router = APIRouter(prefix="/v1/memories", tags=["memories"])
MemoryId = Annotated[str, Path(min_length=1, max_length=100)]
Word = Annotated[str | None, Query(max_length=200)]


class MemoryVersionOut(Answer):
    """One version of a memory."""

    version: int
    status: MemoryStatus
    text: str
    run: str | None = Field(description="That taught it; null: a person wrote it.")
    agent: str | None
    model: str | None
    score: float | None
    judged_by: str | None
    reason: str | None
    changed_by: str | None
    created_at: Time
    renewed_at: Time
    expires_at: Time | None


class MemoryOut(Answer):
    """One memory with all its versions, oldest first."""

    id: str
    kind: MemoryKind
    scope: str = Field(description="The agent's memory that it is in; empty for kind `user`.")
    owner: str = Field(description="The user, for kind `user`.")
    subject: str
    created_at: Time
    current: int | None = Field(description="The version that runs are told of; null: none.")
    pending: int | None = Field(description="The version that waits for a review; null: none.")
    versions: list[MemoryVersionOut]
    sources: dict[int, list[str]] = Field(description="The runs that taught each version.")


class MemoryUse(Answer):
    """A run that was told of a version."""

    run: str
    version: int


class MemoryUses(Answer):
    """The runs that were told of a memory, the oldest first."""

    data: list[MemoryUse]


class UndoneOut(Answer):
    """What undoing did."""

    memory: MemoryOut
    undone: int
    restored: int | None = Field(description="The version that holds again; null: none.")
    used_by: list[str] = Field(description="The runs that had been told of it.")


class DeletedMemory(Answer):
    """What deleting leaves: the runs that had been told of it."""

    id: str
    used_by: list[str]


class Review(Request):
    """Whether what waits may be told to later runs."""

    model_config = example(verdict="accept", note="Checked against the price list.")

    verdict: Literal["accept", "reject"]
    note: str | None = Field(default=None, max_length=2_000)


class Edit(Request):
    """What it says from now on."""

    model_config = example(text="Invoices of Acme are paid within 14 days.")

    text: str = Field(min_length=1, max_length=TEXT_CHARS)


def _out(memory: Memory) -> MemoryOut:
    versions = [
        MemoryVersionOut(
            **{name: getattr(item, name) for name in MemoryVersionOut.model_fields if name != "run"}, run=item.run_id
        )
        for item in memory.versions
    ]
    return MemoryOut(
        id=memory.id,
        kind=memory.kind,
        scope=memory.scope,
        owner=memory.owner,
        subject=memory.subject,
        created_at=memory.created_at,
        current=memory.current.version if memory.current else None,
        pending=memory.pending.version if memory.pending else None,
        versions=versions,
        sources={version: list(runs) for version, runs in memory.sources.items()},
    )


@router.get("", operation_id="memories_list", summary="List memories", responses=errors())
async def memories_list(
    client: TheClient,
    caller: Viewer,
    kind: MemoryKind | None = None,
    scope: Word = None,
    user: Word = None,
    status: Annotated[list[MemoryStatus] | None, Query(description="Having such a version.")] = None,
    run: Annotated[str | None, Query(max_length=200, description="That taught it.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[MemoryOut]:
    """The tenant's memories, newest first."""
    before = read_cursor(cursor, datetime, str)
    found = await client.memories(
        kind=kind,
        scope=scope,
        user=user,
        status=status or (),
        run=run,
        tenant=caller.tenant,
        before=(before[0], before[1]) if before else None,
        limit=limit + 1,
    )
    shown, end = page_end(found, limit, lambda item: cursor_of(item.created_at.isoformat(), item.id))
    return Page(data=[_out(item) for item in shown], next=end)


@router.get("/{memory}", operation_id="memories_get", summary="Show a memory", responses=errors(404))
async def memories_get(client: TheClient, caller: Viewer, memory: MemoryId) -> MemoryOut:
    """One memory with all its versions."""
    return _out(await client.memory(memory, tenant=caller.tenant))


@router.get("/{memory}/uses", operation_id="memories_uses", summary="List its uses", responses=errors(404))
async def memories_uses(client: TheClient, caller: Viewer, memory: MemoryId) -> MemoryUses:
    """The runs that were told of a memory, and of which version."""
    uses = await client.memory_uses(memory, tenant=caller.tenant)
    return MemoryUses(data=[MemoryUse(run=run, version=version) for run, version in uses])


@router.post("/{memory}/review", operation_id="memories_review", summary="Accept or reject", responses=errors(404, 409))
async def memories_review(client: TheClient, caller: Approver, memory: MemoryId, body: Review) -> MemoryOut:
    """Let what waits be told to later runs, or never. 409: nothing of it waits."""
    return _out(await client.review_memory(memory, body.verdict, by=caller.name, note=body.note, tenant=caller.tenant))


@router.patch("/{memory}", operation_id="memories_edit", summary="Edit", responses=errors(404))
async def memories_edit(client: TheClient, caller: Approver, memory: MemoryId, body: Edit) -> MemoryOut:
    """Have it say something else: a new version, which holds at once and can be undone."""
    return _out(await client.edit_memory(memory, body.text, by=caller.name, tenant=caller.tenant))


@router.post("/{memory}/undo", operation_id="memories_undo", summary="Undo", responses=errors(404, 409))
async def memories_undo(client: TheClient, caller: Approver, memory: MemoryId) -> UndoneOut:
    """Take back what holds now: the version before it holds again, or none. 409: no version holds."""
    done = await client.undo_memory(memory, by=caller.name, tenant=caller.tenant)
    return UndoneOut(memory=_out(done.memory), undone=done.undone, restored=done.restored, used_by=list(done.used_by))


@router.delete("/{memory}", operation_id="memories_delete", summary="Delete", responses=errors(404))
async def memories_delete(client: TheClient, caller: Admin, memory: MemoryId) -> DeletedMemory:
    """Remove it with all its versions."""
    used_by = await client.delete_memory(memory, by=caller.name, tenant=caller.tenant)
    return DeletedMemory(id=memory, used_by=list(used_by))
