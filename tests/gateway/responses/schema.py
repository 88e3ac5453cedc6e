"""The public schema of the protocol, as its own types have it."""

from __future__ import annotations

from typing import Any

import openresponses_types.types as schema
from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

OFFICIAL: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ITEMS: TypeAdapter[Any] = TypeAdapter(list[ResponseOutputItem])
EVENTS: dict[str, type[BaseModel]] = {
    "response.created": schema.ResponseCreatedStreamingEvent,
    "response.queued": schema.ResponseQueuedStreamingEvent,
    "response.in_progress": schema.ResponseInProgressStreamingEvent,
    "response.completed": schema.ResponseCompletedStreamingEvent,
    "response.failed": schema.ResponseFailedStreamingEvent,
    "response.incomplete": schema.ResponseIncompleteStreamingEvent,
    "response.output_item.added": schema.ResponseOutputItemAddedStreamingEvent,
    "response.output_item.done": schema.ResponseOutputItemDoneStreamingEvent,
    "response.content_part.added": schema.ResponseContentPartAddedStreamingEvent,
    "response.content_part.done": schema.ResponseContentPartDoneStreamingEvent,
    "response.output_text.delta": schema.ResponseOutputTextDeltaStreamingEvent,
    "response.output_text.done": schema.ResponseOutputTextDoneStreamingEvent,
}


def check_response(response: dict[str, Any]) -> None:
    """Fail unless a response is one. The public schema has no items of MCP; the official client's types have."""
    ITEMS.validate_python(response["output"])
    own = [item for item in response["output"] if not item["type"].startswith("mcp_")]
    text = response["text"]
    if text["format"]["type"] == "json_schema":  # there its schema is always null; the official types want it
        text = {"format": {**text["format"], "schema": None}}
    schema.ResponseResource.model_validate({**response, "output": own, "text": text})


def check_event(event: dict[str, Any]) -> None:
    """Fail unless an event is one."""
    OFFICIAL.validate_python(event)
    kind = EVENTS.get(event["type"])
    if "response" in event:
        check_response(event["response"])
    elif kind is not None and not event.get("item", {}).get("type", "").startswith("mcp_"):
        kind.model_validate(event)
