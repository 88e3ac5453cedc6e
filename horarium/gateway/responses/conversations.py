"""`/v1/conversations`: threads, as the protocol calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from horarium.client import Client
from horarium.errors import NotFound, ThreadNotFound
from horarium.gateway.auth import Caller
from horarium.gateway.context import Admin, Operator, TheClient, Viewer
from horarium.gateway.responses.errors import BadParameter, errors
from horarium.gateway.responses.inputs import Line, read_message
from horarium.gateway.responses.names import conversation_of, thread_of
from horarium.gateway.responses.output import text_part
from horarium.gateway.responses.shapes import AddedMessage
from horarium.ledger.threads import ThreadMessage, ThreadRecord

router = APIRouter(prefix="/v1/conversations", tags=["responses"])
MOST_ITEMS = 20


class CreateConversation(BaseModel):
    """A request for a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{}]})

    items: list[AddedMessage] | None = Field(
        default=None, max_length=MOST_ITEMS, description="Messages with text, of the roles user, system or developer."
    )
    metadata: dict[str, str] | None = Field(default=None, max_length=0, description="None: a thread has no metadata.")


class CreateItems(BaseModel):
    """What is to be added."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"items": [{"type": "message", "role": "user", "content": "I am Ana."}]}]},
    )

    items: list[AddedMessage] = Field(
        min_length=1, max_length=MOST_ITEMS, description="Messages with text, of the roles user, system or developer."
    )


class Conversation(BaseModel):
    """A conversation."""

    id: str = Field(description="`conv_` and what the thread's id has after `thr_`.")
    object: Literal["conversation"] = "conversation"
    created_at: int = Field(description="Unix time.")
    metadata: dict[str, str] = {}


class DeletedConversation(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


class ConversationItems(BaseModel):
    """One page of what was said."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", operation_id="conversations_create", responses=errors(413))
async def create(client: TheClient, caller: Operator, body: CreateConversation | None = None) -> Conversation:
    """Make a thread with nothing in it, or with these messages."""
    lines = _lines((body and body.items) or ())
    thread = await client.create_thread(tenant=caller.tenant)
    await _append(client, caller, thread.id, lines)
    return _conversation(thread)


@router.get("/{conversation_id}", operation_id="conversations_get", responses=errors(404))
async def get(conversation_id: str, client: TheClient, caller: Viewer) -> Conversation:
    """One conversation."""
    return _conversation(await client.thread_record(thread_of(conversation_id), tenant=caller.tenant))


@router.delete("/{conversation_id}", operation_id="conversations_delete", responses=errors(404, 409))
async def delete(conversation_id: str, client: TheClient, caller: Admin) -> DeletedConversation:
    """Remove all that was said in it."""
    await client.delete_thread(thread_of(conversation_id), by=caller.name, tenant=caller.tenant)
    return DeletedConversation(id=conversation_id)


@router.post("/{conversation_id}/items", operation_id="conversations_items_create", responses=errors(404, 409, 413))
async def add(conversation_id: str, client: TheClient, caller: Operator, body: CreateItems) -> ConversationItems:
    """Put messages at its end; the next response reads them. While a response has it open: 409."""
    lines, thread = _lines(body.items), thread_of(conversation_id)
    added = await _append(client, caller, thread, lines)
    said = await client.thread(thread, tenant=caller.tenant)
    return _page([_item(thread, message) for message in said if message.seq in added], has_more=False)


@router.get("/{conversation_id}/items/{item_id}", operation_id="conversations_items_get", responses=errors(404))
async def item(conversation_id: str, item_id: str, client: TheClient, caller: Viewer) -> dict[str, Any]:
    """One thing that was said in it."""
    thread = thread_of(conversation_id)
    for message in await client.thread(thread, tenant=caller.tenant):
        if _shown(message) and (found := _item(thread, message))["id"] == item_id:
            return found
    raise NotFound(f"There is no item '{item_id}' in this conversation.")


@router.get("/{conversation_id}/items", operation_id="conversations_items", responses=errors(404))
async def items(
    conversation_id: str,
    client: TheClient,
    caller: Viewer,
    limit: Annotated[int, Query(ge=1, le=100, description="Items on one page.")] = 20,
    after: Annotated[str | None, Query(max_length=200, description="The last item of the page before.")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: newest first.")] = "desc",
) -> ConversationItems:
    """What people and agents said in it; the calls in between, its responses have."""
    thread = thread_of(conversation_id)
    said = [_item(thread, message) for message in await client.thread(thread, tenant=caller.tenant) if _shown(message)]
    if order == "desc":
        said.reverse()
    if after is not None:
        known = [item["id"] for item in said]
        if after not in known:
            raise NotFound(f"There is no item '{after}' in this conversation.")
        said = said[known.index(after) + 1 :]
    return _page(said[:limit], has_more=len(said) > limit)


def _page(found: list[dict[str, Any]], *, has_more: bool) -> ConversationItems:
    first, last = (found[0]["id"], found[-1]["id"]) if found else (None, None)
    return ConversationItems(data=found, first_id=first, last_id=last, has_more=has_more)


def _lines(items: Sequence[dict[str, Any]]) -> list[Line]:
    for place, item in enumerate(items):
        if item.get("type", "message") != "message":
            raise BadParameter(f"items[{place}].type", "Only messages can be added.", "unsupported_item")
    lines = [read_message(item, f"items[{place}]") for place, item in enumerate(items)]
    if any(line.who == "Assistant" or not line.text.strip() for line in lines):
        raise BadParameter("items", "Only messages with text, of the roles user, system or developer.")
    return lines


async def _append(client: Client, caller: Caller, thread: str, lines: Sequence[Line]) -> set[int]:
    """The places that they have."""
    places: set[int] = set()
    for line in lines:
        role: Literal["user", "system"] = "system" if line.who == "System" else "user"
        places.add(await client.append_message(thread, line.text, role=role, by=caller.name, tenant=caller.tenant))
    return places


def _shown(message: ThreadMessage) -> bool:
    return message.role != "tool" and bool(message.said)


def _item(thread: str, message: ThreadMessage) -> dict[str, Any]:
    by_agent = message.role == "assistant"
    return {
        "type": "message",
        "id": f"msg_{thread.removeprefix('thr_')}_{message.seq}",
        "status": "completed",
        "role": message.role,
        "content": [text_part(message.said) if by_agent else {"type": "input_text", "text": message.said}],
    }


def _conversation(thread: ThreadRecord) -> Conversation:
    if not thread.id.startswith("thr_"):
        raise ThreadNotFound(f"There is no thread {thread.id!r}.")
    return Conversation(id=conversation_of(thread.id), created_at=int(thread.created_at.timestamp()))
