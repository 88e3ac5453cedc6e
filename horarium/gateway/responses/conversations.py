"""`/v1/conversations`: threads, as the protocol calls them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from horarium.errors import NotFound, ThreadNotFound
from horarium.gateway.context import Admin, Operator, TheClient, Viewer
from horarium.gateway.responses.errors import BadParameter, OpenAIRoute, errors
from horarium.gateway.responses.inputs import read_message
from horarium.gateway.responses.names import conversation_of, thread_of
from horarium.gateway.responses.output import text_part
from horarium.ledger.threads import ThreadMessage, ThreadRecord

router = APIRouter(prefix="/v1/conversations", route_class=OpenAIRoute, tags=["responses"])
MOST_ITEMS = 20


class CreateConversation(BaseModel):
    """A request for a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{}]})

    items: list[dict[str, Any]] | None = Field(
        default=None, max_length=MOST_ITEMS, description="Messages with text, of the roles user, system or developer."
    )
    metadata: dict[str, str] | None = Field(default=None, max_length=0, description="None: a thread has no metadata.")


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
    lines = [read_message(item, f"items[{place}]") for place, item in enumerate((body and body.items) or ())]
    if any(line.who == "Assistant" or not line.text.strip() for line in lines):
        raise BadParameter("items", "Only messages with text, of the roles user, system or developer.")
    thread = await client.create_thread(tenant=caller.tenant)
    for line in lines:
        role: Literal["user", "system"] = "system" if line.who == "System" else "user"
        await client.append_message(thread.id, line.text, role=role, by=caller.name, tenant=caller.tenant)
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
    page = said[:limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return ConversationItems(data=page, first_id=first, last_id=last, has_more=len(said) > limit)


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
