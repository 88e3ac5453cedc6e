"""Threads over HTTP: look at conversations, add to them, fork and delete them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field

from horarium.contract import MAX_MESSAGE_CHARS, Text
from horarium.gateway.context import Admin, Operator, TheClient, Viewer
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Request, Time, Whole, page_end
from horarium.gateway.v1.paging import LARGEST, Cursor, Limit, Page, cursor_of, read_cursor
from horarium.gateway.v1.run_views import CallView
from horarium.ids import RUN_ID
from horarium.ledger.threads import ThreadMessage, ThreadRecord

router = APIRouter(prefix="/v1/threads", tags=["threads"])

ThreadId = Annotated[str, Path(pattern=RUN_ID.pattern, description="Of a thread.")]


class ThreadView(Answer):
    """A conversation."""

    model_config = ConfigDict(
        frozen=True,
        from_attributes=True,
        json_schema_extra={
            "examples": [{"id": "thr_6D0Y…", "messages": 4, "created_at": "2026-11-21T09:29:55Z", "open_run": None}]
        },
    )

    id: str
    open_run: str | None = Field(default=None, description="The run that has it open: its only writer.")
    messages: int
    created_at: Time
    last_message_at: Time | None = None
    forked_from: str | None = None
    forked_at: int | None = Field(default=None, description="Place of the last message that was copied.")


class MessageView(Answer):
    """A message of a thread."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [{"place": 0, "role": "user", "text": "Read build.log.", "created_at": "2026-11-21T09:29:55Z"}]
        },
    )

    place: int = Field(description="In the thread, from 0.")
    role: Literal["user", "system", "assistant", "tool"]
    text: str = Field(description="What was said; of a tool, its output as the model was shown it.")
    calls: list[CallView] = Field(default=[], description="What the model asked for.")
    call_id: str | None = Field(default=None, description="Of the call that a tool's message answers.")
    author: str | None = None
    run: str | None = None
    step: int | None = Field(default=None, description="The step of that run whose content this is.")
    created_at: Time


class NewMessage(Request):
    """A message to put at the end of a thread."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"text": "The invoice was paid on Monday."}]},
    )

    text: Text = Field(min_length=1, max_length=MAX_MESSAGE_CHARS, pattern=r"\S")
    role: Literal["user", "system"] = Field(default="user", description="system: of the operator.")


class Placed(Answer):
    """Where a message is."""

    thread: str
    place: int


class ForkBody(Request):
    """Where to fork a thread."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{"at": 12}]})

    at: Whole | None = Field(
        default=None, ge=0, le=LARGEST, description="Place of the last message to copy. Null: as much as is whole."
    )


@router.get("", operation_id="threads_list", responses=errors(404))
async def listed(client: TheClient, caller: Viewer, limit: Limit = 50, cursor: Cursor = None) -> Page[ThreadView]:
    """The threads, newest first."""
    place = read_cursor(cursor, str)
    found = await client.threads(tenant=caller.tenant, before=place[0] if place else None, limit=limit + 1)
    shown, following = page_end(found, limit, lambda thread: cursor_of(thread.id))
    return Page(data=[_view(one) for one in shown], next=following)


@router.get("/{thread}", operation_id="threads_get", responses=errors(404))
async def get(thread: ThreadId, client: TheClient, caller: Viewer) -> ThreadView:
    """One thread."""
    return _view(await client.thread_record(thread, tenant=caller.tenant))


@router.get("/{thread}/messages", operation_id="threads_messages", responses=errors(404))
async def messages(
    thread: ThreadId, client: TheClient, caller: Viewer, limit: Limit = 100, cursor: Cursor = None
) -> Page[MessageView]:
    """The messages of a thread, oldest first, as one reads them."""
    place = read_cursor(cursor, int)
    after = place[0] if place is not None else -1
    found = await client.thread(thread, after=after, limit=limit + 1, tenant=caller.tenant)
    shown, following = page_end(found, limit, lambda message: cursor_of(message.seq))
    return Page(data=[_message(one) for one in shown], next=following)


@router.post("/{thread}/messages", operation_id="threads_append", status_code=201, responses=errors(404, 409, 413))
async def append(thread: ThreadId, body: NewMessage, client: TheClient, caller: Operator) -> Placed:
    """Put a message at the end of a thread that no run has open; the next run reads it."""
    place = await client.append_message(thread, body.text, role=body.role, by=caller.name, tenant=caller.tenant)
    return Placed(thread=thread, place=place)


@router.post("/{thread}/fork", operation_id="threads_fork", status_code=201, responses=errors(404, 409, 413))
async def fork(thread: ThreadId, body: ForkBody, client: TheClient, caller: Operator) -> ThreadView:
    """Make a new thread of the messages up to a place; `forked_at` says where it is, never within a turn."""
    return _view(await client.fork_thread(thread, at=body.at, tenant=caller.tenant))


@router.delete("/{thread}", operation_id="threads_delete", status_code=204, responses=errors(404, 409))
async def delete(thread: ThreadId, client: TheClient, caller: Admin) -> None:
    """Remove all that was said in a thread; the evidence that steps were done stays, without content."""
    await client.delete_thread(thread, by=caller.name, tenant=caller.tenant)


def _view(record: ThreadRecord) -> ThreadView:
    return ThreadView.model_validate(record)


def _message(message: ThreadMessage) -> MessageView:
    return MessageView.model_validate(
        {
            "place": message.seq,
            "role": message.role,
            "text": message.said,
            "calls": [CallView(**call.model_dump()) for call in message.calls],
            "call_id": message.call_id if message.role == "tool" else None,
            "author": message.author,
            "run": message.run_id,
            "step": message.step,
            "created_at": message.created_at,
        }
    )
